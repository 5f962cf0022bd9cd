package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Rule is a stable word for what an audit can find.
type Rule string

// What breaks the promise.
const (
	// NoRow: a machine exists that no row describes.
	NoRow Rule = "machine_without_row"
	// GoneAlive: a machine lives although its row says that its end was confirmed.
	GoneAlive Rule = "machine_after_its_end"
	// NoMachine: a row says warm or leased, and nobody killed its machine, which
	// does not live.
	NoMachine Rule = "row_without_machine"
	// Unnoticed: a machine died and its row did not change in time.
	Unnoticed Rule = "death_not_noticed"
	// GivenTwice: one machine was given to two stages.
	GivenTwice Rule = "machine_given_twice"
	// Swapped: a stage was answered another machine though its own lived.
	Swapped Rule = "machine_swapped"
	// LostClaim: a setup was answered and the store does not know.
	LostClaim Rule = "claim_lost"
	// Undone: a destroy was answered and what it ended lives.
	Undone Rule = "destroy_undone"
	// TakenAway: a stage that wants its machine does not have it any more.
	TakenAway Rule = "machine_taken_away"
	// Torn: lease and machine contradict each other.
	Torn Rule = "lease_and_machine_disagree"
	// Counter: a pool's counter is not the number of its machines.
	Counter Rule = "counter_off"
	// Limit: more machines than the limit.
	Limit Rule = "above_limit"
	// Stuck: a row that is not final has no due time, or one long past.
	Stuck Rule = "stuck"
	// NotQuiet: nobody asks for anything and the pool is not as it should be.
	NotQuiet Rule = "not_as_configured"
	// Telling: the API tells something else than the store holds.
	Telling Rule = "api_differs"
	// Behaviour: the runner did not do what a mode asked of it.
	Behaviour Rule = "behaviour"
)

// Finding is one thing that breaks the promise.
type Finding struct {
	Rule Rule   `json:"rule"`
	Text string `json:"text"`
}

func (f Finding) String() string { return string(f.Rule) + ": " + f.Text }

const (
	// noticeAfter is how long a death may go unnoticed: 15 s are promised, and
	// a busy host is slower.
	noticeAfter = 25 * time.Second
	// stuckAfter is how long past its due time a row may be untouched.
	stuckAfter = time.Minute
)

// Evidence is everything an audit looks at. The order of the looks matters: a
// machine is seen after its row was written and before the row is gone, so
// whoever looks at the cloud between two looks at the store and finds a
// contradiction has found a fault.
type Evidence struct {
	// Before is the ledger before the first look, After after the last.
	Before, After Account
	// First and Second are the store before and after the look at the cloud.
	First, Second Rows
	Cloud         Cloud
	// API is what /v1 told at the end, nil if it was not asked.
	API *Told
	// Excused are machines, by name, that have no row by the mode's own doing.
	Excused map[string]bool
	// Quiet says that nobody asks for anything and the pools have had time.
	Quiet bool
}

// Audit compares what callers were told, what the store holds and what the
// cloud has. It is pure; no finding means that the promise held.
func Audit(e Evidence) []Finding {
	a := &auditor{Evidence: e, rows: map[string]Row{}, ids: map[string]Row{}}
	for _, r := range e.Second.Instances {
		a.rows[r.Name], a.ids[r.ID] = r, r
	}
	a.found = append(a.found, e.After.Broken...)
	a.cloudAgainstStore()
	a.storeAgainstCloud()
	a.claims()
	a.leases()
	a.pools()
	a.due()
	if e.Quiet {
		a.quiet()
	}
	return a.found
}

type auditor struct {
	Evidence
	rows  map[string]Row // by name
	ids   map[string]Row
	found []Finding
}

func (a *auditor) find(r Rule, format string, args ...any) {
	a.found = append(a.found, Finding{r, fmt.Sprintf(format, args...)})
}

func (a *auditor) cloudAgainstStore() {
	for _, name := range slices.Sorted(maps.Keys(a.Cloud.Machines)) {
		m := a.Cloud.Machines[name]
		row, known := a.rows[name]
		switch {
		case a.Excused[name]:
		case !known:
			a.find(NoRow, "%s has no row", m)
		case row.State == stateGone && row.Since.Add(time.Millisecond).Before(a.Cloud.At):
			a.find(GoneAlive, "%s was seen at %s, its row is gone since %s", m, clock(a.Cloud.At), clock(row.Since))
		}
	}
}

func (a *auditor) storeAgainstCloud() {
	first := make(map[string]Row, len(a.First.Instances))
	for _, r := range a.First.Instances {
		first[r.ID] = r
	}
	for _, r := range a.Second.Instances {
		if (r.State != stateWarm && r.State != stateLeased) || first[r.ID].State != r.State || a.Cloud.Machines[r.Name].PID > 0 {
			continue
		}
		at, killed := a.After.Killed[r.Name]
		switch {
		case !killed:
			a.find(NoMachine, "%s is %s, and no process is it", r, r.State)
		case a.Cloud.At.Sub(at) > noticeAfter:
			a.find(Unnoticed, "%s is %s, and its process was killed %s before", r, r.State, a.Cloud.At.Sub(at).Round(time.Second))
		}
	}
}

// arriving is how long before it is committed a runner may have taken the time
// of an arrival: at most as long as a broken-off request waits for its turn.
const arriving = 2 * time.Second

// overtaken says whether a lease is of a setup that was broken off and read
// after the destroy that had overtaken it: a lease that came later, or another
// generation that was on its way when the destroy was sent.
func (l LeaseRow) overtaken(s Stage) bool {
	return !l.Arrived.Before(s.Ending) || l.Generation > 1 && !l.Arrived.Before(s.Ending.Add(-arriving))
}

// claims looks for every answered setup in the store.
func (a *auditor) claims() {
	byID := map[string][]LeaseRow{}
	for _, l := range a.Second.Leases {
		byID[l.ID] = append(byID[l.ID], l)
	}
	for _, id := range slices.Sorted(maps.Keys(a.Before.Stages)) {
		s := a.Before.Stages[id]
		for _, l := range byID[id] {
			if !s.Ended.IsZero() && !l.final() && !l.overtaken(s) {
				a.find(Undone, "the destroy of %s was answered at %s; generation %d, which had arrived at %s, is %s", id, clock(s.Ended), l.Generation, clock(l.Arrived), l.State)
			}
		}
		if s.Machine == "" || s.Disowned || s.Ended.Before(a.Second.Since) && !s.Ended.IsZero() {
			continue
		}
		all := byID[id]
		i := slices.IndexFunc(all, func(l LeaseRow) bool { return a.ids[l.Instance].Name == s.Machine })
		if i < 0 {
			a.find(LostClaim, "stage %s was answered machine %s at %s; the store has %s", id, s.Machine, clock(s.Granted), a.leasesText(all))
			continue
		}
		now := a.After.Stages[id]
		_, killed := a.After.Killed[s.Machine]
		if !s.Holds() || !now.Holds() || killed {
			continue
		}
		if l := all[i]; l.State != leaseActive {
			a.find(TakenAway, "stage %s has machine %s and has not given it back; its lease is %s (%s)", id, s.Machine, l.State, l.Reason)
		} else if row := a.rows[s.Machine]; row.State != stateLeased {
			a.find(TakenAway, "stage %s has machine %s, which is %s (%s)", id, s.Machine, cmp.Or(row.State, "without a row"), row.Reason)
		}
	}
}

func (a *auditor) leasesText(all []LeaseRow) string {
	if len(all) == 0 {
		return "no lease of that id"
	}
	text := ""
	for _, l := range all {
		text += fmt.Sprintf(" generation %d: %s on %q;", l.Generation, l.State, cmp.Or(a.ids[l.Instance].Name, l.Instance))
	}
	return "of that id" + text
}

// leases compares the two state machines, in one snapshot of the store.
func (a *auditor) leases() {
	on := map[string]LeaseRow{}
	for _, l := range a.Second.Leases {
		if l.final() || l.Instance == "" {
			continue
		}
		if other, taken := on[l.Instance]; taken {
			a.find(GivenTwice, "machine %s is on lease %s and on lease %s", l.Instance, other.ID, l.ID)
		}
		on[l.Instance] = l
		row, known := a.ids[l.Instance]
		if l.State == leaseActive && (!known || row.State != stateLeased && row.State != stateFailed || row.Lease != l.ID || row.Generation != l.Generation) {
			a.find(Torn, "lease %s is active on %s, which is %s of lease %q generation %d", l.ID, l.Instance, cmp.Or(row.State, "without a row"), row.Lease, row.Generation)
		}
	}
	for _, r := range a.Second.Instances {
		if l, live := on[r.ID]; r.State == stateLeased && (!live || l.ID != r.Lease || l.Generation != r.Generation) {
			a.find(Torn, "%s is leased to %s generation %d, which is not live or elsewhere", r, r.Lease, r.Generation)
		}
	}
}

func (a *auditor) pools() {
	for _, p := range a.Second.Pools {
		counted, running := 0, 0
		for _, r := range a.Second.Instances {
			if r.Pool == p.Name && r.State != stateGone {
				counted++
			}
		}
		for _, m := range a.Cloud.Machines {
			if m.Pool == p.Name && !a.Excused[m.Name] {
				running++
			}
		}
		if counted != p.Counted {
			a.find(Counter, "pool %s counts %d machines and has %d", p.Name, p.Counted, counted)
		}
		if counted > p.Max {
			a.find(Limit, "pool %s has %d rows of machines, its limit is %d", p.Name, counted, p.Max)
		}
		if running > p.Max {
			a.find(Limit, "pool %s has %d machines, its limit is %d", p.Name, running, p.Max)
		}
	}
}

// due looks for what nobody will ever come back to.
func (a *auditor) due() {
	check := func(what string, due time.Time) {
		switch {
		case due.IsZero():
			a.find(Stuck, "%s has no due time", what)
		case a.Second.At.Sub(due) > stuckAfter:
			a.find(Stuck, "%s was due %s ago", what, a.Second.At.Sub(due).Round(time.Second))
		}
	}
	for _, r := range a.Second.Instances {
		if r.State != stateGone {
			check(fmt.Sprintf("%s, %s,", r, r.State), r.Due)
		}
	}
	for _, l := range a.Second.Leases {
		if !l.final() {
			check(fmt.Sprintf("lease %s, %s,", l.ID, l.State), l.Due)
		}
	}
}

// quiet is how the world looks when nobody wants anything more: the pools are
// full, stages have what they hold, and there is nothing else.
func (a *auditor) quiet() {
	for _, p := range a.Second.Pools {
		warm := 0
		for _, r := range a.Second.Instances {
			if r.Pool == p.Name && r.State == stateWarm {
				warm++
			}
		}
		if warm != p.Min {
			a.find(NotQuiet, "pool %s has %d warm machines, wants %d", p.Name, warm, p.Min)
		}
	}
	live := 0
	for _, r := range a.Second.Instances {
		if r.State == stateGone {
			continue
		}
		live++
		if r.State != stateWarm && r.State != stateLeased {
			a.find(NotQuiet, "%s is %s (%s)", r, r.State, r.Reason)
		}
	}
	for _, l := range a.Second.Leases {
		if s, known := a.After.Stages[l.ID]; !l.final() && (!known || !s.Holds()) {
			a.find(NotQuiet, "lease %s is %s and nobody wants it (%s)", l.ID, l.State, l.Reason)
		}
	}
	machines := 0
	for _, name := range slices.Sorted(maps.Keys(a.Cloud.Machines)) {
		m := a.Cloud.Machines[name]
		if a.Excused[name] {
			continue
		}
		machines++
		if m.PID == 0 || !m.Folder {
			a.find(NotQuiet, "%s is only a half", m)
		}
	}
	if machines != live {
		a.find(NotQuiet, "%d machines, %d rows of machines", machines, live)
	}
	if a.API != nil {
		a.told()
	}
}

// told compares the API with the store while nothing moves.
func (a *auditor) told() {
	states := map[string]string{}
	for _, r := range a.Second.Instances {
		if r.State != stateGone {
			states[r.ID] = r.State
		}
	}
	if !maps.Equal(states, a.API.Instances) {
		a.find(Telling, "/v1/instances tells %v, the store has %v", a.API.Instances, states)
	}
	for _, p := range a.Second.Pools {
		if got, known := a.API.Counted[p.Name]; !known || got != p.Counted {
			a.find(Telling, "/v1/pools tells %d machines of pool %s, the store %d", got, p.Name, p.Counted)
		}
	}
	for id, s := range a.After.Stages {
		if got := a.ids[a.API.Leases[id]].Name; s.Holds() && got != s.Machine {
			a.find(Telling, "/v1/leases/%s tells machine %q, its caller was answered %s", id, got, s.Machine)
		}
	}
	if a.API.Orphans != len(a.Excused) {
		a.find(Telling, "the metric of orphans is %d, want %d", a.API.Orphans, len(a.Excused))
	}
}
