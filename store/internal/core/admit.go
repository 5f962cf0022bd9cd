package core

import (
	"context"
	"database/sql"
	"math"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// countLimit bounds how many earlier requests are counted for a message.
const countLimit = 1000

// admit says whether the pool, which is locked, may begin a machine: for the
// lease, or for a refill if l is nil. A refusal for a lease is kept with it.
// canary says that the machine is the one that a closed gate lets through.
func (t txn) admit(ctx context.Context, p *poolRow, l *lease, i pool.Instance, now time.Time) (canary bool, err error) {
	why, canary := p.closed(now)
	if why != nil {
		return false, t.refuse(ctx, p, l, now, why.Gate.Reason, why)
	}
	limit, err := t.full(ctx, p, l, flavour{flavoured(i.Tenant), flavoured(i.Variant)})
	if err != nil {
		return false, err
	}
	if limit != nil {
		return false, t.refuse(ctx, p, l, now, ReasonLimit, limit)
	}
	if why := p.hurried(now); why != nil {
		return false, t.refuse(ctx, p, l, now, why.Gate.Reason, why)
	}
	return canary, nil
}

// full is the refusal of a pool without a place for one more machine of a
// flavour, nil if it has one.
func (t txn) full(ctx context.Context, p *poolRow, l *lease, wanted flavour) (*pool.LimitError, error) {
	var flavours []pool.FlavourRow
	if p.flavours > 0 {
		var err error
		if flavours, err = t.flavours(ctx, p.Name); err != nil {
			return nil, err
		}
	}
	for _, f := range flavours {
		if f.Max >= 0 && f.Counted >= f.Max && wanted == (flavour{f.Tenant, f.Variant}) {
			return &pool.LimitError{Pool: p.Name, Tenant: f.Tenant, Variant: f.Variant, Counted: f.Counted, Max: f.Max}, nil
		}
	}
	before := int64(math.MaxInt64)
	if l != nil {
		before = l.Seq
	}
	free := p.Max - p.Counted
	if free > 0 {
		n, err := t.ahead(ctx, p.Name, before, free, flavours)
		if err != nil || n < free {
			return nil, err
		}
	}
	n, err := t.ahead(ctx, p.Name, before, countLimit, nil)
	return &pool.LimitError{Pool: p.Name, Counted: p.Counted, Max: p.Max, Ahead: n}, err
}

// ahead counts the leases that wait for the pool and arrived before seq, up to
// limit. Of the flavours with a limit of their own at most as many count as
// there is room for: the others could not take a place that is free.
func (t txn) ahead(ctx context.Context, name string, before int64, limit int, flavours []pool.FlavourRow) (int, error) {
	limited := false
	n := 0
	for _, f := range flavours {
		if f.Max < 0 {
			continue
		}
		limited = true
		room := min(f.Max-f.Counted, limit-n)
		if room <= 0 {
			continue
		}
		var waiting int
		if _, err := t.one(ctx, CountAheadOfFlavour, []any{(*number)(&waiting)}, name, f.Tenant, f.Variant, before, int64(room)); err != nil {
			return 0, err
		}
		n += waiting
	}
	if n >= limit {
		return n, nil
	}
	s := CountAhead
	if limited {
		s = CountAheadUnlimited
	}
	var waiting int
	_, err := t.one(ctx, s, []any{(*number)(&waiting)}, name, before, int64(limit-n))
	return n + waiting, err
}

// refuse is the answer to an Intend that may not be. With the lease the refusal
// becomes its reason and, once for each pool and reason, an event. Pools that
// refuse it in turn, each as before, write nothing.
func (t txn) refuse(ctx context.Context, p *poolRow, l *lease, now time.Time, reason string, refusal error) error {
	if l == nil {
		return refusal
	}
	reason = clean(reason)
	told, elsewhere, last := false, false, ""
	rows, err := t.Query(ctx, SelectTold, l.ID, l.Generation)
	if err := each(rows, err, func(r *sql.Rows) error {
		var in, why string
		if err := r.Scan(&in, &why); err != nil {
			return err
		}
		if in == p.Name {
			told, last = told || why == reason, why
		} else {
			elsewhere = elsewhere || why == l.Reason
		}
		return nil
	}); err != nil {
		return err
	}
	if told && (l.Reason == reason || last == reason && elsewhere) {
		return refusal
	}
	detail := clean(refusal.Error())
	if !told {
		if err := t.events(ctx, ms(now), []pool.Event{{
			Pool: p.Name, Lease: l.ID, Generation: l.Generation, Reason: reason, Message: detail,
		}}); err != nil {
			return err
		}
	}
	l.Reason, l.Detail = reason, detail
	if err := t.saveLease(ctx, l); err != nil {
		return err
	}
	return &Kept{refusal}
}
