// Package noop is the driver of pretend machines: for load tests, kill tests,
// simulations and a first look, and the driver to copy when a new one is
// written.
//
// A machine is either an entry in a [World] in this process, or with
// `process: true` a child process that survives the runner ([MachineMain] is
// what it runs), with its state on disk and a loopback address of its own.
// Delays, failing creations and capacity can be set; [Faults] injects more
// from tests.
//
// It refuses to know who calls: like every driver it imports only package
// drivers, and the pretend agent of a child speaks the wire protocol by itself.
package noop
