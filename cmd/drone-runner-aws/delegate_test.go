package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/client"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// serving is a delegate in this process.
type serving struct {
	*delegate
	api  *client.Client
	stop context.CancelFunc
	// ended has what serve returned.
	ended chan error
	said  *lockedBuffer
}

// lockedBuffer is written by several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func serve(t *testing.T, poolFile string, change func(*delegate)) *serving {
	t.Helper()
	dir, err := os.MkdirTemp("", "d") // short: a socket's path has 107 characters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "pool.yml")
	if err := os.WriteFile(file, []byte(poolFile), 0o600); err != nil {
		t.Fatal(err)
	}
	res, err := env.Load(env.Options{Dir: dir, Hostname: "test"})
	if err != nil {
		t.Fatal(err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	res.Config.HTTPBind = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	said := &lockedBuffer{}
	s := &serving{
		delegate: &delegate{p: &program{stdout: io.Discard, stderr: said}, log: newLog(said, res.Config), cfg: res.Config, dir: dir, file: file},
		ended:    make(chan error, 1), said: said,
	}
	if change != nil {
		change(s.delegate)
	}
	s.api, err = client.New("http://" + s.cfg.HTTPBind)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	s.stop = stop
	go func() { s.ended <- s.serve(ctx) }()
	t.Cleanup(func() {
		stop()
		s.api.Close()
	})
	return s
}

// until polls until ok, or fails with what the runner said.
func (s *serving) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case err := <-s.ended:
			t.Fatalf("ended before %s: %v\n%s", what, err, s.said)
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s after %s\n%s", what, patience, s.said)
		}
	}
}

func (s *serving) result(t *testing.T) error {
	t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(patience):
		t.Fatalf("not ended after %s\n%s", patience, s.said)
		return nil
	}
}

const onePool = "instances:\n  - {name: p, type: noop, pool: 1, limit: 2, spec: {}}\n"

func TestSignalWhileTheStoreIsLocked(t *testing.T) {
	t.Parallel()
	locked := filepath.Join(t.TempDir(), "db.sqlite3")
	other, err := sqlite.Open(t.Context(), sqlite.Options{Path: locked})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s := serve(t, onePool, func(d *delegate) { d.cfg.DatabaseSource = env.Secret(locked) })
	s.until(t, "healthz", func() bool { return s.api.Healthy(t.Context()) == nil })
	if pending, err := s.api.Pending(t.Context()); err != nil || len(pending) == 0 {
		t.Errorf("ready without a store: %v, %v", pending, err)
	}
	s.stop()
	if err := s.result(t); err != nil {
		t.Errorf("interrupted start: %v", err)
	}
}

func TestStoreInUseNamesFileAndRemedy(t *testing.T) {
	t.Parallel()
	locked := filepath.Join(t.TempDir(), "db.sqlite3")
	other, err := sqlite.Open(t.Context(), sqlite.Options{Path: locked})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	s := serve(t, onePool, func(d *delegate) { d.cfg.DatabaseSource = env.Secret(locked) })
	if err := s.result(t); err == nil || !strings.Contains(err.Error(), locked) || !errors.Is(err, pool.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestNothingIsDestroyedAtAStop(t *testing.T) {
	t.Parallel()
	s := serve(t, onePool, nil)
	warm := func() bool {
		pools, err := s.api.Pools(t.Context())
		return err == nil && len(pools) == 1 && pools[0].Machines["warm"] == 1
	}
	s.until(t, "warm machine", warm)
	if pending, err := s.api.Pending(t.Context()); err != nil || len(pending) != 0 {
		t.Errorf("not ready: %v, %v", pending, err)
	}
	s.stop()
	if err := s.result(t); err != nil {
		t.Fatal(err)
	}
	st, err := s.openStore(t.Context())
	if err != nil {
		t.Fatal("the store is not let go of:", err)
	}
	defer st.Close()
	list, err := st.Instances(t.Context(), pool.InstanceQuery{})
	if err != nil || len(list) != 1 || list[0].State != pool.Warm {
		t.Errorf("after the stop: %+v, %v", list, err)
	}
}

func TestRetiredPoolIsOpenedFromItsLastSpec(t *testing.T) {
	t.Parallel()
	open := opener(registrations(env.Config{}), t.TempDir(), slog.New(slog.DiscardHandler))
	o, err := open(pool.PoolConfig{Name: "old", Driver: "noop", SpecJSON: []byte(`{"boot_delay":"1s","capacity":3}`)})
	if err != nil || o.Client == nil || !o.Local {
		t.Errorf("got %+v, %v", o, err)
	}
	for name, p := range map[string]pool.PoolConfig{
		"a type that is not built in": {Name: "x", Driver: "nosuch"},
		"a spec that is no JSON":      {Name: "x", Driver: "noop", SpecJSON: []byte(`{`)},
	} {
		if _, err := open(p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPretendMachinesHaveAPretendAgent(t *testing.T) {
	t.Parallel()
	agent, closeAgent := newAgent(env.Config{}, slog.New(slog.DiscardHandler))
	defer func() {
		if err := closeAgent(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := agent.Health(t.Context(), pool.Target{Instance: "a", Address: pretendAddress, Port: 9079}); err != nil {
		t.Errorf("pretend machine: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := agent.Health(ctx, pool.Target{Instance: "b", Address: "127.77.255.254", Port: 1, Identity: drivers.Identity{}}); err == nil {
		t.Error("a real machine that is not there answered")
	}
}
