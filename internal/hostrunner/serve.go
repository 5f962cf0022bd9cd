package hostrunner

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

const (
	// headerTime is the only timeout of the server: answers may take hours.
	headerTime = 10 * time.Second
	// idleTime closes connections nobody uses.
	idleTime = 5 * time.Minute
	// stopTime bounds the wait for open answers at the end.
	stopTime = 5 * time.Second
)

// Listener is how a Runner is served.
type Listener struct {
	net.Listener
	// TLS is nil for plain HTTP.
	TLS    *tls.Config
	Access Access
	// Drain is how long stages may go on once ctx has ended; 0 not at all.
	Drain time.Duration
	// Hurry ends the draining at once, for somebody who asks a second time; nil
	// never does.
	Hurry <-chan struct{}
}

// Serve answers on l until ctx ends, then drains: no new stage is taken, those
// that run may end until the time for that is up. What still runs then is
// ended, its callers are told, and the stages are kept for the next run. It
// closes the listener and the runner.
func (r *Runner) Serve(ctx context.Context, l Listener) error {
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	srv := &http.Server{
		Handler:           r.Handler(l.Access),
		TLSConfig:         l.TLS,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() {
		if l.TLS == nil {
			failed <- srv.Serve(l.Listener)
			return
		}
		failed <- srv.ServeTLS(l.Listener, "", "")
	}()
	cared := make(chan struct{})
	go func() {
		defer close(cared)
		_ = r.Run(base) // ends without an error
	}()
	var err error
	select {
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
		failed <- err // for the end below
	case <-ctx.Done():
		r.drainFor(base, l.Drain, l.Hurry)
	}
	// Callers of steps first learn how these ended, then whoever still waits is
	// told that the runner stops.
	stopped := make(chan error, 1)
	shutdown, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	go func() { stopped <- srv.Shutdown(shutdown) }()
	err = errors.Join(err, r.Close())
	late := time.AfterFunc(stopTime/2, func() { cut(errDraining) })
	defer late.Stop()
	tooLate := time.AfterFunc(stopTime, giveUp)
	defer tooLate.Stop()
	if stopErr := <-stopped; stopErr != nil {
		err = errors.Join(err, srv.Close())
	}
	<-failed //nolint:errcheck // http.ErrServerClosed
	cut(nil)
	<-cared
	return err
}

// drainFor drains until the time is up or somebody is in a hurry.
func (r *Runner) drainFor(ctx context.Context, d time.Duration, hurry <-chan struct{}) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if hurry != nil {
		r.log.InfoContext(ctx, "stopping once all stages are destroyed; ask a second time to stop now, stages are kept", "at_most", d)
	}
	go func() {
		select {
		case <-hurry:
			cancel()
		case <-ctx.Done():
		}
	}()
	r.Drain(ctx)
}

// errUnprotected explains itself where it is wrapped.
var errUnprotected = errors.New("others than this host could run programs on it; choose a token (--token-file), mutual TLS (SERVER_INSECURE=false), or whom to let in (--allow, DRONE_HTTP_ALLOW; 0.0.0.0/0 is everybody)")

// CheckProtection says why an address must not be listened on: one beyond
// loopback needs a token, mutual TLS, or a list of who may call.
func CheckProtection(bind string, token, mutualTLS bool, allowed []netip.Prefix) error {
	host, _, err := net.SplitHostPort(bind)
	if err != nil {
		return fmt.Errorf("listen on %q: %w; write host:port, such as 127.0.0.1:3000", bind, err)
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	loopback := err == nil && addr.Unmap().IsLoopback() || host == "localhost"
	if loopback || token || mutualTLS || len(allowed) > 0 {
		return nil
	}
	return fmt.Errorf("listen on %s: %w", bind, errUnprotected)
}

// MutualTLS is the configuration of a listener that demands certificates of the
// CA, all PEM.
func MutualTLS(caPEM, certPEM, keyPEM []byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("CA certificate: no certificate in PEM form")
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
		ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2", "http/1.1"},
	}, nil
}
