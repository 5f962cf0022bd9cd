// Package hostrunner runs the stages of pipelines on this host: the local
// runner, which has no machines to lend. It serves the delegate's API for many
// stages at once and runs each on an agent of its own.
//
// A [Runner] keeps what it must not forget on disk, below its data directory:
// which stages there are, what each was set up with, which steps it was told
// to run and how they ended. A runner that was killed is followed by one that
// knows them, has ended what their steps left running, and destroys them when
// asked. What one stage gets is never another's: directory, environment,
// network, outputs and the names of its containers are made from the stage's
// [Key].
//
// A stage is let in when the host has room for it; until then it waits in the
// order of arrival, and whoever waits in vain is told for what.
//
// The package knows no pools, clouds and stores. It decides who may call by
// address, token or certificate; where it listens is its caller's choice,
// which [CheckProtection] judges.
package hostrunner
