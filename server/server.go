package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// Config is what a Server is made from. Every field has a useful zero value.
type Config struct {
	// Service is the engine, Pools its configuration. A nil Service is
	// Starting(); both can be given later with SetService.
	Service pool.Service
	Pools   []pool.PoolConfig
	// Log is the runner's; nil discards.
	Log *slog.Logger
	// Allow decides who may call over TCP; nil: NewAllowList(AllowConfig{}).
	Allow *AllowList
	// Edits are made to what passes to agents.
	Edits Edits
	// PoolMap renames pools by account; FallbackPools are tried when a
	// request names none.
	PoolMap       PoolMap
	FallbackPools []string
	// Progress gets the lines users see while their machine is made; nil: the
	// log.
	Progress ProgressSink
	// StartWait is how long a request that comes before the engine waits for it;
	// 0 means DefaultStartWait, negative not at all.
	StartWait time.Duration
	// Version is the program's, "" for a build of one's own.
	Version string
	// Grace is how long running requests may go on after the stop; 0 means
	// DefaultGrace, negative not at all.
	Grace time.Duration
}

// DefaultGrace leaves a caller's short requests time to end, and fits into the
// 30 s that init systems and orchestrators give by default.
const DefaultGrace = 20 * time.Second

// DefaultStartWait is far longer than an engine takes to start where its store
// answers, and short enough for a caller to learn what is wrong where it does
// not.
const DefaultStartWait = 10 * time.Second

// Limits of the HTTP server. There is no write timeout: /setup, /step,
// /destroy and /suspend answer after minutes or hours.
const (
	headerTimeout  = 10 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 64 << 10
	// cutTimeout is how long handlers get to notice that they were cut off.
	cutTimeout = 2 * time.Second
)

// Server serves the runner's HTTP API. Make it with New.
type Server struct {
	c       Config
	log     *slog.Logger
	metrics *metrics
	engine  atomic.Pointer[engine]
	started time.Time
	tcp     http.Handler
	admin   http.Handler
	// bodyTimeout is the constant, except in tests.
	bodyTimeout time.Duration

	// stopping is closed when the stop begins, for answers that would
	// otherwise go on for ever.
	stopping chan struct{}
	stopOnce sync.Once
}

// engine is the service and what is known of its pools without asking.
type engine struct {
	pool.Service
	pools map[string]pool.PoolConfig
	// replaced is closed when another engine has taken this one's place.
	replaced chan struct{}
}

// New makes a server that serves nothing yet.
func New(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Allow == nil {
		c.Allow = NewAllowList(AllowConfig{})
	}
	if c.Progress == nil {
		c.Progress = LogSink(c.Log)
	}
	c.Version = cmp.Or(c.Version, "dev")
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	if c.StartWait == 0 {
		c.StartWait = DefaultStartWait
	}
	s := &Server{c: c, log: c.Log, started: time.Now().UTC().Truncate(time.Millisecond), stopping: make(chan struct{}), bodyTimeout: bodyTimeout}
	s.SetService(c.Service, c.Pools)
	s.metrics = newMetrics(c.Version, func() pool.Service { return s.service().Service })
	mux := s.routes()
	s.tcp = s.around(mux, s.peerGuard)
	s.admin = s.around(mux, func(r *http.Request) error {
		callOf(r.Context()).admin = true
		return nil
	})
	return s
}

// SetService puts another service in place for requests that come from now
// on, with the pools it was configured with, and for those that wait for one.
// Nil is Starting().
func (s *Server) SetService(svc pool.Service, pools []pool.PoolConfig) {
	if svc == nil {
		svc = Starting()
	}
	e := &engine{Service: svc, pools: make(map[string]pool.PoolConfig, len(pools)), replaced: make(chan struct{})}
	for _, p := range pools {
		e.pools[p.Name] = p
	}
	if old := s.engine.Swap(e); old != nil {
		close(old.replaced)
	}
}

// service is the engine as it is now, also one that has not started yet.
func (s *Server) service() *engine { return s.engine.Load() }

// Handler is what TCP peers reach: the allow-list decides by RemoteAddr.
func (s *Server) Handler() http.Handler { return s.tcp }

// AdminHandler is the same without the allow-list, for the admin socket, which
// the file's mode guards.
func (s *Server) AdminHandler() http.Handler { return s.admin }

// Serve answers on the listeners until ctx ends, then stops: nothing new is
// accepted, logs that are followed end, other running requests may finish
// within Config.Grace, and what is left is cut off with a 500 that asks to come
// again. Either listener may be nil. It closes both, and returns nil after a
// stop; a Server serves once.
func (s *Server) Serve(ctx context.Context, tcp, admin net.Listener) error {
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	type served struct {
		*http.Server
		net.Listener
	}
	var all []served
	for _, one := range []struct {
		net.Listener
		http.Handler
	}{{tcp, s.tcp}, {admin, s.admin}} {
		if one.Listener == nil {
			continue
		}
		all = append(all, served{Listener: one.Listener, Server: &http.Server{
			Handler:           one.Handler,
			BaseContext:       func(net.Listener) context.Context { return base },
			ReadHeaderTimeout: headerTimeout,
			IdleTimeout:       idleTimeout,
			MaxHeaderBytes:    maxHeaderBytes,
			ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		}})
	}
	watching, unwatch := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { s.watchMachines(watching) })
	defer func() {
		unwatch()
		watcher.Wait()
	}()
	failed := make(chan error, len(all))
	for _, one := range all {
		go func() { failed <- one.Server.Serve(one.Listener) }()
	}
	var err error
	running := len(all)
	select {
	case <-ctx.Done():
	case err = <-failed:
		running--
		err = fmt.Errorf("serve: %w", err)
	}
	s.stopOnce.Do(func() { close(s.stopping) })

	var stops sync.WaitGroup
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(s.c.Grace, 0))
	defer cancel()
	for _, one := range all {
		stops.Go(func() {
			if one.Shutdown(grace) == nil {
				return
			}
			s.log.Warn("requests are cut off, the time for a clean stop is up", "grace", s.c.Grace, "listener", one.Listener.Addr().String())
			cut(errStopping)
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutTimeout)
			defer cancel()
			if one.Shutdown(last) != nil {
				_ = one.Server.Close() // whoever is left did not heed the cut
			}
		})
	}
	stops.Wait()
	for range running {
		if e := <-failed; err == nil && !errors.Is(e, http.ErrServerClosed) {
			err = fmt.Errorf("serve: %w", e)
		}
	}
	return err
}
