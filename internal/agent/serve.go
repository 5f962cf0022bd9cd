package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
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

// TLSConfig is the configuration of the agent's listener: TLS 1.3, one pair,
// and clients that show a certificate of exactly that CA. All PEM.
func TLSConfig(caPEM, certPEM, keyPEM []byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("CA certificate: no certificate in PEM form")
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{pair},
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		NextProtos:   []string{"h2", "http/1.1"},
	}, nil
}

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
	err := a.Close() // takes no longer than stepPatience twice
	late := time.AfterFunc(closeTimeout/2, func() { cut(errStopping) })
	defer late.Stop()
	tooLate := time.AfterFunc(closeTimeout, giveUp) // for readers that have stalled
	defer tooLate.Stop()
	if stopErr := <-stopped; stopErr != nil {
		err = errors.Join(err, srv.Close())
	}
	<-failed // http.ErrServerClosed
	return err
}
