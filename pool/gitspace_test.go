package pool_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// space is a setup of a gitspace with disks.
func (e *engine) space(id, storage string) pool.SetupRequest {
	r := e.gitspace(id)
	r.Want.Storage, r.Want.StorageGiB = storage, 20
	return r
}

func (e *engine) mustSetup(r pool.SetupRequest) pool.SetupResult {
	e.t.Helper()
	res, err := e.m.Setup(e.t.Context(), r)
	if err != nil {
		e.t.Fatalf("setup %s: %v", r.ID, err)
	}
	return res
}

// knownOf is what a caller keeps of a machine and sends back.
func knownOf(i pool.Instance) *pool.KnownInstance {
	return &pool.KnownInstance{
		ID: i.ExternalID(), Name: i.Name, Address: i.Address, Port: i.Port, OS: i.OS, Arch: i.Arch, Provider: i.Driver,
		Pool: i.Pool, Zone: i.Zone, StorageID: i.StorageID, Identity: i.Identity,
	}
}

// disk is one of the world's; a disk that is the same has the same tags.
func (e *engine) disk(name string) (drivers.Disk, bool) {
	for _, d := range e.world.Disks() {
		if d.Name == name {
			return d, true
		}
	}
	return drivers.Disk{}, false
}

// wantDisk fails the test unless a disk is there, made with the machine first
// and attached to at.
func (e *engine) wantDisk(name string, first pool.Instance, at string) {
	e.t.Helper()
	d, ok := e.disk(name)
	if !ok || d.Tags.Instance != first.ID || d.AttachedTo != at {
		e.t.Fatalf("disk %s: %+v (there: %v), want that of %s at %q", name, d, ok, first.Name, at)
	}
}

// inSpaces runs a test on a pool for gitspaces.
func inSpaces(t *testing.T, f func(t *testing.T, e *engine)) {
	t.Helper()
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0] = poolSpec{name: "p", min: 0, max: 9}
		f(t, e)
	})
}

func TestADiskOutlivesItsMachineAndIsFoundAgainByName(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		e.start()
		first := e.mustSetup(e.space("g", "home, cache")).Instance
		spec, _ := e.world.Spec(first.Name)
		if len(spec.Disks) != 2 || spec.Disks[0] != (drivers.DiskSpec{Name: "home", SizeGiB: 20}) || spec.Disks[1].Name != "cache" {
			t.Errorf("asked of the driver: %+v", spec.Disks)
		}
		e.wantDisk("home", first, first.Name)
		e.destroy("g")
		e.wantDisk("home", first, "")
		e.restart()
		again := e.mustSetup(e.space("g", "home,cache")).Instance
		e.wantDisk("home", first, again.Name)
		e.wantDisk("cache", first, again.Name)
		if again.ID == first.ID {
			t.Error("the machine that was destroyed is back")
		}
	})
}

func TestADiskHasOneLiveMachineAtMost(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		e.start()
		first := e.mustSetup(e.space("g", "home")).Instance
		_, err := e.m.Setup(t.Context(), e.space("thief", "home"))
		if !errors.Is(err, pool.ErrDisk) || !strings.Contains(err.Error(), "home") || !strings.Contains(err.Error(), first.Name) {
			t.Errorf("a second machine for the disk: %v", err)
		}
		e.wantDisk("home", first, first.Name)
		if n := e.world.Made(); n != 1 {
			t.Errorf("%d machines were made", n)
		}
	})
}

// Its own machine on the way out is waited for, not complained about.
func TestAGitspaceWaitsForItsOwnOldMachine(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		e.pools[0].cfg.DestroyDelay = 30 * time.Second
		e.start()
		first := e.mustSetup(e.space("g", "home")).Instance
		var wg sync.WaitGroup
		wg.Go(func() { e.destroy("g") })
		pass(time.Second)
		again := e.mustSetup(e.space("g", "home")).Instance
		wg.Wait()
		e.wantDisk("home", first, again.Name)
	})
}

func TestTwoSetupsOfOneGitspaceShareItsMachineAndDisk(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		e.pools[0].cfg.CreateDelay = 10 * time.Second
		e.start()
		var wg sync.WaitGroup
		var got [2]pool.SetupResult
		for i := range got {
			wg.Go(func() { got[i] = e.mustSetup(e.space("g", "home")) })
		}
		wg.Wait()
		if got[0].Instance.ID != got[1].Instance.ID || e.world.Made() != 1 {
			t.Errorf("two setups: %s and %s", got[0].Instance.Name, got[1].Instance.Name)
		}
		e.wantDisk("home", got[0].Instance, got[0].Instance.Name)
	})
}

func TestADestroyDeletesDisksOnlyWhenItsOwnerSaysSo(t *testing.T) {
	del := func(e *engine, known *pool.KnownInstance) error {
		return e.m.Destroy(e.t.Context(), pool.DestroyRequest{Lease: "g", Disks: drivers.Delete, Known: known})
	}
	for _, c := range []struct {
		name string
		run  func(e *engine, first pool.Instance) error
	}{
		{"at once", func(e *engine, _ pool.Instance) error { return del(e, nil) }},
		{"twice", func(e *engine, first pool.Instance) error {
			return errors.Join(del(e, nil), del(e, knownOf(first)))
		}},
		{"after its machine was destroyed and its disk kept", func(e *engine, first pool.Instance) error {
			e.destroy("g")
			e.wantDisk("home", first, "")
			return del(e, knownOf(first))
		}},
		{"after its machine went by itself", func(e *engine, first pool.Instance) error {
			e.world.Vanish(first.Name)
			pass(5 * time.Minute)
			return del(e, knownOf(first))
		}},
		{"while it sleeps", func(e *engine, first pool.Instance) error {
			return errors.Join(e.m.Suspend(e.t.Context(), pool.SuspendRequest{Lease: "g", Instance: first.Name}), del(e, nil))
		}},
		{"after a restart", func(e *engine, _ pool.Instance) error {
			e.restart()
			return del(e, nil)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inSpaces(t, func(t *testing.T, e *engine) {
				e.start()
				first := e.mustSetup(e.space("g", "home")).Instance
				other := e.mustSetup(e.space("other", "precious")).Instance
				if err := c.run(e, first); err != nil {
					t.Fatal(err)
				}
				if d, there := e.disk("home"); there {
					t.Errorf("answered, and the disk is there: %+v", d)
				}
				if slices.Contains(e.machines(), first.Name) {
					t.Error("answered, and the machine is there")
				}
				e.wantDisk("precious", other, other.Name)
				rows, err := e.store.Disks(t.Context(), pool.DiskQuery{Name: "home"})
				if err != nil || len(rows) != 0 {
					t.Errorf("rows left: %+v, %v", rows, err)
				}
			})
		})
	}
}

// The machine's row goes with the machine; the wish to delete the disk stays,
// over restarts, until the cloud has followed it.
func TestADiskTheCloudDoesNotDeleteIsTriedForEver(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		var broken atomic.Bool
		broken.Store(true)
		e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "destroy disk" && broken.Load() {
				return errors.New("disk is busy")
			}
			return nil
		}}
		e.start()
		e.mustSetup(e.space("g", "home"))
		begun := time.Now()
		err := e.m.Destroy(t.Context(), pool.DestroyRequest{Lease: "g", Disks: drivers.Delete})
		if err == nil || !strings.Contains(err.Error(), "disk is busy") {
			t.Errorf("answered with %v", err)
		}
		if took := time.Since(begun); took > 10*time.Minute {
			t.Errorf("answered after %v", took)
		}
		e.restart()
		pass(time.Hour)
		if _, err := e.m.Setup(t.Context(), e.space("g", "home")); !errors.Is(err, pool.ErrDisk) {
			t.Errorf("a disk that is being deleted was given: %v", err)
		}
		broken.Store(false)
		pass(2 * time.Minute)
		if d, there := e.disk("home"); there {
			t.Errorf("still there: %+v", d)
		}
		e.wantReason("disk_deleted")
	})
}

// A setup that came to nothing has left its disk with a machine that is still on
// its way out when the owner gives everything up.
func TestADestroyWaitsForAnEarlierMachineThatHasTheDisk(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", max: 9, cfg: noop.Config{DestroyDelay: 2 * time.Minute}}, {name: "q", max: 9, cfg: noop.Config{Capacity: otherAccount}}}
		e.faults = &noop.Faults{Before: func(_ context.Context, op, name string) error {
			if op == "create" && strings.HasPrefix(name, "runner-q") {
				return fmt.Errorf("%w: quota CPUS exceeded", drivers.ErrQuota)
			}
			return nil
		}}
		e.hook = func(_ context.Context, op string, _ pool.Target, _ string) error {
			if op == "healthz" || op == "health" {
				return errors.New("connection refused")
			}
			return nil
		}
		e.start()
		ask := e.space("g", "home")
		ask.Pools = []string{"p", "q"}
		if _, err := e.m.Setup(t.Context(), ask); err == nil {
			t.Fatal("set up without an agent")
		}
		if d, there := e.disk("home"); !there || d.AttachedTo == "" {
			t.Fatalf("the disk of a machine on its way out: %+v", d)
		}
		if err := e.m.Destroy(t.Context(), pool.DestroyRequest{Lease: "g", Disks: drivers.Delete}); err != nil {
			t.Fatal(err)
		}
		if left := e.world.Disks(); len(left) != 0 {
			t.Errorf("answered, and there is %+v", left)
		}
	})
}

// A disk that nothing was ever written on does not keep its gitspace from
// another pool; one with work on it does, whatever is tried first.
func TestAGitspaceIsWhereItsWorkIs(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", max: 9, cfg: noop.Config{Capacity: otherAccount}}, {name: "q", max: 9}}
		var healed atomic.Bool
		e.hook = func(_ context.Context, op string, tg pool.Target, _ string) error {
			if (op == "healthz" || op == "health") && strings.HasPrefix(tg.Identity.Hostname, "runner-p") && !healed.Load() {
				return errors.New("connection refused")
			}
			return nil
		}
		e.start()
		ask := e.space("g", "home")
		ask.Pools = []string{"p", "q"}
		first := e.mustSetup(ask).Instance
		if first.Pool != "q" {
			t.Fatalf("served by %s, whose agents do not answer", first.Pool)
		}
		e.destroy("g")
		healed.Store(true)
		if again := e.mustSetup(ask).Instance; again.Pool != "q" {
			t.Errorf("the next machine is in %s, with an empty disk", again.Pool)
		}
		if err := e.m.Destroy(t.Context(), pool.DestroyRequest{Lease: "g", Disks: drivers.Delete}); err != nil {
			t.Fatal(err)
		}
		if left := slices.Concat(e.world.Disks(), e.other.Disks()); len(left) != 0 {
			t.Errorf("disks left: %+v", left)
		}
	})
}

func TestADiskWhoseTagsAreNotOursIsNeverDeleted(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		e.world.AddDisk(drivers.Disk{Name: "home", SizeGiB: 1, Tags: drivers.Tags{Controller: "somebody", Kind: "gitspace", Pool: "p"}})
		e.start()
		first := e.mustSetup(e.space("g", "home")).Instance
		err := e.m.Destroy(t.Context(), pool.DestroyRequest{Lease: "g", Disks: drivers.Delete})
		if !errors.Is(err, pool.ErrForeign) {
			t.Errorf("answered with %v", err)
		}
		if _, there := e.disk("home"); !there {
			t.Error("somebody's disk was deleted")
		}
		if slices.Contains(e.machines(), first.Name) {
			t.Error("the machine is there")
		}
	})
}

func TestAResetKeepsTheDiskAndMakesOneNewMachine(t *testing.T) {
	for _, c := range []struct {
		name  string
		sleep bool
	}{{"running", false}, {"asleep", true}} {
		t.Run(c.name, func(t *testing.T) {
			inSpaces(t, func(t *testing.T, e *engine) {
				e.start()
				first := e.mustSetup(e.space("g", "home")).Instance
				if c.sleep {
					if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g", Instance: first.Name}); err != nil {
						t.Fatal(err)
					}
				}
				reset := e.space("g", "")
				reset.Reset, reset.Known = true, knownOf(first)
				next := e.mustSetup(reset).Instance
				if next.ID == first.ID {
					t.Fatal("the same machine")
				}
				e.wantDisk("home", first, next.Name)
				if slices.Contains(e.machines(), first.Name) {
					t.Error("the old machine is there")
				}
				// The same reset once more, also after a restart.
				e.restart()
				if again := e.mustSetup(reset).Instance; again.ID != next.ID {
					t.Errorf("sent twice it made %s and %s", next.Name, again.Name)
				}
				// A destroy that names the old machine leaves the new one alone.
				err := e.m.Destroy(t.Context(), pool.DestroyRequest{Lease: "g", Instance: knownOf(first).ID, Disks: drivers.Delete, Known: knownOf(first)})
				if err != nil {
					t.Fatal(err)
				}
				e.wantDisk("home", first, next.Name)
			})
		})
	}
}

// While the old machine has the disk there is no new one, and the error names
// what keeps it. A crash in between changes nothing for who asks again.
func TestAResetWhoseDestroyFailsMakesNothing(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		var broken atomic.Bool
		broken.Store(true)
		e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "destroy" && broken.Load() {
				return errors.New("the cloud says no")
			}
			return nil
		}}
		e.start()
		first := e.mustSetup(e.space("g", "home")).Instance
		reset := e.space("g", "home")
		reset.Reset, reset.Known = true, knownOf(first)
		if _, err := e.m.Setup(t.Context(), reset); err == nil || !strings.Contains(err.Error(), "the cloud says no") {
			t.Errorf("answered with %v", err)
		}
		if n := e.world.Made(); n != 1 {
			t.Fatalf("%d machines were made while the disk was attached", n)
		}
		e.restart()
		broken.Store(false)
		next := e.mustSetup(reset).Instance
		e.wantDisk("home", first, next.Name)
		if n := e.world.Made(); n != 2 {
			t.Errorf("%d machines were made", n)
		}
	})
}

func TestAGitspaceWakesFromEveryStatus(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  func(e *engine, name string)
		same bool
	}{
		{"running after all", func(e *engine, name string) { e.world.SetStatus(name, drivers.StatusRunning, "") }, true},
		{"stopped by its cloud after 60 days", func(e *engine, name string) { e.world.SetStatus(name, drivers.StatusDead, "TERMINATED") }, true},
		{"at another address", func(e *engine, name string) { e.world.Move(name, "127.0.0.9") }, true},
		{"gone", func(e *engine, name string) { e.world.Vanish(name) }, false},
	} {
		for _, sleep := range []bool{true, false} {
			name := c.name + ", in use"
			if sleep {
				name = c.name + ", asleep"
			}
			t.Run(name, func(t *testing.T) {
				inSpaces(t, func(t *testing.T, e *engine) {
					e.start()
					first := e.mustSetup(e.space("g", "home")).Instance
					if sleep {
						if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g", Instance: first.Name}); err != nil {
							t.Fatal(err)
						}
					}
					c.bad(e, first.Name)
					pass(10 * time.Minute)
					start := e.gitspace("g")
					start.Known = knownOf(first)
					got := e.mustSetup(start).Instance
					if (got.ID == first.ID) != c.same {
						t.Errorf("woken on %s, was on %s", got.Name, first.Name)
					}
					e.wantDisk("home", first, got.Name)
					if c.name == "at another address" && sleep && got.Address != "127.0.0.9" {
						t.Errorf("address %s", got.Address)
					}
				})
			})
		}
	}
}

// A local machine that has crashed boots anew when it is resumed, and is nobody
// until it gets its identity again.
func TestAMachineThatWakesIsToldWhoItIs(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		var told []string
		var refusal error
		e.identified = func(ref drivers.Ref, id drivers.Identity) error {
			told = append(told, id.Machine+" on "+ref.Name)
			return refusal
		}
		e.start()
		first := e.mustSetup(e.space("g", "home")).Instance
		want := []string{first.ID + " on " + first.Name}
		for _, crashed := range []bool{false, true} {
			if crashed {
				e.world.SetStatus(first.Name, drivers.StatusDead, "QEMU was killed")
				pass(10 * time.Minute)
			} else if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g", Instance: first.Name}); err != nil {
				t.Fatal(err)
			}
			if got := e.mustSetup(e.space("g", "home")).Instance; got.ID != first.ID {
				t.Errorf("woken on %s, was on %s", got.Name, first.Name)
			}
			want = append(want, want[0])
			if diff := cmp.Diff(want, told); diff != "" {
				t.Errorf("crashed %v: told (-want +got):\n%s", crashed, diff)
			}
		}
		if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g", Instance: first.Name}); err != nil {
			t.Fatal(err)
		}
		refusal = errors.New("mount persistent disk disk-0: structure needs cleaning")
		if _, err := e.m.Setup(t.Context(), e.space("g", "home")); err == nil || !strings.Contains(err.Error(), "needs cleaning") {
			t.Errorf("a machine that refuses: %v", err)
		}
		e.wantDisk("home", first, first.Name)
	})
}

func TestAResumeThatFailsSaysWhatToDo(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if op == "resume" {
				return &drivers.CapacityError{Err: errors.New("ZONE_RESOURCE_POOL_EXHAUSTED")}
			}
			return nil
		}}
		e.start()
		first := e.mustSetup(e.space("g", "home")).Instance
		if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g", Instance: first.Name}); err != nil {
			t.Fatal(err)
		}
		_, err := e.m.Setup(t.Context(), e.space("g", "home"))
		if err == nil || !strings.Contains(err.Error(), "ZONE_RESOURCE_POOL_EXHAUSTED") || !strings.Contains(err.Error(), "try again later") {
			t.Errorf("answered with %v", err)
		}
		e.wantDisk("home", first, first.Name)
	})
}

// lose puts an empty store in place of the engine's: another controller.
func (e *engine) lose(dir string) {
	e.t.Helper()
	e.halt()
	if err := e.store.Close(); err != nil {
		e.t.Fatal(err)
	}
	sealer, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		e.t.Fatal(err)
	}
	e.store, err = sqlite.Open(e.t.Context(), sqlite.Options{Path: filepath.Join(dir, "new.sqlite3"), Seal: sealer, Sync: sqlite.SyncOff})
	if err != nil {
		e.t.Fatal(err)
	}
	e.start()
}

func TestALostStoreIsRebuiltFromWhatCallersAndTagsSay(t *testing.T) {
	for _, c := range []struct {
		name  string
		sleep bool
		run   func(t *testing.T, e *engine, first pool.Instance)
	}{
		{"a sleeping one wakes", true, func(t *testing.T, e *engine, first pool.Instance) {
			start := e.gitspace("g")
			start.Known = knownOf(first)
			got := e.mustSetup(start).Instance
			if got.Name != first.Name || got.Identity.ServerName != first.Identity.ServerName {
				t.Errorf("woken on %s (%q)", got.Name, got.Identity.ServerName)
			}
			e.wantDisk("home", first, first.Name)
			if err := e.m.Destroy(t.Context(), pool.DestroyRequest{Lease: "g", Disks: drivers.Delete, Known: knownOf(first)}); err != nil {
				t.Fatal(err)
			}
			if len(e.world.Disks()) != 0 || len(e.world.Machines()) != 0 {
				t.Errorf("left: %+v, %+v", e.world.Disks(), e.world.Machines())
			}
		}},
		{"a running one is put to sleep", false, func(t *testing.T, e *engine, first pool.Instance) {
			if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g", Instance: knownOf(first).ID, Known: knownOf(first)}); err != nil {
				t.Fatal(err)
			}
			if m := e.world.Machines()[0]; m.Status != drivers.StatusSuspended {
				t.Errorf("machine is %s", m.Status)
			}
		}},
		{"one is destroyed with its disk", true, func(t *testing.T, e *engine, first pool.Instance) {
			if err := e.m.Destroy(t.Context(), pool.DestroyRequest{Lease: "g", Instance: knownOf(first).ID, Disks: drivers.Delete, Known: knownOf(first)}); err != nil {
				t.Fatal(err)
			}
			if len(e.world.Disks()) != 0 || len(e.world.Machines()) != 0 {
				t.Errorf("left: %+v, %+v", e.world.Disks(), e.world.Machines())
			}
		}},
		{"the disk of one whose machine is gone is deleted", true, func(t *testing.T, e *engine, first pool.Instance) {
			e.world.Vanish(first.Name)
			if err := e.m.Destroy(t.Context(), pool.DestroyRequest{Lease: "g", Instance: knownOf(first).ID, Disks: drivers.Delete, Known: knownOf(first)}); err != nil {
				t.Fatal(err)
			}
			if len(e.world.Disks()) != 0 {
				t.Errorf("left: %+v", e.world.Disks())
			}
		}},
		{"one whose machine is gone is made anew on its disk", true, func(t *testing.T, e *engine, first pool.Instance) {
			e.world.Vanish(first.Name)
			start := e.gitspace("g")
			start.Known = knownOf(first)
			got := e.mustSetup(start).Instance
			e.wantDisk("home", first, got.Name)
		}},
		{"a caller's word alone is not believed", true, func(t *testing.T, e *engine, first pool.Instance) {
			for what, lie := range map[string]func(*pool.KnownInstance){
				"another disk": func(k *pool.KnownInstance) { k.StorageID = "other" },
				"another name": func(k *pool.KnownInstance) { k.Name += "x" },
				"other keys":   func(k *pool.KnownInstance) { k.Identity.Key = k.Identity.CAKey },
				"another pool": func(k *pool.KnownInstance) { k.Pool = "q" },
			} {
				k := knownOf(first)
				lie(k)
				start := e.gitspace("liar")
				start.Known = k
				if _, err := e.m.Setup(t.Context(), start); !errors.Is(err, pool.ErrForeign) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if m := e.world.Machines(); len(m) != 1 || m[0].Status != drivers.StatusSuspended {
				t.Errorf("machines: %+v", m)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			inSpaces(t, func(t *testing.T, e *engine) {
				e.start()
				first := e.mustSetup(e.space("g", "home")).Instance
				if c.sleep {
					if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g", Instance: first.Name}); err != nil {
						t.Fatal(err)
					}
				}
				e.lose(dir)
				c.run(t, e, first)
			})
		})
	}
}

func TestAnInitScriptRunsOnceOnEachNewMachine(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		var runs atomic.Int32
		e.hook = func(_ context.Context, op string, _ pool.Target, step string) error {
			if op == "start_step" && step == "vm-init-script" {
				runs.Add(1)
			}
			return nil
		}
		e.start()
		r := e.space("g", "home")
		r.InitScript = "echo hello"
		first := e.mustSetup(r).Instance
		if runs.Load() != 1 {
			t.Fatalf("run %d times before the setup answered", runs.Load())
		}
		e.mustSetup(r)
		if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g", Instance: first.Name}); err != nil {
			t.Fatal(err)
		}
		e.mustSetup(r)
		if runs.Load() != 1 {
			t.Errorf("run %d times on one machine", runs.Load())
		}
		r.Reset, r.Known = true, knownOf(first)
		e.mustSetup(r)
		if runs.Load() != 2 {
			t.Errorf("run %d times after a reset", runs.Load())
		}
	})
}

// A sleeping gitspace is nobody else's for as long as it sleeps, and its owner is
// told once before its cloud ends it.
func TestALongSleepIsWarnedOfOnceAndEndsNothing(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		e.cloud = true
		e.limits.SweepCloud = 24 * time.Hour
		e.start()
		first := e.mustSetup(e.space("g", "home")).Instance
		if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g", Instance: first.Name}); err != nil {
			t.Fatal(err)
		}
		warned := func() (n int) {
			for _, reason := range e.reasons() {
				if reason == "suspended_long" {
					n++
				}
			}
			return n
		}
		e.halt()
		pass(49 * 24 * time.Hour)
		e.start()
		pass(time.Minute)
		if n := warned(); n != 0 {
			t.Errorf("warned %d times after 49 days", n)
		}
		e.halt()
		pass(36 * time.Hour)
		e.start()
		pass(time.Minute)
		e.restart()
		pass(time.Hour)
		if n := warned(); n != 1 {
			t.Errorf("warned %d times after 50 days", n)
		}
		if got := e.mustSetup(e.space("g", "home")).Instance; got.ID != first.ID {
			t.Errorf("woken on %s", got.Name)
		}
	})
}
