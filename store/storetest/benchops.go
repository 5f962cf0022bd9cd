package storetest

import (
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// benchOps are the operations on a stage's way one by one. ready brings the
// k-th row into the state before; run is what is measured.
var benchOps = []benchmark{
	{"intend", nil, func(r *rig, _ *benchRow) { r.intend() }},
	{"accepted", func(r *rig, w *benchRow) { w.instance = r.intend() }, func(r *rig, w *benchRow) { r.accept(w.instance) }},
	{
		"proven",
		func(r *rig, w *benchRow) {
			w.instance = r.intend()
			r.accept(w.instance)
		},
		func(r *rig, w *benchRow) { r.prove(w.instance) },
	},
	{"arrive", func(r *rig, _ *benchRow) { r.warm() }, func(r *rig, _ *benchRow) { r.arrive() }},
	{"wait", nil, func(r *rig, _ *benchRow) { r.arrive() }},
	{"activate", claimed, func(r *rig, w *benchRow) { r.activate(w.grant) }},
	{"end", claimed, func(r *rig, w *benchRow) {
		_, err := r.End(r.ctx, pool.Ending{Lease: w.grant.Lease.Key(), Reason: "destroyed", Now: start})
		r.no(err)
	}},
	{
		"gone",
		func(r *rig, w *benchRow) {
			claimed(r, w)
			_, err := r.End(r.ctx, pool.Ending{Lease: w.grant.Lease.Key(), Reason: "destroyed", Now: start})
			r.no(err)
		},
		func(r *rig, w *benchRow) { r.gone(w.grant.Instance.ID) },
	},
	{"postpone", func(r *rig, w *benchRow) { w.instance = r.intend() }, func(r *rig, w *benchRow) {
		r.no(r.Postpone(r.ctx, w.instance, pool.Creating, pool.Postponement{Due: start.Add(time.Minute), Attempts: 1, Now: start}))
	}},
	{"instance", func(r *rig, w *benchRow) { w.instance = r.intend() }, func(r *rig, w *benchRow) {
		_, err := r.Instance(r.ctx, w.instance)
		r.no(err)
	}},
	{"lease", claimed, func(r *rig, w *benchRow) {
		_, err := r.Lease(r.ctx, w.grant.Lease.ID)
		r.no(err)
	}},
	{"exported", claimed, func(r *rig, w *benchRow) {
		_, err := r.Exported(r.ctx, w.grant.Lease.Key())
		r.no(err)
	}},
	{"due", nil, func(r *rig, _ *benchRow) {
		_, err := r.DueInstances(r.ctx, []string{"a"}, start.Add(-time.Hour), 10)
		r.no(err)
		_, err = r.DueLeases(r.ctx, start.Add(-time.Hour), 10)
		r.no(err)
	}},
	{"snapshot", nil, func(r *rig, _ *benchRow) {
		_, err := r.Snapshot(r.ctx, "a", 10, start)
		r.no(err)
	}},
}

type benchmark struct {
	name  string
	ready func(*rig, *benchRow)
	run   func(*rig, *benchRow)
}

// benchRow is what an operation is given.
type benchRow struct {
	instance string
	grant    pool.Grant
}

func claimed(r *rig, w *benchRow) {
	r.warm()
	w.grant = r.arrive()
}

// benchOp measures one operation, called by many at a time, beside a pool of
// ordinary size.
func benchOp(b *testing.B, s pool.Store, o benchmark) {
	r := newRig(b, s, 1<<30)
	if o.name != "wait" {
		r.warmAll(30)
	}
	rows := make([]benchRow, b.N)
	if o.ready != nil {
		var wg sync.WaitGroup
		for w := range 64 {
			wg.Go(func() {
				for k := w; k < b.N; k += 64 {
					o.ready(r, &rows[k])
				}
			})
		}
		wg.Wait()
	}
	r.share(64, "ops", func(k int) { o.run(r, &rows[k]) })
}
