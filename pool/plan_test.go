package pool

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func group(s InstanceState, n int) Group { return Group{State: s, Count: n} }

// single is a pool of one flavour without any extras.
func single(minWarm, limit int) planConfig {
	return planConfig{Max: limit, Ramp: -1, Flavours: []flavourTarget{{Min: minWarm}}}
}

func ramped(c planConfig, n int) planConfig { c.Ramp = n; return c }
func keep(c planConfig) planConfig          { c.KeepDrifted = true; return c }
func gone(c planConfig) planConfig          { c.Retired = true; return c }

func hibernating(c planConfig, running int) planConfig {
	c.Flavours[0].Hibernate, c.Flavours[0].Running = true, running
	return c
}

func restless(c planConfig, n int) planConfig {
	c.Flavours[0].Restless = n
	return c
}

func shut(until time.Time, canary time.Duration) Gate {
	return Gate{Reason: GateBreaker, Since: noon.Add(-time.Hour), Until: until, Canary: canary, Failures: 5, Trips: 1}
}

// summary is a plan in a form that is easy to compare.
type summary struct {
	Cold      []string
	Refill    int
	Replaced  []string
	Surplus   int
	Hibernate int
	Wake      int
}

func summarise(actions []action) summary {
	var s summary
	for _, a := range actions {
		switch {
		case a.Cold != nil:
			s.Cold = append(s.Cold, a.Cold.ID)
		case a.Replace != nil:
			s.Replaced = append(s.Replaced, a.Replace.ID)
		default:
			s.Refill += a.Refill
			s.Surplus += a.Surplus
			s.Hibernate += a.Hibernate
			s.Wake += a.Wake
		}
	}
	return s
}

func waiters(ids ...string) []Lease {
	out := make([]Lease, len(ids))
	for i, id := range ids {
		out[i] = Lease{ID: id, State: LeaseWaiting}
	}
	return out
}

func drifted(ids ...string) []Instance {
	out := make([]Instance, len(ids))
	for i, id := range ids {
		out[i] = Instance{ID: id, State: Warm}
	}
	return out
}

func TestPlan(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		want planConfig
		have Snapshot
		out  summary
	}{
		{"an empty pool is filled", single(3, 10), Snapshot{}, summary{Refill: 3}},
		{"a full pool needs nothing", single(3, 10), Snapshot{Counted: 3, Groups: []Group{group(Warm, 3)}}, summary{}},
		{
			"machines on their way count toward the target, so overlapping passes cannot overshoot",
			single(5, 10),
			Snapshot{Counted: 4, Groups: []Group{group(Creating, 1), group(Booting, 1), group(Warm, 1), group(Hibernating, 1)}},
			summary{Refill: 1},
		},
		{
			"failed and dying machines cost money but are no prospect",
			single(2, 10),
			Snapshot{Counted: 3, Groups: []Group{group(Failed, 1), group(Destroying, 2)}},
			summary{Refill: 2},
		},
		{
			"held machines are no prospect, so the pool is filled beside them",
			single(3, 10),
			Snapshot{Counted: 4, Groups: []Group{{State: Warm, Held: true, Count: 2}, {State: Booting, Held: true, Count: 1}, group(Warm, 1)}},
			summary{Refill: 2},
		},
		{
			"within the limit, in which they count",
			single(3, 4),
			Snapshot{Counted: 3, Groups: []Group{{State: Hibernated, Held: true, Count: 3}}},
			summary{Refill: 1},
		},
		{
			"and they are not given up, neither as too many nor for who waits at the limit",
			single(0, 2),
			Snapshot{Counted: 2, Groups: []Group{{State: Warm, Held: true, Count: 2}}, Waiting: waiters("a")},
			summary{},
		},
		{
			"a dying machine that is held leaves no place soon",
			single(1, 2),
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 1), {State: Destroying, Held: true, Count: 1}}, Waiting: waiters("a")},
			summary{Surplus: 1},
		},
		{"the limit bounds refill", single(5, 6), Snapshot{Counted: 4}, summary{Refill: 2}},
		{"at the limit nothing is made", single(5, 4), Snapshot{Counted: 4, Waiting: waiters("a")}, summary{}},
		{"over the limit nothing is made either", single(5, 4), Snapshot{Counted: 6, Waiting: waiters("a")}, summary{}},
		{
			"waiting requests come before refill, in order of arrival",
			single(5, 3),
			Snapshot{Counted: 1, Waiting: waiters("a", "b", "c")},
			summary{Cold: []string{"a", "b"}},
		},
		{
			"refill gets what waiting requests leave over",
			single(5, 4),
			Snapshot{Counted: 0, Waiting: waiters("a", "b")},
			summary{Cold: []string{"a", "b"}, Refill: 2},
		},
		{
			"with more waiting than were read, refill takes nothing",
			single(5, 10),
			Snapshot{Waiting: waiters("a"), WaitingMore: true},
			summary{Cold: []string{"a"}},
		},
		{
			"after failures refill keeps still for a while but requests are served",
			single(5, 10),
			Snapshot{Waiting: waiters("a"), Gate: Gate{Failures: 2, Since: noon.Add(-time.Second)}},
			summary{Cold: []string{"a"}},
		},
		{"a pool with nothing to keep warm makes only what is asked for", single(0, 10), Snapshot{Waiting: waiters("a")}, summary{Cold: []string{"a"}}},
		{"a retired pool makes nothing", gone(single(5, 10)), Snapshot{Waiting: waiters("a")}, summary{}},
		{
			"a retired pool gives up its warm machines and nothing else",
			gone(single(5, 10)),
			Snapshot{Counted: 4, Groups: []Group{group(Warm, 2), group(Booting, 1)}, Waiting: waiters("a")},
			summary{Surplus: 2},
		},
		{"a pool the store calls retired makes nothing", single(5, 10), Snapshot{Retired: true}, summary{}},
		{
			"drifted machines all go at once by default",
			single(2, 10),
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 2)}, Drifted: drifted("x", "y")},
			summary{Replaced: []string{"x", "y"}},
		},
		{
			"drifted machines go one by one where the pool is to be reused",
			keep(single(2, 10)),
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 2)}, Drifted: drifted("x", "y")},
			summary{Replaced: []string{"x"}},
		},
		{
			"and not while the last replacement is on its way",
			keep(single(2, 10)),
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 1), group(Booting, 1)}, Drifted: drifted("y")},
			summary{},
		},
		{
			"a pool whose size was lowered gives up what is too much",
			single(2, 10),
			Snapshot{Counted: 5, Groups: []Group{group(Warm, 4), group(Booting, 1)}},
			summary{Surplus: 3},
		},
		{
			"what is still booting is never surplus",
			single(1, 10),
			Snapshot{Counted: 3, Groups: []Group{group(Booting, 3)}},
			summary{},
		},
		{
			"nothing that is too much is given up while somebody waits",
			single(1, 4),
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 2)}, Waiting: waiters("a")},
			summary{Cold: []string{"a"}},
		},
		{
			"at the limit a free machine that fits nobody gives its place to who waits",
			single(2, 2),
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 2)}, Waiting: waiters("a")},
			summary{Surplus: 1},
		},
		{
			"but not while a dying one leaves its place already",
			single(2, 2),
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 1), group(Destroying, 1)}, Waiting: waiters("a")},
			summary{},
		},
		{
			"a closed gate begins nothing, and gives up nothing for it",
			single(2, 2),
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 1)}, Waiting: waiters("a"), Gate: shut(noon.Add(time.Minute), time.Minute), Drifted: drifted("x")},
			summary{},
		},
		{
			"a closed breaker whose pause is over lets one request through",
			single(4, 9),
			Snapshot{Waiting: waiters("a", "b"), Gate: shut(noon, time.Minute)},
			summary{Cold: []string{"a"}},
		},
		{
			"or one machine of refill if nobody waits",
			single(4, 9),
			Snapshot{Gate: shut(noon, time.Minute)},
			summary{Refill: 1},
		},
		{"a gate that just opens lets everything through", single(4, 9), Snapshot{Gate: shut(noon, 0)}, summary{Refill: 4}},
		{
			"a stopped pool gives up every free machine and makes none, whoever waits",
			single(4, 9),
			Snapshot{Counted: 6, Groups: []Group{group(Warm, 2), group(Hibernated, 3), group(Booting, 1)}, Waiting: waiters("a"), Override: Override{Stopped: true}},
			summary{Surplus: 5},
		},
		{
			"refill after a restart is ramped up",
			ramped(single(100, 100), 4),
			Snapshot{Counted: 3, Groups: []Group{group(Booting, 3)}},
			summary{Refill: 1},
		},
		{
			"requests are not held up by the ramp",
			ramped(single(0, 100), 4),
			Snapshot{Counted: 4, Groups: []Group{group(Booting, 4)}, Waiting: waiters("a")},
			summary{Cold: []string{"a"}},
		},
		{
			"what is more than is to run goes to disk, the rest stays in memory",
			hibernating(single(5, 9), 2),
			Snapshot{Counted: 5, Groups: []Group{group(Warm, 5)}},
			summary{Hibernate: 3},
		},
		{
			"a machine that is missing in memory is woken, and another made",
			hibernating(single(5, 9), 2),
			Snapshot{Counted: 4, Groups: []Group{group(Warm, 1), group(Hibernated, 3)}},
			summary{Wake: 1, Refill: 1},
		},
		{
			"a machine on its way to memory counts as there",
			hibernating(single(5, 9), 2),
			Snapshot{Counted: 5, Groups: []Group{group(Warm, 1), group(Resuming, 1), group(Hibernated, 3)}},
			summary{},
		},
		{
			"what is too much goes from disk first",
			hibernating(single(2, 9), 2),
			Snapshot{Counted: 5, Groups: []Group{group(Warm, 2), group(Hibernated, 3)}},
			summary{Surplus: 3},
		},
		{
			"machines on disk are woken when the pool no longer hibernates",
			single(3, 9),
			Snapshot{Counted: 3, Groups: []Group{group(Hibernated, 3)}},
			summary{Wake: 3},
		},
		{
			"a machine that would not go to disk is not tried again at once",
			restless(hibernating(single(3, 9), 1), 2),
			Snapshot{Counted: 3, Groups: []Group{group(Warm, 3)}},
			summary{},
		},
		{
			"machines of a flavour that left the file are given up",
			single(1, 9),
			Snapshot{Counted: 3, Groups: []Group{group(Warm, 1), {State: Warm, Tenant: "default", Variant: "old", Count: 2}}},
			summary{Surplus: 2},
		},
		{
			"a drifted machine on disk is replaced like one in memory",
			keep(hibernating(single(2, 9), 1)),
			Snapshot{Counted: 2, Groups: []Group{group(Warm, 1), group(Hibernated, 1)}, Drifted: []Instance{{ID: "x", State: Hibernated}}},
			summary{Replaced: []string{"x"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.out, summarise(plan(tc.want, tc.have, noon))); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRefillMakesWhatIsMissedMost(t *testing.T) {
	t.Parallel()
	two := func(a, b flavourTarget) planConfig {
		a.Variant, b.Variant = "a", "b"
		return planConfig{Max: 100, Ramp: -1, Flavours: []flavourTarget{a, b}}
	}
	warm := func(variant string, n int) Group { return Group{State: Warm, Variant: variant, Count: n} }
	for _, tc := range []struct {
		name string
		want planConfig
		have Snapshot
		out  map[string]int
	}{
		{
			"what was taken is made again, of its own flavour",
			two(flavourTarget{Min: 4}, flavourTarget{Min: 2}),
			Snapshot{Counted: 5, Groups: []Group{warm("a", 4), warm("b", 1)}},
			map[string]int{"b": 1},
		},
		{
			"the greatest share of a target missing goes first",
			two(flavourTarget{Min: 10}, flavourTarget{Min: 2}),
			Snapshot{Counted: 99, Groups: []Group{warm("a", 8), warm("b", 0)}},
			map[string]int{"b": 1},
		},
		{
			"scarce places are shared in proportion",
			two(flavourTarget{Min: 20}, flavourTarget{Min: 10}),
			Snapshot{Counted: 91},
			map[string]int{"a": 6, "b": 3},
		},
		{
			"equally short flavours take turns",
			func() planConfig { c := two(flavourTarget{Min: 2}, flavourTarget{Min: 2}); c.Turn = 1; return c }(),
			Snapshot{Counted: 99},
			map[string]int{"b": 1},
		},
		{
			"a flavour at its own limit leaves the places to others",
			two(flavourTarget{Min: 5}, flavourTarget{Min: 1}),
			Snapshot{Counted: 97, Flavours: []FlavourRow{{Variant: "a", Max: 3, Counted: 2}}},
			map[string]int{"a": 1, "b": 1},
		},
		{
			"a request whose flavour is full does not keep refill of others waiting",
			two(flavourTarget{}, flavourTarget{Min: 2}),
			Snapshot{
				Pool: "p", Counted: 3, Flavours: []FlavourRow{{Variant: "a", Max: 3, Counted: 3}},
				Waiting: []Lease{{ID: "x", Choices: []Choice{{Pool: "p", Variant: "a"}}}},
			},
			map[string]int{"b": 2},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := map[string]int{}
			for _, a := range plan(tc.want, tc.have, noon) {
				if a.Refill > 0 {
					got[a.Variant] += a.Refill
				}
			}
			if diff := cmp.Diff(tc.out, got); diff != "" {
				t.Errorf("refill (-want +got):\n%s", diff)
			}
		})
	}
}

// randomWorld is a pool in any situation, however unlikely.
func randomWorld(r *rand.Rand) (planConfig, Snapshot) {
	want := planConfig{Max: r.IntN(60), Ramp: r.IntN(40) - 1, KeepDrifted: r.IntN(2) == 0, Retired: r.IntN(20) == 0}
	have := Snapshot{Pool: "p", Override: Override{Stopped: r.IntN(20) == 0}}
	for i := range 1 + r.IntN(4) {
		f := flavourTarget{Variant: fmt.Sprint("v", i), Min: r.IntN(12), Hibernate: r.IntN(2) == 0, Running: r.IntN(6)}
		want.Flavours = append(want.Flavours, f)
		if r.IntN(3) == 0 {
			have.Flavours = append(have.Flavours, FlavourRow{Variant: f.Variant, Max: r.IntN(12), Counted: r.IntN(12)})
		}
		for _, s := range InstanceStates() {
			if s == Leased || s == Suspended || s == Suspending || s == Gone || r.IntN(2) == 0 {
				continue
			}
			n := r.IntN(5)
			have.Groups = append(have.Groups, Group{State: s, Variant: f.Variant, Count: n})
			have.Counted += n
			if (s == Warm || s == Hibernated) && n > 0 && r.IntN(3) == 0 {
				have.Drifted = append(have.Drifted, Instance{ID: fmt.Sprint(f.Variant, s), Variant: f.Variant, State: s})
			}
		}
	}
	want.Turn = r.IntN(len(want.Flavours))
	have.Counted += r.IntN(20) // leased ones
	for i := range r.IntN(8) {
		have.Waiting = append(have.Waiting, Lease{ID: fmt.Sprint("w", i), Choices: []Choice{{
			Pool: "p", Variant: want.Flavours[r.IntN(len(want.Flavours))].Variant,
		}}})
	}
	have.WaitingMore = len(have.Waiting) > 0 && r.IntN(4) == 0
	switch r.IntN(5) {
	case 0:
		have.Gate = shut(noon.Add(time.Minute), time.Minute)
	case 1:
		have.Gate = shut(noon, time.Minute)
	case 2:
		have.Gate = Gate{Failures: 2, Since: noon.Add(-time.Duration(r.IntN(5)) * time.Second)}
	}
	return want, have
}

// Whatever the world is like, a plan keeps these promises.
func TestPlanKeepsItsPromisesInAnyWorld(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20_000) {
		r := rand.New(rand.NewPCG(seed, 1))
		want, have := randomWorld(r)
		made, refilled := 0, 0
		tallies, _ := count(want, have)
		flavours := map[string]*tally{}
		for _, x := range tallies {
			flavours[x.target.Variant] = x
		}
		lost, refill := map[string]int{}, map[string]int{}
		got := plan(want, have, noon)
		for _, a := range got {
			switch {
			case a.Cold != nil:
				made++
			case a.Replace != nil:
				lost[a.Replace.Variant]++
			default:
				made += a.Refill
				refilled += a.Refill
				refill[a.Variant] += a.Refill
				lost[a.Variant] += a.Surplus + a.Hibernate
			}
		}
		free := max(0, want.Max-have.Counted)
		if made > free {
			t.Fatalf("seed %d: %d machines begun with %d places free", seed, made, free)
		}
		if have.Gate.Closed(noon) && made > 0 || have.Gate.Canary > 0 && made > 1 {
			t.Fatalf("seed %d: %d machines begun through gate %+v", seed, made, have.Gate)
		}
		if (want.Retired || have.Override.Stopped) && made > 0 {
			t.Fatalf("seed %d: %d machines begun by a pool that may begin none", seed, made)
		}
		served := made - refilled
		waiting := 0
		for _, l := range have.Waiting {
			if i := flavours[l.Choices[0].Variant]; i.room > 0 {
				i.room--
				waiting++
			}
		}
		if refilled > 0 && served < waiting {
			t.Fatalf("seed %d: refill of %d while %d of %d requests go without", seed, refilled, waiting-served, waiting)
		}
		for name, n := range refill {
			if f := flavours[name]; n > 0 && f.free()+n > f.target.Min {
				t.Fatalf("seed %d: %s gets %d machines beside %d, wanted are %d", seed, name, n, f.free(), f.target.Min)
			}
		}
		for name, n := range lost {
			if f := flavours[name]; n > f.warm+f.hibernated {
				t.Fatalf("seed %d: %s loses %d of %d free machines", seed, name, n, f.warm+f.hibernated)
			}
		}
		// More wanted never means fewer begun.
		if len(have.Waiting) == 0 {
			more := want
			more.Flavours = append([]flavourTarget(nil), want.Flavours...)
			more.Flavours[0].Min++
			begun := 0
			for _, a := range plan(more, have, noon) {
				begun += a.Refill
			}
			if begun < refilled {
				t.Fatalf("seed %d: with one more wanted %d are begun instead of %d", seed, begun, refilled)
			}
		}
	}
}

// play does a plan's actions at once, as if every cloud call worked.
func play(have *Snapshot, actions []action) {
	at := func(s InstanceState, variant string, n int) {
		for i := range have.Groups {
			if g := &have.Groups[i]; g.State == s && g.Variant == variant {
				g.Count += n
				return
			}
		}
		have.Groups = append(have.Groups, Group{State: s, Variant: variant, Count: n})
	}
	of := func(s InstanceState, variant string) int {
		for _, g := range have.Groups {
			if g.State == s && g.Variant == variant {
				return g.Count
			}
		}
		return 0
	}
	for _, a := range actions {
		switch {
		case a.Cold != nil:
			have.Counted++
			have.Waiting = have.Waiting[1:]
		case a.Replace != nil:
			at(a.Replace.State, a.Replace.Variant, -1)
			have.Counted--
			have.Drifted = nil
		}
		at(Warm, a.Variant, a.Refill+a.Wake-a.Hibernate)
		at(Hibernated, a.Variant, a.Hibernate-a.Wake)
		disk := min(a.Surplus, of(Hibernated, a.Variant))
		at(Hibernated, a.Variant, -disk)
		at(Warm, a.Variant, disk-a.Surplus)
		have.Counted += a.Refill - a.Surplus
	}
}

// A pool comes to rest: what a plan does is not undone by the next one, with
// claims in between or not.
func TestPlansComeToRest(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 2))
		want, have := randomWorld(r)
		// Only what is settled: the rest is the worker's.
		for i := range have.Groups {
			if s := have.Groups[i].State; s != Warm && s != Hibernated {
				have.Counted -= have.Groups[i].Count
				have.Groups[i].Count = 0
			}
		}
		have.Drifted, have.Gate, have.Waiting, have.WaitingMore, have.Flavours = nil, Gate{}, nil, false, nil
		for range 5 {
			for pass := 0; ; pass++ {
				actions := plan(want, have, noon)
				if len(actions) == 0 {
					break
				}
				if pass > 40 {
					t.Fatalf("seed %d: still %+v after %d passes", seed, summarise(actions), pass)
				}
				before := have.Counted
				play(&have, actions)
				if s := summarise(actions); s.Wake > 0 && s.Hibernate > 0 && len(want.Flavours) == 1 {
					t.Fatalf("seed %d: woken and put to disk in one plan: %+v", seed, s)
				}
				if have.Counted > max(before, want.Max) {
					t.Fatalf("seed %d: %d machines of %d", seed, have.Counted, want.Max)
				}
			}
			// A claim takes a warm machine away, for good or for a lease.
			for i := range have.Groups {
				if g := &have.Groups[i]; g.State == Warm && g.Count > 0 {
					g.Count--
					if r.IntN(2) == 0 {
						have.Counted--
					}
					break
				}
			}
		}
	}
}

// The tier's machines do not go to and fro: from any start each one is moved
// at most once until the pool rests.
func TestTierDoesNotOscillate(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 3))
		want := hibernating(single(r.IntN(20), 40), r.IntN(20))
		have := Snapshot{Groups: []Group{group(Warm, r.IntN(20)), group(Hibernated, r.IntN(20))}}
		have.Counted = have.Groups[0].Count + have.Groups[1].Count
		var woken, slept, begun, ended int
		for pass := range 100 {
			actions := plan(want, have, noon)
			if len(actions) == 0 {
				break
			}
			s := summarise(actions)
			woken, slept, begun, ended = woken+s.Wake, slept+s.Hibernate, begun+s.Refill, ended+s.Surplus
			play(&have, actions)
			if pass == 99 {
				t.Fatalf("seed %d: no rest", seed)
			}
		}
		if woken > 0 && slept > begun || begun > 0 && ended > 0 {
			t.Fatalf("seed %d: %d woken, %d put to disk, %d begun, %d ended", seed, woken, slept, begun, ended)
		}
	}
}

// bigWorld is a pool of so many machines in a few flavours, one of each taken.
func bigWorld(machines int) (planConfig, Snapshot) {
	want := planConfig{Max: 2 * machines, Ramp: -1}
	have := Snapshot{Pool: "p", Counted: machines}
	for i := range 10 {
		v := fmt.Sprint("v", i)
		want.Flavours = append(want.Flavours, flavourTarget{Variant: v, Min: machines / 10, Hibernate: true, Running: machines / 100})
		have.Groups = append(have.Groups,
			Group{State: Warm, Variant: v, Count: machines/100 - 1}, Group{State: Hibernated, Variant: v, Count: machines/10 - machines/100})
		have.Flavours = append(have.Flavours, FlavourRow{Variant: v, Max: machines, Counted: machines / 10})
	}
	for i := range planWaiters {
		have.Waiting = append(have.Waiting, Lease{ID: fmt.Sprint(i), Choices: []Choice{{Pool: "p", Variant: "v3"}}})
	}
	return want, have
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		want, have := bigWorld(n)
		b.Run(fmt.Sprintf("machines=%d/ordinary", n), func(b *testing.B) {
			for b.Loop() {
				plan(want, have, noon)
			}
		})
		have.Groups, have.Counted, have.Waiting = nil, 0, nil
		b.Run(fmt.Sprintf("machines=%d/all missing", n), func(b *testing.B) {
			for b.Loop() {
				plan(want, have, noon)
			}
		})
		want.Max = n - 1
		b.Run(fmt.Sprintf("machines=%d/all missing, one place too few", n), func(b *testing.B) {
			for b.Loop() {
				plan(want, have, noon)
			}
		})
	}
}

// FuzzPlan checks what must hold for every pool: the limit is never planned
// past, and a waiting request always beats refill.
func FuzzPlan(f *testing.F) {
	f.Add(3, 10, 2, 1, 1, 0, 2, false)
	f.Add(0, 0, 0, 0, 0, 0, 0, true)
	f.Fuzz(func(t *testing.T, minWarm, limit, warm, booting, leased, dying, waiting int, keep bool) {
		bound := func(n int) int { return max(0, n%100) }
		warm, booting, leased, dying, waiting = bound(warm), bound(booting), bound(leased), bound(dying), bound(waiting)
		minWarm, limit = bound(minWarm), bound(limit)
		ids := make([]string, waiting)
		for i := range ids {
			ids[i] = string(rune('a' + i%26))
		}
		have := Snapshot{
			Counted: warm + booting + leased + dying, Waiting: waiters(ids...),
			Groups: []Group{group(Warm, warm), group(Booting, booting), group(Destroying, dying)},
		}
		want := single(minWarm, limit)
		want.KeepDrifted = keep
		got := summarise(plan(want, have, noon))
		made := len(got.Cold) + got.Refill
		if made > 0 && have.Counted+made > limit {
			t.Fatalf("%d machines planned at %d of %d", made, have.Counted, limit)
		}
		if got.Refill > 0 && len(got.Cold) < waiting {
			t.Fatalf("refill of %d while %d of %d requests go without", got.Refill, waiting-len(got.Cold), waiting)
		}
		if got.Surplus > warm {
			t.Fatalf("surplus %d of %d warm", got.Surplus, warm)
		}
		if left := warm + booting - got.Surplus; got.Surplus > 0 && left < minWarm && waiting == 0 {
			t.Fatalf("surplus %d leaves %d of %d wanted", got.Surplus, left, minWarm)
		}
	})
}
