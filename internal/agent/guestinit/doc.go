// Package guestinit is what the agent does as process 1 of a local machine: it
// makes a usable system out of a bare kernel, waits for the machine's identity
// on the host's private channel, starts itself anew with it, and serves.
//
// A machine may be a clone of a template that was saved while it waited. So
// nothing that must differ between clones exists before the identity has come:
// clock and entropy are set first, then the program replaces itself, and only
// the new process makes keys, reads the boot id or opens a listener. The
// identity crosses that change in memory that has no name, never in a file.
//
// The package works on Linux alone; elsewhere [Run] is an error.
package guestinit

import (
	"context"
	"log/slog"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// Options is what process 1 is told by its command.
type Options struct {
	// Version is the agent's, told to the host.
	Version string
	// Args are the arguments to start anew with.
	Args []string
	// Serve makes and runs the agent with the machine's identity until ctx
	// ends. It calls ready once the agent listens.
	Serve func(ctx context.Context, s Session) error
}

// Session is what Serve gets.
type Session struct {
	Identity *guestlink.Identity
	// Spawner must start every process, so that process 1 knows its own.
	Spawner agent.Spawner
	// Log writes to the console.
	Log *slog.Logger
	// Ready says that the agent listens.
	Ready func()
}
