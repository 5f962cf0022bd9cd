package core

// Stmt names a statement. Dialects prepare it, or replace its text, by name.
type Stmt int

// The statements, grouped by table.
const (
	SelectMeta Stmt = iota
	SelectRestored
	SetController
	SetSealKey
	Probe
	AnySealed
	InsertIncarnation
	Beat
	SelectIncarnations

	SelectPool
	LockPool
	KeepPoolHolder
	LockPoolHolder
	LockPoolOf
	SelectPools
	SelectPoolNames
	UpsertPool
	RetirePool
	HoldPool
	SetGate
	SetOverride
	Begin
	Uncount
	SetCounted
	CountInstances
	SpentGone
	SpentLive

	SelectFlavours
	SelectAllFlavours
	DropFlavours
	InsertFlavour
	CountFlavour
	SetFlavourCounted

	InsertInstance
	InsertIdentity
	UpdateIdentity
	DropIdentity
	SelectInstance
	LockInstance
	LockInstanceOf
	LockInstanceCalled
	ClaimFree
	MoveInstance
	BindInstance
	GoneInstance
	PostponeInstance
	SetDisks
	HoldInstance
	InstanceCalled
	SelectDueInstances
	AdoptInstances
	SelectGroups

	InsertLease
	SelectLease
	LockLease
	SelectLatestLease
	LockLatestLease
	// LockID locks an id that no lease was ever seen for, until the end of the
	// transaction: there is no row to lock. $1 the id.
	LockID
	LockWaitingLease
	SaveLease
	TouchLease
	SelectDueLeases
	SelectWaiting
	SelectWaiters
	LockOrphans
	OrphanLease

	InsertChoice
	DropChoices
	MatchWaiter
	CountAhead
	CountAheadOfFlavour
	CountAheadUnlimited
	SelectPlace

	PutVariable
	SelectVariables
	DropVariables

	InsertEvent
	SelectTold
	SelectTombstone
	DropTombstone
	InsertTombstone
	BoundTombstones

	SelectDisk
	InsertDisk
	AttachDisk
	PlaceDisks
	UseDisks
	DetachDisks
	SeeDisk
	DoomDisksOf
	DoomDisk
	DropDisk

	PurgeInstances
	PurgeLeases
	PurgeEvents
	PurgeTombstones

	// NumStmts is how many there are.
	NumStmts
)

// Statements is the text of every statement.
type Statements [NumStmts]string

// freeFits selects the machine a claim takes: the oldest warm one that fits,
// else the oldest hibernated one. $6 is the pool, $7 the shape, $8 the zone or
// "", $9 the least deadline, $10 an id that must have no tombstone.
const freeFits = `SELECT id FROM instances
	WHERE pool = CAST($6 AS TEXT) AND shape = CAST($7 AS TEXT) AND state IN ('warm', 'hibernated') AND held = 0
	AND (CAST($8 AS TEXT) = '' OR zone = CAST($8 AS TEXT)) AND (deadline = 0 OR deadline >= $9)
	AND NOT EXISTS (SELECT 1 FROM tombstones WHERE lease_id = CAST($10 AS TEXT) AND until > $1)
	ORDER BY state DESC, created, id LIMIT 1`

// unheldDisk says that no lease holds the machine a disk is attached to: it is on
// its way out. A machine that is not seen yet is somebody's.
const unheldDisk = `EXISTS (SELECT 1 FROM instances AS i WHERE i.id = disks.attached_to AND i.bound = 0)`

// Claim is the claim with the given way of locking the machine it chose.
func Claim(lock string) string { return claim("$4", lock, "") }

func claim(generation, lock, also string) string {
	return `UPDATE instances SET state = CASE WHEN state = 'warm' THEN 'leased' ELSE 'resuming' END,
	since = $1, due = $2, lease_id = $3, lease_generation = ` + generation + `, kind = $5, bound = 1, attempts = 0, reason = '', detail = ''
	WHERE id = (` + freeFits + lock + `)` + also + ` RETURNING ` + instanceColumns
}

const (
	selectLatest = `SELECT ` + leaseColumns + ` FROM leases WHERE id = CAST($1 AS TEXT) ORDER BY generation DESC LIMIT 1`
	// instanceCalled finds a machine that a lease id had by one of its names.
	instanceCalled = `SELECT ` + instanceColumns + ` FROM instances
	WHERE lease_id = $1 AND lease_id <> '' AND (id = $2 OR cloud_id = $2 OR name = $2)
	ORDER BY lease_generation DESC, created DESC LIMIT 1`
	matchWaiter = `SELECT seq FROM lease_choices
	WHERE pool = CAST($1 AS TEXT) AND shape = CAST($2 AS TEXT) AND no_claim = 0 AND need_until <= $3
	AND (zone = '' OR zone = CAST($4 AS TEXT))
	ORDER BY seq LIMIT 1`
)

// Portable are the texts as they are where nobody else writes at the same time.
//
// Why the casts: SQLite looks at the values bound to bare parameters when it
// chooses a plan, and compiles the statement again at every call whose values
// differ, which costs five times the claim itself. A cast it does not look
// behind, and the plan stays the one that is tested.
func Portable() Statements {
	return Statements{
		SelectMeta:     `SELECT controller, born, seal_key FROM meta WHERE id = 1`,
		SelectRestored: `SELECT restored, copied FROM meta WHERE id = 1`,
		SetController:  `UPDATE meta SET controller = $1, born = $2 WHERE id = 1 AND controller = ''`,
		SetSealKey:     `UPDATE meta SET seal_key = $1 WHERE id = 1`,
		Probe:          `UPDATE meta SET probed = probed + 1 WHERE id = 1`,
		AnySealed: `SELECT CASE WHEN EXISTS (SELECT 1 FROM identities)
	OR EXISTS (SELECT 1 FROM lease_env) OR EXISTS (SELECT 1 FROM pools WHERE last_spec LIKE 'sealed:%') THEN 1 ELSE 0 END`,
		InsertIncarnation: `INSERT INTO controllers (incarnation, started, seen) VALUES ($1, $2, $2)
	ON CONFLICT (incarnation) DO UPDATE SET seen = CASE WHEN excluded.seen > controllers.seen THEN excluded.seen ELSE controllers.seen END`,
		Beat:               `UPDATE controllers SET seen = CASE WHEN seen < $1 THEN $1 ELSE seen END WHERE incarnation = $2`,
		SelectIncarnations: `SELECT incarnation, started, seen FROM controllers ORDER BY started, incarnation`,

		SelectPool:      `SELECT ` + poolStateColumns + ` FROM pools WHERE name = $1`,
		LockPool:        `SELECT ` + poolStateColumns + ` FROM pools WHERE name = $1`,
		KeepPoolHolder:  `SELECT ` + poolStateColumns + ` FROM pools WHERE name = $1`,
		LockPoolHolder:  `SELECT ` + poolStateColumns + ` FROM pools WHERE name = $1`,
		LockPoolOf:      `SELECT ` + poolStateColumns + ` FROM pools WHERE name = (SELECT pool FROM instances WHERE id = $1)`,
		SelectPools:     `SELECT ` + poolColumns + ` FROM pools ORDER BY name`,
		SelectPoolNames: `SELECT name FROM pools ORDER BY name`,
		UpsertPool: `INSERT INTO pools (name, driver, scope, min, max, spec_hash, last_spec, platform, retired, updated, recipes,
	per_minute, flavours)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10, $11, $12)
	ON CONFLICT (name) DO UPDATE SET driver = excluded.driver, scope = excluded.scope, min = excluded.min, max = excluded.max,
	spec_hash = excluded.spec_hash, last_spec = excluded.last_spec, platform = excluded.platform, retired = 0,
	updated = excluded.updated, recipes = excluded.recipes, per_minute = excluded.per_minute, flavours = excluded.flavours`,
		RetirePool:     `UPDATE pools SET retired = 1, updated = $1 WHERE name = $2 AND retired = 0`,
		HoldPool:       `UPDATE pools SET holder = $1, generation = $2, held_until = $3 WHERE name = $4`,
		SetGate:        `UPDATE pools SET gate = $1 WHERE name = $2`,
		SetOverride:    `UPDATE pools SET override = $1 WHERE name = $2`,
		Begin:          `UPDATE pools SET counted = counted + 1, minute = $1, begun = $2, gate = $3 WHERE name = $4`,
		Uncount:        `UPDATE pools SET counted = CASE WHEN counted < 1 THEN 0 ELSE counted - 1 END WHERE name = $1 RETURNING flavours`,
		SetCounted:     `UPDATE pools SET counted = $1 WHERE name = $2`,
		CountInstances: `SELECT tenant, variant, count(*) FROM instances WHERE pool = $1 AND state <> 'gone' GROUP BY tenant, variant`,
		SpentGone:      spent(`state = 'gone' AND since > $1`, `CASE WHEN since > $2 THEN $2 ELSE since END`),
		SpentLive:      spent(`state <> 'gone'`, `CAST($2 AS BIGINT)`),

		SelectFlavours:    `SELECT tenant, variant, max, counted FROM flavours WHERE pool = $1 ORDER BY tenant, variant`,
		SelectAllFlavours: `SELECT pool, tenant, variant, max, counted FROM flavours ORDER BY pool, tenant, variant`,
		DropFlavours:      `DELETE FROM flavours WHERE pool = $1`,
		InsertFlavour:     `INSERT INTO flavours (pool, tenant, variant, max, counted) VALUES ($1, $2, $3, $4, $5)`,
		CountFlavour: `UPDATE flavours SET counted = CASE WHEN counted + $1 < 0 THEN 0 ELSE counted + $1 END
	WHERE pool = $2 AND tenant = $3 AND variant = $4`,
		SetFlavourCounted: `UPDATE flavours SET counted = $1 WHERE pool = $2 AND tenant = $3 AND variant = $4`,

		InsertInstance: `INSERT INTO instances (` + instanceInsertColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
	$13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34, $35, $36)`,
		InsertIdentity: `INSERT INTO identities (instance_id, sealed) VALUES ($1, $2)`,
		UpdateIdentity: `UPDATE identities SET sealed = $1 WHERE instance_id = $2`,
		DropIdentity:   `DELETE FROM identities WHERE instance_id = $1`,
		SelectInstance: `SELECT ` + instanceColumns + ` FROM instances WHERE id = $1`,
		LockInstance:   `SELECT ` + instanceColumns + ` FROM instances WHERE id = $1`,
		// $2 is the generation, 0 for the latest.
		LockInstanceOf: `SELECT ` + instanceColumns + ` FROM instances WHERE id = (SELECT instance_id FROM leases
	WHERE id = CAST($1 AS TEXT) AND (CAST($2 AS BIGINT) = 0 OR generation = $2) ORDER BY generation DESC LIMIT 1)`,
		LockInstanceCalled: instanceCalled,
		ClaimFree:          Claim(""),
		MoveInstance: `UPDATE instances SET state = $1, since = $2, due = $3, attempts = $4, reason = $5, detail = $6, disks = $7,
	bound = $8, zone = $9, cloud_id = $10, address = $11, port = $12, warmed = $13, agent_version = $14 WHERE id = $15`,
		BindInstance: `UPDATE instances SET state = $1, since = $2, due = $3, attempts = $4, reason = $5, detail = $6, disks = $7,
	bound = $8, zone = $9, cloud_id = $10, address = $11, port = $12, warmed = $13, agent_version = $14, kind = $15,
	lease_id = $16, lease_generation = $17, cold = $18 WHERE id = $19`,
		GoneInstance: `UPDATE instances SET state = 'gone', since = $1, due = 0, attempts = 0, reason = $2, detail = $3, bound = 0,
	address = $4, port = $5 WHERE id = $6`,
		PostponeInstance: `UPDATE instances SET due = $1, attempts = $2, reason = $3, detail = $4 WHERE id = $5`,
		SetDisks:         `UPDATE instances SET disks = $1 WHERE id = $2`,
		HoldInstance:     `UPDATE instances SET held = $1, due = $2 WHERE id = $3`,
		InstanceCalled:   instanceCalled,
		SelectDueInstances: `SELECT ` + instanceColumns + ` FROM instances
	WHERE pool = CAST($1 AS TEXT) AND state <> 'gone' AND due <= $2 ORDER BY due, id LIMIT CAST($3 AS BIGINT)`,
		AdoptInstances: `UPDATE instances SET due = $1 WHERE pool = $2 AND state <> 'gone'
	AND state IN ('creating', 'booting', 'hibernating', 'resuming', 'suspending', 'destroying')`,
		SelectGroups: `SELECT state, variant, tenant, shape, recipe, held, count(*) FROM instances
	WHERE pool = CAST($1 AS TEXT) AND bound = 0 AND state <> 'gone' GROUP BY state, variant, tenant, shape, recipe, held
	ORDER BY state, variant, tenant, shape, recipe, held`,
		InsertLease: `INSERT INTO leases (` + leaseInsertColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
	$14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24) RETURNING seq`,
		SelectLease:       `SELECT ` + leaseColumns + ` FROM leases WHERE id = $1 AND generation = $2`,
		LockLease:         `SELECT ` + leaseColumns + ` FROM leases WHERE id = $1 AND generation = $2`,
		SelectLatestLease: selectLatest,
		LockLatestLease:   selectLatest,
		LockID:            `SELECT 1 WHERE CAST($1 AS TEXT) = ''`,
		LockWaitingLease:  `SELECT ` + leaseColumns + ` FROM leases WHERE seq = $1 AND state = 'waiting' AND waiter <> ''`,
		SaveLease: `UPDATE leases SET state = $1, waiter = $2, choices = $3, pool = $4, instance_id = $5, claimed = $6,
	activated = $7, ended = $8, last_call = $9, wait_until = $10, due = $11, causes = $12, reason = $13, detail = $14,
	no_claim = $15, need_until = $16, start_ms = $17, exported = $18 WHERE seq = $19`,
		TouchLease: `UPDATE leases SET last_call = CASE WHEN last_call < $1 THEN $1 ELSE last_call END
	WHERE id = $2 AND generation = $3`,
		SelectDueLeases: `SELECT ` + leaseColumns + ` FROM leases
	WHERE state NOT IN ('ended', 'lost') AND due <= $1 ORDER BY due, seq LIMIT CAST($2 AS BIGINT)`,
		SelectWaiting: `SELECT ` + leaseColumns + ` FROM leases
	WHERE seq IN (SELECT DISTINCT seq FROM lease_choices WHERE pool = CAST($1 AS TEXT) ORDER BY seq LIMIT CAST($2 AS BIGINT)) ORDER BY seq`,
		SelectWaiters: `SELECT DISTINCT waiter FROM leases WHERE waiter <> ''`,
		LockOrphans:   `SELECT seq FROM leases WHERE waiter = $1 AND waiter <> '' ORDER BY id, generation`,
		OrphanLease:   `UPDATE leases SET waiter = '', due = $1 WHERE seq = $2`,

		InsertChoice: `INSERT INTO lease_choices (pool, seq, ord, shape, zone, no_claim, need_until, tenant, variant)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		DropChoices: `DELETE FROM lease_choices WHERE seq = $1`,
		MatchWaiter: matchWaiter,
		CountAhead: `SELECT count(*) FROM
	(SELECT DISTINCT seq FROM lease_choices WHERE pool = CAST($1 AS TEXT) AND seq < $2 LIMIT CAST($3 AS BIGINT)) AS ahead`,
		CountAheadOfFlavour: `SELECT count(*) FROM (SELECT DISTINCT seq FROM lease_choices
	WHERE pool = CAST($1 AS TEXT) AND tenant = CAST($2 AS TEXT) AND variant = CAST($3 AS TEXT) AND seq < $4
	LIMIT CAST($5 AS BIGINT)) AS ahead`,
		CountAheadUnlimited: `SELECT count(*) FROM (SELECT DISTINCT seq FROM lease_choices AS c
	WHERE c.pool = CAST($1 AS TEXT) AND c.seq < $2 AND NOT EXISTS (SELECT 1 FROM flavours AS f
	WHERE f.pool = c.pool AND f.tenant = c.tenant AND f.variant = c.variant AND f.max >= 0)
	LIMIT CAST($3 AS BIGINT)) AS ahead`,
		SelectPlace: `SELECT seq FROM lease_choices WHERE pool = $1 AND seq = $2 LIMIT 1`,

		PutVariable: `INSERT INTO lease_env (seq, name, value, updated) VALUES ($1, $2, $3, $4)
	ON CONFLICT (seq, name) DO UPDATE SET value = excluded.value, updated = excluded.updated`,
		SelectVariables: `SELECT name, value FROM lease_env WHERE seq = $1`,
		DropVariables:   `DELETE FROM lease_env WHERE seq = $1`,

		InsertEvent: `INSERT INTO events (at, pool, instance, lease, generation, reason, message)
	VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		SelectTold:      `SELECT pool, reason FROM events WHERE lease <> '' AND lease = $1 AND generation = $2 ORDER BY id`,
		SelectTombstone: `SELECT until FROM tombstones WHERE lease_id = $1`,
		DropTombstone:   `DELETE FROM tombstones WHERE lease_id = $1`,
		InsertTombstone: `INSERT INTO tombstones (lease_id, until) VALUES ($1, $2) RETURNING seq`,
		BoundTombstones: `DELETE FROM tombstones WHERE seq <= $1`,

		// Of rows in several zones, one that a machine has comes first.
		SelectDisk: `SELECT ` + diskColumns + ` FROM disks WHERE scope = $1 AND name = $2 ORDER BY attached_to DESC, seen DESC, zone LIMIT 1`,
		InsertDisk: `INSERT INTO disks (` + diskColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		AttachDisk: `UPDATE disks SET pool = $1, lease_id = $2, attached_to = $3 WHERE scope = $4 AND zone = $5 AND name = $6`,
		// The disk decides where its machine is made, so the machine's zone is its.
		PlaceDisks: `UPDATE disks SET zone = $1 WHERE attached_to <> '' AND attached_to = $2 AND zone <> $1 AND NOT EXISTS
	(SELECT 1 FROM disks AS d WHERE d.scope = disks.scope AND d.zone = $1 AND d.name = disks.name)`,
		UseDisks: `UPDATE disks SET used = $1 WHERE attached_to <> '' AND attached_to = $2 AND used = 0`,
		DetachDisks: `UPDATE disks SET attached_to = '', doomed = CASE WHEN doomed = 0 THEN $1 ELSE doomed END
	WHERE attached_to <> '' AND attached_to = $2`,
		SeeDisk: `UPDATE disks SET zone = $1, size_gib = CASE WHEN CAST($2 AS BIGINT) > 0 THEN $2 ELSE size_gib END, seen = $3
	WHERE scope = $4 AND name = $5 AND zone IN ('', $1)`,
		DoomDisksOf: `UPDATE disks SET doomed = CASE WHEN doomed = 0 THEN $1 ELSE doomed END
	WHERE lease_id <> '' AND lease_id = $2 AND (attached_to = '' OR ` + unheldDisk + `) RETURNING ` + diskColumns,
		DoomDisk: `UPDATE disks SET doomed = CASE WHEN doomed = 0 THEN $1 ELSE doomed END
	WHERE scope = $2 AND name = $3 AND lease_id IN ('', $4) AND (attached_to = '' OR ` + unheldDisk + `) RETURNING ` + diskColumns,
		DropDisk: `DELETE FROM disks WHERE scope = $1 AND zone = $2 AND name = $3 AND attached_to = ''`,

		PurgeInstances: `DELETE FROM instances WHERE id IN
	(SELECT id FROM instances WHERE state = 'gone' AND since < $1 ORDER BY since LIMIT $2)`,
		PurgeLeases: `DELETE FROM leases WHERE seq IN
	(SELECT l.seq FROM leases AS l WHERE l.state IN ('ended', 'lost') AND l.ended < $1
	AND NOT EXISTS (SELECT 1 FROM instances AS i WHERE i.id = l.instance_id AND i.state <> 'gone')
	ORDER BY l.ended LIMIT $2)`,
		PurgeEvents:     `DELETE FROM events WHERE id IN (SELECT id FROM events WHERE at < $1 ORDER BY at LIMIT $2)`,
		PurgeTombstones: `DELETE FROM tombstones WHERE seq IN (SELECT seq FROM tombstones WHERE until < $1 ORDER BY until LIMIT $2)`,
	}
}

// spent reckons, for the machines of pool $3 that meet a condition, how many
// milliseconds of their lives lie between $1 and $2, and how many were begun
// there. until is the end of a machine's time.
func spent(cond, until string) string {
	const from = `CASE WHEN created < $1 THEN $1 ELSE created END`
	// The beginnings first: parameters appear in their order.
	return `SELECT CAST(coalesce(sum(0 - ` + from + ` + ` + until + `), 0) AS BIGINT),
	CAST(coalesce(sum(CASE WHEN created >= $1 THEN 1 ELSE 0 END), 0) AS BIGINT)
	FROM instances WHERE pool = $3 AND ` + cond + ` AND created < $2`
}
