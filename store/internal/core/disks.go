package core

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

const diskColumns = `scope, name, zone, pool, lease_id, attached_to, size_gib, created, seen, type, controller, used, doomed`

func diskFields(d *pool.Disk) []any {
	return []any{
		&d.Scope, &d.Name, &d.Zone, &d.Pool, &d.LeaseID, &d.Instance, (*number)(&d.SizeGiB), (*stamp)(&d.Created),
		(*stamp)(&d.Seen), &d.Type, &d.Controller, (*stamp)(&d.Used), (*stamp)(&d.Doomed),
	}
}

func disks(rows *sql.Rows, err error) ([]pool.Disk, error) {
	var out []pool.Disk
	err = each(rows, err, func(r *sql.Rows) error {
		var d pool.Disk
		err := r.Scan(diskFields(&d)...)
		out = append(out, d)
		return err
	})
	return out, err
}

// lockDisk keeps the rows of one name as they are, and those that are not there
// away, until the end of the transaction where there are other writers. It
// comes after every other lock.
func (t txn) lockDisk(ctx context.Context, scope, name string) error {
	return t.lockID(ctx, "disk\x1f"+scope+"\x1f"+name)
}

// attach gives a machine that is about to be made its disks: rows that are
// there are found by name, others are written.
func (t txn) attach(ctx context.Context, i *instance, wanted []pool.Disk, now time.Time) error {
	wanted = slices.Clone(wanted)
	slices.SortFunc(wanted, func(a, b pool.Disk) int { return strings.Compare(a.Name, b.Name) })
	for _, d := range wanted {
		if err := checkID("disk name", d.Name); err != nil {
			return err
		}
		if err := t.lockDisk(ctx, i.Scope, d.Name); err != nil {
			return err
		}
		var have pool.Disk
		found, err := t.one(ctx, SelectDisk, diskFields(&have), i.Scope, d.Name)
		if err != nil {
			return err
		}
		if !found {
			d.Scope, d.Pool, d.LeaseID, d.Instance, d.Created, d.Doomed = i.Scope, i.Pool, i.LeaseID, i.ID, now, time.Time{}
			d.Used = time.Time{}
			if d.Zone == "" {
				d.Zone = i.Zone
			}
			if err := t.insertDisk(ctx, d); err != nil {
				return err
			}
			continue
		}
		if err := t.detached(ctx, have, i.ID); err != nil {
			return err
		}
		if err := must(t.Exec(ctx, AttachDisk, i.Pool, i.LeaseID, i.ID, have.Scope, have.Zone, have.Name)); err != nil {
			return err
		}
	}
	return nil
}

// detached refuses a disk that another live machine has, or that is to go.
func (t txn) detached(ctx context.Context, d pool.Disk, instance string) error {
	if !d.Doomed.IsZero() {
		return &pool.DiskError{Disk: d.Name}
	}
	if d.Instance == "" || d.Instance == instance {
		return nil
	}
	has, err := t.machine(ctx, SelectInstance, d.Instance)
	if err != nil || has == nil {
		return err
	}
	return &pool.DiskError{Disk: d.Name, Lease: d.LeaseID, Instance: has.Name}
}

func (t txn) insertDisk(ctx context.Context, d pool.Disk) error {
	return must(t.Exec(ctx, InsertDisk, d.Scope, d.Name, clean(d.Zone), clean(d.Pool), d.LeaseID, d.Instance, int64(d.SizeGiB),
		ms(d.Created), ms(d.Seen), clean(d.Type), clean(d.Controller), ms(d.Used), ms(d.Doomed)))
}

// placeDisks records where a machine that was accepted, and so its disks, are.
func (t txn) placeDisks(ctx context.Context, i *instance) error {
	if i.StorageID == "" || i.Zone == "" {
		return nil
	}
	_, err := t.Exec(ctx, PlaceDisks, i.Zone, i.ID)
	return err
}

// useDisks records that a machine begins to serve, and so to write on its disks.
func (t txn) useDisks(ctx context.Context, i *instance) error {
	if i.StorageID == "" {
		return nil
	}
	_, err := t.Exec(ctx, UseDisks, ms(i.Since), i.ID)
	return err
}

// detach lets go of the disks of a machine that is gone: they stay as they are,
// or are to be deleted: at the wish of its own destroy, or of an earlier one.
func (t txn) detach(ctx context.Context, i *instance) error {
	if i.StorageID == "" {
		return nil
	}
	var doomed int64
	if i.Disks == drivers.Delete {
		doomed = ms(i.Since)
	}
	_, err := t.Exec(ctx, DetachDisks, doomed, i.ID)
	return err
}

// Disks implements pool.Store.
func (s *Store) Disks(ctx context.Context, q pool.DiskQuery) ([]pool.Disk, error) {
	var f filter
	for _, c := range []struct{ cond, value string }{
		{"scope = %", q.Scope}, {"name = %", q.Name}, {"lease_id = %", q.Lease}, {"attached_to <> '' AND attached_to = %", q.Instance},
	} {
		if c.value != "" {
			f.add(c.cond, c.value)
		}
	}
	if q.Doomed {
		f.conds = append(f.conds, "doomed <> 0 AND attached_to = ''")
	}
	text := f.text(`SELECT `+diskColumns+` FROM disks`, ` ORDER BY scope, name, zone`, q.Limit)
	var out []pool.Disk
	err := s.look(ctx, func(ctx context.Context, t txn) (err error) {
		out, err = disks(t.QueryText(ctx, text, f.args...))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	return out, nil
}

// SaveDisk implements pool.Store.
func (s *Store) SaveDisk(ctx context.Context, d pool.Disk) error {
	err := checkID("disk name", d.Name)
	if err == nil {
		err = s.write(ctx, func(ctx context.Context, t txn) error { return t.learn(ctx, d) })
	}
	if err != nil {
		return fmt.Errorf("save disk %s: %w", d.Name, err)
	}
	return nil
}

func (t txn) learn(ctx context.Context, d pool.Disk) error {
	if err := t.lockDisk(ctx, d.Scope, d.Name); err != nil {
		return err
	}
	n, err := t.Exec(ctx, SeeDisk, clean(d.Zone), int64(d.SizeGiB), ms(d.Seen), d.Scope, d.Name)
	if err != nil || n > 0 {
		return err
	}
	d.Instance, d.Used, d.Doomed = "", d.Seen, time.Time{}
	return t.insertDisk(ctx, d)
}

// DoomDisks implements pool.Store.
func (s *Store) DoomDisks(ctx context.Context, d pool.Doom) ([]pool.Disk, error) {
	var out []pool.Disk
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		out = nil
		if len(d.Names) == 0 {
			found, err := disks(t.Query(ctx, DoomDisksOf, ms(d.Now), d.Lease))
			out = found
			return err
		}
		names := slices.Clone(d.Names)
		slices.Sort(names)
		for _, name := range names {
			if err := t.lockDisk(ctx, d.Scope, name); err != nil {
				return err
			}
			found, err := disks(t.Query(ctx, DoomDisk, ms(d.Now), d.Scope, name, d.Lease))
			if err != nil {
				return err
			}
			out = append(out, found...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("give up the disks of %q: %w", d.Lease, err)
	}
	return out, nil
}

// DropDisk implements pool.Store.
func (s *Store) DropDisk(ctx context.Context, d pool.Disk) error {
	err := s.write(ctx, func(ctx context.Context, t txn) error {
		_, err := t.Exec(ctx, DropDisk, d.Scope, d.Zone, d.Name)
		return err
	})
	if err != nil {
		return fmt.Errorf("drop disk %s: %w", d.Name, err)
	}
	return nil
}

// Readmit implements pool.Store.
func (s *Store) Readmit(ctx context.Context, r pool.Readmission) (pool.Lease, pool.Instance, error) {
	var l pool.Lease
	var i pool.Instance
	err := checkIntent(pool.Intent{Instance: r.Instance})
	if err == nil {
		err = checkID("lease id", r.Lease)
	}
	if err == nil {
		err = checkChoices(r.Choices)
	}
	if err == nil {
		err = s.write(ctx, func(ctx context.Context, t txn) (err error) {
			l, i, err = t.readmit(ctx, r)
			return err
		})
	}
	if err != nil {
		return pool.Lease{}, pool.Instance{}, fmt.Errorf("take over machine %s for %q: %w", r.Instance.Name, r.Lease, err)
	}
	return l, i, nil
}

func (t txn) readmit(ctx context.Context, r pool.Readmission) (pool.Lease, pool.Instance, error) {
	none := func(err error) (pool.Lease, pool.Instance, error) { return pool.Lease{}, pool.Instance{}, err }
	if err := t.lockID(ctx, r.Lease); err != nil {
		return none(err)
	}
	p, err := t.pool(ctx, r.Instance.Pool, LockPool)
	if err != nil {
		return none(err)
	}
	var last lease
	found, err := t.one(ctx, LockLatestLease, last.fields(), r.Lease)
	if err != nil {
		return none(err)
	}
	if found && !last.State.Final() {
		return none(fmt.Errorf("lease %q is %s: %w", r.Lease, last.State, pool.ErrConflict))
	}
	if known, err := t.found(ctx, SelectInstance, r.Instance.ID); err != nil || known != nil {
		if err == nil {
			err = fmt.Errorf("there is a row of machine %s, %s: %w", known.Name, known.State, pool.ErrConflict)
		}
		return none(err)
	}
	now, due := cut(r.Now), cut(r.Due)
	l, err := begun(pool.Arrival{
		ID: r.Lease, Kind: pool.Gitspace, Want: r.Want, Choices: r.Choices, NoClaim: true, WaitUntil: now, Due: due, Now: now,
	}, last.Generation+1)
	if err != nil {
		return none(err)
	}
	i := &instance{Instance: r.Instance}
	i.enter(pool.Suspended, now, due)
	if r.Running {
		i.State = pool.Leased
	}
	i.Kind, i.LeaseID, i.LeaseGeneration, i.Cold, i.bound = pool.Gitspace, l.ID, l.Generation, true, true
	i.Created, i.Warmed = cut(i.Created), cut(i.Warmed)
	if i.Created.IsZero() {
		i.Created = now
	}
	if i.Warmed.IsZero() {
		i.Warmed = i.Created
	}
	l.start(i, now, due)
	l.State, l.Active = pool.LeaseSuspended, now
	if r.Running {
		l.State = pool.LeaseActive
	}
	if _, err := t.one(ctx, InsertLease, []any{&l.Seq}, l.values()...); err != nil {
		return none(err)
	}
	if err := t.sealIdentity(i); err != nil {
		return none(err)
	}
	if _, err := t.Exec(ctx, InsertInstance, i.values()...); err != nil {
		return none(err)
	}
	if i.sealed != nil {
		if _, err := t.Exec(ctx, InsertIdentity, i.ID, i.sealed); err != nil {
			return none(err)
		}
	}
	if err := t.begin(ctx, p, i, false, now); err != nil {
		return none(err)
	}
	for _, d := range r.Disks {
		d.Scope, d.Pool = i.Scope, i.Pool
		if err := t.learn(ctx, d); err != nil {
			return none(err)
		}
	}
	if err := t.attach(ctx, i, r.Disks, now); err != nil {
		return none(err)
	}
	return l.Lease, i.Instance, t.events(ctx, ms(now), r.Events)
}
