package pool_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// A runner that stood still reads a hundred setups whose callers have given up
// and ended their stages long ago. They must not keep the pool from everybody
// for the minutes that a caller who hung up is waited for.
func TestSetupsReadAfterTheirDestroysDoNotBlockThePool(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools[0] = poolSpec{name: "p", min: 2, max: 4, wait: 10 * time.Minute}
		e.start()
		pass(time.Minute)
		const stages = 100
		id := func(i int) string { return fmt.Sprint("s", i) }
		for i := range stages {
			e.setup(id(i))
			e.destroy(id(i))
			pass(time.Second)
		}
		// Each is read once more now, and its caller's connection found closed
		// before the machine's agent has answered.
		e.hook = func(ctx context.Context, op string, _ pool.Target, _ string) error {
			if op == "setup" {
				<-time.After(100 * time.Millisecond)
			}
			return ctx.Err()
		}
		gone, hangUp := context.WithCancel(t.Context())
		answers := make(chan error, stages)
		for i := range stages {
			go func() {
				_, err := e.m.Setup(gone, e.request(id(i)))
				answers <- err
			}()
		}
		synctest.Wait()
		hangUp()
		begun := time.Now()
		e.setup("alive")
		if took := time.Since(begun); took > 15*time.Second {
			t.Errorf("answered after %s", took)
		}
		for range stages {
			<-answers
		}
		e.destroy("alive")
		pass(time.Minute)
		e.wantRows(map[pool.InstanceState]int{pool.Warm: 2})
	})
}

// Who hangs up for the first time, or comes back to a stage at once, is waited
// for as ever.
func TestACallerWhoHungUpIsWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.hook = func(ctx context.Context, op string, _ pool.Target, _ string) error {
			if op == "setup" {
				<-time.After(5 * time.Second)
			}
			return ctx.Err()
		}
		e.start()
		pass(time.Minute)
		ask := func(d time.Duration) (pool.SetupResult, error) {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			return e.m.Setup(ctx, e.request("s"))
		}
		returns := func(after time.Duration, generation int64) {
			t.Helper()
			if _, err := ask(time.Second); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("a setup that takes long was answered with %v", err)
			}
			pass(after)
			l, err := e.store.Lease(t.Context(), "s")
			if err != nil || l.State.Final() || l.Generation != generation {
				t.Errorf("%s after the caller hung up generation %d is %s, %v", after, l.Generation, l.State, err)
			}
		}
		returns(20*time.Second, 1)
		e.destroy("s")
		pass(time.Second)
		returns(4500*time.Millisecond, 2)
		if res, err := ask(time.Minute); err != nil || res.Lease.Generation != 2 {
			t.Errorf("who came back was given generation %d, %v", res.Lease.Generation, err)
		}
	})
}

// lateIntents is a store whose answer to an intent comes late: what was written
// can be seen, and undone, before who wrote it knows.
type lateIntents struct {
	pool.Store
	written chan pool.Instance
	goOn    chan struct{}
}

func (s *lateIntents) Intend(ctx context.Context, in pool.Intent) (pool.Instance, error) {
	inst, err := s.Store.Intend(ctx, in)
	if err == nil {
		s.written <- inst
		<-s.goOn
	}
	return inst, err
}

// A creation is begun on the row as it is then: a destroy that came between the
// intent and the creation has ended it, and nothing is made that no row
// describes.
func TestNothingIsMadeOnTheWordOfAnIntentThatWasUndone(t *testing.T) {
	for _, who := range []string{"its caller", "an operator"} {
		t.Run("undone by "+who, func(t *testing.T) {
			inBubble(t, func(t *testing.T, e *engine) {
				st := &lateIntents{Store: e.store, written: make(chan pool.Instance), goOn: make(chan struct{})}
				e.store = st
				e.pools[0] = poolSpec{name: "p", max: 4}
				e.start()
				answer := make(chan error, 1)
				go func() {
					_, err := e.m.Setup(t.Context(), e.request("s"))
					answer <- err
				}()
				inst := <-st.written
				if who == "its caller" {
					e.destroy("s")
				} else if _, err := e.m.DestroyInstance(t.Context(), inst.Name, pool.DestroyOrder{Force: true}); err != nil {
					t.Fatal(err)
				}
				pass(time.Second)
				if row := e.instance(inst.ID); row.State != pool.Gone {
					t.Fatalf("it is %s", row.State)
				}
				st.goOn <- struct{}{}
				if err := <-answer; err == nil {
					t.Error("answered with a machine that was destroyed")
				}
				pass(time.Second)
				if made := e.world.Made(); made != 0 {
					t.Errorf("%d machines were made, which no row describes", made)
				}
			})
		})
	}
}
