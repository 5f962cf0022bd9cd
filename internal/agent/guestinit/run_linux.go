package guestinit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// Run is process 1. It does not return: when the agent ends, by a signal or by
// an error, the machine is powered off. As any other process it returns an
// error at once.
func Run(ctx context.Context, o Options) error {
	if os.Getpid() != 1 {
		return errors.New("init: this is process 1 of a local machine; to serve on this one use: runner-agent server")
	}
	// By default these would end the program, and with it the machine. They are
	// caught and dropped: if they were ignored, steps would inherit that.
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGALRM, unix.SIGPIPE)
	defer signal.Stop(dropped)
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT, unix.SIGUSR2, unix.SIGPWR)
	defer stop()
	if err := run(ctx, o); err != nil && ctx.Err() == nil {
		console().Error("the machine ends", "err", err)
	}
	return powerOff()
}

// run is the process before the identity or, after the change, the one with it.
func run(ctx context.Context, o Options) error {
	h, err := handedOver()
	if err != nil {
		return err
	}
	if h == nil {
		return wait(ctx, o)
	}
	log := console()
	reaper := newReaper(log)
	go reaper.run(ctx)
	return live(ctx, o, h, reaper, log)
}

// wait is the machine without an identity. It ends by replacing the process.
func wait(ctx context.Context, o Options) error {
	if err := environment(); err != nil {
		return err
	}
	mountAll(slog.New(slog.DiscardHandler)) // there may be no console before /dev
	log := console()
	mountAll(log)
	loadModules(modulesFile, log)
	if err := linkUp("lo"); err != nil {
		log.Warn("loopback is not up", "err", err)
	}
	port, err := openPort(ctx, log)
	if err != nil {
		return err
	}
	log.Info("waiting for an identity", "version", o.Version)
	w := &waiting{port: port, args: o.Args, log: log}
	return guestlink.NewGuest(o.Version, w, log).Serve(ctx, port)
}

// waiting acts on what a host says before there is an identity.
type waiting struct {
	port *port
	args []string
	log  *slog.Logger
}

// Identify makes this machine a new one and starts the program anew with its
// identity. It returns only if that fails.
func (w *waiting) Identify(ctx context.Context, req guestlink.Request) error {
	id := req.Identity
	if err := wake(req.Now, req.Entropy); err != nil {
		return err
	}
	if err := setNames(id.Hostname, id.Machine); err != nil {
		return err
	}
	if err := configureNetwork(id.Address, id.Gateway); err != nil {
		return err
	}
	if err := mountDisks(ctx, id.Disks, w.log); err != nil {
		return err
	}
	return reexec(req, w.port, w.args)
}

func (w *waiting) Wake(_ context.Context, now time.Time, entropy []byte) error {
	return wake(now, entropy)
}

func (w *waiting) Flush(context.Context) error { return flush() }

// live is the machine with its identity.
func live(ctx context.Context, o Options, h *handover, spawn agent.Spawner, log *slog.Logger) error {
	guest := guestlink.NewGuest(o.Version, &living{}, log)
	guest.Resume(h.request)
	channel := make(chan error, 1)
	go func() { channel <- guest.Serve(ctx, h.port) }()

	id := h.request.Identity
	if err := runUserData(ctx, spawn, id.UserData, log); err != nil {
		return surrender(ctx, guest, channel, err)
	}
	served := make(chan error, 1)
	go func() {
		served <- o.Serve(ctx, Session{Identity: id, Spawner: spawn, Log: log, Ready: func() {
			log.Info("ready", "machine", id.Machine)
			guest.Ready()
		}})
	}()
	select {
	case err := <-served:
		if err != nil {
			return surrender(ctx, guest, channel, err)
		}
		return nil
	case err := <-channel:
		if ctx.Err() != nil {
			return <-served // the agent ends its steps first
		}
		return fmt.Errorf("identity channel: %w", err)
	}
}

// surrenderTime is how long the host has to hear why there will be no agent.
const surrenderTime = 5 * time.Second

// surrender tells the host why the machine cannot become what it should, and
// gives it time to read that before the machine ends.
func surrender(ctx context.Context, guest *guestlink.Guest, channel <-chan error, err error) error {
	guest.Fail(err)
	select {
	case <-ctx.Done():
	case <-channel: //nolint:errcheck // that it has ended is what counts
	case <-time.After(surrenderTime):
	}
	return err
}

// living acts on what a host says to a machine that has its identity.
type living struct{}

// Identify is reached only after the agent has failed: the machine is about
// to end.
func (*living) Identify(context.Context, guestlink.Request) error {
	return errors.New("the agent of this machine has failed; the machine ends")
}

func (*living) Wake(_ context.Context, now time.Time, entropy []byte) error {
	return wake(now, entropy)
}

func (*living) Flush(context.Context) error { return flush() }
