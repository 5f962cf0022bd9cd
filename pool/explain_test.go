package pool_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

func (e *engine) explain(subject pool.Subject, id string) pool.Story {
	e.t.Helper()
	s, err := e.m.Explain(e.t.Context(), subject, id)
	if err != nil {
		e.t.Fatalf("explain %s: %v", id, err)
	}
	if !slices.IsSortedFunc(s.Lines, func(a, b pool.StoryLine) int { return a.At.Compare(b.At) }) {
		e.t.Errorf("the story of %s is not in order: %v", id, s.Lines)
	}
	return s
}

func codes(s pool.Story) (why, lines []string) {
	for _, w := range s.Why {
		why = append(why, w.Code)
	}
	for _, l := range s.Lines {
		lines = append(lines, l.Code)
	}
	return why, lines
}

// The user is told why a request waits: its place in the queue and each pool's
// own reason; afterwards the whole story is there.
func TestExplainALeaseThatWaitedForTheLimit(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 0, max: 1, wait: time.Hour}, {name: "q", min: 0, max: 0, wait: time.Hour}}
		e.start()
		e.setup("first")
		for _, id := range []string{"second", "third"} {
			go func() { _, _ = e.m.Setup(t.Context(), e.request(id, "p", "q")) }()
			pass(time.Second)
		}
		s := e.explain("", "third")
		why, lines := codes(s)
		if !slices.Equal(why, []string{pool.WhyLimit, pool.WhyLimit}) || s.Why[0].Position != 2 || s.Why[0].Pool != "p" || s.Why[1].Pool != "q" {
			t.Errorf("why: %+v", s.Why)
		}
		if want := "number 2 in the queue of pool p"; !strings.Contains(s.Summary, want) {
			t.Errorf("summary %q lacks %q", s.Summary, want)
		}
		if !slices.Contains(lines, "arrived") || !slices.Contains(lines, "limit_reached") {
			t.Errorf("lines: %v", lines)
		}
		p := e.explain(pool.SubjectPool, "p")
		if why, _ := codes(p); !slices.Contains(why, pool.WhyLimit) || !slices.Contains(why, pool.WhyPosition) {
			t.Errorf("pool: %+v", p.Why)
		}

		e.destroy("first")
		pass(time.Minute)
		e.destroy("second")
		pass(time.Minute)
		s = e.explain(pool.SubjectLease, "third")
		if _, lines := codes(s); s.State != string(pool.LeaseActive) || len(s.Why) != 0 ||
			!slices.Contains(lines, "claimed") || !slices.Contains(lines, "active") || !slices.Contains(lines, "intended") || !slices.Contains(lines, "proven") {
			t.Errorf("%s, why %v, lines %v", s.State, s.Why, lines)
		}
		inst := e.explain(pool.SubjectInstance, e.machines()[0])
		if inst.ID == inst.Name || inst.State != string(pool.Leased) || !strings.Contains(inst.Summary, "lease third") {
			t.Errorf("instance: %+v", inst)
		}
	})
}

func TestExplainAGateAndAnOperatorsStop(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 0, max: 5, wait: time.Hour}}
		e.start()
		now := time.Now().UTC().Truncate(time.Millisecond)
		gate := pool.Gate{Reason: "quota", Detail: "create: CPUS exceeded", Since: now, Until: now.Add(time.Hour)}
		if err := e.store.SetGate(t.Context(), "p", gate, now); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = e.m.Setup(t.Context(), e.request("r")) }()
		pass(time.Second)
		s := e.explain("", "r")
		if len(s.Why) != 1 || s.Why[0].Code != "quota" || !s.Why[0].Until.Equal(gate.Until) || !strings.Contains(s.Why[0].Message, "CPUS exceeded") {
			t.Errorf("why: %+v", s.Why)
		}
		if err := errors.Join(
			e.store.SetGate(t.Context(), "p", pool.Gate{}, now),
			e.store.SetOverride(t.Context(), "p", pool.Override{Stopped: true, By: "ann", Why: "the bill", Since: now}, now),
		); err != nil {
			t.Fatal(err)
		}
		if s := e.explain("", "r"); len(s.Why) != 1 || s.Why[0].Code != pool.WhyStopped || !strings.Contains(s.Why[0].Message, "ann") {
			t.Errorf("why: %+v", s.Why)
		}
		if p := e.explain("", "p"); p.State != pool.WhyStopped || p.Subject != pool.SubjectPool {
			t.Errorf("pool: %+v", p)
		}
	})
}

func TestExplainMachinesOfAnOlderRecipe(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.keep = true // they are replaced a few at a time
		e.pools = []poolSpec{{name: "p", min: 4, max: 8}}
		e.start()
		pass(time.Minute)
		e.pools[0].cfg.BootDelay = 10 * time.Second
		e.restart()
		pass(time.Second)
		if why, _ := codes(e.explain(pool.SubjectPool, "p")); !slices.Contains(why, pool.WhyDrift) {
			t.Errorf("why: %v", why)
		}
		pass(10 * time.Minute)
		s := e.explain(pool.SubjectPool, "p")
		if why, lines := codes(s); slices.Contains(why, pool.WhyDrift) || !slices.Contains(lines, string(pool.ReasonDrifted)) {
			t.Errorf("when all are new: why %v, lines %v", why, lines)
		}
	})
}

// A setup that failed carries the cause of each machine that was tried.
func TestExplainAFailedSetup(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.pools = []poolSpec{{name: "p", min: 0, max: 1}, {name: "q", min: 0, max: 1}}
		for i := range e.pools {
			e.pools[i].cfg.FailRate = 1
		}
		e.start()
		if _, err := e.m.Setup(t.Context(), e.request("r", "p", "q")); err == nil {
			t.Fatal("no error")
		}
		s := e.explain("", "r")
		pools := map[string]bool{}
		for _, w := range s.Why {
			pools[w.Pool] = true
		}
		if s.State != string(pool.LeaseEnded) || !pools["p"] || !pools["q"] {
			t.Errorf("%s: %+v", s.State, s.Why)
		}
	})
}

func TestExplainWhatIsNotThere(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		e.start()
		for _, subject := range []pool.Subject{"", pool.SubjectLease, pool.SubjectInstance, pool.SubjectPool} {
			if _, err := e.m.Explain(t.Context(), subject, "nothing"); !errors.Is(err, pool.ErrNotFound) {
				t.Errorf("%q: %v", subject, err)
			}
		}
		if _, err := e.m.Explain(t.Context(), "planet", "p"); !errors.Is(err, pool.ErrInvalid) {
			t.Errorf("%v", err)
		}
	})
}
