package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/guestinit"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// What the agent of a machine without a disk keeps lies in memory, so there is
// less of it.
const (
	memoryStateDir    = "/run/runner-agent"
	memoryOutputLimit = 8 << 20
)

func initCommand() *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "be process 1 of a local machine: wait for its identity on the host's channel, then serve",
		Action: func(c *cli.Context) error {
			return guestinit.Run(c.Context, guestinit.Options{
				Version: version,
				Args:    []string{os.Args[0], "init"},
				Serve: func(ctx context.Context, s guestinit.Session) error {
					return serveIdentity(ctx, s, agent.Options{StateDir: memoryStateDir, OutputLimit: memoryOutputLimit})
				},
			})
		},
	}
}

func guestCommand() *cli.Command {
	return &cli.Command{
		Name:  "guest",
		Usage: "be the agent of a local machine with a system of its own: wait for its identity on the host's channel, then serve",
		Action: func(c *cli.Context) error {
			return guestinit.RunService(c.Context, guestinit.Options{
				Version: version,
				Args:    []string{os.Args[0], "guest"},
				Serve: func(ctx context.Context, s guestinit.Session) error {
					return serveIdentity(ctx, s, agent.Options{})
				},
			})
		},
	}
}

// serveIdentity serves with certificates that are in memory only.
func serveIdentity(ctx context.Context, s guestinit.Session, o agent.Options) error {
	o.Version, o.Machine, o.Spawner, o.Log = version, s.Identity.Machine, s.Spawner, s.Log
	a, err := agent.New(o)
	if err != nil {
		return err
	}
	conf, err := a.TLSConfig(s.Identity.CACert, s.Identity.Cert, s.Identity.Key)
	if err != nil {
		return errors.Join(fmt.Errorf("identity: %w", err), a.Close())
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", guestlink.AgentPort))
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), a.Close())
	}
	s.Ready()
	return a.Serve(ctx, ln, conf)
}
