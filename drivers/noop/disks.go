package noop

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// DestroyDisks deletes pretend disks. One that a machine has stays, with an
// error.
func (d *Driver) DestroyDisks(ctx context.Context, disks []drivers.Ref) []error {
	errs := make([]error, len(disks))
	for i, disk := range disks {
		errs[i] = d.faults.around(ctx, "destroy disk", disk.Name, func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return d.cloud.destroyDisk(ctx, disk.Name)
		})
	}
	return errs
}

// shelf is what a pretend cloud knows of its disks, by name. A disk has no
// contents: that it is the same is seen by its tags, which are those of the
// machine it was made with.
type shelf map[string]drivers.Disk

// attach gives a machine its disks, all or none: those that are there as they
// are, others made now.
func (s shelf) attach(spec drivers.Spec, exists func(machine string) bool) error {
	for _, want := range spec.Disks {
		if !diskRule.MatchString(want.Name) {
			return fmt.Errorf("%w: %q is no name of a disk", drivers.ErrInvalid, want.Name)
		}
		if have, ok := s[want.Name]; ok && have.AttachedTo != "" && have.AttachedTo != spec.Name && exists(have.AttachedTo) {
			return fmt.Errorf("%w: disk %s is attached to machine %s", drivers.ErrInvalid, want.Name, have.AttachedTo)
		}
	}
	for _, want := range spec.Disks {
		disk, ok := s[want.Name]
		if !ok {
			disk = drivers.Disk{Name: want.Name, Tags: spec.Tags, SizeGiB: max(want.SizeGiB, 1)}
			disk.Tags.Labels = maps.Clone(spec.Tags.Labels)
		}
		disk.AttachedTo = spec.Name
		s[want.Name] = disk
	}
	return nil
}

// detach lets a machine's disks go, or deletes them.
func (s shelf) detach(machine string, o drivers.DiskPolicy) {
	for name, disk := range s {
		switch {
		case disk.AttachedTo != machine:
		case o == drivers.Delete:
			delete(s, name)
		default:
			disk.AttachedTo = ""
			s[name] = disk
		}
	}
}

// remove deletes a disk no machine has.
func (s shelf) remove(name string, exists func(machine string) bool) error {
	if at := s[name].AttachedTo; at != "" && exists(at) {
		return fmt.Errorf("disk %s is attached to machine %s", name, at)
	}
	delete(s, name)
	return nil
}

// list is all disks by name.
func (s shelf) list() []drivers.Disk {
	var all []drivers.Disk
	for _, name := range slices.Sorted(maps.Keys(s)) {
		disk := s[name]
		disk.Tags.Labels = maps.Clone(disk.Tags.Labels)
		all = append(all, disk)
	}
	return all
}

// Disks lists what disks exist, by name: the audit of a test, past any driver
// and its faults.
func (w *World) Disks() []drivers.Disk {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.disks.list()
}

// AddDisk puts a disk into the world that no driver has made.
func (w *World) AddDisk(d drivers.Disk) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.disks[d.Name] = d
}

// SetStatus has the cloud say something else of a machine: stopped, crashed,
// on its way down. A running one answers again after its boot. It says whether
// there was such a machine.
func (w *World) SetStatus(name string, s drivers.Status, reason string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.machines[name]
	if !ok {
		return false
	}
	m.status, m.inst.Reason, m.booted = s, reason, time.Now()
	return true
}

// Move gives a machine another address, as a cloud does when it starts one
// again. It says whether there was such a machine.
func (w *World) Move(name, address string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.machines[name]
	if ok {
		m.inst.Address = address
	}
	return ok
}

func (w *World) exists(machine string) bool { return w.machines[machine] != nil }

func (c *worldCloud) disks(context.Context) ([]drivers.Disk, error) { return c.w.Disks(), nil }

func (c *worldCloud) destroyDisk(_ context.Context, name string) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.disks.remove(name, c.w.exists)
}
