// Package postgres is pool.Store on a Postgres that several replicas share.
//
// What the operations mean is written in store/internal/core, for both
// dialects. This package adds what only several writers need: rows are locked
// before they are judged (FOR UPDATE), in the one order that core describes,
// claims pass over machines that another replica is taking (SKIP LOCKED), a
// transaction that lost a race is repeated, and holds on pools go by the
// database's clock. The ordinary arrival, a new lease that is given a machine,
// is one statement behind the lock on its id.
//
// Transactions run at READ COMMITTED. The invariant that no machine stays warm
// beside a lease that fits needs more than row locks: whoever is about to
// queue a lease, and whoever is about to leave a machine warm, first locks the
// pool's row and then looks. A claim that finds a machine takes no such
// lock, so claims of one pool do not wait for each other.
//
// Announcements between replicas go by NOTIFY, gathered and apart from the
// operations; a lost one costs a tick.
//
// Every operation is built in. One thing differs from SQLite: ids of events are
// given when they are written and seen when they are committed, so a reader
// that follows them with After may pass over one that commits late.
package postgres
