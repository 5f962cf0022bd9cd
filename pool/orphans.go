package pool

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Orphan is a machine or a disk in a cloud that no live row describes.
type Orphan struct {
	Scope string
	// Name and CloudID are the cloud's, Zone where it is.
	Name, CloudID, Zone string
	// Disk says that it is a disk; SizeGiB is a disk's, AttachedTo its machine.
	Disk       bool
	SizeGiB    int
	AttachedTo string
	// Tags are what it carries: whose it is, of which pool, made when.
	Tags drivers.Tags
	// Foreign: another controller made it, or nobody says who.
	Foreign bool
	// FirstSeen and Sightings count complete listings without a row for it.
	FirstSeen time.Time
	Sightings int
	// Reason is why it is left alone.
	Reason Reason
}

// Missing is a row whose machine the cloud does not list.
type Missing struct {
	Instance Instance
	// Since is when it was first missed, Times in how many complete listings.
	Since time.Time
	Times int
}

// ScopeStatus is how the last look at one account went.
type ScopeStatus struct {
	Scope string
	Pools []string
	// Listed is when the last listing began, zero before the first.
	Listed   time.Time
	Complete bool
	// Problem says why it cannot be looked at now, "" if it can.
	Problem string
}

// OrphanReport is everything in which the clouds and the store differ, as of
// the last sweeps.
type OrphanReport struct {
	Machines []Orphan
	Disks    []Orphan
	Missing  []Missing
	// Failing are machines whose destroy has failed and is tried again, or
	// waits because the machine is held.
	Failing []Instance
	// Held are those an operator, or the distrust of an old store, keeps.
	Held []Instance
	// Unreachable are live rows of accounts no driver is open for.
	Unreachable []Instance
	Scopes      []ScopeStatus
	Unopened    []UnopenedScope
}

// scopeReport is a scope's part of it.
type scopeReport struct {
	ScopeStatus
	strangers []Orphan
	missing   []Missing
}

// explanations say what would make an orphan be removed.
var explanations = map[Reason]string{
	KeepSightings:  "destroyed by itself once it was seen for the grace period in complete listings",
	KeepIncomplete: "the cloud's listings are incomplete or old; decided when a complete one comes",
	KeepClock:      "the clock has jumped; decided when it is trusted again, after an hour",
	KeepGitspace:   "may hold somebody's work, so it is never destroyed by itself; remove it by name with --gitspace",
	KeepForeign:    "made by another controller, whose it is to end; remove it by name with --foreign",
	KeepUnwatched:  "made while this store was not alive (an old copy, or a new store), so somebody may use it; remove it by name, or its own deadline ends it",
	KeepDisk:       "disks are never deleted by themselves; remove it by name with --disks",
	KeepUnknown:    "carries no tags of ours that say what it is",
	ReasonOrphan:   "is being destroyed, and tried again until the cloud confirms it",
}

// Explain says in one line what would make an orphan be removed.
func (o Orphan) Explain() string {
	return cmp.Or(explanations[o.Reason], string(o.Reason))
}

// sighting is how often, and since when, something without a row was seen in
// complete listings.
type sighting struct {
	first    time.Time
	listed   time.Time // when the last listing that counted began
	times    int
	reported Reason
}

// see counts a listing if it is evidence: complete, and later than the one
// counted before. After the clock was set back the count begins anew.
func (s *sighting) see(l listing, now time.Time) {
	if s.listed.After(now) {
		*s = sighting{reported: s.reported}
	}
	if !l.Complete || !l.At.After(s.listed) {
		return
	}
	s.listed = l.At
	s.times++
	if s.times == 1 {
		s.first = now
	}
}

// sweepStrangers looks at machines and disks no live row describes: what is
// certainly garbage is destroyed, everything else is reported.
func (m *Manager) sweepStrangers(sc *scope, l listing, rows []Instance) error {
	now := m.stamp()
	known := make(map[string]bool, len(rows))
	for _, row := range rows {
		known[row.Name] = true
	}
	s := strangerSweep{m: m, sc: sc, l: l, rows: rows, now: now, seen: map[string]bool{}}
	for _, mach := range l.Instances {
		if known[mach.Name] {
			continue
		}
		tn := m.tenureFor(mach.Tags.Pool, sc.names()...)
		if tn == nil {
			continue // another replica looks at it
		}
		if err := s.machine(tn.ctx, mach); err != nil {
			return err
		}
	}
	for _, disk := range l.Disks {
		tn := m.tenureFor(disk.Tags.Pool, sc.names()...)
		if tn == nil {
			continue
		}
		if err := s.disk(tn.ctx, disk); err != nil {
			return err
		}
	}
	maps.DeleteFunc(sc.strangers, func(subject string, _ *sighting) bool { return l.Complete && !s.seen[subject] })
	s.publish()
	return nil
}

// strangerSweep is one pass over what has no row.
type strangerSweep struct {
	m *Manager
	// glance: it looks for somebody who asks, at what another replica sweeps. It
	// remembers, reports and destroys nothing.
	glance    bool
	sc        *scope
	l         listing
	rows      []Instance
	now       time.Time
	seen      map[string]bool
	found     []Orphan
	lifetimes []Lifetime
}

func (s *strangerSweep) sighting(subject string) *sighting {
	s.seen[subject] = true
	if s.glance {
		it := &sighting{first: s.now}
		it.see(s.l, s.now)
		return it
	}
	it := s.sc.strangers[subject]
	if it == nil {
		it = &sighting{first: s.now}
		s.sc.strangers[subject] = it
	}
	it.see(s.l, s.now)
	return it
}

// machine decides about a machine that none of the scope's live rows names.
func (s *strangerSweep) machine(ctx context.Context, mach drivers.Instance) error {
	m := s.m
	o := Orphan{
		Scope: s.sc.key, Name: mach.Name, CloudID: mach.ID, Zone: mach.Zone, Tags: mach.Tags,
		Foreign: mach.Tags.Controller != m.controller.ID,
	}
	if o.Foreign {
		// Another controller's sweep is right beside ours: its machines have
		// rows there, and are none of our business. Not so on this host, where
		// a scope is one data directory: that has no other controller, so they
		// are what a lost store has left.
		o.Reason = KeepForeign
		s.found = append(s.found, o)
		if s.sc.local && !s.glance {
			m.report(ctx, o, s.sighting(mach.Name), s.now)
		}
		return nil
	}
	e, gone, err := s.evidence(ctx, mach)
	if err != nil {
		return err
	}
	// An end in the future was written by a clock that was set back since.
	if e.HasRow || (e.HadRow && !s.l.At.After(gone) && !gone.After(s.now)) {
		return nil // written after the rows were read, or ended after the listing began
	}
	it := s.sighting(mach.Name)
	e.Sightings, e.FirstSeen = it.times, it.first
	if !e.HadRow && !s.glance {
		m.suspectStore(ctx, mach, s.lifetimes, s.now)
	}
	o.Sightings, o.FirstSeen = it.times, it.first
	p := permitOrphan(e, drivers.Keep, s.now)
	o.Reason = p.why
	s.found = append(s.found, o)
	switch {
	case s.glance:
	case p.granted:
		m.reap(ctx, s.sc, mach, e)
	case p.why != KeepSightings && p.why != KeepIncomplete:
		m.report(ctx, o, it, s.now)
	}
	return nil
}

// evidence is what is known of a machine; gone is when its row became Gone.
func (s *strangerSweep) evidence(ctx context.Context, mach drivers.Instance) (e evidence, gone time.Time, err error) {
	m := s.m
	row, err := m.store.Instance(ctx, mach.Tags.Instance)
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrInvalid) {
		return e, gone, err
	}
	had := err == nil && row.Name == mach.Name
	if s.lifetimes == nil {
		if s.lifetimes, err = m.store.Lifetimes(ctx); err != nil {
			return e, gone, err
		}
	}
	return evidence{
		Why: ReasonOrphan, Machine: &mach, Controller: m.controller.ID, Lifetimes: s.lifetimes,
		Complete: s.l.Complete, ListedAt: s.l.At, Grace: m.t.OrphanGrace,
		HadRow: had, HasRow: had && row.State != Gone, ClockSuspicious: m.distrustsClock(),
	}, row.Since, nil
}

// disk reports a disk that belongs to no live row. It may be all that is left
// of somebody's work, so nothing but an order deletes it.
func (s *strangerSweep) disk(ctx context.Context, disk drivers.Disk) error {
	m := s.m
	used := slices.ContainsFunc(s.rows, func(row Instance) bool { return usesDisk(row, disk) })
	if used {
		return nil
	}
	row, err := m.store.Instance(ctx, disk.Tags.Instance)
	switch {
	case err == nil && row.State != Gone:
		return nil
	case err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrInvalid):
		return err
	}
	it := s.sighting("disk " + disk.Name)
	o := Orphan{
		Scope: s.sc.key, Name: disk.Name, Zone: disk.Zone, Disk: true, SizeGiB: disk.SizeGiB, AttachedTo: disk.AttachedTo,
		Tags: disk.Tags, Foreign: disk.Tags.Controller != m.controller.ID,
		FirstSeen: it.first, Sightings: it.times, Reason: KeepDisk,
	}
	if o.Foreign {
		o.Reason = KeepForeign
	} else if it.times >= 2 && !s.glance {
		m.report(ctx, o, it, s.now)
	}
	s.found = append(s.found, o)
	return nil
}

// usesDisk says whether a disk is a row's, by tag, by attachment or by the name
// its storage has.
func usesDisk(row Instance, disk drivers.Disk) bool {
	return row.ID == disk.Tags.Instance || row.Name == disk.AttachedTo || slices.Contains(StorageNames(row.StorageID), disk.Name)
}

// publish puts the pass where people and metrics see it.
func (s *strangerSweep) publish() {
	sc := s.sc
	r := scopeReport{ScopeStatus: ScopeStatus{Scope: sc.key, Listed: s.l.At, Complete: s.l.Complete}, strangers: s.found}
	for _, tn := range sc.tenants {
		if !slices.Contains(r.Pools, tn.cfg.Name) {
			r.Pools = append(r.Pools, tn.cfg.Name)
		}
	}
	for _, row := range s.rows {
		if a := sc.missing[row.ID]; a != nil && a.times > 0 && row.State != Creating {
			r.missing = append(r.missing, Missing{Instance: row, Since: a.first, Times: a.times})
		}
	}
	counts := map[OrphanLabel]int{}
	for _, o := range s.found {
		if !o.Foreign || sc.local {
			counts[OrphanLabel{Scope: sc.key, Reason: o.Reason, Disk: o.Disk}]++
		}
	}
	s.m.counters.orphans(sc.key, counts)
	sc.mu.Lock()
	defer sc.mu.Unlock()
	r.Problem = sc.report.Problem
	sc.report = r
}

// report tells of something without a row that is left alone, once per reason.
func (m *Manager) report(ctx context.Context, o Orphan, s *sighting, now time.Time) {
	if s.reported == o.Reason {
		return
	}
	s.reported = o.Reason
	what, why := "machine", "has no row"
	if o.Disk {
		what, why = "disk", "is in no gitspace's use"
	}
	m.log.Warn("something in the cloud is nobody's and is left alone; see drone-runner-aws orphans",
		"what", what, "name", o.Name, "pool", o.Tags.Pool, "why", o.Reason)
	err := m.store.Note(ctx, Event{
		At: now, Pool: o.Tags.Pool, Instance: o.Tags.Instance, Reason: "orphan_reported",
		Message: what + " " + o.Name + " " + why + " and is left alone (" + string(o.Reason) + "): " + o.Explain(),
	})
	if err != nil {
		m.log.Error("event not written", "err", err)
	}
}

// reap destroys a machine the gate has given up: its event first, then the gate
// once more, on what the store says now, then the cloud.
func (m *Manager) reap(ctx context.Context, sc *scope, mach drivers.Instance, e evidence) {
	m.log.Warn("machine without a row is destroyed", "instance", mach.Name, "pool", mach.Tags.Pool, "created", mach.Tags.Created)
	err := m.store.Note(ctx, Event{
		At: m.stamp(), Pool: mach.Tags.Pool, Instance: mach.Tags.Instance, Reason: "orphan_reaped",
		Message: mach.Name + " has no row, was seen repeatedly, and is destroyed",
	})
	if err == nil {
		err = m.destroyOrphan(ctx, sc, e, drivers.Keep)
	}
	if err != nil && ctx.Err() == nil {
		m.log.Warn("orphan not destroyed yet, tried again", "instance", mach.Name, "err", err)
	}
}

// destroyOrphan asks the gate and calls the cloud, for a machine or a disk.
func (m *Manager) destroyOrphan(ctx context.Context, sc *scope, e evidence, disks drivers.DiskPolicy) error {
	subject, err := m.rowOf(ctx, e)
	if err != nil {
		return err
	}
	e.HasRow = subject
	e.ClockSuspicious = m.distrustsClock()
	call, cancel := context.WithTimeout(ctx, m.t.Create)
	defer cancel()
	client := sc.tenants[0].client
	p := permitOrphan(e, disks, m.stamp())
	if e.Machine == nil {
		if err := client.DestroyDisks(call, p); err != nil {
			return err
		}
		return m.store.DropDisk(ctx, Disk{Scope: sc.key, Name: e.Disk.Name, Zone: e.Disk.Zone})
	}
	return client.Destroy(call, p)
}

// rowOf says whether a live row describes the evidence's machine or disk.
func (m *Manager) rowOf(ctx context.Context, e evidence) (bool, error) {
	id, name := "", ""
	if e.Machine != nil {
		id, name = e.Machine.Tags.Instance, e.Machine.Name
	} else if e.Disk != nil {
		id = e.Disk.Tags.Instance
		rows, err := m.store.Disks(ctx, DiskQuery{Name: e.Disk.Name})
		if err != nil || slices.ContainsFunc(rows, func(d Disk) bool { return d.Instance != "" && d.Zone == e.Disk.Zone }) {
			return err == nil, err
		}
	}
	if id == "" {
		return false, nil
	}
	row, err := m.store.Instance(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrInvalid):
		return false, nil
	case err != nil:
		return false, err
	}
	return row.State != Gone && (name == "" || row.Name == name), nil
}

// Orphans implements Operator. Of what is swept here it asks no cloud, so that
// it answers also when none does.
func (m *Manager) Orphans(ctx context.Context) (OrphanReport, error) {
	out := OrphanReport{Unopened: slices.Clone(m.unopened)}
	for _, key := range slices.Sorted(maps.Keys(m.scopes)) {
		r := m.reportOf(ctx, m.scopes[key])
		out.Scopes = append(out.Scopes, r.ScopeStatus)
		for _, o := range r.strangers {
			if o.Disk {
				out.Disks = append(out.Disks, o)
			} else {
				out.Machines = append(out.Machines, o)
			}
		}
		out.Missing = append(out.Missing, r.missing...)
	}
	rows, err := m.store.Instances(ctx, InstanceQuery{Live: true})
	if err != nil {
		return out, err
	}
	for _, row := range rows {
		if row.State == Destroying && row.Attempts > 0 {
			out.Failing = append(out.Failing, row)
		}
		if row.Held {
			out.Held = append(out.Held, row)
		}
		if m.runtimeOf(row) == nil {
			out.Unreachable = append(out.Unreachable, row)
		}
	}
	byName := func(a, b Orphan) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(out.Machines, byName)
	slices.SortFunc(out.Disks, byName)
	return out, nil
}
