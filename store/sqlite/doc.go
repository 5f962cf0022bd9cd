// Package sqlite is pool.Store on one SQLite file, for one runner.
//
// One goroutine writes. It takes the operations that wait, runs one after the
// other in one transaction, commits them together and only then answers, so that
// a hundred callers share one sync of the disk and an answer is always durable.
// One that fails half way is left out and the others are run again. Readers use
// other connections, with their own prepared statements, and never wait for it. Beside the file lies
// <file>.lock, held while the store is open: two runners on one file would both
// believe that they own its machines.
//
// Built with cgo it uses mattn/go-sqlite3, without cgo modernc.org/sqlite; the
// difference is one file each. It works inside a testing/synctest bubble: all
// its goroutines wait on channels and end with Close.
//
// What the operations mean is written in store/internal/core. This package
// knows how they become durable, and what can be wrong with a file.
package sqlite
