package pool_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// memory is a witness that remembers without a file.
type memory struct{ seen time.Time }

func (m *memory) Seen() (time.Time, error) { return m.seen, nil }

func (m *memory) Saw(t time.Time) error {
	m.seen = t
	return nil
}

// oldCopy is a database file that can be copied and copied back by hand.
type oldCopy struct {
	e    *engine
	path string
}

// keep puts the engine on a file of its own.
func keep(e *engine) *oldCopy {
	e.t.Helper()
	c := &oldCopy{e: e, path: filepath.Join(e.t.TempDir(), "b.sqlite3")}
	c.reopen()
	return c
}

func (c *oldCopy) reopen() {
	c.e.t.Helper()
	if err := c.e.store.Close(); err != nil {
		c.e.t.Fatal(err)
	}
	sealer, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		c.e.t.Fatal(err)
	}
	c.e.store, err = sqlite.Open(c.e.t.Context(), sqlite.Options{Path: c.path, Seal: sealer, Sync: sqlite.SyncOff})
	if err != nil {
		c.e.t.Fatal(err)
	}
}

// take copies the file while the engine is stopped, and starts it again.
func (c *oldCopy) take() {
	c.e.t.Helper()
	c.e.halt()
	c.swap(c.path, c.path+".copy")
	c.e.start()
}

// back stops the engine, puts the copy in place, and starts it on that.
func (c *oldCopy) back() {
	c.e.t.Helper()
	c.e.halt()
	c.swap(c.path+".copy", c.path)
	c.e.start()
}

func (c *oldCopy) swap(from, to string) {
	c.e.t.Helper()
	// Closed, everything is in the one file.
	if err := c.e.store.Close(); err != nil {
		c.e.t.Fatal(err)
	}
	text, err := os.ReadFile(from)
	if err != nil {
		c.e.t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		c.e.t.Fatal(err)
	}
	var err2 error
	sealer, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		c.e.t.Fatal(err)
	}
	c.e.store, err2 = sqlite.Open(c.e.t.Context(), sqlite.Options{Path: c.path, Seal: sealer, Sync: sqlite.SyncOff})
	if err2 != nil {
		c.e.t.Fatal(err2)
	}
}

// Rule 17: in an old copy of the store nothing is destroyed, and a machine that
// was given away since is not given to a second task.
func TestAnOldCopyOfTheStoreGivesAwayOnlyWhatWasNeverUsed(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.witness = &memory{}
		e.limits = pool.Timeouts{FreeAge: 2 * time.Hour, BusyAge: 2 * time.Hour}
		c := keep(e)
		e.start()
		pass(time.Minute)
		c.take() // two warm machines
		pass(time.Minute)
		used := e.setup("lost").Instance
		pass(5 * time.Minute)
		before := e.machines()
		c.back()
		row, err := e.store.Instance(t.Context(), used.ID)
		if err != nil || !row.Held {
			t.Fatalf("the machine in use is %s, held %t, %v", row.State, row.Held, err)
		}
		pass(time.Minute)
		e.wantReason("store_restored")
		if row, err := e.store.Instance(t.Context(), used.ID); err != nil || !row.Held || row.Reason != "used_by_another" {
			t.Errorf("when its agent was asked: %s, held %t, %q, %v", row.State, row.Held, row.Reason, err)
		}
		for _, id := range []string{"a", "b"} {
			if got := e.setup(id).Instance; got.ID == used.ID {
				t.Errorf("%s was given the machine of another", id)
			}
		}
		pass(6 * time.Hour) // past every age
		for _, name := range before {
			if name == used.Name && !slices.Contains(e.machines(), name) {
				t.Error("the machine in use was destroyed")
			}
		}
		if held := e.orphans().Held; len(held) != 1 || held[0].ID != used.ID {
			t.Errorf("held: %+v", held)
		}
	})
}

func TestAnOldCopyWithExistingAgentsWaitsForAnOperator(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.witness, e.old = &memory{}, true
		e.pools[0].min, e.pools[0].max = 1, 2
		c := keep(e)
		e.start()
		pass(time.Minute)
		c.take()
		pass(5 * time.Minute)
		warm := e.machines()[0]
		c.back()
		pass(time.Hour)
		inst, err := e.m.FindInstance(t.Context(), warm)
		if err != nil || !inst.Held || !strings.Contains(inst.Detail, "unhold") {
			t.Fatalf("held %t, %q, %v", inst.Held, inst.Detail, err)
		}
		if _, err := e.m.HoldInstance(t.Context(), warm, false, pool.Order{By: "ann"}); err != nil {
			t.Fatal(err)
		}
		if inst, err = e.m.FindInstance(t.Context(), warm); err != nil || inst.Held || inst.State != pool.Warm {
			t.Errorf("let go: %s, held %t, %v", inst.State, inst.Held, err)
		}
	})
}

// Without a witness the cloud tells: a machine of ours was made when the store
// was not alive.
func TestAMachineMadeInTheLostTimeTellsAnOldCopy(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		c := keep(e)
		e.start()
		pass(time.Minute)
		c.take()
		pass(10 * time.Minute)
		used := e.setup("lost").Instance // its refill is made in the time that gets lost
		pass(10 * time.Minute)
		c.back()
		pass(time.Minute)
		if row, err := e.store.Instance(t.Context(), used.ID); err != nil || !row.Held {
			t.Errorf("the machine in use is %s, held %t, %v", row.State, row.Held, err)
		}
		e.wantReason("store_restored")
	})
}

// The second line: whatever the store says, an agent that works for one lease
// is not set up for another.
func TestAnAgentThatWorksForAnotherIsNotGivenAway(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits = pool.Timeouts{FreeAge: 2 * time.Hour, BusyAge: 2 * time.Hour}
		e.start()
		pass(time.Minute)
		first := e.oldestWarm()
		target := first.Target()
		target.Use = "1/somebody"
		if err := e.mock.Setup(t.Context(), target, nil); err != nil {
			t.Fatal(err)
		}
		got := e.setup("a").Instance
		if got.ID == first.ID {
			t.Fatal("the machine of another was given away")
		}
		pass(6 * time.Hour)
		row, err := e.store.Instance(t.Context(), first.ID)
		if err != nil || !row.Held || row.State != pool.Failed || !slices.Contains(e.machines(), first.Name) {
			t.Errorf("it is %s, held %t, %v; want it failed, held and there", row.State, row.Held, err)
		}
		e.wantReason("used_by_another")
	})
}

// oldestWarm is the machine the next claim is given.
func (e *engine) oldestWarm() pool.Instance {
	e.t.Helper()
	rows, err := e.store.Instances(e.t.Context(), pool.InstanceQuery{States: []pool.InstanceState{pool.Warm}})
	if err != nil || len(rows) == 0 {
		e.t.Fatalf("no warm machine: %v", err)
	}
	return slices.MinFunc(rows, func(a, b pool.Instance) int {
		if d := a.Warmed.Compare(b.Warmed); d != 0 {
			return d
		}
		if d := a.Created.Compare(b.Created); d != 0 {
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
}

// A wall clock that jumps destroys nothing because of its age for an hour.
func TestAClockThatJumpsDestroysNothing(t *testing.T) {
	for _, jump := range []time.Duration{26 * time.Hour, -26 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, e *engine) {
				var off atomic.Int64
				begun := time.Now()
				e.limits = pool.Timeouts{FreeAge: 12 * time.Hour, BusyAge: 12 * time.Hour}
				e.now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
				e.uptime = func() time.Duration { return time.Since(begun) }
				e.start()
				pass(time.Minute)
				e.setup("a")
				pass(time.Minute)
				before := e.machines()
				e.halt()
				e.start()
				pass(time.Minute)
				off.Store(int64(jump))
				pass(50 * time.Minute)
				for _, name := range before {
					if !slices.Contains(e.machines(), name) {
						t.Errorf("%s was destroyed", name)
					}
				}
				if l, err := e.store.Lease(t.Context(), "a"); err != nil || l.State != pool.LeaseActive {
					t.Errorf("the lease is %s, %v", l.State, err)
				}
				e.wantReason("clock_jumped")
			})
		})
	}
}
