package pool_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// shelf is where the pretend cloud keeps the disks of gitspaces.
type shelf struct {
	mu    sync.Mutex
	disks map[string]drivers.Disk // by name
	// refuse, if set, is every deletion's error.
	refuse error
}

func (s *shelf) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.disks {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (s *shelf) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

// remove deletes the disks that match.
func (s *shelf) remove(match func(drivers.Disk) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, d := range s.disks {
		if !match(d) {
			continue
		}
		if s.refuse != nil {
			return s.refuse
		}
		delete(s.disks, name)
	}
	return nil
}

// diskKeeper is the pretend driver with a disk for each gitspace, which
// outlives its machine.
type diskKeeper struct {
	*noop.Driver
	shelf *shelf
}

func (k diskKeeper) Create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	ref, err := k.Driver.Create(ctx, spec)
	if err == nil && spec.Tags.Kind == string(pool.Gitspace) {
		k.shelf.mu.Lock()
		defer k.shelf.mu.Unlock()
		k.shelf.disks["disk-"+spec.Name] = drivers.Disk{Name: "disk-" + spec.Name, SizeGiB: 5, AttachedTo: spec.Name, Tags: spec.Tags}
	}
	return ref, err
}

func (k diskKeeper) Destroy(ctx context.Context, refs []drivers.Ref, o drivers.DestroyOptions) []error {
	errs := k.Driver.Destroy(ctx, refs, o)
	for i, ref := range refs {
		if errs[i] == nil && o.Disks == drivers.Delete {
			errs[i] = k.shelf.remove(func(d drivers.Disk) bool { return d.AttachedTo == ref.Name })
		}
	}
	k.shelf.mu.Lock()
	defer k.shelf.mu.Unlock()
	for name, d := range k.shelf.disks {
		if slices.ContainsFunc(refs, func(r drivers.Ref) bool { return r.Name == d.AttachedTo }) && o.Disks == drivers.Keep {
			d.AttachedTo = ""
			k.shelf.disks[name] = d
		}
	}
	return errs
}

func (k diskKeeper) List(ctx context.Context, q drivers.Query) (drivers.Listing, error) {
	l, err := k.Driver.List(ctx, q)
	k.shelf.mu.Lock()
	defer k.shelf.mu.Unlock()
	for _, d := range k.shelf.disks {
		l.Disks = append(l.Disks, d)
	}
	return l, err
}

func (k diskKeeper) DestroyDisks(_ context.Context, disks []drivers.Ref) []error {
	errs := make([]error, len(disks))
	for i, disk := range disks {
		errs[i] = k.shelf.remove(func(d drivers.Disk) bool { return d.Name == disk.Name })
	}
	return errs
}

// inBubbleWithDisks runs a test with gitspaces that have disks.
func inBubbleWithDisks(t *testing.T, f func(t *testing.T, e *engine, disks *shelf)) {
	t.Helper()
	inBubble(t, func(t *testing.T, e *engine) {
		e.disks = &shelf{disks: map[string]drivers.Disk{}}
		e.pools[0] = poolSpec{name: "p", min: 1, max: 4}
		e.start()
		f(t, e, e.disks)
	})
}

// A gitspace's disk goes with its machine when its caller says so, also while
// it sleeps, and the answer comes when it has gone; else it stays.
func TestAGitspacesDiskGoesOnlyWhenItsCallerSaysSo(t *testing.T) {
	for _, c := range []struct {
		name  string
		disks drivers.DiskPolicy
		sleep bool
	}{
		{"deleted with its disk", drivers.Delete, false},
		{"deleted with its disk while it sleeps", drivers.Delete, true},
		{"deleted, disk kept", drivers.Keep, false},
		{"deleted while it sleeps, disk kept", drivers.Keep, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubbleWithDisks(t, func(t *testing.T, e *engine, disks *shelf) {
				res, err := e.m.Setup(t.Context(), e.gitspace("g"))
				if err != nil {
					t.Fatal(err)
				}
				other, err := e.m.Setup(t.Context(), e.gitspace("other"))
				if err != nil {
					t.Fatal(err)
				}
				if c.sleep {
					if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g"}); err != nil {
						t.Fatal(err)
					}
				}
				if err := e.m.Destroy(t.Context(), pool.DestroyRequest{Lease: "g", Disks: c.disks}); err != nil {
					t.Fatal(err)
				}
				want := []string{"disk-" + other.Instance.Name}
				if c.disks == drivers.Keep {
					want = append(want, "disk-"+res.Instance.Name)
					slices.Sort(want)
				}
				if got := disks.names(); !slices.Equal(got, want) {
					t.Errorf("disks when it was answered: %v, want %v", got, want)
				}
				if slices.Contains(e.machines(), res.Instance.Name) {
					t.Error("the machine is left")
				}
			})
		})
	}
}

// A disk that cannot be deleted is tried again, as is its machine: the row goes
// when both have. The wish to delete is not forgotten by a restart.
func TestADiskThatCannotBeDeletedIsTriedAgain(t *testing.T) {
	inBubbleWithDisks(t, func(t *testing.T, e *engine, disks *shelf) {
		res, err := e.m.Setup(t.Context(), e.gitspace("g"))
		if err != nil {
			t.Fatal(err)
		}
		disks.fail(errors.New("the disk is busy"))
		if err := e.m.Destroy(t.Context(), pool.DestroyRequest{Lease: "g", Disks: drivers.Delete}); err == nil {
			t.Error("answered although the disk is there")
		}
		e.restart()
		pass(time.Hour)
		if row := e.instance(res.Instance.ID); row.State != pool.Destroying || row.Attempts == 0 || len(disks.names()) != 1 {
			t.Errorf("%s after %d tries, disks %v", row.State, row.Attempts, disks.names())
		}
		disks.fail(nil)
		pass(5 * time.Minute)
		if row := e.instance(res.Instance.ID); row.State != pool.Gone || len(disks.names()) != 0 {
			t.Errorf("%s (%s), disks %v", row.State, row.Detail, disks.names())
		}
	})
}

// A disk that a machine has left behind is reported and deleted by an operator's
// order only; one that a live row uses not even then.
func TestALeftDiskIsDeletedByOrderOnly(t *testing.T) {
	inBubbleWithDisks(t, func(t *testing.T, e *engine, disks *shelf) {
		left, err := e.m.Setup(t.Context(), e.gitspace("left"))
		if err != nil {
			t.Fatal(err)
		}
		used, err := e.m.Setup(t.Context(), e.gitspace("used"))
		if err != nil {
			t.Fatal(err)
		}
		e.destroy("left")
		pass(time.Hour)
		name := "disk-" + left.Instance.Name
		report := e.orphans()
		if len(report.Disks) != 1 || report.Disks[0].Name != name || report.Disks[0].Reason != pool.KeepDisk {
			t.Fatalf("reported: %+v", report.Disks)
		}
		refused := func(name string, o pool.OrphanOrder, why pool.Reason) {
			t.Helper()
			var kept *pool.KeptError
			if err := e.m.RemoveOrphan(t.Context(), name, o); !errors.As(err, &kept) || kept.Why != why {
				t.Errorf("%s: %v, want that it is kept for %s", name, err, why)
			}
		}
		refused(name, pool.OrphanOrder{}, pool.KeepDisk)
		refused("disk-"+used.Instance.Name, pool.OrphanOrder{Disks: true}, pool.KeepRow)
		if got := len(disks.names()); got != 2 {
			t.Fatalf("%d disks after refusals", got)
		}
		disks.fail(errors.New("the disk is busy"))
		if err := e.m.RemoveOrphan(t.Context(), name, pool.OrphanOrder{Disks: true}); err == nil {
			t.Error("answered as done although the cloud refused")
		}
		disks.fail(nil)
		if err := e.m.RemoveOrphan(t.Context(), name, pool.OrphanOrder{Disks: true, Order: pool.Order{By: "ann"}}); err != nil {
			t.Fatal(err)
		}
		if got := disks.names(); !slices.Equal(got, []string{"disk-" + used.Instance.Name}) {
			t.Errorf("disks: %v", got)
		}
		e.wantReason("orphan_removed")
		pass(time.Minute)
		if left := e.orphans().Disks; len(left) != 0 {
			t.Errorf("still reported: %+v", left)
		}
	})
}
