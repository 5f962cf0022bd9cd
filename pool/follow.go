package pool

import (
	"context"
	"errors"
	"time"
)

// One setup of a lease leads: it asks for machines, has the agent set up, and
// answers for all. Within a process that is settled by calls; between replicas
// by the lease's Waiter, which is whose request came last. The others follow:
// they wait for the outcome, and lead again when nobody else does.

// follows says whether another replica's request leads, or nobody's does any
// more, as far as the row last read tells.
func (s *setup) follows() bool {
	waits := s.lease.State == LeaseWaiting || s.lease.State == LeaseStarting
	return waits && s.lease.Waiter != s.m.incarnation
}

// follow waits until the lease has an outcome or this setup leads it.
func (s *setup) follow(ctx context.Context) error {
	s.k.tell(Progress{Phase: "waiting", Message: "another replica sets it up"})
	for s.follows() {
		if s.lease.Waiter == "" {
			// Whoever led has hung up or died.
			g, err := s.arrive(ctx)
			if err != nil {
				return err
			}
			s.lease = g.Lease
			if err := s.takeBack(ctx); err != nil || !s.follows() {
				return err
			}
		}
		if err := s.pause(ctx, relook); err != nil {
			return err
		}
		if err := s.reread(ctx); err != nil {
			return err
		}
	}
	return nil
}

// rivalFor is how long the setup that led before may yet be preparing the
// machine: it looks at the row before it begins, but not while it is at it. The
// agent is to be set up once, so its outcome is waited for.
func (s *setup) rivalFor(inst Instance) time.Duration {
	if s.displaced.IsZero() {
		return 0
	}
	return s.m.healthBudget(inst) + s.m.t.Setup - s.m.now().Sub(s.displaced)
}

// letGo has nobody wait for the lease any more when this process stops in the
// middle of a setup, so that a retry at another replica need not wait for it.
func (s *setup) letGo(ctx context.Context) {
	if s.lease.ID == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unholdWait)
	defer cancel()
	m, now := s.m, s.m.stamp()
	err := m.store.Unwait(ctx, s.lease.Key(), m.incarnation, now.Add(m.t.Grace), now)
	switch {
	case err == nil:
		m.hub.notify(leaseKey(s.lease.ID))
	case !errors.Is(err, ErrConflict) && !errors.Is(err, ErrNotFound):
		m.log.Warn("lease not let go, others wait until this process counts as dead", "lease", s.lease.ID, "err", err)
	}
}
