package hostrunner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

func TestWhoIsLetIn(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	host := Facts{CPUs: 2, MemoryTotal: 8 * gib, MemoryAvailable: 4 * gib, DiskFree: 50 * gib}
	usual := DefaultLimits()
	cases := []struct {
		name    string
		limits  Limits
		running int
		host    func(*Facts)
		want    string // in the reason, "" if there is none
	}{
		{name: "an empty host", limits: usual},
		{name: "half a CPU each: the fourth fits", limits: usual, running: 3},
		{name: "the fifth does not", limits: usual, running: 4, want: "cpu: 5 stages at 0.5 CPUs each are more than the host's 2 (--stage-cpus)"},
		{name: "no limit of CPUs", limits: Limits{}, running: 400},
		{name: "the number of stages", limits: Limits{Stages: 2}, running: 2, want: "stages: 2 run, the limit is 2 (--max-stages)"},
		{name: "one below the number", limits: Limits{Stages: 2}, running: 1},
		{name: "memory that is promised", limits: Limits{Memory: 3 * gib}, running: 2, want: "memory: 3 stages at 3 GiB each are more than the host's 8 GiB"},
		{name: "memory that others have taken", limits: usual, running: 1, host: func(f *Facts) { f.MemoryAvailable = gib }, want: "memory: 1 GiB are available, a stage needs 1.46 GiB"},
		{name: "the first stage on a small host", limits: usual, host: func(f *Facts) { f.CPUs, f.MemoryTotal, f.MemoryAvailable = 1, gib, gib/2 }},
		{name: "a full disk, for the first too", limits: usual, host: func(f *Facts) { f.DiskFree = gib }, want: "disk: 1 GiB are free, 2 GiB must be"},
		{name: "a host that tells nothing", limits: usual, running: 9, host: func(f *Facts) { *f = Facts{} }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := host
			if c.host != nil {
				c.host(&f)
			}
			got := c.limits.refusal(c.running, f)
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("reason %q, want %q", got, c.want)
			}
		})
	}
}

// enterAll lets ids enter one after the other and returns where their results
// come, in the order they come.
func enterAll(t *testing.T, q *queue, patience time.Duration, ids ...string) <-chan string {
	t.Helper()
	results := make(chan string, len(ids))
	for _, id := range ids {
		go func() {
			if err := q.enter(t.Context(), id, patience); err != nil {
				results <- fmt.Sprintf("%s: %v", id, err)
				return
			}
			results <- id
		}()
		synctest.Wait()
	}
	return results
}

func TestStagesBeyondCapacityWaitInOrderWithAReason(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		q := newQueue(Limits{Stages: 1}, func() (Facts, error) { return Facts{}, nil }, time.Now)
		results := enterAll(t, q, time.Hour, "a", "b", "c")
		if got := <-results; got != "a" {
			t.Fatalf("first is %s", got)
		}
		list := q.list()
		if len(list) != 2 || list[0].ID != "b" || list[1].ID != "c" || list[1].Ahead != 1 || !strings.Contains(list[1].Reason, "the limit is 1") {
			t.Errorf("waiting: %+v", list)
		}
		for _, next := range []string{"b", "c"} {
			select {
			case got := <-results:
				t.Fatalf("%s is in beside another", got)
			default:
			}
			q.leave(map[string]string{"b": "a", "c": "b"}[next])
			synctest.Wait()
			if got := <-results; got != next {
				t.Errorf("next is %s, want %s", got, next)
			}
		}
		q.leave("c")
		q.leave("c")
		if err := q.enter(t.Context(), "d", 0); err != nil {
			t.Errorf("an empty host: %v", err)
		}
	})
}

func TestAWaitInVainSaysForWhat(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		q := newQueue(Limits{Stages: 1}, func() (Facts, error) { return Facts{}, nil }, time.Now)
		q.admit("old")
		began := time.Now()
		results := enterAll(t, q, time.Minute, "b", "c")
		var got []string
		for range 2 {
			got = append(got, <-results)
		}
		slices.Sort(got)
		if time.Since(began) != time.Minute {
			t.Errorf("waited %s", time.Since(began))
		}
		for i, want := range []string{"stage b has waited 1m0s, with 0 ahead of it and 1 running; stages: 1 run, the limit is 1", "stage c has waited 1m0s"} {
			if !strings.Contains(got[i], want) || !strings.Contains(got[i], "--max-stages") {
				t.Errorf("%q, want %q", got[i], want)
			}
		}
		if len(q.list()) != 0 {
			t.Errorf("still waiting: %v", q.list())
		}
	})
}

func TestMemoryThatGetsFreeLetsTheNextIn(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		var free atomic.Uint64
		var broken atomic.Bool
		free.Store(1)
		broken.Store(true)
		q := newQueue(Limits{Memory: 10}, func() (Facts, error) {
			if broken.Load() {
				return Facts{}, errors.New("no such disk")
			}
			return Facts{MemoryAvailable: free.Load()}, nil
		}, time.Now)
		q.admit("old")
		results := enterAll(t, q, time.Hour, "b")
		if r := q.list()[0].Reason; !strings.Contains(r, "no such disk") {
			t.Errorf("reason %q", r)
		}
		broken.Store(false)
		<-time.After(lookAgain)
		synctest.Wait()
		if r := q.list()[0].Reason; !strings.Contains(r, "memory: 1 bytes are available") {
			t.Errorf("reason %q", r)
		}
		free.Store(10)
		if got := <-results; got != "b" {
			t.Error(got)
		}
	})
}

func TestWhoGivesUpIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		q := newQueue(Limits{Stages: 1}, func() (Facts, error) { return Facts{}, nil }, time.Now)
		q.admit("old")
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := make(chan error, 1)
		go func() { gone <- q.enter(ctx, "b", time.Hour) }()
		synctest.Wait()
		results := enterAll(t, q, time.Hour, "c")
		cancel(errCallers)
		if err := <-gone; !errors.Is(err, errCallers) {
			t.Errorf("error %v", err)
		}
		q.leave("old")
		if got := <-results; got != "c" {
			t.Error(got)
		}
	})
}
