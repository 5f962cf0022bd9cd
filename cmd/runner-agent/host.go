package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/internal/hostrunner"
	"github.com/vm-runner/drone-runner-aws/internal/peers"
)

const hostDescription = `Runs the stages a delegate sends on this machine: steps with an image in
containers, all others as processes. Listens on loopback; everything else needs
a token, mutual TLS or a list of who may call.

Settings are flags, or the variables in brackets, which may also stand in .env of
the working directory or in the file of --env-file; the environment wins over
these. A variable that is empty counts as unset.

Examples:
   runner-agent host
   runner-agent host --max-stages 4 --mount-volumes '/etc/ssl/certs;/etc/ssl/certs;ro'
   runner-agent host --bind 0.0.0.0:3000 --allow 10.0.0.0/24
   runner-agent host status
   runner-agent host logs STAGE --follow
   runner-agent host doctor
   runner-agent host install --print`

// hostCommand is the local runner; name is what it is called by.
func hostCommand(name string, stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name:        name,
		Usage:       "serve a delegate: run its stages on this machine, without virtual machines",
		Description: hostDescription,
		Flags:       hostFlags(),
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError{fmt.Errorf("unknown command %q; see runner-agent %s --help", c.Args().First(), name)}
			}
			return asService(c.Context, stderr, func(ctx context.Context, hurry <-chan struct{}, out io.Writer) error {
				return runHost(ctx, c, hurry, out)
			})
		},
		Subcommands: []*cli.Command{statusCommand(), logsCommand(), doctorCommand(), installCommand(), uninstallCommand()},
	}
}

// runHost serves until ctx ends.
func runHost(ctx context.Context, c *cli.Context, hurry <-chan struct{}, stderr io.Writer) error {
	var level slog.LevelVar
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: &level}))
	s, err := readHostSettings(c, log)
	if err != nil {
		return err
	}
	level.Set(s.level)
	if err := hostrunner.CheckProtection(s.bind, s.token != "", s.certs != nil, s.allow); err != nil {
		return err
	}
	warnings, err := hostrunner.CheckMounts(s.mounts, runtime.GOOS == "windows")
	if err != nil {
		return err
	}
	for _, w := range append(s.notices, warnings...) {
		log.WarnContext(ctx, "setting", "warning", w)
	}
	l := hostrunner.Listener{Drain: s.drain, Hurry: hurry, Access: hostrunner.Access{Token: s.token}}
	if s.certs != nil {
		if l.TLS, err = loadMutualTLS(*s.certs); err != nil {
			return err
		}
	}
	if s.token == "" && s.certs == nil || len(s.allow) > 0 {
		l.Access.Peers = peers.New(peers.Config{Extra: s.allow, Container: peers.InContainer()})
		if open := l.Access.Peers.Open(); len(open) > 0 && s.token == "" && s.certs == nil {
			log.WarnContext(ctx, "everybody who reaches this port may run programs on this machine", "allow", fmt.Sprint(open))
		}
	}
	r, err := hostrunner.New(ctx, hostrunner.Config{
		Version: version, DataDir: s.dataDir, Limits: s.limits, Wait: s.wait, MaxAge: s.maxAge,
		Mounts: s.mounts, NetworkDriver: s.networkDriver, Environ: s.env.environ(), Log: log,
	})
	if err != nil {
		return err
	}
	if l.Listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.bind); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w; stop the program that uses it, or choose another with --bind", err)
		}
		return errors.Join(fmt.Errorf("listen: %w", err), r.Close())
	}
	defer dumpOnSignal(log)()
	log.InfoContext(ctx, "listening", "addr", l.Addr().String(), "version", version, "data_dir", s.dataDir, "token", s.token != "", "mutual_tls", s.certs != nil)
	for _, problem := range r.Health(ctx).Problems {
		log.WarnContext(ctx, "not everything can be run", "problem", problem)
	}
	if err := r.Serve(ctx, l); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

func loadMutualTLS(p certificatePaths) (conf *tls.Config, err error) {
	var pem [3][]byte
	for i, path := range []string{p.ca, p.cert, p.key} {
		if pem[i], err = os.ReadFile(path); err != nil {
			return nil, fmt.Errorf("mutual TLS: %w; write the files with: runner-agent certs", err)
		}
	}
	conf, err = hostrunner.MutualTLS(pem[0], pem[1], pem[2])
	if err != nil {
		return nil, fmt.Errorf("%s, %s, %s: %w", p.ca, p.cert, p.key, err)
	}
	return conf, nil
}

// untilSignal runs until somebody asks for an end, and hurries if they ask
// again.
func untilSignal(ctx context.Context, run func(ctx context.Context, hurry <-chan struct{}) error) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hurry, over, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for _, act := range []func(){stop, func() { close(hurry) }} {
			select {
			case <-signals:
				act()
			case <-over:
				return
			}
		}
	}()
	err := run(ctx, hurry)
	close(over)
	<-done
	return err
}
