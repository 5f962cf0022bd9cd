// Package chaos proves the promise on the real program: it runs the runner's
// binary under load, does to it what a bad day does, and audits cloud against
// store. Machines are child processes that outlive the runner (the noop
// driver's), so "the cloud" is what the host's process table and the machines'
// folders say, and the store is what its tables say, read without the runner's
// code.
//
// Each way to hurt the runner is a [Mode]. All share one way to look: callers
// write what they were answered into a [Ledger], and [Audit], which is pure,
// compares ledger, cloud and store. What it finds breaks the promise.
//
// Everything stays on loopback addresses and in one folder, is bounded in
// number and time, and ends with the run.
package chaos
