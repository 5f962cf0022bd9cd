package logservicetest

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// The hosts of [Service.InMemory].
const (
	Host      = "logs.test"
	StoreHost = "store.test"
)

// Start serves a new service, and its store, on loopback. The address is that of
// the service, with a path as installations behind a gateway have one.
func Start(t testing.TB, account, token string) (s *Service, address string) {
	t.Helper()
	s = New(t, account, token, "")
	store := httptest.NewServer(s.Store())
	t.Cleanup(store.Close)
	s.mu.Lock()
	s.links = store.URL
	s.mu.Unlock()
	srv := httptest.NewServer(s)
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return s, srv.URL + "/gateway/log-service"
}

// InMemory serves the service as http://logs.test and its store as
// http://store.test to who dials with the function it returns, without a
// socket: in a bubble of testing/synctest time goes on while it is waited for.
func (s *Service) InMemory(t testing.TB) func(ctx context.Context, network, addr string) (net.Conn, error) {
	t.Helper()
	hosts := map[string]*pipeListener{
		Host + ":80":      newPipeListener(),
		StoreHost + ":80": newPipeListener(),
	}
	for addr, handler := range map[string]http.Handler{Host + ":80": s, StoreHost + ":80": s.Store()} {
		srv := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
		served := make(chan struct{})
		go func() { defer close(served); _ = srv.Serve(hosts[addr]) }() // ends with the server
		t.Cleanup(func() { _ = srv.Close(); <-served })                 // of a test
	}
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		l := hosts[addr]
		if l == nil {
			return nil, &net.DNSError{Err: "no such host", Name: addr, IsNotFound: true}
		}
		return l.dial(ctx)
	}
}

// pipeListener accepts connections made in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close is called once, by the server.
func (l *pipeListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "unix"} }
