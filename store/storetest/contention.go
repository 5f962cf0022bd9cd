package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// Contend has many goroutines do on very few rows what locks most of them: it
// is for stores on which several operations run at the same time, whose tests
// count how often these have locked each other. Every rule of the store holds
// at the end.
func Contend(t *testing.T, s pool.Store) {
	t.Helper()
	h := &harness{T: t, Store: s, ctx: t.Context(), now: start}
	h.pools(4, "a", "b")
	h.tick()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var made atomic.Int64
	together(h, 16, 150, func(_, n int) error {
		r := rand.New(rand.NewPCG(seed, uint64(n)))
		if r.IntN(3) > 0 {
			name := fmt.Sprintf("r%04d", made.Add(1))
			return h.chaos(r, pool.Instance{
				ID: name, Name: "vm-" + name, Shape: shape, Created: h.now, Due: h.now, Deadline: h.now.Add(24 * time.Hour),
			}, 4)
		}
		return h.contend(r, 4)
	})
	h.sound()
}

// contend does one of the random things that chaos leaves out: those on several
// rows, those by a machine's name, and those of people and of other replicas.
func (h *harness) contend(r *rand.Rand, ids int) error {
	key := pool.LeaseKey{ID: fmt.Sprint("lease-", r.IntN(ids)), Generation: int64(r.IntN(3))}
	all, err := h.Instances(h.ctx, pool.InstanceQuery{Lease: key.ID, Live: r.IntN(2) == 0, Limit: 4})
	if err != nil {
		return err
	}
	instance := ""
	if len(all) > 0 {
		i := all[r.IntN(len(all))]
		instance = []string{i.ID, i.CloudID, i.Name}[r.IntN(3)]
	}
	pools := []pool.PoolRow{{Name: "a", Max: 4}, {Name: "b", Max: 4}}
	switch r.IntN(12) {
	case 0, 1, 2:
		_, err = h.End(h.ctx, pool.Ending{Lease: key, Instance: instance, Now: h.now})
	case 3:
		_, err = h.Lose(h.ctx, key, "", "lost", "", h.now, h.now)
	case 4:
		err = h.Unwait(h.ctx, key, "run-1", h.now, h.now)
	case 5:
		_, err = h.Orphans(h.ctx, []string{"run-2"}, h.now, h.now)
	case 6:
		_, err = h.Adopt(h.ctx, nil, h.now)
	case 7:
		_, err = h.Recount(h.ctx)
	case 8:
		calls := map[pool.LeaseKey]time.Time{}
		for k := range ids {
			calls[pool.LeaseKey{ID: fmt.Sprint("lease-", k)}] = h.now
		}
		err = h.Touch(h.ctx, calls)
	case 9:
		// One pool is retired and the other written, and the other way round.
		k := r.IntN(2)
		if err = h.Configure(h.ctx, slices.Clone(pools[k:k+1]), h.now); err == nil {
			err = h.Configure(h.ctx, pools, h.now)
		}
	case 10:
		a := h.arrivalAt(key.ID, "b", "a")
		a.Waiter = "run-2"
		_, err = h.Arrive(h.ctx, a)
	case 11:
		err = h.Export(h.ctx, key, map[string]string{"k": "v"}, h.now)
	}
	for _, fine := range []error{pool.ErrConflict, pool.ErrNotFound, pool.ErrLimit, pool.ErrRetired} {
		if errors.Is(err, fine) {
			return nil
		}
	}
	return err
}

// EndMeetsABeginning sees that an ending that found a lease's last machine gone,
// and meets a generation of it that has begun since, ends that whole: its
// machine too. stall locks the row of a machine until release is called;
// stalled returns when somebody waits for it.
func EndMeetsABeginning(t *testing.T, s pool.Store, stall func(instance string) (stalled, release func())) {
	t.Helper()
	h := &harness{T: t, Store: s, ctx: t.Context(), now: start}
	h.pools(4, "a")
	_, old := h.active("lease", "a")
	h.end("lease")
	h.gone(old.ID)
	next := h.warm("a")
	stalled, release := stall(old.ID)
	type result struct {
		pool.Ended
		err error
	}
	ended := make(chan result, 1)
	now := h.tick()
	go func() {
		e, err := h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "lease"}, Reason: "destroyed", Now: now})
		ended <- result{e, err}
	}()
	stalled()
	begun, i := h.claimed("lease", "a")
	h.equal("machine", i.ID, next.ID)
	release()
	e := <-ended
	h.no(e.err)
	if e.Outcome != pool.EndNow || e.Lease.Generation != begun.Generation || e.Instance == nil || e.Instance.ID != next.ID {
		h.Errorf("ended %s, generation %d, machine %v; want generation %d and %s", e.Outcome, e.Lease.Generation, e.Instance, begun.Generation, next.ID)
	}
	h.equal("state of the machine", h.get(next.ID).State, pool.Destroying)
	h.sound()
}
