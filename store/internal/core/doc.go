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
package core
