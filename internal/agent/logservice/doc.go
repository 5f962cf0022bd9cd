// Package logservice sends logs to a service that shows them while they grow
// and keeps them afterwards: a stream is opened, gets lines once a second, the
// whole log is uploaded, the stream is closed. The protocol is that of existing
// agents, so any service they can talk to will do.
//
// A log never harms who writes it: [Stream.Write] keeps the newest lines in
// bounded memory and returns at once, whatever the service does. What a
// service that is slow, broken or gone has missed is told in the log itself.
//
// The package refuses to know steps, machines and secrets: what it is given it
// sends.
package logservice
