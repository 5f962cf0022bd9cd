// Package loadgen puts load on a running runner over its delegate API and
// measures how long each phase takes: setup, an optional step, destroy.
//
// A closed loop keeps a number of clients busy, each with one stage after the
// other; it shows what the runner can do. An open loop starts stages at fixed
// times whatever the runner does, and counts each latency from the time the
// stage was due, so that a runner that stalls cannot hide the requests it has
// kept from being sent (coordinated omission).
//
// It shares its host with the runner it measures, so it is frugal: bodies are
// rendered from parts, answers are skipped unless they are checked, and
// latencies go into fixed histograms. It refuses to know how a runner works
// inside.
package loadgen
