package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows/svc"

	"github.com/vm-runner/drone-runner-aws/internal/hostrunner/service"
)

// asService runs a program that is told to stop by the service manager, or by
// signals where somebody has started it by hand. out is where it reports; a
// service has no console, and writes to a file instead.
func asService(ctx context.Context, out io.Writer, run func(ctx context.Context, hurry <-chan struct{}, out io.Writer) error) error {
	managed, err := svc.IsWindowsService()
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	if !managed {
		return untilSignal(ctx, func(ctx context.Context, hurry <-chan struct{}) error { return run(ctx, hurry, out) })
	}
	dir := defaultHostDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(dir, "host.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	h := &managedRun{ctx: ctx, run: func(ctx context.Context) error { return run(ctx, nil, log) }}
	if err := svc.Run(service.DefaultName, h); err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	if h.err != nil {
		_, _ = fmt.Fprintf(log, "runner-agent: %v\n", h.err) // nowhere else to say it
	}
	return h.err
}

// managedRun is a run the service manager starts and stops.
type managedRun struct {
	ctx context.Context //nolint:containedctx // svc.Handler has no room for one
	run func(context.Context) error
	err error
}

// Execute implements svc.Handler. Stop and a shutdown of the system drain.
func (m *managedRun) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (bool, uint32) {
	ctx, stop := context.WithCancel(m.ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- m.run(ctx) }()
	const accepts = svc.AcceptStop | svc.AcceptShutdown
	status <- svc.Status{State: svc.Running, Accepts: accepts}
	for {
		select {
		case m.err = <-done:
			status <- svc.Status{State: svc.StopPending}
			if m.err != nil {
				return true, exitFailed
			}
			return false, 0
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				status <- svc.Status{State: svc.StopPending}
				stop()
			}
		}
	}
}
