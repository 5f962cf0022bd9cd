// Package core is the store without a database: every operation of pool.Store
// written once, over a transaction that a dialect provides, and the rows in
// and out of columns. So two dialects cannot disagree about what an operation
// means; they differ in how a transaction begins, commits and is repeated, in
// what they lock, and in their schema.
//
// Statements are texts that both dialects understand as they stand: numbered
// parameters ($1, $2 …, first used in that order, which SQLite's libraries
// need), ON CONFLICT, RETURNING. What only one dialect has, such as FOR UPDATE,
// that dialect puts into its own copy of the table by name; nothing is
// rewritten by pattern. Read the operations in arrive.go, lease.go and
// instance.go first: the rest serves them.
//
// # The order of locks
//
// Where others write at the same time (Tx.Shared) rows are locked in one order,
// so that two operations never wait for each other:
//
//  0. an id that no lease was ever seen for (LockID);
//  1. pools, by name;
//  2. instances: a free one that is claimed before the one a lease has;
//  3. leases, several by id and generation;
//  4. what hangs on a lease: its choices and variables, a new generation's key;
//  5. disks, by name.
//
// An operation that learns only from a later row which earlier one it needs
// reads the later one without a lock, locks both in order, and if the later one
// says something else by then it fails with [ErrRaced] and is run again from
// the beginning. A fence locks the pool's row only against a change of holder,
// and whoever changes that waits for nothing else: it may come first.
package core
