package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
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

func newOpener(t *testing.T) *opener {
	t.Helper()
	return &opener{regs: registrations(env.Config{}, noop.NewWorld()), dataDir: t.TempDir(), log: slog.New(slog.DiscardHandler)}
}

func TestRetiredPoolIsOpenedFromItsLastSpec(t *testing.T) {
	t.Parallel()
	open := newOpener(t)
	o, err := open.open(pool.PoolConfig{Name: "old", Driver: "noop", SpecJSON: []byte(`{"boot_delay":"1s","capacity":3}`)})
	if err != nil || o.Client == nil || !o.Local {
		t.Errorf("got %+v, %v", o, err)
	}
	for name, p := range map[string]pool.PoolConfig{
		"a type that is not built in": {Name: "x", Driver: "nosuch"},
		"a spec that is no JSON":      {Name: "x", Driver: "noop", SpecJSON: []byte(`{`)},
	} {
		if _, err := open.open(p); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestWhatThePoolsOfAFileAreToldToBe(t *testing.T) {
	t.Parallel()
	open := newOpener(t)
	var networks []string
	open.network = func(p netip.Prefix) { networks = append(networks, p.String()) }
	got := map[string]pool.Opened{}
	for _, p := range []pool.PoolConfig{
		{Name: "pretend", Driver: "noop", SpecJSON: []byte(`{}`)},
		{Name: "children", Driver: "noop", SpecJSON: []byte(`{"process":true}`)},
		{Name: "real", Driver: "qemu", Max: 4, Platform: drivers.Platform{OS: "linux"}, SpecJSON: []byte(`{"address_range":"127.99.0.0/24","binary":"/bin/true"}`)},
	} {
		o, err := open.open(p)
		if err != nil {
			t.Fatalf("%s: %v", p.Name, err)
		}
		o.Client, o.Image, o.MachineType = nil, "", ""
		got[p.Name] = o
	}
	want := map[string]pool.Opened{
		"pretend":  {Local: true, Nested: true, GPU: true},
		"children": {Local: true, Nested: true, GPU: true},
		"real":     {Local: true, Concurrency: max(2, runtime.NumCPU())},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([][]string{{"127.99.0.0/24"}, {"pretend"}, {"children", "real"}}, [][]string{networks, open.passing, open.lasting}); diff != "" {
		t.Errorf("networks, pools that end with the process, pools that do not: %s", diff)
	}
}

// A pool of such a type can be in the store of a later version's runner.
func TestATypeOfWhichOnlyTheKeysAreKnownIsNotOpened(t *testing.T) {
	t.Parallel()
	_, err := newOpener(t).open(pool.PoolConfig{Name: "old", Driver: "digitalocean", SpecJSON: []byte(`{"account":{"pat":"token"}}`)})
	if err == nil || !strings.Contains(err.Error(), `type "digitalocean" is not built into this program`) {
		t.Errorf("error %v", err)
	}
}

func TestPretendMachinesHaveAPretendAgent(t *testing.T) {
	t.Parallel()
	world := noop.NewWorld()
	agent, closeAgent := newAgent(env.Config{}, world, slog.New(slog.DiscardHandler))
	defer func() {
		if err := closeAgent(); err != nil {
			t.Error(err)
		}
	}()
	open := &opener{regs: registrations(env.Config{}, world), dataDir: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	o, err := open.open(pool.PoolConfig{Name: "p", Driver: "noop", SpecJSON: []byte(`{}`)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Client.Create(t.Context(), drivers.Spec{Name: "m", Tags: drivers.Tags{Controller: "c", Pool: "p", Instance: "a"}}); err != nil {
		t.Fatal(err)
	}
	health := func(instance string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		// Port 1: nobody listens there.
		_, err := agent.Health(ctx, pool.Target{Instance: instance, Address: "127.0.0.1", Port: 1})
		return err
	}
	if err := health("a"); err != nil {
		t.Errorf("pretend machine: %v", err)
	}
	if health("b") == nil {
		t.Error("a machine that is not of the pretend world answered, since it has the address of one")
	}
	world.Kill("m", "for a test")
	if health("a") == nil {
		t.Error("a pretend machine that died answered")
	}
}

func TestDurationsInTheLogAreReadable(t *testing.T) {
	t.Parallel()
	said := &lockedBuffer{}
	newLog(said, env.Config{}).Info("done", "took", 493123456*time.Nanosecond, "grace", 20*time.Second, "n", 3)
	if !strings.Contains(said.String(), `"took":"493ms","grace":"20s","n":3`) {
		t.Error(said)
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 17: "17ns", 1234567: "1.23ms", -1234567: "-1.23ms", 12345678901: "12.3s", 3723456 * time.Millisecond: "1h2m3s",
	} {
		if got := rounded(d).String(); got != want {
			t.Errorf("%d ns: got %s, want %s", d, got, want)
		}
	}
}
