// Package agentclient talks to the agents inside machines: it implements
// [pool.Agent] over HTTP/2 and mutual TLS 1.3, for our agent and for existing
// ones alike.
//
// A [Client] keeps one connection per machine, also while the machine is
// paused, since a new handshake costs a claim more than everything else. A
// connection that has gone dead is found out by a small request beside the one
// that waits, and made anew. Nothing but the connection is kept per machine.
//
// A [Mock] is an agent that exists only in this process, for pools of pretend
// machines and load tests; a [Mux] chooses between agents per machine.
//
// The package refuses to know leases, steps' contents and the store: bodies
// pass through as they are.
package agentclient
