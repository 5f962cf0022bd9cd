// Package containers runs steps in containers of a Docker daemon, or of another
// that speaks its interface (Podman).
//
// An [Engine] talks to one daemon for one run of an agent. A [Stage] is what one
// setup has begun: its network, its volumes and the containers of its steps. A
// [Container] is one step's.
//
// Everything made carries labels that say who made it, for which stage and for
// which step, and is found again by them: what a killed agent has left is
// removed by [Engine.Adopt], also when nothing else is known of it. A network or
// volume that was there before is used and never removed.
//
// No call waits for ever: each has a time of its own, and what a daemon does too
// late is removed when it answers. Errors have the daemon's words and, where
// there is one, the remedy.
//
// The package refuses to know processes, files of outputs and results of
// steps: those are the agent's.
package containers
