// Package server is the runner's HTTP side: the delegate API that existing
// callers speak, our own read-only /v1, health, readiness and metrics, and the
// rule who may call at all.
//
// It turns requests into calls of [pool.Service] and its answers and errors
// into bodies and statuses. The two objects a caller sends for the agent pass
// through as raw JSON with exactly seven edits ([Edits]). It refuses to know
// stores, drivers, the pool file and how an agent is reached.
package server
