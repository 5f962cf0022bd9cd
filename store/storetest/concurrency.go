package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// together calls do n times in each of so many goroutines at once, with a
// number of its own each time, and fails the test with the first error.
func together(h *harness, goroutines, n int, do func(worker, call int) error) {
	h.Helper()
	begin := make(chan struct{})
	errs := make(chan error, goroutines)
	for w := range goroutines {
		go func() {
			<-begin
			for k := range n {
				if err := do(w, w*n+k); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	close(begin)
	var first error
	for range goroutines {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	h.no(first)
}

// arrivalAt is arrival for many goroutines: all at the test's present time.
func (h *harness) arrivalAt(id string, pools ...string) pool.Arrival {
	a := pool.Arrival{
		ID: id, Kind: pool.Build, Waiter: "run-1", NeedUntil: h.now.Add(time.Hour), WaitUntil: h.now.Add(10 * time.Minute),
		Due: h.now.Add(12 * time.Minute), LeaseDue: h.now.Add(5 * time.Minute), Now: h.now,
	}
	for _, p := range pools {
		a.Choices = append(a.Choices, pool.Choice{Pool: p, Shape: shape})
	}
	return a
}

// tally counts how often something was given.
type tally struct {
	mu    sync.Mutex
	given map[string]int
}

func (t *tally) add(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.given == nil {
		t.given = map[string]int{}
	}
	t.given[key]++
}

var concurrencyTests = []test{
	{"the first setup and the first destroy of an id at once: one knows of the other", func(h *harness) {
		const ids = 200
		h.pools(10, "a")
		var mu sync.Mutex
		granted, unknown := map[int]bool{}, map[int]bool{}
		together(h, 2, ids, func(worker, n int) error {
			id := n % ids
			if worker == 0 {
				_, err := h.Arrive(h.ctx, h.arrivalAt(fmt.Sprint("lease-", id), "a"))
				mu.Lock()
				defer mu.Unlock()
				granted[id] = err == nil
				if errors.Is(err, pool.ErrDestroyedFirst) {
					return nil
				}
				return err
			}
			ended, err := h.End(h.ctx, pool.Ending{
				Lease: pool.LeaseKey{ID: fmt.Sprint("lease-", id)}, Reason: "released", Now: h.now, Tombstone: h.now.Add(10 * time.Minute),
			})
			mu.Lock()
			defer mu.Unlock()
			unknown[id] = ended.Outcome == pool.EndUnknown
			return err
		})
		for id := range ids {
			if granted[id] && unknown[id] {
				h.Errorf("lease-%d: its destroy found no lease, and its setup no tombstone", id)
			}
		}
	}},
	{"64 claimers: every machine is given once", func(h *harness) {
		const machines, claimers, each = 150, 64, 3
		h.pools(1000, "a")
		for range machines {
			h.warm("a")
		}
		var t tally
		together(h, claimers, each, func(_, n int) error {
			g, err := h.Arrive(h.ctx, h.arrivalAt(fmt.Sprint("lease-", n), "a"))
			if err == nil && g.Claimed {
				t.add(g.Instance.ID)
			}
			return err
		})
		for id, n := range t.given {
			if n != 1 {
				h.Errorf("machine %s was given %d times", id, n)
			}
		}
		h.equal("machines given", len(t.given), machines)
		s, err := h.Snapshot(h.ctx, "a", 1000, h.now)
		h.no(err)
		h.equal("waiting", len(s.Waiting), claimers*each-machines)
		h.sound()
	}},
	{"100 goroutines against a limit of 5: never 6", func(h *harness) {
		h.pools(5, "a")
		specs := make([]pool.Instance, 100)
		for k := range specs {
			specs[k] = h.spec("a")
		}
		var made, refused atomic.Int64
		together(h, 100, 1, func(_, n int) error {
			_, err := h.Intend(h.ctx, pool.Intent{Instance: specs[n], Now: h.now})
			switch {
			case err == nil:
				made.Add(1)
			case errors.Is(err, pool.ErrLimit):
				refused.Add(1)
			default:
				return err
			}
			return nil
		})
		h.equal("made", made.Load(), int64(5))
		h.equal("refused", refused.Load(), int64(95))
		h.equal("counter", h.counted("a"), 5)
		h.sound()
	}},
	{"machines come and go at the limit: never more, and the counter is true", func(h *harness) {
		h.pools(5, "a")
		specs := make([]pool.Instance, 16*15)
		for k := range specs {
			specs[k] = h.spec("a")
		}
		together(h, 16, 15, func(_, n int) error {
			i, err := h.Intend(h.ctx, pool.Intent{Instance: specs[n], Now: h.now})
			if errors.Is(err, pool.ErrLimit) {
				return nil
			}
			if err != nil {
				return err
			}
			rows, err := h.Instances(h.ctx, pool.InstanceQuery{Pool: "a", Live: true})
			if err == nil && len(rows) > 5 {
				err = fmt.Errorf("%d machines live at a limit of 5", len(rows))
			}
			for _, s := range []pool.InstanceState{pool.Destroying, pool.Gone} {
				if err == nil {
					i, err = h.Change(h.ctx, pool.Change{ID: i.ID, From: []pool.InstanceState{i.State}, To: s, Now: h.now})
				}
			}
			return err
		})
		h.equal("counter", h.counted("a"), 0)
		h.sound()
	}},
	{"one id set up many times at once: one lease, one machine", func(h *harness) {
		h.pools(50, "a")
		for range 8 {
			h.warm("a")
		}
		var t tally
		var joined atomic.Int64
		together(h, 32, 2, func(_, _ int) error {
			g, err := h.Arrive(h.ctx, h.arrivalAt("lease-1", "a"))
			if err != nil {
				return err
			}
			if g.Joined {
				joined.Add(1)
			}
			if g.Instance == nil {
				return errors.New("no machine")
			}
			t.add(g.Instance.ID)
			return nil
		})
		h.equal("machines", len(t.given), 1)
		h.equal("joined", joined.Load(), int64(63))
		h.equal("leases", len(h.all()), 1)
		h.sound()
	}},
	{"machines become warm while leases arrive: none waits beside one that fits", func(h *harness) {
		const n = 60
		h.pools(1000, "a", "b")
		machines := make([]pool.Instance, n)
		for k := range machines {
			machines[k] = h.booting([]string{"a", "b"}[k%2])
		}
		var t tally
		together(h, 2*n, 1, func(_, k int) error {
			if k%2 == 0 {
				_, l, err := h.Proven(h.ctx, pool.Proof{
					ID: machines[k/2].ID, Due: h.now.Add(time.Hour), LeaseDue: h.now.Add(time.Minute), Now: h.now,
				})
				if err == nil && l != nil {
					t.add(l.ID)
				}
				return err
			}
			g, err := h.Arrive(h.ctx, h.arrivalAt(fmt.Sprint("lease-", k), []string{"a", "b"}...))
			if err == nil && g.Claimed {
				t.add(g.Lease.ID)
			}
			return err
		})
		h.equal("leases with a machine", len(t.given), n)
		for id, times := range t.given {
			if times != 1 {
				h.Errorf("lease %s was given %d machines", id, times)
			}
		}
		h.sound()
	}},
	{"first come first served among many", func(h *harness) {
		h.pools(1000, "a")
		together(h, 20, 1, func(_, n int) error {
			_, err := h.Arrive(h.ctx, h.arrivalAt(fmt.Sprint("lease-", n), "a"))
			return err
		})
		s, err := h.Snapshot(h.ctx, "a", 100, h.now)
		h.no(err)
		for _, want := range s.Waiting {
			if _, l := h.prove(h.booting("a")); l == nil || l.ID != want.ID {
				h.Fatalf("the machine went to %v, want %s", l, want.ID)
			}
		}
	}},
	{"destroys of one lease at once: one ends it, all are answered", func(h *harness) {
		h.pools(9, "a")
		l, i := h.active("lease-1", "a")
		var t tally
		together(h, 32, 1, func(_, _ int) error {
			e, err := h.End(h.ctx, pool.Ending{Lease: l.Key(), Now: h.now})
			if err == nil && (e.Instance == nil || e.Instance.ID != i.ID) {
				err = fmt.Errorf("no machine in %+v", e)
			}
			t.add(string(e.Outcome))
			return err
		})
		h.equal("outcomes", t.given, map[string]int{"ended": 1, "already": 31})
	}},
	{"what was given up before it began is not done", func(h *harness) {
		h.pools(9, "a")
		ctx, cancel := context.WithCancel(h.ctx)
		cancel()
		_, err := h.Arrive(ctx, h.arrival("lease-1", "a"))
		h.is(err, context.Canceled)
		_, err = h.Lease(h.ctx, "lease-1")
		h.is(err, pool.ErrNotFound)
		_, err = h.Lease(ctx, "lease-1")
		h.is(err, context.Canceled)
	}},
	{"callers that give up at any moment leave a sound store", func(h *harness) {
		h.pools(1000, "a")
		for range 30 {
			h.warm("a")
		}
		together(h, 16, 8, func(_, n int) error {
			ctx, cancel := context.WithCancel(h.ctx)
			done := make(chan struct{})
			go func() { cancel(); close(done) }()
			g, err := h.Arrive(ctx, h.arrivalAt(fmt.Sprint("lease-", n), "a"))
			<-done
			if err != nil && !errors.Is(err, context.Canceled) {
				return err
			}
			if err == nil {
				if _, rerr := h.Lease(h.ctx, g.Lease.ID); rerr != nil {
					return fmt.Errorf("an answered lease is not there: %w", rerr)
				}
			}
			return nil
		})
		h.sound()
	}},
}

// chaos does one random thing. Refusals by the contract are what it is for.
func (h *harness) chaos(r *rand.Rand, spec pool.Instance, ids int) error {
	id := fmt.Sprint("lease-", r.IntN(ids))
	choices := [][]string{{"a"}, {"b"}, {"a", "b"}, {"b", "a"}}[r.IntN(4)]
	now := h.now
	var err error
	pick := func(states ...pool.InstanceState) (pool.Instance, bool) {
		rows, lerr := h.Instances(h.ctx, pool.InstanceQuery{States: states, Live: true})
		if lerr != nil || len(rows) == 0 {
			err = lerr
			return pool.Instance{}, false
		}
		return rows[r.IntN(len(rows))], true
	}
	switch r.IntN(18) {
	case 0, 1, 2:
		_, err = h.Arrive(h.ctx, h.arrivalAt(id, choices...))
	case 3:
		spec.Pool = choices[0]
		_, err = h.Intend(h.ctx, pool.Intent{Instance: spec, Now: now})
	case 4:
		spec.Pool = choices[0]
		_, err = h.Intend(h.ctx, pool.Intent{Instance: spec, Lease: pool.LeaseKey{ID: id}, Now: now})
	case 5:
		if i, ok := pick(pool.Creating); ok {
			_, err = h.Accepted(h.ctx, pool.Acceptance{ID: i.ID, CloudID: "cloud-" + i.ID, Now: now})
		}
	case 6, 7:
		if i, ok := pick(pool.Booting); ok {
			_, _, err = h.Proven(h.ctx, pool.Proof{ID: i.ID, Due: now.Add(time.Hour), LeaseDue: now.Add(time.Minute), Now: now})
		}
	case 8:
		_, err = h.Activate(h.ctx, pool.LeaseKey{ID: id}, now.Add(time.Hour), now)
	case 9:
		_, err = h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: id}, Now: now})
	case 10:
		if i, ok := pick(pool.Destroying, pool.Failed); ok {
			to := pool.Gone
			if i.State == pool.Failed {
				to = pool.Destroying
			}
			_, err = h.Change(h.ctx, pool.Change{ID: i.ID, From: []pool.InstanceState{i.State}, To: to, Now: now})
		}
	case 11:
		_, err = h.Requeue(h.ctx, pool.Requeue{
			Lease: pool.LeaseKey{ID: id}, Choices: h.arrivalAt(id, choices...).Choices, Keep: r.IntN(2) == 0,
			Cause: pool.Cause{Pool: "a", Phase: "health", Message: "m"}, NeedUntil: now.Add(time.Hour), Due: now, LeaseDue: now, Now: now,
		})
	case 12:
		_, err = h.Lose(h.ctx, pool.LeaseKey{ID: id}, "", "lost", "", now, now)
	case 13:
		if i, ok := pick(pool.Warm, pool.Hibernating); ok {
			to := pool.Hibernating
			if i.State == pool.Hibernating {
				to = pool.Hibernated
			}
			_, err = h.Change(h.ctx, pool.Change{ID: i.ID, From: []pool.InstanceState{i.State}, To: to, Due: now, Now: now})
		}
	case 14:
		if i, ok := pick(pool.Hibernated); ok {
			_, err = h.Change(h.ctx, pool.Change{ID: i.ID, From: []pool.InstanceState{i.State}, To: pool.Resuming, Due: now, Now: now})
		}
	case 15:
		if i, ok := pick(pool.Resuming); ok {
			if i.LeaseID != "" {
				_, err = h.Woken(h.ctx, pool.Acceptance{ID: i.ID, Due: now, Now: now})
			} else {
				_, _, err = h.Proven(h.ctx, pool.Proof{ID: i.ID, Due: now.Add(time.Hour), LeaseDue: now.Add(time.Minute), Now: now})
			}
		}
	case 16, 17:
		if i, ok := pick(); ok {
			_, err = h.SetHeld(h.ctx, i.ID, !i.Held, now)
		}
	}
	for _, fine := range []error{pool.ErrConflict, pool.ErrNotFound, pool.ErrLimit, pool.ErrRetired} {
		if errors.Is(err, fine) {
			return nil
		}
	}
	return err
}

var randomTests = []test{
	{"a thousand random operations keep every rule after each", func(h *harness) {
		h.pools(6, "a", "b")
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 1))
		for k := range 1000 {
			if err := h.chaos(r, h.spec("a"), 12); err != nil {
				h.Fatalf("seed %d, operation %d: %v", seed, k, err)
			}
			if k%10 == 0 {
				h.sound()
			}
			if h.Failed() {
				h.Fatalf("seed %d, operation %d", seed, k)
			}
		}
	}},
	{"random operations from many goroutines keep every rule", func(h *harness) {
		h.pools(6, "a", "b")
		var specs sync.Mutex
		h.tick()
		for range 4 {
			seed := rand.Uint64()
			together(h, 12, 25, func(_, n int) error {
				specs.Lock()
				h.n++
				name := fmt.Sprintf("r%04d", h.n)
				specs.Unlock()
				spec := pool.Instance{
					ID: name, Name: "vm-" + name, Shape: shape, Zone: "zone-a", Created: h.now, Due: h.now, Deadline: h.now.Add(24 * time.Hour),
				}
				return h.chaos(rand.New(rand.NewPCG(seed, uint64(n))), spec, 12)
			})
			h.sound()
			if h.Failed() {
				h.Fatalf("seed %d", seed)
			}
		}
	}},
}
