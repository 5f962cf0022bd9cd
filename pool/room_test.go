package pool_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// account is a cloud's account with a quota, of which others may use a part.
type account struct {
	e      *engine
	quota  int
	others atomic.Int64
	asked  atomic.Int64 // for machines
}

// limited gives the engine's machines an account with a quota.
func limited(e *engine, quota int) *account {
	a := &account{e: e, quota: quota}
	e.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
		if op != "create" {
			return nil
		}
		a.asked.Add(1)
		if n := len(e.world.Machines()) + int(a.others.Load()); n >= quota {
			return fmt.Errorf("%w: %d machines of %d", drivers.ErrQuota, n, quota)
		}
		return nil
	}}
	return a
}

// paused waits until the pool's pause is a long one and has just begun.
func (e *engine) paused(name string, least time.Duration) {
	e.t.Helper()
	for range 24 * 60 {
		if g := e.row(name).Gate; g.Reason == pool.GateQuota && time.Until(g.Until) > least && time.Since(g.Since) > time.Minute {
			return
		}
		pass(time.Minute)
	}
	e.t.Fatalf("the gate of pool %s is %+v", name, e.row(name).Gate)
}

func TestAMachineThatGoesEndsThePauseForItsQuotaEarly(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits = pool.Timeouts{SweepLocal: time.Minute}
		e.pools = []poolSpec{{name: "p", min: 4, max: 10, wait: 3 * time.Hour}}
		limited(e, 3)
		e.start()
		for _, id := range []string{"a", "b", "c"} {
			e.setup(id)
		}
		e.paused("p", 20*time.Minute)
		d := e.ask(e.request("d"))
		pass(time.Minute)
		if d.done.Load() {
			t.Fatalf("answered although there is no room: %+v, %v", d.res, d.err)
		}
		e.destroy("a")
		pass(10 * time.Second)
		if !d.done.Load() || d.err != nil {
			t.Fatalf("there is room for ten seconds, and the request still waits: %v; gate %+v", d.err, e.row("p").Gate)
		}
		e.wantReason("room_freed")
	})
}

func TestAMachineThatGoesLetsAnotherPoolOfItsAccountTry(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits = pool.Timeouts{SweepLocal: time.Minute}
		e.pools = []poolSpec{{name: "p", max: 10}}
		limited(e, 1)
		e.start()
		e.setup("a")
		e.pools = append(e.pools, poolSpec{name: "q", min: 1, max: 10})
		e.restart()
		e.paused("q", 20*time.Minute)
		e.destroy("a")
		pass(10 * time.Second)
		if got := e.row("q").Counts[pool.Warm]; got != 1 {
			t.Errorf("pool q has %d warm machines ten seconds after there was room; gate %+v", got, e.row("q").Gate)
		}
	})
}

func TestWhereOthersTakeTheRoomEachMachineThatGoesMakesOneTry(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.limits = pool.Timeouts{SweepLocal: time.Minute}
		e.pools = []poolSpec{{name: "p", min: 2, max: 10}}
		a := limited(e, 2)
		e.start()
		e.setup("a")
		e.setup("b")
		e.paused("p", 10*time.Minute)
		before, asked := e.row("p").Gate, a.asked.Load()
		a.others.Store(2)
		e.destroy("a")
		pass(30 * time.Second)
		if n := a.asked.Load() - asked; n != 1 {
			t.Errorf("one machine went, and the cloud was asked %d times", n)
		}
		g := e.row("p").Gate
		if g.Reason != pool.GateQuota || g.Trips != before.Trips || g.Until.Sub(g.Since) != before.Until.Sub(before.Since) {
			t.Errorf("after a try in vain the gate is %+v, was %+v", g, before)
		}
		// What was refused leaves no room when its row goes: it makes no try.
		pass(before.Until.Sub(before.Since) - time.Minute)
		if n := a.asked.Load() - asked; n != 1 {
			t.Errorf("the cloud was asked %d times before the next pause was over", n)
		}
		e.destroy("b")
		pass(30 * time.Second)
		if n := a.asked.Load() - asked; n != 2 {
			t.Errorf("two machines went, and the cloud was asked %d times", n)
		}
	})
}

func TestAMachineThatGoesLetsAPoolOfAnotherReplicaTry(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		f.limits = pool.Timeouts{SweepLocal: time.Minute}
		f.faults = &noop.Faults{Before: func(_ context.Context, op, _ string) error {
			if n := len(f.world.Machines()); op == "create" && n > 0 {
				return fmt.Errorf("%w: %d machines of 1", drivers.ErrQuota, n)
			}
			return nil
		}}
		f.pools = []poolSpec{{name: "p", max: 10}}
		a := f.start("a")
		a.setup("s")
		f.pools = append(f.pools, poolSpec{name: "q", min: 1, max: 10})
		f.start("b")
		gate := func() pool.Gate {
			rows, err := f.store.Pools(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return rows[1].Gate
		}
		for limit := time.Now().Add(24 * time.Hour); ; {
			if g := gate(); time.Until(g.Until) > 20*time.Minute && time.Since(g.Since) > time.Minute {
				break
			}
			if time.Now().After(limit) {
				t.Fatalf("the gate of pool q is %+v", gate())
			}
			pass(time.Minute)
		}
		if p, q := f.holder("p"), f.holder("q"); p != "a" || q != "b" {
			t.Fatalf("p is held by %q and q by %q", p, q)
		}
		a.destroy("s")
		f.until(15*time.Second, "warm machine of the other replica's pool", func() bool { return f.count(pool.Warm) == 1 })
	})
}
