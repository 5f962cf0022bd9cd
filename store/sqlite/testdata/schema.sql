CREATE TABLE controllers (
	incarnation   TEXT    NOT NULL PRIMARY KEY,
	started       INTEGER NOT NULL,
	seen          INTEGER NOT NULL
) STRICT;
CREATE TABLE disks (
	scope         TEXT    NOT NULL,
	name          TEXT    NOT NULL,
	zone          TEXT    NOT NULL,
	pool          TEXT    NOT NULL,
	lease_id      TEXT    NOT NULL,
	attached_to   TEXT    NOT NULL,
	size_gib      INTEGER NOT NULL,
	created       INTEGER NOT NULL,
	seen          INTEGER NOT NULL, type       TEXT    NOT NULL DEFAULT '', controller TEXT    NOT NULL DEFAULT '', used       INTEGER NOT NULL DEFAULT 0, doomed     INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (scope, zone, name)
) STRICT;
CREATE INDEX disks_attached ON disks (attached_to) WHERE attached_to <> '';
CREATE INDEX disks_lease    ON disks (lease_id) WHERE lease_id <> '';
CREATE INDEX disks_named    ON disks (scope, name);
CREATE TABLE events (
	id            INTEGER PRIMARY KEY AUTOINCREMENT,
	at            INTEGER NOT NULL,
	pool          TEXT    NOT NULL,
	instance      TEXT    NOT NULL,
	lease         TEXT    NOT NULL,
	generation    INTEGER NOT NULL,
	reason        TEXT    NOT NULL,
	message       TEXT    NOT NULL
) STRICT;
CREATE INDEX events_at       ON events (at);
CREATE INDEX events_instance ON events (instance, id) WHERE instance <> '';
CREATE INDEX events_lease    ON events (lease, id) WHERE lease <> '';
CREATE INDEX events_pool     ON events (pool, id) WHERE pool <> '';
CREATE TABLE flavours (
	pool          TEXT    NOT NULL REFERENCES pools (name),
	tenant        TEXT    NOT NULL,
	variant       TEXT    NOT NULL,
	max           INTEGER NOT NULL,
	counted       INTEGER NOT NULL DEFAULT 0 CHECK (counted >= 0),
	PRIMARY KEY (pool, tenant, variant)
) WITHOUT ROWID, STRICT;
CREATE TABLE goose_db_version (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		version_id INTEGER NOT NULL,
		is_applied INTEGER NOT NULL,
		tstamp TIMESTAMP DEFAULT (datetime('now'))
	);
CREATE TABLE identities (
	instance_id   TEXT    NOT NULL PRIMARY KEY REFERENCES instances (id) ON DELETE CASCADE,
	sealed        BLOB    NOT NULL
) STRICT;
CREATE TABLE instances (
	id               TEXT    NOT NULL PRIMARY KEY,
	name             TEXT    NOT NULL UNIQUE,
	pool             TEXT    NOT NULL REFERENCES pools (name),
	driver           TEXT    NOT NULL,
	scope            TEXT    NOT NULL,
	state            TEXT    NOT NULL,
	kind             TEXT    NOT NULL,
	variant          TEXT    NOT NULL,
	tenant           TEXT    NOT NULL,
	shape            TEXT    NOT NULL,
	recipe           TEXT    NOT NULL,
	os               TEXT    NOT NULL,
	arch             TEXT    NOT NULL,
	image            TEXT    NOT NULL,
	machine_type     TEXT    NOT NULL,
	zone             TEXT    NOT NULL,
	disk_gib         INTEGER NOT NULL,
	cloud_id         TEXT    NOT NULL,
	address          TEXT    NOT NULL,
	port             INTEGER NOT NULL,
	agent_version    TEXT    NOT NULL,
	storage_id       TEXT    NOT NULL,
	lease_id         TEXT    NOT NULL,
	lease_generation INTEGER NOT NULL,
	cold             INTEGER NOT NULL,
	created          INTEGER NOT NULL,
	since            INTEGER NOT NULL,
	due              INTEGER NOT NULL,
	deadline         INTEGER NOT NULL,
	warmed           INTEGER NOT NULL,
	attempts         INTEGER NOT NULL,
	reason           TEXT    NOT NULL,
	detail           TEXT    NOT NULL,
	held             INTEGER NOT NULL,
	disks            INTEGER NOT NULL,
	bound            INTEGER NOT NULL
) STRICT;
CREATE INDEX instances_due   ON instances (pool, due, id) WHERE state <> 'gone';
CREATE INDEX instances_free  ON instances (pool, shape, state DESC, created, id, deadline, zone, held)
	WHERE state IN ('warm', 'hibernated') AND held = 0;
CREATE INDEX instances_gone  ON instances (since) WHERE state = 'gone';
CREATE INDEX instances_group ON instances (pool, state, variant, tenant, shape, recipe, held) WHERE bound = 0 AND state <> 'gone';
CREATE INDEX instances_lease ON instances (lease_id) WHERE lease_id <> '';
CREATE INDEX instances_made  ON instances (created, id);
CREATE INDEX instances_spent ON instances (pool, since, created) WHERE state = 'gone';
CREATE TABLE lease_choices (
	pool          TEXT    NOT NULL,
	seq           INTEGER NOT NULL REFERENCES leases (seq) ON DELETE CASCADE,
	ord           INTEGER NOT NULL,
	shape         TEXT    NOT NULL,
	zone          TEXT    NOT NULL,
	no_claim      INTEGER NOT NULL,
	need_until    INTEGER NOT NULL, tenant  TEXT NOT NULL DEFAULT 'default', variant TEXT NOT NULL DEFAULT 'default',
	PRIMARY KEY (pool, seq, ord)
) WITHOUT ROWID, STRICT;
CREATE INDEX lease_choices_flavour ON lease_choices (pool, tenant, variant, seq);
CREATE INDEX lease_choices_match ON lease_choices (pool, shape, no_claim, seq, need_until, zone);
CREATE INDEX lease_choices_seq   ON lease_choices (seq);
CREATE TABLE lease_env (
	seq           INTEGER NOT NULL REFERENCES leases (seq) ON DELETE CASCADE,
	name          TEXT    NOT NULL,
	value         BLOB    NOT NULL,
	updated       INTEGER NOT NULL,
	PRIMARY KEY (seq, name)
) WITHOUT ROWID, STRICT;
CREATE TABLE leases (
	seq           INTEGER PRIMARY KEY AUTOINCREMENT,
	id            TEXT    NOT NULL,
	generation    INTEGER NOT NULL,
	kind          TEXT    NOT NULL,
	state         TEXT    NOT NULL,
	waiter        TEXT    NOT NULL,
	want          TEXT    NOT NULL,
	choices       TEXT    NOT NULL,
	pool          TEXT    NOT NULL,
	instance_id   TEXT    NOT NULL,
	arrived       INTEGER NOT NULL,
	claimed       INTEGER NOT NULL,
	activated     INTEGER NOT NULL,
	ended         INTEGER NOT NULL,
	last_call     INTEGER NOT NULL,
	wait_until    INTEGER NOT NULL,
	due           INTEGER NOT NULL,
	digest        TEXT    NOT NULL,
	causes        TEXT    NOT NULL,
	reason        TEXT    NOT NULL,
	detail        TEXT    NOT NULL,
	no_claim      INTEGER NOT NULL,
	need_until    INTEGER NOT NULL,
	start_ms      INTEGER NOT NULL,
	exported      INTEGER NOT NULL,
	UNIQUE (id, generation)
) STRICT;
CREATE INDEX leases_due    ON leases (due, seq) WHERE state NOT IN ('ended', 'lost');
CREATE INDEX leases_final  ON leases (ended) WHERE state IN ('ended', 'lost');
CREATE INDEX leases_waiter ON leases (waiter) WHERE waiter <> '';
CREATE TABLE meta (
	id            INTEGER PRIMARY KEY CHECK (id = 1),
	controller    TEXT    NOT NULL DEFAULT '',
	born          INTEGER NOT NULL DEFAULT 0,
	seal_key      TEXT    NOT NULL DEFAULT '',
	probed        INTEGER NOT NULL DEFAULT 0
, restored INTEGER NOT NULL DEFAULT 0, copied   INTEGER NOT NULL DEFAULT 0, compat INTEGER NOT NULL DEFAULT 1) STRICT;
CREATE TABLE pools (
	name          TEXT    NOT NULL PRIMARY KEY,
	driver        TEXT    NOT NULL,
	scope         TEXT    NOT NULL,
	min           INTEGER NOT NULL,
	max           INTEGER NOT NULL,
	spec_hash     TEXT    NOT NULL,
	last_spec     TEXT    NOT NULL,
	platform      TEXT    NOT NULL,
	retired       INTEGER NOT NULL DEFAULT 0,
	counted       INTEGER NOT NULL DEFAULT 0 CHECK (counted >= 0),
	holder        TEXT    NOT NULL DEFAULT '',
	generation    INTEGER NOT NULL DEFAULT 0,
	held_until    INTEGER NOT NULL DEFAULT 0,
	breaker       TEXT    NOT NULL DEFAULT '',
	updated       INTEGER NOT NULL
, recipes    TEXT    NOT NULL DEFAULT '', per_minute INTEGER NOT NULL DEFAULT 0, minute     INTEGER NOT NULL DEFAULT 0, begun      INTEGER NOT NULL DEFAULT 0, flavours   INTEGER NOT NULL DEFAULT 0, gate       TEXT    NOT NULL DEFAULT '', override   TEXT    NOT NULL DEFAULT '') STRICT;
CREATE TABLE tombstones (
	seq           INTEGER PRIMARY KEY AUTOINCREMENT,
	lease_id      TEXT    NOT NULL UNIQUE,
	until         INTEGER NOT NULL
) STRICT;
CREATE INDEX tombstones_until ON tombstones (until);
CREATE TABLE usage (
	pool          TEXT    NOT NULL,
	day           TEXT    NOT NULL,
	created       INTEGER NOT NULL,
	machine_ms    INTEGER NOT NULL,
	PRIMARY KEY (pool, day)
) STRICT;
CREATE TABLE zone_health (
	pool          TEXT    NOT NULL,
	zone          TEXT    NOT NULL,
	machine_type  TEXT    NOT NULL,
	failures      INTEGER NOT NULL,
	closed_until  INTEGER NOT NULL,
	kind          TEXT    NOT NULL,
	detail        TEXT    NOT NULL,
	updated       INTEGER NOT NULL,
	PRIMARY KEY (pool, zone, machine_type)
) STRICT;
