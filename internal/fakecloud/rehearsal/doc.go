// Package rehearsal lets people use a fake cloud as if it were one: behind its
// API every machine that runs is a sandbox of this host which applies the
// machine's boot data and runs a real agent (package boot), at a loopback address
// of its own. Linux only.
package rehearsal
