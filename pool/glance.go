package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// glanceWait is how long somebody who asks for orphans waits for a listing.
const glanceWait = 10 * time.Second

// reportOf is the last sweep's report on a scope. What another replica sweeps is
// listed now, for who asks: that sweep's report is with the other replica.
func (m *Manager) reportOf(ctx context.Context, sc *scope) scopeReport {
	sc.mu.Lock()
	r := sc.report
	sc.mu.Unlock()
	r.Scope = sc.key
	here := func(tn *tenancy) bool { return tn.rt.tenured() != nil }
	elsewhere := func(tn *tenancy) bool { return !here(tn) }
	if !slices.ContainsFunc(sc.tenants, elsewhere) {
		return r
	}
	l, found, err := m.glance(ctx, sc)
	if !slices.ContainsFunc(sc.tenants, here) {
		// What its report says is of a time when it was swept here.
		r = scopeReport{ScopeStatus: ScopeStatus{Scope: sc.key, Pools: sc.names(), Listed: l.At, Complete: l.Complete}}
	}
	if err != nil {
		r.Problem = errors.Join(err, nonEmpty(r.Problem)).Error()
	}
	r.strangers = append(slices.Clip(r.strangers), found...)
	return r
}

// glance lists a scope and says which of what it lists has no row, as far as
// another replica is to see to it. Nothing comes of it.
func (m *Manager) glance(ctx context.Context, sc *scope) (listing, []Orphan, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, glanceWait, fmt.Errorf("not listed within %s", glanceWait))
	defer cancel()
	l, err := m.list(ctx, sc)
	if err != nil {
		return listing{}, nil, fmt.Errorf("another replica looks after it, and from here it could not be listed: %w", err)
	}
	rows, err := m.store.Instances(ctx, InstanceQuery{Scope: sc.key, Live: true})
	if err != nil {
		return l, nil, err
	}
	s := strangerSweep{m: m, sc: sc, l: l, rows: rows, now: m.stamp(), seen: map[string]bool{}, glance: true}
	for _, mach := range l.Instances {
		if m.tenureFor(mach.Tags.Pool, sc.names()...) != nil || slices.ContainsFunc(rows, func(row Instance) bool { return row.Name == mach.Name }) {
			continue
		}
		if err := s.machine(ctx, mach); err != nil {
			return l, s.found, err
		}
	}
	for _, disk := range l.Disks {
		if m.tenureFor(disk.Tags.Pool, sc.names()...) != nil {
			continue
		}
		if err := s.disk(ctx, disk); err != nil {
			return l, s.found, err
		}
	}
	return l, s.found, nil
}

// nonEmpty is an error of a text, nil of none.
func nonEmpty(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}
