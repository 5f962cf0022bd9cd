package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// disk is one persistent disk of the world's.
type disk struct {
	drivers.Disk
	// late: it was made with a machine whose call had failed.
	late bool
}

// attach gives a machine its disks, as every driver does: those that are there
// as they are, others made. The world's lock is held.
func (w *world) attach(spec drivers.Spec, late bool) error {
	now := time.Now()
	for _, want := range spec.Disks {
		if have := w.disks[want.Name]; have.AttachedTo != "" && have.AttachedTo != spec.Name && w.present(have.AttachedTo, now) != nil {
			return fmt.Errorf("%w: disk %s is attached to %s", drivers.ErrInvalid, want.Name, have.AttachedTo)
		}
	}
	for _, want := range spec.Disks {
		have, ok := w.disks[want.Name]
		if !ok {
			have = disk{Disk: drivers.Disk{Name: want.Name, Tags: spec.Tags, SizeGiB: 1}, late: late}
		}
		have.AttachedTo = spec.Name
		w.disks[want.Name] = have
	}
	return nil
}

// listDisks are the disks as they are now. The world's lock is held.
func (w *world) listDisks() []drivers.Disk {
	now := time.Now()
	var out []drivers.Disk
	for _, name := range slices.Sorted(maps.Keys(w.disks)) {
		d := w.disks[name].Disk
		if d.AttachedTo != "" && w.present(d.AttachedTo, now) == nil {
			d.AttachedTo = ""
		}
		out = append(out, d)
	}
	return out
}

// shelf is the disks by name.
func (w *world) shelf() map[string]disk {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]disk{}
	for _, d := range w.listDisks() {
		out[d.Name] = disk{Disk: d, late: w.disks[d.Name].late}
	}
	return out
}

// DestroyDisks implements drivers.DiskKeeper.
func (c cloud) DestroyDisks(ctx context.Context, refs []drivers.Ref) []error {
	errs := make([]error, len(refs))
	for i, ref := range refs {
		errs[i] = c.during(ctx, "destroy disk", func() error { return c.w.destroyDisk(ctx, ref.Name) })
	}
	return errs
}

func (w *world) destroyDisk(ctx context.Context, name string) error {
	if err := w.refused("destroy"); err != nil {
		return err
	}
	try := w.d.nth("destroy disk " + name)
	bad := w.faults()
	if err := nap(ctx, w.d.span(bad.slow, "disk-time", name, try)); err != nil {
		return err
	}
	if w.d.chance(bad.destroyFails, "disk-fails", name, try) {
		return errCloud
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	have, ok := w.disks[name]
	switch {
	case !ok, w.sabotage.disksLie:
		return nil
	case have.AttachedTo != "" && w.present(have.AttachedTo, time.Now()) != nil:
		return fmt.Errorf("disk %s is attached to %s", name, have.AttachedTo)
	}
	if !w.log.mayDelete(name) {
		w.log.wrong(ruleDisk, name, "disk %s is deleted, and its owner has not asked for it", name)
	}
	delete(w.disks, name)
	return nil
}

// askedFor records that a disk's owner wants it deleted.
func (l *ledger) askedFor(disk string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deletable[disk] = true
}

// everHeld says whether an operator has ever held a machine.
func (l *ledger) everHeld(machine string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, gripped := l.gripped[machine]
	return gripped || l.holding[machine] || l.released[machine]
}

func (l *ledger) mayDelete(disk string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deletable[disk]
}

// deleted sees that the disk of a gitspace that was destroyed with it is gone
// when that is answered. A machine that an operator holds keeps its disk for as
// long, and a store put back to an old copy does not know of all disks.
func (st *stage) deleted(disk string) {
	have, there := st.s.world.shelf()[disk]
	switch {
	case !there, have.late, st.s.log.everHeld(st.res.Instance.Name), have.AttachedTo != "" && st.s.log.everHeld(have.AttachedTo):
	case st.s.log.wasRestored():
	default:
		st.s.log.wrong(ruleDeleted, disk, "%s was destroyed with its disk, and %s is there", st.id, disk)
	}
}

// reset has the gitspace's machine replaced; false means that it could not be.
func (st *stage) reset(ctx context.Context) bool {
	s, old, plain := st.s, st.res.Instance, st.req
	s.log.givenUp(st.id)
	st.res = pool.SetupResult{}
	st.req.Reset, st.req.Known = true, &pool.KnownInstance{ID: old.ExternalID(), Name: old.Name, Pool: old.Pool}
	defer func() { st.req = plain }()
	if err := st.setUp(ctx); err != nil {
		return false
	}
	if st.res.Instance.ID == old.ID {
		s.log.wrong(ruleDurable, old.Name, "%s was to have another machine and was told of %s again", st.id, old.Name)
	}
	return true
}

// unsettledDisks are those that nobody has a row of, and those that are to be
// deleted and are not.
func (s *sim) unsettledDisks(add func(r rule, subject, format string, args ...any)) {
	rows, err := s.store().Disks(context.Background(), pool.DiskQuery{})
	if err != nil {
		add(ruleError, "", "disks: %v", err)
		return
	}
	shelf := s.world.shelf()
	known := map[string]bool{}
	for _, row := range rows {
		known[row.Name] = true
		if have := shelf[row.Name]; !row.Doomed.IsZero() && have.AttachedTo == "" {
			add(ruleQuiet, row.Name, "disk %s is still to be deleted", row.Name)
		}
		if row.Instance == "" {
			continue
		}
		if inst, err := s.store().Instance(context.Background(), row.Instance); errors.Is(err, pool.ErrNotFound) || err == nil && inst.State == pool.Gone {
			add(ruleQuiet, row.Name, "disk %s is attached to %s, which is gone", row.Name, row.Instance)
		}
	}
	for name := range shelf {
		if !known[name] {
			add(ruleDiskRow, name, "disk %s has no row", name)
		}
	}
}
