package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// wantedDisks are the rows of the disks a request asks for, as an intent needs
// them.
func wantedDisks(w Want) []Disk {
	var out []Disk
	for _, name := range StorageNames(w.Storage) {
		out = append(out, Disk{Name: name, SizeGiB: w.StorageGiB, Type: w.StorageType})
	}
	return out
}

// diskSpecs are the disks of a machine that is about to be made, in the order
// in which they were asked for.
func (m *Manager) diskSpecs(ctx context.Context, inst Instance) ([]drivers.DiskSpec, error) {
	if inst.StorageID == "" {
		return nil, nil
	}
	rows, err := m.store.Disks(ctx, DiskQuery{Instance: inst.ID})
	if err != nil {
		return nil, err
	}
	var out []drivers.DiskSpec
	for _, name := range StorageNames(inst.StorageID) {
		i := slices.IndexFunc(rows, func(d Disk) bool { return d.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%w: no row of disk %s", ErrNotFound, name)
		}
		out = append(out, drivers.DiskSpec{
			Name: name, SizeGiB: rows[i].SizeGiB, Type: rows[i].Type, MayExist: rows[i].Created.Before(inst.Created),
		})
	}
	return out, nil
}

// nearDisks keeps of the choices those in which the disks a gitspace asks for
// can be had, each with their zone: where a disk is, its machine is made. An
// empty disk, left by a machine that never came to be, binds to no pool.
func (m *Manager) nearDisks(ctx context.Context, lease string, w Want, choices []Choice) ([]Choice, []Cause, error) {
	var causes []Cause
	no := func(c Choice, format string, a ...any) {
		causes = append(causes, Cause{Pool: c.Pool, Phase: "claim", Kind: "disk", Message: fmt.Sprintf(format, a...)})
	}
	for _, name := range StorageNames(w.Storage) {
		rows, err := m.store.Disks(ctx, DiskQuery{Name: name})
		if err != nil {
			return nil, nil, fmt.Errorf("setup %s: %w", lease, err)
		}
		in := func(c Choice, d Disk) bool { return d.Scope == m.scopeOf(c) }
		// The lease's own decides, and else any that can be reached from here.
		bound := slices.DeleteFunc(slices.Clone(rows), func(d Disk) bool { return d.Used.IsZero() })
		if own := slices.DeleteFunc(slices.Clone(bound), func(d Disk) bool { return d.LeaseID != lease }); len(own) > 0 {
			bound = own
		} else {
			bound = slices.DeleteFunc(bound, func(d Disk) bool {
				return !slices.ContainsFunc(choices, func(c Choice) bool { return in(c, d) })
			})
		}
		if len(bound) > 0 {
			rows = bound
		}
		var left []Choice
		for _, c := range choices {
			i := slices.IndexFunc(rows, func(d Disk) bool { return in(c, d) })
			switch {
			case i < 0 && len(bound) > 0:
				no(c, "disk %s is in %s, where this pool makes no machines", name, bound[0].Scope)
				continue
			case i < 0 || rows[i].Zone == "":
			case c.Zone != "" && c.Zone != rows[i].Zone:
				no(c, "disk %s is in zone %s and cannot be had in zone %s; ask for its zone, or for none", name, rows[i].Zone, c.Zone)
				continue
			default:
				c.Zone = rows[i].Zone
			}
			left = append(left, c)
		}
		choices = left
	}
	return choices, causes, nil
}

// scopeOf is where the machine of a choice is made.
func (m *Manager) scopeOf(c Choice) string {
	rt := m.pools[c.Pool]
	if rt == nil {
		return ""
	}
	if f := rt.flavour(c.Tenant, c.Variant); f != nil {
		return f.tenant.scope
	}
	return rt.home().scope
}

// diskTry is how soon a disk that could not be deleted is tried again while its
// owner waits; afterwards each sweep tries.
const diskTry = 5 * time.Second

// deleteDisks ends the disks of a lease that no lease's machine has, and those a
// caller names that the store has lost, and returns when the clouds have done it.
func (m *Manager) deleteDisks(ctx context.Context, r DestroyRequest, until time.Time) error {
	doomed, err := m.doomDisks(ctx, r)
	for _, d := range doomed {
		if err == nil && d.Instance != "" {
			err = m.awaitDetached(ctx, d, until)
		}
	}
	if err == nil {
		// As they are now that their machines are gone.
		doomed, err = m.doomDisks(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("destroy %s: %w", r.Lease, err)
	}
	for _, d := range doomed {
		for d.Instance == "" {
			err := m.deleteDisk(ctx, d, d.Doomed)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !m.now().Add(diskTry).Before(until) {
				return fmt.Errorf("destroy %s: disk %s is not deleted yet and tried on: %w", r.Lease, d.Name, err)
			}
			if !m.rest(ctx, nil, diskTry) {
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// doomDisks gives up the disks that a destroy is about, those that an earlier
// machine of the lease still has on its way out included.
func (m *Manager) doomDisks(ctx context.Context, r DestroyRequest) ([]Disk, error) {
	now := m.stamp()
	doomed, err := m.store.DoomDisks(ctx, Doom{Lease: r.Lease, Now: now})
	if err != nil {
		return nil, err
	}
	named, err := m.doomNamed(ctx, r, now)
	return append(doomed, named...), err
}

// awaitDetached waits until the machine is gone that has a doomed disk still. One
// that is held waits for who holds it, and its disk with it.
func (m *Manager) awaitDetached(ctx context.Context, d Disk, until time.Time) error {
	err := m.awaitInstance(ctx, d.Instance, until.Sub(m.now()), "destroy", func(i Instance) bool { return i.Held || i.State == Gone })
	if err != nil {
		return fmt.Errorf("disk %s is deleted after its machine: %w", d.Name, err)
	}
	return nil
}

// doomNamed gives up the disks that a destroy names by their storage identifier
// and that no lease is known to have: what is left after a store was lost.
func (m *Manager) doomNamed(ctx context.Context, r DestroyRequest, now time.Time) ([]Disk, error) {
	if r.Known == nil || r.Known.StorageID == "" {
		return nil, nil
	}
	rt := m.pools[r.Known.Pool]
	if rt == nil {
		return nil, nil
	}
	var out []Disk
	for _, scope := range rt.scopes() {
		var names []string
		var l listing
		for _, name := range StorageNames(r.Known.StorageID) {
			rows, err := m.store.Disks(ctx, DiskQuery{Scope: scope, Name: name})
			if err != nil {
				return nil, err
			}
			if len(rows) == 0 {
				if l.byName == nil {
					if l, err = m.list(ctx, m.scopes[scope]); err != nil {
						return nil, err
					}
				}
				i := slices.IndexFunc(l.Disks, func(d drivers.Disk) bool { return d.Name == name })
				if i < 0 && !l.Complete {
					return nil, fmt.Errorf("%w: %s could not be listed completely, so disk %s may be there", ErrUnavailable, scope, name)
				}
				if i < 0 || l.Disks[i].AttachedTo != "" || !madeFor(l.Disks[i], *r.Known) {
					continue
				}
				d := learned(scope, l.Disks[i], l.At)
				d.LeaseID, d.Controller = r.Lease, l.Disks[i].Tags.Controller
				if err := m.store.SaveDisk(ctx, d); err != nil {
					return nil, err
				}
			}
			names = append(names, name)
		}
		if len(names) == 0 {
			continue
		}
		doomed, err := m.store.DoomDisks(ctx, Doom{Lease: r.Lease, Scope: scope, Names: names, Now: now})
		if err != nil {
			return nil, err
		}
		out = append(out, doomed...)
	}
	return out, nil
}

// madeFor says whether a disk's tags are those of a gitspace of the pool that a
// caller names.
func madeFor(d drivers.Disk, k KnownInstance) bool {
	return d.Tags.Controller != "" && d.Tags.Kind == string(Gitspace) && d.Tags.Pool == k.Pool
}

// learned is the row of a disk that a listing shows.
func learned(scope string, d drivers.Disk, at time.Time) Disk {
	return Disk{Scope: scope, Name: d.Name, Zone: d.Zone, Pool: d.Tags.Pool, SizeGiB: d.SizeGiB, Created: d.Tags.Created, Seen: at}
}

// deleteDisk deletes one doomed disk and then its row: once a listing shows
// whose it is, and the gate allows it. That it is not there says a listing that
// began after since.
func (m *Manager) deleteDisk(ctx context.Context, d Disk, since time.Time) error {
	sc := m.scopes[d.Scope]
	if sc == nil {
		return fmt.Errorf("%w: nothing is open for scope %q", ErrNotFound, d.Scope)
	}
	l, err := m.list(ctx, sc)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(l.Disks, func(have drivers.Disk) bool {
		return have.Name == d.Name && (d.Zone == "" || have.Zone == "" || have.Zone == d.Zone)
	})
	if i < 0 && (!l.Complete || l.At.Before(since) || m.distrustsClock()) {
		return fmt.Errorf("%w: %s could not be listed completely, or only as it was before", ErrUnavailable, d.Scope)
	}
	rows, err := m.store.Disks(ctx, DiskQuery{Scope: d.Scope, Name: d.Name, Doomed: true})
	if err != nil {
		return err
	}
	at := slices.IndexFunc(rows, func(row Disk) bool { return row.Zone == d.Zone })
	if at < 0 {
		return nil // somebody else has deleted it
	}
	if i >= 0 {
		e := evidence{
			Why: ReasonReleased, Disk: &l.Disks[i], DiskRow: &rows[at], Controller: m.controller.ID,
			Complete: l.Complete, ListedAt: l.At,
		}
		call, cancel := context.WithTimeout(ctx, m.t.Create)
		defer cancel()
		p := permitOrphan(e, drivers.Delete, m.stamp())
		if !p.granted && p.why == KeepForeign {
			return fmt.Errorf("%w: disk %s carries the tags of %q, not of this runner", ErrForeign, d.Name, l.Disks[i].Tags.Controller)
		}
		if err := sc.tenants[0].client.DestroyDisks(call, p); err != nil {
			return err
		}
	}
	m.log.Info("disk deleted", "disk", d.Name, "pool", d.Pool, "lease", d.LeaseID)
	now := m.stamp()
	if err := m.store.DropDisk(ctx, d); err != nil {
		return err
	}
	return m.store.Note(ctx, Event{
		At: now, Pool: d.Pool, Lease: d.LeaseID, Reason: "disk_deleted", Message: "disk " + d.Name + " was deleted with its gitspace",
	})
}

const (
	// diskSeen is how old the word of a listing on a disk may get before it is
	// written anew.
	diskSeen = time.Hour
	// diskUnseen is for how long a detached disk must be missing from complete
	// listings before its row is dropped.
	diskUnseen = 10 * time.Minute
)

// sweepDisks learns the disks a listing shows, drops the rows of those that are
// gone, and tries on to delete the doomed, which it adds to what was seen.
func (m *Manager) sweepDisks(ctx context.Context, sc *scope, l listing, seen map[string]bool) error {
	rows, err := m.store.Disks(ctx, DiskQuery{Scope: sc.key})
	if err != nil {
		return err
	}
	for _, disk := range l.Disks {
		tn := m.tenureFor(disk.Tags.Pool, sc.names()...)
		if tn == nil || disk.Tags.Controller != m.controller.ID || disk.Tags.Kind != string(Gitspace) {
			continue
		}
		i := slices.IndexFunc(rows, func(d Disk) bool { return d.Name == disk.Name && (d.Zone == "" || d.Zone == disk.Zone) })
		if i >= 0 && rows[i].Zone == disk.Zone && l.At.Sub(rows[i].Seen).Abs() < diskSeen {
			continue
		}
		if err := m.store.SaveDisk(tn.ctx, learned(sc.key, disk, l.At)); err != nil {
			return err
		}
	}
	for _, row := range rows {
		tn := m.tenureFor(row.Pool, sc.names()...)
		if tn == nil || row.Instance != "" {
			continue
		}
		listed := slices.ContainsFunc(l.Disks, func(d drivers.Disk) bool { return d.Name == row.Name })
		switch {
		case !row.Doomed.IsZero():
			id := "disk " + row.Name + " " + row.Zone
			seen[id] = true
			if err := m.deleteDisk(tn.ctx, row, sc.entered(id, row.Doomed, m.stamp())); err != nil && tn.ctx.Err() == nil {
				m.log.Warn("disk not deleted yet, tried again", "disk", row.Name, "pool", row.Pool, "lease", row.LeaseID, "err", err)
			}
		case !listed && l.Complete && !row.Seen.IsZero() && l.At.Sub(row.Seen) > diskSeen+diskUnseen:
			err := m.store.DropDisk(tn.ctx, row)
			err = errors.Join(err, m.store.Note(tn.ctx, Event{
				At: m.stamp(), Pool: row.Pool, Lease: row.LeaseID, Reason: "disk_vanished",
				Message: "detached disk " + row.Name + " is in no listing any more; it was not deleted from here",
			}))
			if err != nil {
				return err
			}
		}
	}
	return nil
}
