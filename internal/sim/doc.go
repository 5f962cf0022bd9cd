// Package sim runs the real engine on a real store against a pretend cloud
// whose faults are drawn from a seed, for hours of fake time in a moment, and
// checks the promise: no machine is ever lost, none is given to two leases,
// none in use is destroyed, and when it is quiet everything is as wanted.
//
// It is a test harness: everything lives in its test files, and `make sim`
// runs them. A failure prints its seed; `-sim.seed=N` runs that one again.
// Faults depend on the seed and on what they happen to (a machine's number,
// how often an operation was tried), not on the order in which goroutines
// run, so a seed meets the same faults each time; the interleaving of
// goroutines may still differ.
package sim
