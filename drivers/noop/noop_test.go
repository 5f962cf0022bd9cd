package noop_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

// TestMain makes this program the child process of its own tests.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "noop-machine" && os.Args[2] == "--dir" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		if err := noop.MachineMain(ctx, os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

var names atomic.Int64

// spec is one with a name no other test of this run has.
func spec() drivers.Spec {
	name := fmt.Sprintf("noop-%d-%d", os.Getpid(), names.Add(1))
	return drivers.Spec{Name: name, Tags: drivers.Tags{Controller: "c", Pool: "pool", Instance: "i-" + name, Kind: "build"}}
}

func open(t testing.TB, cfg noop.Config, dir string, s noop.Setup) *noop.Driver {
	t.Helper()
	d, err := noop.New(drivers.Options{Pool: "pool", Config: &cfg, DataDir: dir}, s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// faulty is the part of a harness that both kinds share.
type faulty struct {
	mu       sync.Mutex
	create   error
	lose     bool
	hide     bool
	destroys map[string]bool
}

func (f *faulty) faults() *noop.Faults {
	return &noop.Faults{
		Before: func(_ context.Context, op, name string) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if op == "destroy" && f.destroys[name] {
				return errors.New("the cloud refuses")
			}
			if op != "create" {
				return nil
			}
			err := f.create
			f.create = nil
			return err
		},
		After: func(_ context.Context, op, _ string, err error) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if op == "create" && f.lose {
				f.lose = false
				return errors.New("connection reset")
			}
			return err
		},
		Listing: func(l *drivers.Listing) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.hide {
				f.hide = false
				l.Instances, l.Complete = nil, false
			}
		},
	}
}

func (f *faulty) fill(h *drivertest.Harness) {
	h.FailDestroy = func(_ testing.TB, ref drivers.Ref) func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.destroys[ref.Name] = true
		return func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.destroys, ref.Name)
		}
	}
	h.FailCreate = func(_ testing.TB, err error) { f.mu.Lock(); f.create = err; f.mu.Unlock() }
	h.LoseAnswer = func(testing.TB) { f.mu.Lock(); f.lose = true; f.mu.Unlock() }
	h.HideFromList = func(testing.TB) { f.mu.Lock(); f.hide = true; f.mu.Unlock() }
}

func TestConformanceInProcess(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		cfg  noop.Config
	}{
		{"instant", noop.Config{}},
		{"slow", noop.Config{CreateDelay: 5 * time.Millisecond, BootDelay: 10 * time.Millisecond, DestroyDelay: 5 * time.Millisecond}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			drivertest.Run(t, func(t *testing.T) drivertest.Harness {
				world := noop.NewWorld()
				f := &faulty{destroys: map[string]bool{}}
				h := drivertest.Harness{
					Open: func(t testing.TB) drivers.Driver {
						return open(t, tc.cfg, "/data", noop.Setup{World: world, Faults: f.faults()})
					},
					Spec: func(testing.TB) drivers.Spec { return spec() },
					Existing: func(testing.TB) (all []string) {
						for _, m := range world.Machines() {
							all = append(all, m.Name)
						}
						return all
					},
					Kill: func(t testing.TB, ref drivers.Ref) {
						if !world.Kill(ref.Name, "host error") {
							t.Fatalf("no machine %s to kill", ref.Name)
						}
					},
					Invalid: func(testing.TB) drivers.Spec { return drivers.Spec{Name: "../escape"} },
				}
				h.Full = func(t testing.TB) drivers.Driver {
					if _, err := h.Open(t).Create(t.Context(), spec()); err != nil {
						t.Fatal(err)
					}
					return open(t, noop.Config{Capacity: 1}, "/data", noop.Setup{World: world})
				}
				f.fill(&h)
				return h
			})
		})
	}
}

func TestRegistration(t *testing.T) {
	t.Parallel()
	r := noop.Registration(noop.Setup{})
	if r.Name != "noop" || !r.Local || !r.Dies {
		t.Errorf("registration %+v, want a local noop whose machines die", r)
	}
	for _, tc := range []struct {
		name  string
		yaml  string
		want  noop.Config
		paths []string
	}{
		{"nothing set", "{}", noop.Config{}, nil},
		{
			"everything set", "{create_delay: 1s, boot_delay: 2m, destroy_delay: 3ms, fail_rate: 0.25, capacity: 9, hibernate: true, process: true}",
			noop.Config{CreateDelay: time.Second, BootDelay: 2 * time.Minute, DestroyDelay: 3 * time.Millisecond, FailRate: 0.25, Capacity: 9, Hibernate: true, Process: true},
			nil,
		},
		{"a delay below zero", "{boot_delay: -1s}", noop.Config{}, []string{"boot_delay"}},
		{"a rate above one", "{fail_rate: 1.5}", noop.Config{}, []string{"fail_rate"}},
		{"a capacity below zero", "{capacity: -1}", noop.Config{}, []string{"capacity"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var node yaml.Node
			if err := yaml.Unmarshal([]byte(tc.yaml), &node); err != nil {
				t.Fatal(err)
			}
			cfg := r.NewConfig()
			_, found := drivers.Decode(node.Content[0], "", cfg)
			var paths []string
			for _, f := range found {
				paths = append(paths, f.Path)
			}
			if d := cmp.Diff(tc.paths, paths); d != "" {
				t.Errorf("findings: %s\n%v", d, found)
			}
			if d := cmp.Diff(&tc.want, cfg); d != "" {
				t.Error(d)
			}
			if ps := r.Check(cfg, &drivers.Platform{OS: "plan9"}); len(ps) > 0 {
				t.Errorf("check of what decodes: %v", ps)
			}
		})
	}
	bad := noop.Config{CreateDelay: -1, BootDelay: -1, DestroyDelay: -1, FailRate: -0.1, Capacity: -1}
	if ps := r.Check(&bad, nil); len(ps) != 5 {
		t.Errorf("%d problems of five: %v", len(ps), ps)
	}
	if _, err := r.New(drivers.Options{Config: 7}); !errors.Is(err, drivers.ErrInvalid) {
		t.Errorf("new with a foreign configuration: %v", err)
	}
}

func TestDriversOfOneRegistrationShareTheirCloud(t *testing.T) {
	t.Parallel()
	r := noop.Registration(noop.Setup{})
	var ds [2]drivers.Driver
	for i, pool := range []string{"a", "b"} {
		d, err := r.New(drivers.Options{Pool: pool, Config: r.NewConfig(), DataDir: "/data"})
		if err != nil {
			t.Fatal(err)
		}
		ds[i] = d
	}
	if ds[0].Scope() != ds[1].Scope() {
		t.Errorf("scopes %q and %q", ds[0].Scope(), ds[1].Scope())
	}
	s := spec()
	if _, err := ds[0].Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	l, err := ds[1].List(t.Context(), drivers.Query{})
	if err != nil || len(l.Instances) != 1 {
		t.Errorf("the other pool's driver lists %d machines, %v", len(l.Instances), err)
	}
	if c := drivers.NewClient(ds[0], drivers.ClientOptions{}); !c.Dies() {
		t.Error("machines in this process do not die with it")
	}
}

// TestDelays runs on fake time: every delay is seen to the nanosecond.
func TestDelays(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		world := noop.NewWorld()
		d := open(t, noop.Config{CreateDelay: 15 * time.Second, BootDelay: 10 * time.Second, DestroyDelay: 5 * time.Second}, "/data", noop.Setup{World: world})
		status := func(name string) drivers.Instance {
			t.Helper()
			l, err := d.List(t.Context(), drivers.Query{})
			if err != nil {
				t.Fatal(err)
			}
			for _, inst := range l.Instances {
				if inst.Name == name {
					return inst
				}
			}
			return drivers.Instance{}
		}
		took := func(want time.Duration, what string, f func()) {
			t.Helper()
			start := time.Now()
			f()
			if got := time.Since(start); got != want {
				t.Errorf("%s took %v, want %v", what, got, want)
			}
		}
		s := spec()
		var ref drivers.Ref
		var err error
		took(15*time.Second, "create", func() { ref, err = d.Create(t.Context(), s) })
		if err != nil {
			t.Fatal(err)
		}
		took(0, "create again", func() { _, err = d.Create(t.Context(), s) })
		if err != nil {
			t.Fatal(err)
		}
		if got := status(s.Name); got.Status != drivers.StatusPending || got.Address != "" {
			t.Errorf("just accepted: %s at %q, want pending at no address", got.Status, got.Address)
		}
		if err := world.Alive(s.Tags.Instance); err == nil {
			t.Error("the agent of a booting machine answers")
		}
		<-time.After(10 * time.Second)
		if got := status(s.Name); got.Status != drivers.StatusRunning || got.Address != "127.0.0.1" || got.Port != 9079 {
			t.Errorf("booted: %s at %s:%d", got.Status, got.Address, got.Port)
		}
		if err := world.Alive(s.Tags.Instance); err != nil {
			t.Errorf("the agent of a booted machine: %v", err)
		}
		if err := d.Suspend(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		took(10*time.Second, "resume", func() { _, err = d.Resume(t.Context(), ref) })
		if err != nil {
			t.Fatal(err)
		}
		var errs []error
		took(5*time.Second, "destroy of two", func() {
			errs = d.Destroy(t.Context(), []drivers.Ref{ref, {Name: "unknown"}}, drivers.DestroyOptions{})
		})
		if err := errors.Join(errs...); err != nil || world.Has(s.Tags.Instance) {
			t.Errorf("destroy: %v, still there: %v", err, world.Has(s.Tags.Instance))
		}

		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		took(3*time.Second, "a cancelled create", func() { _, err = d.Create(ctx, spec()) })
		if !errors.Is(err, context.DeadlineExceeded) || len(world.Machines()) != 0 {
			t.Errorf("cancelled create: %v with %d machines", err, len(world.Machines()))
		}
		if made := world.Made(); made != 1 {
			t.Errorf("%d machines were made, want the first alone", made)
		}
	})
}

func TestFailRateFollowsFromTheName(t *testing.T) {
	t.Parallel()
	outcome := func(rate float64, name string) bool {
		d := open(t, noop.Config{FailRate: rate}, "/data", noop.Setup{World: noop.NewWorld()})
		s := spec()
		s.Name = name
		_, err := d.Create(t.Context(), s)
		if err != nil && drivers.Kind(err) != "transient" {
			t.Errorf("kind %s of %v", drivers.Kind(err), err)
		}
		return err == nil
	}
	const n = 2000
	made := 0
	for i := range n {
		name := fmt.Sprintf("machine-%d", i)
		first := outcome(0.25, name)
		if outcome(0.25, name) != first {
			t.Fatalf("%s fails once and not again", name)
		}
		if first {
			made++
		}
		if outcome(1, name) || !outcome(0, name) {
			t.Fatalf("%s defies a rate of 1 or 0", name)
		}
	}
	if share := float64(made) / n; share < 0.70 || share > 0.80 {
		t.Errorf("%.2f of all creations succeed at a fail rate of 0.25", share)
	}
}

func TestCapacityIsHeldInARace(t *testing.T) {
	t.Parallel()
	world := noop.NewWorld()
	d := open(t, noop.Config{Capacity: 5}, "/data", noop.Setup{World: world})
	var wg sync.WaitGroup
	var made, full atomic.Int64
	for range 100 {
		wg.Go(func() {
			_, err := d.Create(t.Context(), spec())
			switch {
			case err == nil:
				made.Add(1)
			case errors.Is(err, drivers.ErrCapacity):
				full.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 5 || full.Load() != 95 || len(world.Machines()) != 5 {
		t.Errorf("made %d, refused %d, exist %d; want 5, 95, 5", made.Load(), full.Load(), len(world.Machines()))
	}
}

func TestWorldOutlivesItsDriver(t *testing.T) {
	t.Parallel()
	world := noop.NewWorld()
	s := spec()
	if _, err := open(t, noop.Config{}, "/data", noop.Setup{World: world}).Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	again := open(t, noop.Config{}, "/data", noop.Setup{World: world})
	l, err := again.List(t.Context(), drivers.Query{})
	if err != nil || len(l.Instances) != 1 {
		t.Fatalf("listed %d, %v", len(l.Instances), err)
	}
	if !world.Vanish(s.Name) || world.Vanish(s.Name) || world.Kill(s.Name, "x") {
		t.Error("vanish and kill do not tell whether there was a machine")
	}
	if err := world.Alive(s.Tags.Instance); !errors.Is(err, drivers.ErrNotFound) {
		t.Errorf("alive after vanishing: %v", err)
	}
}

func TestHostilePoolNamesStayInTheDataDirectory(t *testing.T) {
	t.Parallel()
	for _, pool := range []string{"..", ".", "../../etc", "a/b", "", "über", ".hidden", "%2E%2E"} {
		dir := t.TempDir()
		cfg := noop.Config{Process: true}
		d, err := noop.New(drivers.Options{Pool: pool, Config: &cfg, DataDir: dir}, noop.Setup{Binary: os.Args[0]})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Ping(t.Context()); err != nil {
			t.Errorf("ping of pool %q: %v", pool, err)
		}
		var dirs []string
		err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if rel, _ := filepath.Rel(dir, path); err == nil && strings.Count(rel, "/") == 1 {
				dirs = append(dirs, rel)
			}
			return err
		})
		if err != nil || len(dirs) != 1 {
			t.Errorf("pool %q made %q, %v; want one directory below noop", pool, dirs, err)
		}
	}
}
