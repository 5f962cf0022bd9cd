package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// requestIDHeader carries a request's id, the caller's if it sent a sane one.
const requestIDHeader = "X-Request-Id"

// call is what is known of a request while it is served. Only its own
// goroutine touches it.
type call struct {
	id    string
	route string
	// lease is the id in the body, for the access log.
	lease string
	// admin says that it came through the admin socket.
	admin bool
	err   error
}

type callKey struct{}

// callOf is the request's call; outside of one it is an empty one.
func callOf(ctx context.Context) *call {
	if c, ok := ctx.Value(callKey{}).(*call); ok {
		return c
	}
	return &call{}
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// around is what every request goes through: id, guard, recovery, metrics and
// access log. guard says why a peer may not call, nil if it may.
func (s *Server) around(next http.Handler, guard func(*http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		c := &call{id: requestID(r), route: "other"}
		rec := &recorder{ResponseWriter: w}
		rec.Header().Set(requestIDHeader, c.id)
		r = r.WithContext(context.WithValue(r.Context(), callKey{}, c))
		// A connection may still have the write deadline of the answer before.
		rc := http.NewResponseController(rec)
		_ = rc.SetWriteDeadline(time.Time{})
		if r.ContentLength != 0 {
			// net/http reads what a refused request leaves unread of its body.
			_ = rc.SetReadDeadline(time.Now().Add(s.bodyTimeout))
		}

		done := s.metrics.begin()
		defer func() {
			done(c.route, rec.status, time.Since(began))
			s.logAccess(r, c, rec, time.Since(began))
		}()
		defer s.recoverPanic(rec, r, c)

		if err := guard(r); err != nil && !forEverybody(r.URL.Path) {
			c.route = "refused"
			s.fail(rec, r, &requestError{status: http.StatusForbidden, text: err.Error()})
			return
		}
		if unclean(r) {
			http.NotFound(rec, r)
			return
		}
		next.ServeHTTP(rec, r)
	})
}

// forEverybody lists what probes and balancers ask.
func forEverybody(path string) bool { return path == api.PathHealthz || path == api.PathReadyz }

// unclean paths (//setup, /a/../setup) are unknown paths, not redirects.
func unclean(r *http.Request) bool {
	p := r.URL.EscapedPath()
	clean := path.Clean(p)
	return clean != p && (clean == "/" || clean+"/" != p)
}

// peerGuard checks the peer's address. Headers that claim another are not
// believed: nothing in front of us is known to write them.
func (s *Server) peerGuard(r *http.Request) error {
	addr, _ := netip.ParseAddrPort(r.RemoteAddr) // invalid ones are refused
	return s.c.Allow.Check(addr.Addr())
}

// recoverPanic turns a panic into a 500, and logs where it came from.
func (s *Server) recoverPanic(w *recorder, r *http.Request, c *call) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p) // net/http's own way to cut a connection
	}
	s.log.ErrorContext(r.Context(), "panic in a handler", "request", c.id, "route", c.route, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler) // too late for an answer: the caller must see a cut
	}
	s.fail(w, r, fmt.Errorf("internal error; the runner's log has it under request %s", c.id))
}

// fail answers with err in the shape of the route.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	c := callOf(r.Context())
	c.err = err
	if isV1(r.URL.Path) {
		status, body := v1Error(c.id, err)
		_ = replyJSON(w, status, body) // plain fields cannot fail
		return
	}
	replyError(w, c.route, err)
}

func isV1(path string) bool { return path == api.V1 || strings.HasPrefix(path, api.V1+"/") }

// logAccess writes one line per request: failures of ours at error, questions
// asked all the time at debug or not at all.
func (s *Server) logAccess(r *http.Request, c *call, rec *recorder, took time.Duration) {
	if strings.Contains(r.URL.Path, "healthz") || strings.HasPrefix(r.URL.Path, api.PathMetrics) {
		return
	}
	level := slog.LevelInfo
	gone := context.Cause(r.Context()) != nil && !errors.Is(c.err, errStopping)
	early := errors.Is(c.err, ErrStarting)
	switch {
	case rec.status >= 500 && !gone && !early: // a caller that hung up, or came early, is no failure of ours
		level = slog.LevelError
	case rec.status == http.StatusForbidden:
		level = slog.LevelWarn
	case r.URL.Path == api.PathPoolOwner || isV1(r.URL.Path):
		level = slog.LevelDebug
	}
	if r.URL.Path == api.PathReadyz {
		level = slog.LevelDebug // what is pending is logged by whom it concerns
	}
	attrs := []slog.Attr{
		slog.String("request", c.id), slog.String("method", r.Method), slog.String("path", r.URL.Path),
		slog.Int("status", rec.status), slog.Duration("took", took), slog.String("peer", r.RemoteAddr),
	}
	if c.lease != "" {
		attrs = append(attrs, slog.String("lease", c.lease))
	}
	if gone {
		attrs = append(attrs, slog.Bool("caller_gone", true))
	}
	if c.err != nil {
		attrs = append(attrs, slog.Any("err", c.err))
	}
	s.log.LogAttrs(r.Context(), level, "request", attrs...)
}

// requestID takes the caller's id if it is short and harmless in a log.
func requestID(r *http.Request) string {
	id := r.Header.Get(requestIDHeader)
	harmless := func(c rune) bool { return c > ' ' && c < 0x7f }
	if id != "" && len(id) <= 128 && strings.IndexFunc(id, func(c rune) bool { return !harmless(c) }) < 0 {
		return id
	}
	return rand.Text()
}
