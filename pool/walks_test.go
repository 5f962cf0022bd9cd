package pool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// badCloud is a cloud that can stop answering, answer with errors only, or take
// a minute for one kind of call.
type badCloud struct {
	hangs, fails atomic.Bool
	slow         atomic.Value // the name of an operation
}

var errBadCloud = errors.New("the cloud is down")

func (b *badCloud) faults() *noop.Faults {
	return &noop.Faults{Before: func(ctx context.Context, op, _ string) error {
		if b.slow.Load() == op {
			select {
			case <-time.After(time.Minute):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if b.hangs.Load() {
			<-ctx.Done()
			return ctx.Err()
		}
		if b.fails.Load() {
			return errBadCloud
		}
		return nil
	}}
}

// die stops the cloud from answering, or makes it answer with errors only.
func (b *badCloud) die(how string) {
	b.hangs.Store(how == "hangs")
	b.fails.Store(how == "fails")
}

func (b *badCloud) recover() { b.die("") }

// walk is one way of a machine into a state of its life, and what becomes of it
// there when its cloud is dead.
type walk struct {
	state pool.InstanceState
	how   string
	// pool changes the pool before the engine starts.
	pool func(*poolSpec)
	// enter brings a machine of a new engine there; the cloud is well.
	enter func(e *engine, bad *badCloud)
	// owner is the gitspace that has the machine. A dead cloud and an age are
	// no reason to take it away: it is destroyed when its lease has ended.
	owner string
	// waits are the states in which it may be found, with an owner, meanwhile.
	waits []pool.InstanceState
}

func hibernates(running int) func(*poolSpec) {
	return func(p *poolSpec) {
		p.tune = func(c *pool.PoolConfig) { c.Hibernate, c.Running = true, running }
	}
}

// walks has at least one way into every state.
func walks() []walk {
	const owner = "g"
	started := func(d time.Duration) func(*engine, *badCloud) {
		return func(e *engine, _ *badCloud) {
			e.start()
			pass(d)
		}
	}
	gitspace := func(e *engine) {
		e.t.Helper()
		e.start()
		if _, err := e.m.Setup(e.t.Context(), e.gitspace(owner)); err != nil {
			e.t.Fatal(err)
		}
	}
	asleep := func(e *engine) {
		e.t.Helper()
		gitspace(e)
		if err := e.m.Suspend(e.t.Context(), pool.SuspendRequest{Lease: owner}); err != nil {
			e.t.Fatal(err)
		}
	}
	// meanwhile asks for what takes longer than the walk; the answer is nobody's
	// business here, and the engine's end ends it.
	meanwhile := func(ask func(ctx context.Context) error) {
		go func() { _ = ask(context.Background()) }()
		pass(time.Second)
	}
	return []walk{
		{state: pool.Creating, enter: func(e *engine, bad *badCloud) {
			bad.slow.Store("create")
			e.start()
			pass(30 * time.Second)
		}},
		{
			state: pool.Booting, enter: started(30 * time.Second),
			pool: func(p *poolSpec) { p.cfg = noop.Config{BootDelay: time.Hour} },
		},
		{state: pool.Warm, enter: started(time.Minute)},
		{state: pool.Hibernating, pool: hibernates(0), enter: func(e *engine, bad *badCloud) {
			bad.slow.Store("suspend")
			e.start()
			pass(30 * time.Second)
		}},
		{state: pool.Hibernated, pool: hibernates(0), enter: started(time.Minute)},
		{state: pool.Resuming, how: "for a request", pool: hibernates(0), enter: func(e *engine, bad *badCloud) {
			started(time.Minute)(e, bad)
			bad.slow.Store("resume")
			meanwhile(func(ctx context.Context) error {
				_, err := e.m.Setup(ctx, e.request("a"))
				return err
			})
		}},
		{
			state: pool.Resuming, how: "to wait in memory",
			pool: func(p *poolSpec) {
				hibernates(1)(p)
				p.min = 2
			},
			enter: func(e *engine, bad *badCloud) {
				started(time.Minute)(e, bad)
				bad.slow.Store("resume")
				e.setup("a")
				pass(time.Second)
			},
		},
		{
			state: pool.Resuming, how: "for its owner", owner: owner, waits: []pool.InstanceState{pool.Suspended},
			enter: func(e *engine, bad *badCloud) {
				asleep(e)
				bad.slow.Store("resume")
				meanwhile(func(ctx context.Context) error {
					_, err := e.m.Setup(ctx, e.gitspace(owner))
					return err
				})
			},
		},
		{state: pool.Leased, how: "by a build", enter: func(e *engine, bad *badCloud) {
			started(time.Minute)(e, bad)
			e.setup("a")
		}},
		{
			state: pool.Leased, how: "by a gitspace", owner: owner, waits: []pool.InstanceState{pool.Leased},
			enter: func(e *engine, _ *badCloud) { gitspace(e) },
		},
		{
			state: pool.Suspending, owner: owner, waits: []pool.InstanceState{pool.Suspending},
			enter: func(e *engine, bad *badCloud) {
				gitspace(e)
				bad.slow.Store("suspend")
				meanwhile(func(ctx context.Context) error { return e.m.Suspend(ctx, pool.SuspendRequest{Lease: owner}) })
			},
		},
		{
			state: pool.Suspended, owner: owner, waits: []pool.InstanceState{pool.Suspended},
			enter: func(e *engine, _ *badCloud) { asleep(e) },
		},
		{
			state: pool.Failed, owner: owner, waits: []pool.InstanceState{pool.Failed},
			enter: func(e *engine, _ *badCloud) {
				gitspace(e)
				for _, mach := range e.world.Machines() {
					if mach.Tags.Kind == string(pool.Gitspace) {
						e.world.Kill(mach.Name, "crashed")
					}
				}
				pass(3 * time.Minute)
			},
		},
		{state: pool.Destroying, enter: func(e *engine, bad *badCloud) {
			started(time.Minute)(e, bad)
			e.setup("a")
			bad.slow.Store("destroy")
			e.destroy("a")
			synctest.Wait()
		}},
		{state: pool.Gone, enter: func(e *engine, bad *badCloud) {
			started(time.Minute)(e, bad)
			e.setup("a")
			e.destroy("a")
			pass(time.Minute)
		}},
	}
}

// everyWalk runs a test for every way into every state of a machine's life. A
// state that nobody walks into fails it.
func everyWalk(t *testing.T, test func(t *testing.T, e *engine, bad *badCloud, w walk)) {
	t.Helper()
	all := walks()
	for _, state := range pool.InstanceStates() {
		if !slices.ContainsFunc(all, func(w walk) bool { return w.state == state }) {
			t.Errorf("no walk leads to %q: say in walks how a machine comes to be so, and what a dead cloud does to it", state)
		}
	}
	for _, w := range all {
		for _, how := range []string{"fails", "hangs"} {
			t.Run(fmt.Sprintf("%s %s, the cloud %s", w.state, w.how, how), func(t *testing.T) {
				w := w // each its own: they run side by side
				w.how = how
				inBubble(t, func(t *testing.T, e *engine) {
					bad := &badCloud{}
					e.faults = bad.faults()
					e.pools[0].min, e.pools[0].max = 1, 4
					if w.pool != nil {
						w.pool(&e.pools[0])
					}
					test(t, e, bad, w)
				})
			})
		}
	}
}

// inState brings one machine of an engine into a state and returns its row.
func (e *engine) inState(state pool.InstanceState) pool.Instance {
	e.t.Helper()
	all := walks()
	i := slices.IndexFunc(all, func(w walk) bool { return w.state == state })
	return e.walk(all[i], &badCloud{})
}

// walk brings one machine of an engine into w's state and returns its row.
func (e *engine) walk(w walk, bad *badCloud) pool.Instance {
	e.t.Helper()
	w.enter(e, bad)
	rows, err := e.store.Instances(e.t.Context(), pool.InstanceQuery{States: []pool.InstanceState{w.state}})
	if err != nil {
		e.t.Fatal(err)
	}
	if w.owner != "" {
		rows = slices.DeleteFunc(rows, func(i pool.Instance) bool { return i.LeaseID != w.owner })
	}
	if len(rows) == 0 {
		e.t.Fatalf("no machine is %s: %v", w.state, e.rows())
	}
	return rows[0]
}

func (e *engine) instance(id string) pool.Instance {
	e.t.Helper()
	row, err := e.store.Instance(e.t.Context(), id)
	if err != nil {
		e.t.Fatal(err)
	}
	return row
}

// Rule 27: force works from every state, also while a call to the cloud hangs
// or every one fails.
func TestForceDestroysFromEveryState(t *testing.T) {
	everyWalk(t, func(t *testing.T, e *engine, bad *badCloud, w walk) {
		inst := e.walk(w, bad)
		bad.die(w.how)
		pass(time.Second)
		inst = e.instance(inst.ID)
		force := func() pool.Instance {
			t.Helper()
			got, err := e.m.DestroyInstance(t.Context(), inst.Name, pool.DestroyOrder{Force: true, Order: pool.Order{By: "ann", Why: "stuck"}})
			if err != nil && w.state != pool.Gone {
				t.Fatal(err)
			}
			return got
		}
		got := force()
		if w.state == pool.Gone {
			pass(time.Minute)
			if now := e.instance(inst.ID); now.State != pool.Gone || now.Since != inst.Since {
				t.Errorf("what was gone is %s since %s", now.State, now.Since)
			}
			return
		}
		if got.State != pool.Destroying {
			t.Errorf("answered as %s, want destroying", got.State)
		}
		if inst.LeaseID != "" && w.state != pool.Destroying {
			if l, err := e.store.Lease(t.Context(), inst.LeaseID); err != nil || l.State != pool.LeaseEnded || l.Reason != "operator" {
				t.Errorf("its lease: %s %q, %v", l.State, l.Reason, err)
			}
		}
		pass(time.Minute) // nothing more can happen
		if now := e.instance(inst.ID); now.State != pool.Destroying {
			t.Errorf("%s while the cloud confirms nothing", now.State)
		}
		bad.slow.Store("")
		bad.recover()
		force() // what hangs by now is broken off by a second order
		pass(2 * time.Minute)
		if now := e.instance(inst.ID); now.State != pool.Gone {
			t.Errorf("in the end %s (%s: %s)", now.State, now.Reason, now.Detail)
		}
		if slices.Contains(e.machines(), inst.Name) {
			t.Error("the machine is left")
		}
		e.wantReason("operator")
	})
}

// Rule 26: every state leaves by its deadline, or is retried and says so, with
// a cloud that is dead; what belongs to somebody waits for them.
func TestEveryStateLeavesOrIsRetriedWithADeadCloud(t *testing.T) {
	everyWalk(t, func(t *testing.T, e *engine, bad *badCloud, w walk) {
		e.limits = pool.Timeouts{SweepLocal: time.Minute, FreeAge: 4 * time.Hour, BusyAge: 2 * time.Hour}
		inst := e.walk(w, bad)
		if row := e.instance(inst.ID); row.Due.IsZero() != w.state.Final() {
			t.Errorf("%s is due at %s", row.State, row.Due)
		}
		bad.die(w.how)
		pass(5 * time.Hour)
		row := e.instance(inst.ID)
		if w.state == pool.Gone {
			if row.State != pool.Gone {
				t.Errorf("what was gone is %s", row.State)
			}
			return
		}
		if w.owner != "" {
			if !slices.Contains(w.waits, row.State) {
				t.Errorf("after five hours %s (%s: %s), want it to wait for its owner as one of %s", row.State, row.Reason, row.Detail, w.waits)
			}
			if row.State == pool.Suspending {
				e.wantRetried(row)
			}
			if _, err := e.m.EndLease(t.Context(), w.owner, pool.DestroyOrder{}); err != nil {
				t.Fatal(err)
			}
			pass(time.Hour)
			row = e.instance(inst.ID)
		}
		if row.State != pool.Destroying {
			t.Errorf("after five hours %s for %s, %q %q; want it to be destroyed", row.State, time.Since(row.Since), row.Reason, row.Detail)
		}
		e.wantRetried(row)
		if len(e.orphans().Failing) == 0 {
			t.Error("nothing of it is reported")
		}
		bad.slow.Store("")
		bad.recover()
		pass(10 * time.Minute)
		if now := e.instance(inst.ID); now.State != pool.Gone || slices.Contains(e.machines(), inst.Name) {
			t.Errorf("ten minutes after the cloud is back %s (%s: %s)", now.State, now.Reason, now.Detail)
		}
	})
}

// wantRetried wants a row whose tries fail to say so, and to be tried again soon.
func (e *engine) wantRetried(row pool.Instance) {
	e.t.Helper()
	if row.Attempts == 0 || row.Reason == "" || row.Detail == "" || time.Until(row.Due) > 10*time.Minute {
		e.t.Errorf("%s after %d tries for %q %q, due in %s; want it to say what fails, and to be tried again soon",
			row.State, row.Attempts, row.Reason, row.Detail, time.Until(row.Due))
	}
}
