package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// headerTimeout is the only timeout of the server: answers may take hours.
	headerTimeout = 10 * time.Second
	// maxStreams is how many requests one HTTP/2 connection may have open: a
	// poll and a stream for each step of a large stage.
	maxStreams = 1000
	// closeTimeout bounds the wait for open answers at shutdown.
	closeTimeout = 3 * time.Second
)

// Serve answers on ln until ctx ends, with TLS if conf is not nil. Then it
// stops accepting, ends all steps, lets open answers go out and returns nil.
// It closes ln.
func (a *Agent) Serve(ctx context.Context, ln net.Listener, conf *tls.Config) error {
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	srv := &http.Server{
		Handler:           a.Handler(),
		TLSConfig:         conf,
		ReadHeaderTimeout: headerTimeout,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(a.opts.Log.Handler(), slog.LevelDebug),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
	}
	sweeping, endSweep := context.WithCancel(ctx)
	swept := make(chan struct{})
	go func() { defer close(swept); a.SweepContainers(sweeping) }()
	defer func() { endSweep(); <-swept }()
	failed := make(chan error, 1)
	go func() {
		if conf == nil {
			failed <- srv.Serve(ln)
			return
		}
		failed <- srv.ServeTLS(ln, "", "")
	}()
	select {
	case err := <-failed:
		return errors.Join(fmt.Errorf("serve: %w", err), a.Close())
	case <-ctx.Done():
	}
	// Polls first learn how their steps ended, then whoever still waits is
	// told that the agent stops.
	stopped := make(chan error, 1)
	shutdown, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	go func() { stopped <- srv.Shutdown(shutdown) }()
	err := a.Close() // takes no longer than killTime, stepPatience twice and closeDockerTime
	late := time.AfterFunc(closeTimeout/2, func() { cut(errStopping) })
	defer late.Stop()
	tooLate := time.AfterFunc(closeTimeout, giveUp) // for readers that have stalled
	defer tooLate.Stop()
	if stopErr := <-stopped; stopErr != nil {
		err = errors.Join(err, srv.Close())
	}
	<-failed //nolint:errcheck // http.ErrServerClosed
	return err
}
