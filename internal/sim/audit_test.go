package sim

import (
	"context"
	"fmt"
	"maps"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// settle waits until everything is as wanted, and sees that it stays so.
func (s *sim) settle(ctx context.Context) {
	if s.served.Load()+s.refused.Load() == 0 {
		s.log.wrong(ruleQuiet, "", "no lease was served or refused: the seed proves nothing")
	}
	// A lease nobody ends is ended by age; a clock that jumped forbids that
	// for an hour.
	limit := time.Now().Add(3 * time.Hour)
	if s.times.BusyAge < time.Hour {
		limit = limit.Add(s.times.BusyAge + s.times.FreeAge)
	}
	var left []unsettled
	for {
		s.relent(ctx)
		s.clearUp(ctx)
		left = s.unsettled()
		if len(left) == 0 && !s.world.latecomers() || time.Now().After(limit) {
			break
		}
		_ = nap(ctx, 30*time.Second)
	}
	if len(left) > 0 {
		for _, u := range left {
			s.log.wrong(u.rule, u.subject, "quiet for hours, but %s", u.text)
		}
		s.lingering(ctx)
		return
	}
	// From here on nothing has a reason to change but by age, for as long as a
	// few rounds of every loop take.
	before := s.witness.refresh()
	_ = nap(ctx, max(3*s.times.SweepCloud, 90*time.Second))
	synctest.Wait()
	after := s.witness.refresh()
	// Or because the pool is still short of machines, and tries.
	young := !s.short() && !s.turns(10*time.Minute)
	now := s.host.Now().Round(0)
	for _, r := range before.rows {
		// A lease whose caller never came back ends by its age at any moment.
		young = young && !r.bound && time.UnixMilli(r.due).After(now.Add(5*time.Minute))
	}
	if young && !reflect.DeepEqual(unheld(before.rows), unheld(after.rows)) {
		s.log.wrong(ruleIdle, "", "everything is as wanted, and still rows change: %v became %v", before.rows, after.rows)
	}
	for _, u := range s.unsettled() {
		if young {
			s.log.wrong(u.rule, u.subject, "it was quiet, and then %s", u.text)
		}
	}
	if young {
		s.lingering(ctx)
	}
	s.recount(ctx)
	s.passOn(ctx)
}

// unheld leaves out when held rows are looked at again, which changes nothing.
func unheld(rows map[string]row) map[string]row {
	out := maps.Clone(rows)
	for id, r := range out {
		if r.held {
			r.due = 0
			out[id] = r
		}
	}
	return out
}

// unsettled is one thing that is not as it should be in the end.
type unsettled struct {
	rule          rule
	subject, text string
}

func (s *sim) unsettled() (out []unsettled) {
	add := func(r rule, subject, format string, args ...any) {
		out = append(out, unsettled{r, subject, fmt.Sprintf(format, args...)})
	}
	seen := s.witness.snapshot()
	world := s.world.names()
	rows := map[string]bool{}
	free := map[string]*stock{}
	for _, p := range s.plan.pools {
		if s.plan.orders > 0 && !s.asOrdered(p.name, seen) {
			add(ruleQuiet, "", "pool %s is not as it was ordered to be in the end", p.name)
		}
		free[p.name] = &stock{warm: map[flavour]int{}, taken: map[flavour]int{}}
	}
	for _, r := range seen.rows {
		rows[r.name] = true
		if r.bound && s.excused(r.lease) || r.held && s.keeps(r.name) {
			free[r.pool].taken[r.flavour]++ // a place nobody else can have
			if (r.state == pool.Warm || r.state == pool.Hibernated || r.state == pool.Leased) && s.world.dead(r.name) {
				add(ruleQuiet, r.name, "%s is dead, and nobody has noticed", r)
			}
			continue
		}
		_, exists := world[r.name]
		switch {
		case r.state == pool.Warm && exists && !s.world.dead(r.name):
			free[r.pool].warm[r.flavour]++
		case r.state == pool.Hibernated && exists && !s.world.dead(r.name) && s.poolNamed(r.pool).hibernate:
			free[r.pool].warm[r.flavour]++
			if r.flavour == usual {
				free[r.pool].asleep++
			}
		case r.state != pool.Warm:
			add(ruleQuiet, r.name, "%s is not warm", r)
		default:
			add(ruleQuiet, r.name, "%s is dead", r)
		}
	}
	room := math.MaxInt
	if c := max(s.plan.faults.capacity, s.plan.faults.quota); c > 0 {
		room = c
	}
	missing := 0
	for _, p := range s.plan.pools {
		short, over := free[p.name].compare(p, s.wanted(p))
		if g := seen.pools[p.name].gate; g.Reason != pool.GateCost || !s.host.Now().Before(g.Until) {
			missing += short
		}
		if awake := free[p.name].warm[usual] - free[p.name].asleep; p.hibernate && short == 0 && awake != min(p.running, free[p.name].warm[usual]) {
			add(ruleQuiet, "", "pool %s has %d free machines in memory and %d on disk, and wants %d in memory", p.name, awake, free[p.name].asleep, p.running)
		}
		for f, n := range over {
			add(ruleQuiet, "", "pool %s has %d free machines more than wanted of %s/%s", p.name, n, f.tenant, f.variant)
		}
	}
	if missing > 0 && len(world) < room {
		add(ruleQuiet, "", "%d warm machines are missing and there is room for them", missing)
	}
	for name, m := range world {
		if !rows[name] && m.tags.Controller != neighbour && !s.reported(m) {
			add(ruleStranger, name, "machine %s has no row and nobody destroyed it", name)
		}
	}
	s.unsettledDisks(add)
	for _, l := range seen.leases {
		// The age of a lease does not end it while somebody holds its machine.
		r := seen.rows[l.instance]
		if s.excused(l.key.ID) || r.held && s.keeps(r.name) && s.log.isLeft(l.key.ID) {
			continue
		}
		add(ruleQuiet, l.key.ID, "lease %s is still %s", l.key.ID, l.state)
	}
	return out
}

// short says whether the cloud has no room for what the pools want.
func (s *sim) short() bool {
	want := 0
	for _, p := range s.plan.pools {
		all := 0
		for _, n := range s.wanted(p) {
			all += n
		}
		want += min(all, p.max)
	}
	for _, r := range s.witness.snapshot().rows {
		if r.held {
			want++ // it takes room of the cloud's and is of no use
		}
	}
	room := max(s.plan.faults.capacity, s.plan.faults.quota)
	return room > 0 && room < want
}

// excused says whether a lease that is left alone may outlast the quiet time:
// its age is reckoned from a clock that was set meanwhile.
func (s *sim) excused(lease string) bool {
	return !s.host.Jumped().IsZero() && s.log.isLeft(lease)
}

// reported says whether a machine without a row may be left alone: a
// gitspace's always is, and where the clock was set it is not certain that the
// store was alive when it was made. Then it is an operator's to decide, who
// must have been told.
func (s *sim) reported(m machine) bool {
	if s.host.Jumped().IsZero() && m.tags.Kind != string(pool.Gitspace) {
		return false
	}
	events, err := s.store().Events(context.Background(), pool.EventQuery{Instance: m.tags.Instance})
	return err == nil && slices.ContainsFunc(events, func(e pool.Event) bool { return e.Reason == "orphan_reported" })
}

// recount asks the store itself whether its counters are right.
func (s *sim) recount(ctx context.Context) {
	drift, err := s.store().Recount(ctx)
	if err != nil {
		s.log.wrong(ruleError, "", "recount: %v", err)
	}
	for _, d := range drift {
		s.log.wrong(ruleCounter, "", "the counter of pool %s says %d, there are %d", d.Pool, d.Counted, d.Truth)
	}
}

// lingering sees that nobody works for a request or a row for ever. Work that
// has a reason (a machine whose age has just come) ends by itself: only who is
// at it before and after as long as any of it may take is complained of.
func (s *sim) lingering(ctx context.Context) {
	first := s.working()
	if len(first) == 0 {
		return
	}
	t := s.times
	_ = nap(ctx, 2*(t.Create+max(t.Boot, t.BootWindows)+t.Setup+t.Grace))
	for id, g := range s.working() {
		if _, before := first[id]; before {
			s.log.wrong(ruleLeak, "", "it is quiet, and a goroutine still works:\n%s", g)
		}
	}
}

// working are the goroutines that work for a request or a row, by their head.
func (s *sim) working() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf)) // the seeds that wait for their turn are in it too
	}
	all := strings.Split(string(buf), "\n\n")
	// The first is this one; its head names the bubble.
	head, _, _ := strings.Cut(all[0], "\n")
	at := strings.Index(head, "synctest bubble")
	if at < 0 {
		return nil
	}
	bubble := strings.TrimRight(strings.TrimSuffix(head[at:], ":"), "]")
	out := map[string]string{}
	for _, g := range all[1:] {
		head, _, _ := strings.Cut(g, "\n")
		if strings.Contains(head, bubble+"]") && (strings.Contains(g, "pool.(*Manager).spawn") || strings.Contains(g, "pool.(*worker).begin")) {
			id, _, _ := strings.Cut(head, " [")
			out[id] = g
		}
	}
	return out
}

// leaks sees that an engine that has stopped after a quiet time remembers
// nothing of what it did: its tables are as empty as at its start.
func (s *sim) leaks() {
	for _, r := range s.replicas {
		if r.current == nil || r.current.m == nil {
			continue
		}
		m := reflect.ValueOf(r.current.m).Elem()
		for _, path := range []string{"hub.m", "calls.m", "work.busy", "steps.byVM", "steps.ids", "steps.calls"} {
			v := m
			for name := range strings.SplitSeq(path, ".") {
				v = v.FieldByName(name)
			}
			if n := v.Len(); n > 0 {
				s.log.wrong(ruleLeak, "", "%s still holds %d entries in %s: %v", r.current.p.name, n, path, v.MapKeys())
			}
		}
	}
}
