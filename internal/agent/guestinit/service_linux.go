package guestinit

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// RunService is the agent as a service of a machine that has a system of its
// own: it waits for the identity and serves with it as process 1 would, and
// leaves all else to the system. It returns nil when it is told to end.
func RunService(ctx context.Context, o Options) error {
	if os.Getpid() == 1 {
		return errors.New("guest: this is process 1; use: runner-agent init")
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer stop()
	err := runService(ctx, o, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func runService(ctx context.Context, o Options, log *slog.Logger) error {
	h, err := handedOver()
	if err != nil {
		return err
	}
	if h != nil {
		return live(ctx, o, h, plainSpawner{}, log)
	}
	port, err := openPort(ctx, log)
	if err != nil {
		return err
	}
	// Names change once the system has found its card.
	if err := awaitCard(ctx); err != nil {
		return err
	}
	log.Info("waiting for an identity", "version", o.Version)
	w := &waiting{port: port, args: o.Args, log: log}
	return guestlink.NewGuest(o.Version, w, log).Serve(ctx, port)
}

// plainSpawner leaves children that are nobody's to the system's process 1.
type plainSpawner struct{}

func (plainSpawner) Start(cmd *exec.Cmd) error { return cmd.Start() }
func (plainSpawner) Exited(*exec.Cmd)          {}
