package pool

import (
	"context"
	"encoding/json"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Store keeps pools, instances, leases and their story. It decides who gets a
// machine; no lock of the engine does. Every operation is one transaction,
// durable before it answers, and named after what happens. Operations are safe
// for concurrent use, also from several processes on one Postgres.
//
// Rules that hold for all of them:
//
//   - Time is the caller's (`now`), UTC, cut to milliseconds.
//   - A transition the tables of state.go do not allow, or whose expected old
//     state is not the row's, fails with ErrConflict and changes nothing. An
//     update that finds no row is ErrNotFound, never a silent success.
//   - The pool's counter of machines changes in the transaction that writes an
//     intent and in the one that makes a row Gone, nowhere else.
//   - Events given to an operation are written in the same transaction.
//   - Ids are 1 to 1024 bytes of UTF-8 without NUL, compared byte for byte;
//     others are ErrInvalid.
//   - Activate, End, Lose and Asleep clear the lease's Waiter; End and Lose drop
//     what its steps exported.
//   - Whatever fails because the database cannot be reached or written wraps
//     ErrUnavailable and names the database.
//   - What a replica's loops write goes through Fence, so that it fails with
//     ErrHeld once another replica has the pool.
//   - Invariant: no Warm or Hibernated instance that is not held and waiting
//     lease with a Waiter that fits it (equal shape, zone, enough life) exist at
//     the same time; every operation that could break it hands the machine on
//     within its own transaction.
type Store interface {
	// Controller returns the id that owns this store's machines, made at
	// random once, and records a new incarnation of the program.
	Controller(ctx context.Context, incarnation string, now time.Time) (Controller, error)
	// Heartbeat proves that the store was alive and ours at now.
	Heartbeat(ctx context.Context, incarnation string, now time.Time) error
	// Lifetimes lists the intervals in which this store was alive, by
	// incarnation, for the question whether a machine without a row was made
	// under this store's eyes.
	Lifetimes(ctx context.Context) ([]Lifetime, error)

	// Configure writes the pools of the configuration. A pool that is in the
	// store but not in pools becomes retired and keeps its last spec.
	Configure(ctx context.Context, pools []PoolRow, now time.Time) error
	// ConfigurePool writes one pool of the configuration and leaves the others
	// alone: what a replica does for a pool it takes over, or that is new. With
	// Retired set it only becomes retired.
	ConfigurePool(ctx context.Context, pool PoolRow, now time.Time) error
	// Pools lists all pools, retired ones included, by name.
	Pools(ctx context.Context) ([]PoolRow, error)
	// Hold takes or renews the pool for a replica for ttl, by the database's
	// clock, and returns the generation; *HeldError while another replica has it.
	// A change of holder raises the generation.
	Hold(ctx context.Context, pool, replica string, ttl time.Duration) (Hold, error)
	// Unhold gives a pool up before its time, so that another replica can take
	// it at once. A hold that is another's by now is left alone, without error.
	Unhold(ctx context.Context, h Hold) error
	// Fence returns a view of the store whose writes fail with ErrHeld, and
	// change nothing, unless the pool of h still has h's replica and generation
	// when they commit: a process that was stopped and goes on cannot write
	// what another has decided meanwhile. Reads are not checked. The zero Hold
	// returns the store itself.
	Fence(h Hold) Store
	// SetGate closes a pool for creations, or with the zero Gate opens it.
	SetGate(ctx context.Context, pool string, g Gate, now time.Time, events ...Event) error
	// SetOverride records what an operator wants of a pool instead of its
	// configuration; the zero Override takes it back. It survives restarts.
	SetOverride(ctx context.Context, pool string, o Override, now time.Time, events ...Event) error
	// Spent is what a pool's machines have cost between two moments, those that
	// are gone and those that live. Rows are kept for days, no longer.
	Spent(ctx context.Context, pool string, from, to time.Time) (Spent, error)
	// Snapshot is what the planner needs of one pool: counts by state, variant
	// and tenant of machines no lease holds, the counter, and at most waiters
	// of the leases that wait for it, first come first.
	Snapshot(ctx context.Context, pool string, waiters int, now time.Time) (Snapshot, error)

	// Intend writes the row of a machine that is about to be made (Creating)
	// and raises the counter. For a lease (in.Lease set) the lease must be
	// waiting in that generation and becomes starting on this instance; for a
	// refill the free places must outnumber the pool's waiting leases. Without
	// a place: *LimitError, and for a lease the refusal becomes its Reason and
	// an event if it was not already, committed although the call fails. A
	// lease is refused too while earlier leases waiting for the pool could
	// take the free places. ErrRetired for a pool that left the file,
	// *ClosedError for one whose gate is closed or whose operator stopped it:
	// recorded with the lease like a *LimitError. A canary that is let through
	// moves the gate in the same transaction, so that it is one. The flavour's
	// own limit and the pool's creations per minute are kept likewise.
	Intend(ctx context.Context, in Intent) (Instance, error)
	// Accepted records the cloud's answer: Creating becomes Booting. On a row
	// that is Destroying by now the reference is recorded all the same, so
	// that the destroy finds the machine, and ErrConflict returned with the
	// row; the same on a Failed row. On a Gone row nothing is recorded.
	Accepted(ctx context.Context, a Acceptance) (Instance, error)
	// Proven makes a Booting (or Resuming, without lease) instance Warm, and in
	// the same transaction gives it away if it can: a Cold one to its lease if
	// that still waits for it, else to the first waiting lease with a Waiter
	// that fits, in order of arrival. The lease it was given to, then starting
	// on it, is returned; nil if it stays warm. A Cold instance whose lease has
	// ended or gone elsewhere stays warm for others (its Cold and lease fields
	// are cleared) if its kind is build, and becomes Destroying if gitspace.
	Proven(ctx context.Context, p Proof) (Instance, *Lease, error)
	// Change makes one transition of an instance outside the operations above.
	// To Gone lowers the counter and wipes the identity. To Warm hands the
	// machine on as Proven does, and is refused for one with a lease; to Leased
	// needs a lease that holds it. Every transition resets Attempts, and Reason
	// to the one given. An empty From is ErrConflict, and so is everything but
	// Failed for a held instance that is Warm or Hibernated. It returns the row
	// after the change.
	Change(ctx context.Context, c Change) (Instance, error)
	// SetHeld keeps an instance from being destroyed and given away, or lets it
	// go: it is due then, and one that is Warm or Hibernated is handed on like
	// any other. Gone instances are ErrConflict.
	SetHeld(ctx context.Context, id string, held bool, now time.Time, events ...Event) (Instance, error)
	// Postpone sets Due, Attempts, Reason and Detail of an instance that stays
	// in its state, which must be the expected one.
	Postpone(ctx context.Context, id string, state InstanceState, p Postponement) error

	// Renewing writes down the certificates a machine is about to be given, beside
	// those it has, and Renewed that it has taken them: from then on they are its
	// Identity. Until Renewed either may be the machine's, so Renewing keeps what
	// it has written before, and returns the row with it. A Renewing whose From is
	// not the present leaf changes nothing; neither does a Renewed whose leaf is the
	// present one already. A Renewed of anything else is ErrConflict, and so are
	// both for a machine without an identity. Every other state allows them.
	Renewing(ctx context.Context, r Renewal) (Instance, error)
	Renewed(ctx context.Context, r Renewal) (Instance, error)

	// Arrive joins or begins the lease of a setup. While a lease of this id is
	// not final it is returned as it is, Joined (its Waiter becomes this one,
	// and its WaitUntil and Due if it was waiting without a Waiter); else a
	// new generation is written, waiting. A waiting one is then given the
	// first instance that fits, its choices in order, in each the oldest warm
	// machine with enough life (Leased then), and if there is none the oldest
	// hibernated one (Resuming then): lease starting, all in this transaction.
	// The cost does not depend on the size of any pool.
	// ErrDestroyedFirst if a tombstone for the id refuses it (kind build only).
	Arrive(ctx context.Context, a Arrival) (Grant, error)
	// Activate makes a starting lease active: its caller can be answered.
	Activate(ctx context.Context, k LeaseKey, due, now time.Time, events ...Event) (Lease, error)
	// Requeue takes a starting lease off its machine before its caller was
	// answered: the instance becomes Destroying (or Failed, if keep is set),
	// the cause is added to the lease, which waits again at its old place for
	// the given choices. It may be given a warm machine at once, as by Arrive.
	Requeue(ctx context.Context, r Requeue) (Grant, error)
	// End ends the lease in whatever non-final state it is, and makes its
	// instance Destroying in the same transaction. See Ending for its outcomes.
	// A lease id never seen leaves a tombstone if e.Tombstone is set.
	End(ctx context.Context, e Ending) (Ended, error)
	// Lose ends a starting, active or suspended lease as lost because its
	// machine died; the instance becomes Failed. instance, if not empty, is the
	// machine that died, by our id: a lease that is on another by now is left
	// alone, with ErrConflict.
	Lose(ctx context.Context, k LeaseKey, instance, reason, detail string, due, now time.Time, events ...Event) (Lease, error)
	// Sleep begins the suspend of an active gitspace: instance Suspending,
	// lease suspended. Waking begins its resume: instance Resuming, lease
	// starting. Woken ends it with the new address: instance Leased.
	Sleep(ctx context.Context, k LeaseKey, due, now time.Time, events ...Event) (Lease, Instance, error)
	Waking(ctx context.Context, k LeaseKey, waiter string, due, now time.Time) (Lease, Instance, error)
	Woken(ctx context.Context, a Acceptance) (Instance, error)
	// Asleep takes back a resume that failed: instance Resuming becomes
	// Suspended again, its starting lease suspended, with the reason.
	Asleep(ctx context.Context, k LeaseKey, reason, detail string, due, now time.Time, events ...Event) (Lease, error)
	// PostponeLease moves the due time of a lease that is not final.
	PostponeLease(ctx context.Context, k LeaseKey, due, now time.Time) error
	// Touch records the last calls of leases, a batch at a time. Leases it does
	// not know are passed over; then it returns ErrNotFound after the others.
	Touch(ctx context.Context, calls map[LeaseKey]time.Time) error
	// Unwait marks a waiting or starting lease as nobody's: its Waiter is
	// cleared if it is waiter, and Due set; for another's it does nothing.
	// Leases without a Waiter are given nothing and do not count as waiting,
	// neither for limits nor in Snapshot. Orphans does so for all leases
	// whose Waiter is not among the living incarnations.
	Unwait(ctx context.Context, k LeaseKey, waiter string, due, now time.Time) error
	Orphans(ctx context.Context, living []string, due, now time.Time) (int, error)

	// Export adds to the variables a lease's host steps have exported; later
	// ones win. Exported returns them. Values are sealed.
	Export(ctx context.Context, k LeaseKey, vars map[string]string, now time.Time) error
	Exported(ctx context.Context, k LeaseKey) (map[string]string, error)

	// Disks lists persistent disks, by scope, name and zone.
	Disks(ctx context.Context, q DiskQuery) ([]Disk, error)
	// SaveDisk writes what a listing says of a disk: zone, size and Seen of the
	// row of that scope and name whose zone is the same or unknown, or a new row
	// of a detached disk if there is none.
	SaveDisk(ctx context.Context, d Disk) error
	// DoomDisks marks disks to be deleted and returns them, those that were marked
	// before included: detached ones, and those of machines that no lease holds,
	// which are to be deleted once their machine is gone. One that a lease's machine
	// has is left alone.
	DoomDisks(ctx context.Context, d Doom) ([]Disk, error)
	// DropDisk removes the row of a detached disk that is gone. No row, or one
	// that a machine has by now, is no error and left alone.
	DropDisk(ctx context.Context, d Disk) error
	// Readmit writes the rows of a machine that exists in its cloud and of a new
	// generation of the gitspace whose it is: Suspended, both. The pool counts
	// it whatever its limit. ErrConflict if the lease is not final, or the
	// instance id has a row.
	Readmit(ctx context.Context, r Readmission) (Lease, Instance, error)

	// DueInstances and DueLeases are at most limit rows whose due time has
	// come, the longest due first, of the given pools (nil: all).
	DueInstances(ctx context.Context, pools []string, now time.Time, limit int) ([]Instance, error)
	DueLeases(ctx context.Context, now time.Time, limit int) ([]Lease, error)
	// Adopt makes every instance in a transitional state (all but Warm,
	// Hibernated, Leased, Suspended, Failed and Gone) of the pools due now: the
	// process that worked on them is gone. It returns how many.
	Adopt(ctx context.Context, pools []string, now time.Time) (int, error)

	// Position is the place of a waiting lease in a pool's queue, 1 being the
	// next, counted up to limit; 0 if it does not wait there.
	Position(ctx context.Context, k LeaseKey, pool string, limit int) (int, error)

	// Lease is the latest generation of an id, LeaseAt a given one; Instance
	// is found by our id. All are ErrNotFound if there is none.
	Lease(ctx context.Context, id string) (Lease, error)
	LeaseAt(ctx context.Context, k LeaseKey) (Lease, error)
	Instance(ctx context.Context, id string) (Instance, error)
	// Instances, Leases and Events list rows for people, sweeps and audits,
	// newest first (events: oldest first), never on a request's path.
	Instances(ctx context.Context, q InstanceQuery) ([]Instance, error)
	Leases(ctx context.Context, q LeaseQuery) ([]Lease, error)
	Events(ctx context.Context, q EventQuery) ([]Event, error)
	// Note writes events that belong to no other operation.
	Note(ctx context.Context, events ...Event) error

	// Recount compares the counters with the rows and repairs them. It
	// returns the pools whose counter was wrong.
	Recount(ctx context.Context) ([]Drift, error)
	// Purge removes final rows, events and tombstones older than the given
	// times, at most limit of each kind, and returns how many in all. A zero
	// time removes nothing of its kind; a lease stays until its machine is gone.
	Purge(ctx context.Context, p Purge) (int, error)
	// Ping says whether the store can be reached and written.
	Ping(ctx context.Context) error
	// Close waits for running operations and closes the database.
	Close() error
}

// Renewal is the exchange of a machine's certificates.
type Renewal struct {
	ID string
	// From is the leaf that is replaced, for Renewing only.
	From []byte
	// Next has the new CA certificate, leaf and key; all else stays as it is.
	Next   drivers.Identity
	Now    time.Time
	Events []Event
}

// Controller is the owner of a store's machines.
type Controller struct {
	ID string
	// Born is when the store was made.
	Born time.Time
	// Restored is when the store was last made of a copy, Copied when that copy
	// was; both are zero if it never was. What happened between the two is not
	// in it: a machine that was free may have been used, one in use may have
	// gone, leases may have ended and others begun. So a restore holds (Held,
	// with an event) every machine that no lease had, in whatever state but
	// Destroying and Gone: it is neither given away nor destroyed until
	// somebody who has asked its agent lets it go or destroys it. Rows that
	// were entered (Since) after Restored are as true as ever.
	Restored, Copied time.Time
}

// Lifetime is one interval in which the store was alive.
type Lifetime struct {
	Incarnation string
	From, To    time.Time
}

// PoolRow is a pool as the store knows it.
type PoolRow struct {
	Name     string
	Driver   string
	Scope    string
	Min, Max int
	// SpecHash is the recipe, LastSpec what a retired pool is rebuilt from: JSON,
	// which may hold credentials, so it is sealed.
	SpecHash string
	LastSpec json.RawMessage
	// Recipes are those of all flavours; what was made from another is drift.
	Recipes  []string
	Platform drivers.Platform
	// Retired pools reap, resume and destroy, and create nothing.
	Retired bool
	// Counted is how many machines of the pool cost money.
	Counted int
	// PerMinute is how many machines may be begun in any one minute by the
	// clock, 0 for no bound.
	PerMinute int
	// Flavours are those with a limit of their own, by tenant and variant;
	// empty names mean "default".
	Flavours []FlavourRow
	Gate     Gate
	Override Override
	Hold     Hold
	Updated  time.Time
}

// FlavourRow is one tenant's variant of a pool as the store counts it.
type FlavourRow struct {
	Tenant, Variant string
	// Max is its own limit under the pool's; -1 for none.
	Max     int
	Counted int
}

// Gate is why a pool begins no machines now. The zero Gate is open.
type Gate struct {
	// Reason is a stable code ("breaker_open", "throttled", "quota",
	// "no_capacity", "cost_cap"), Detail one line with the last cause.
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Since is when it closed, Until when it opens, or, with Canary set, when
	// one machine may be begun to see whether it works again.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Canary is how long one trial may take, zero for a gate that just opens.
	// Each trial begun moves Until to so long from then.
	Canary time.Duration `json:"canary,omitempty"`
	// Failures in a row that led to it, Trips how often it closed since it last
	// worked: what the next pause is reckoned from.
	Failures int `json:"failures,omitempty"`
	Trips    int `json:"trips,omitempty"`
	// Freed says that the pause was cut short since a machine of the account is gone.
	Freed bool `json:"freed,omitempty"`
	// Kept is the failed machine left for inspection, by our id.
	Kept string `json:"kept,omitempty"`
}

// Closed says whether the gate lets nothing through at now but, perhaps, a
// canary once Until has come.
func (g Gate) Closed(now time.Time) bool {
	return g.Reason != "" && (g.Until.IsZero() || now.Before(g.Until)) && !g.ahead(now)
}

// ahead says whether the clock was set back since the gate was written: its
// times say nothing then, and whoever fails next writes them anew.
func (g Gate) ahead(now time.Time) bool { return g.Since.After(now.Add(clockJump)) }

// Override is what an operator wants of a pool. The zero Override is nothing.
type Override struct {
	// Stopped: nothing is begun, also not for requests, and free machines go.
	Stopped bool `json:"stopped,omitempty"`
	// Min, if set, replaces the pool's warm target.
	Min *int `json:"min,omitempty"`
	// By and Why are for people, Since is when it was given.
	By    string    `json:"by,omitempty"`
	Why   string    `json:"why,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Spent is machine time and how many machines were begun.
type Spent struct {
	Time  time.Duration
	Begun int
}

// Hold is a replica's right to run a pool's loops. The zero Hold is none.
type Hold struct {
	Pool       string
	Replica    string
	Generation int64
	Until      time.Time
}

// Snapshot is one pool at one moment.
type Snapshot struct {
	Pool    string
	Counted int
	Max     int
	Retired bool
	// Groups has the counts of instances no lease holds.
	Groups []Group
	// Waiting are the first leases that wait for this pool and have a Waiter;
	// WaitingMore says that there are others.
	Waiting     []Lease
	WaitingMore bool
	// Drifted are at most a few warm or hibernated instances whose recipe is
	// none of Recipes, oldest first; held ones are left out.
	Drifted  []Instance
	Gate     Gate
	Override Override
	Flavours []FlavourRow
}

// Group is the count of like instances.
type Group struct {
	State           InstanceState
	Variant, Tenant string
	Shape           string
	Recipe          string
	// Held says that an operator, or a restore, holds them: they are neither
	// given away nor destroyed, and are no prospect for anybody.
	Held  bool
	Count int
}

// Intent is a machine about to be made. Instance has every field of the row
// but State, Since and the lease's.
type Intent struct {
	Instance Instance
	// Lease, if its ID is set, is whom the machine is made for.
	Lease LeaseKey
	// Disks are its persistent disks by name: attached in the same transaction,
	// and written if there is no row of that name in the scope. One that another
	// live machine has, or that is doomed, is a *DiskError and nothing is written.
	// Of new ones Name, SizeGiB and Type are read. They are let go when the
	// machine is gone: kept, or doomed if its Disks is Delete.
	Disks  []Disk
	Now    time.Time
	Events []Event
}

// LeaseKey is one generation of a lease. Generation 0 means the latest.
type LeaseKey struct {
	ID         string
	Generation int64
}

// Key is the lease's key.
func (l Lease) Key() LeaseKey { return LeaseKey{ID: l.ID, Generation: l.Generation} }

// Acceptance is where a machine is, as the cloud says.
type Acceptance struct {
	ID      string
	CloudID string
	Zone    string
	Address string
	Port    int
	Due     time.Time
	Now     time.Time
	Events  []Event
}

// Proof is that an instance's agent answered.
type Proof struct {
	ID           string
	AgentVersion string
	// Address and Port are written if set: where it answered.
	Address string
	Port    int
	// Due is for the instance if it stays warm (its free age, say), LeaseDue
	// for the lease that gets it.
	Due      time.Time
	LeaseDue time.Time
	Now      time.Time
	Events   []Event
}

// Change is one transition of an instance.
type Change struct {
	ID string
	// From are the states it may be in; Address and Port are written if set.
	From    []InstanceState
	To      InstanceState
	Address string
	Port    int
	Due     time.Time
	Reason  string
	Detail  string
	Now     time.Time
	Events  []Event
}

// Postponement is a failed try.
type Postponement struct {
	Due time.Time
	// Held postpones only an instance that is held; else ErrConflict.
	Held     bool
	Attempts int
	Reason   string
	Detail   string
	Now      time.Time
	Events   []Event
}

// Arrival is a setup that has come in.
type Arrival struct {
	ID      string
	Kind    Kind
	Want    Want
	Choices []Choice
	// NoClaim asks for a machine of its own, never a warm one (gitspaces).
	NoClaim bool
	// Waiter is the incarnation that waits.
	Waiter string
	Digest string
	// NeedUntil is the least deadline of a machine that fits.
	NeedUntil time.Time
	WaitUntil time.Time
	// Due is for the lease while it waits, LeaseDue once it is starting.
	Due      time.Time
	LeaseDue time.Time
	Now      time.Time
}

// Grant is what Arrive found or gave.
type Grant struct {
	Lease Lease
	// Instance is the lease's, nil while it waits or if it was created but is
	// gone.
	Instance *Instance
	// Joined says that the lease was there before; Claimed that this very call
	// gave it a free machine: warm, and Leased now, or hibernated, and Resuming.
	Joined  bool
	Claimed bool
	// Displaced is the incarnation that waited for the lease until this call,
	// "" if none or the same one did: it may be in the middle of preparing the
	// machine.
	Displaced string
}

// Requeue takes a lease off a machine that failed it.
type Requeue struct {
	Lease LeaseKey
	// Instance, if set, is the machine that failed, by our id: a lease that is
	// on another by now is left alone, with ErrConflict.
	Instance string
	Cause    Cause
	// Choices are what is left to try; none is refused with ErrInvalid.
	Choices []Choice
	NoClaim bool
	// Keep makes the instance Failed rather than Destroying.
	Keep        bool
	InstanceDue time.Time
	NeedUntil   time.Time
	Due         time.Time
	LeaseDue    time.Time
	Now         time.Time
	Events      []Event
}

// Ending is a destroy, by a caller or by the engine.
type Ending struct {
	// Lease is whose. With Generation set and older than the latest, only that
	// generation's instance is touched.
	Lease LeaseKey
	// Instance, if set, is the machine the caller means, by our id, cloud id or
	// name. If it is another than the lease's present one, only that older one
	// is destroyed, provided it belonged to this lease id.
	Instance string
	Kind     Kind
	Disks    drivers.DiskPolicy
	// States, if set, are those the lease must be in; else ErrConflict. The same
	// if Unwaited is set and somebody waits for it.
	States   []LeaseState
	Unwaited bool
	// Cause is appended to the lease's causes if its Message is set.
	Cause  Cause
	Reason string
	Detail string
	// Tombstone says until when a never-seen id refuses a build's setup; zero
	// leaves none. At most MaxTombstones are kept, the oldest go.
	Tombstone time.Time
	Now       time.Time
	Events    []Event
}

// MaxTombstones bounds the destroys that came before their setup.
const MaxTombstones = 10_000

// Ended is what End did.
type Ended struct {
	Outcome EndOutcome
	// Lease is the row after the call, zero for EndUnknown.
	Lease Lease
	// Instance is what is being destroyed, nil if there is nothing.
	Instance *Instance
}

// EndOutcome is one of the ways a destroy can go, none of them an error.
type EndOutcome string

// The outcomes of End.
const (
	// EndNow: the lease ended with this call.
	EndNow EndOutcome = "ended"
	// EndAlready: it was final before. Its instance is returned if it is not
	// gone yet.
	EndAlready EndOutcome = "already"
	// EndStale: an older instance was meant; the present lease is untouched.
	EndStale EndOutcome = "stale"
	// EndUnknown: no lease of this id was ever seen.
	EndUnknown EndOutcome = "unknown"
)

// InstanceQuery narrows Instances. Zero fields do not narrow.
type InstanceQuery struct {
	Pool   string
	Scope  string
	States []InstanceState
	// Lease is a lease id, all generations.
	Lease string
	// Live leaves out Gone.
	Live  bool
	Limit int
}

// LeaseQuery narrows Leases. Zero fields do not narrow.
type LeaseQuery struct {
	Pool   string
	States []LeaseState
	// Live leaves out final ones.
	Live  bool
	Limit int
}

// EventQuery narrows Events. Zero fields do not narrow.
type EventQuery struct {
	Pool, Instance, Lease string
	// After is the id of the last event already seen.
	After int64
	Limit int
}

// Drift is a counter that did not equal the truth.
type Drift struct {
	Pool string
	// Tenant and Variant are set if it is a flavour's counter.
	Tenant, Variant string
	Counted, Truth  int
}

// Purge says what is old.
type Purge struct {
	Rows   time.Time
	Events time.Time
	// Tombstones older than Now are removed.
	Now   time.Time
	Limit int
}

// Notifier is implemented by stores that several replicas share. What is
// announced wakes the others sooner than their next look; a lost announcement
// only costs a tick. Stores of one process need not implement it.
type Notifier interface {
	// Announce tells the other replicas of topics, without waiting for them.
	Announce(topics ...string)
	// Listen calls f for each topic another replica announces, until ctx ends;
	// it reconnects by itself. An empty topic means that some may have been
	// missed; it comes first of all, and after each reconnecting. It returns nil
	// when ctx ends, ErrUnavailable when the store is closed.
	Listen(ctx context.Context, f func(topic string)) error
}
