// Package store has what its two dialects share and others may use: the sealer
// that keeps machines' private keys and exported secrets unreadable in copies
// of the database, and the rule by which its key is found.
//
// The stores themselves are store/sqlite and store/postgres. Both pass
// store/storetest, which is the contract of pool.Store made executable.
//
// It refuses to know HTTP, clouds, and how a machine is made.
package store
