package chaos_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/chaos"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a sound one: a pool of one warm machine and one that stage "a" has,
// and what is left of stage "b", which is over.
func world() chaos.Evidence {
	rows := func() chaos.Rows {
		return chaos.Rows{
			At: now,
			Instances: []chaos.Row{
				{ID: "i1", Name: "vm-1", Pool: "p", State: "warm", Since: now.Add(-time.Minute), Due: now.Add(time.Hour)},
				{ID: "i2", Name: "vm-2", Pool: "p", State: "leased", Lease: "a", Generation: 1, Since: now.Add(-time.Minute), Due: now.Add(time.Hour)},
				{ID: "i3", Name: "vm-3", Pool: "p", State: "gone", Lease: "b", Generation: 1, Since: now.Add(-time.Minute)},
			},
			Leases: []chaos.LeaseRow{
				{ID: "a", Generation: 1, State: "active", Instance: "i2", Arrived: now.Add(-time.Minute), Due: now.Add(time.Hour)},
				{ID: "b", Generation: 1, State: "ended", Instance: "i3", Arrived: now.Add(-2 * time.Minute)},
			},
			Pools: []chaos.PoolRow{{Name: "p", Min: 1, Max: 4, Counted: 2}},
		}
	}
	l := chaos.NewLedger()
	l.Asked("a")
	l.Granted("a", "vm-2", now.Add(-time.Minute))
	l.Asked("b")
	l.Granted("b", "vm-3", now.Add(-2*time.Minute))
	l.Ending("b", now.Add(-90*time.Second))
	l.Ended("b", now.Add(-80*time.Second))
	return chaos.Evidence{
		Before: l.Read(), After: l.Read(), First: rows(), Second: rows(), Quiet: true,
		Cloud: chaos.Cloud{At: now, Machines: map[string]chaos.Machine{
			"vm-1": {Name: "vm-1", Pool: "p", PID: 11, Folder: true},
			"vm-2": {Name: "vm-2", Pool: "p", PID: 12, Folder: true},
		}},
		API: &chaos.Told{
			Instances: map[string]string{"i1": "warm", "i2": "leased"},
			Counted:   map[string]int{"p": 2}, Leases: map[string]string{"a": "i2"},
		},
		Excused: map[string]bool{},
	}
}

func TestASoundWorldHasNoFindings(t *testing.T) {
	t.Parallel()
	if found := chaos.Audit(world()); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

// TestTheAuditFindsABrokenWorld breaks one thing each and demands the rule
// that names it.
func TestTheAuditFindsABrokenWorld(t *testing.T) {
	t.Parallel()
	stage := func(e *chaos.Evidence, id string, change func(*chaos.Stage)) {
		for _, a := range []chaos.Account{e.Before, e.After} {
			s := a.Stages[id]
			change(&s)
			a.Stages[id] = s
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(*chaos.Evidence)
		want  []chaos.Rule
	}{
		{"a machine without a row", func(e *chaos.Evidence) {
			e.Cloud.Machines["vm-9"] = chaos.Machine{Name: "vm-9", Pool: "p", PID: 19, Folder: true}
		}, []chaos.Rule{chaos.NoRow, chaos.NotQuiet}},
		{"a machine whose end was confirmed before it was seen", func(e *chaos.Evidence) {
			e.Cloud.Machines["vm-3"] = chaos.Machine{Name: "vm-3", Pool: "p", PID: 13, Folder: true}
		}, []chaos.Rule{chaos.GoneAlive, chaos.NotQuiet}},
		{"a warm row without a machine", func(e *chaos.Evidence) {
			delete(e.Cloud.Machines, "vm-1")
		}, []chaos.Rule{chaos.NoMachine, chaos.NotQuiet}},
		{"a busy machine that was killed by nobody we know", func(e *chaos.Evidence) {
			e.Cloud.Machines["vm-2"] = chaos.Machine{Name: "vm-2", Pool: "p", Folder: true}
		}, []chaos.Rule{chaos.NoMachine, chaos.NotQuiet}},
		{"a death nobody notices", func(e *chaos.Evidence) {
			e.Cloud.Machines["vm-1"] = chaos.Machine{Name: "vm-1", Pool: "p", Folder: true}
			e.After.Killed["vm-1"] = now.Add(-time.Minute)
		}, []chaos.Rule{chaos.Unnoticed, chaos.NotQuiet}},
		{"two live leases on one machine", func(e *chaos.Evidence) {
			e.Second.Leases = append(e.Second.Leases, chaos.LeaseRow{ID: "c", Generation: 1, State: "starting", Instance: "i2", Due: now})
		}, []chaos.Rule{chaos.GivenTwice, chaos.Torn, chaos.NotQuiet}},
		{"an answered claim that the store has lost", func(e *chaos.Evidence) {
			e.Second.Leases = e.Second.Leases[1:]
			e.Second.Instances[1].State, e.Second.Instances[1].Lease = "destroying", ""
		}, []chaos.Rule{chaos.LostClaim, chaos.NotQuiet, chaos.Telling}},
		{"an answered claim that is another machine's in the store", func(e *chaos.Evidence) {
			e.Second.Leases[1].Instance = "i1"
		}, []chaos.Rule{chaos.LostClaim}},
		{"a lease that was ended though its stage goes on", func(e *chaos.Evidence) {
			e.Second.Leases[0].State = "lost"
			e.Second.Instances[1].State = "destroying"
		}, []chaos.Rule{chaos.TakenAway, chaos.NotQuiet, chaos.Telling}},
		{"a machine that is being destroyed under its lease", func(e *chaos.Evidence) {
			e.Second.Instances[1].State = "destroying"
		}, []chaos.Rule{chaos.TakenAway, chaos.Torn, chaos.NotQuiet, chaos.Telling}},
		{"a leased machine whose lease has ended", func(e *chaos.Evidence) {
			e.Second.Leases[0].State = "ended"
			stage(e, "a", func(s *chaos.Stage) { s.Ending, s.Ended = now, now })
		}, []chaos.Rule{chaos.Torn}},
		{"an answered destroy that was forgotten", func(e *chaos.Evidence) {
			stage(e, "a", func(s *chaos.Stage) { s.Ending, s.Ended = now, now })
		}, []chaos.Rule{chaos.Undone, chaos.NotQuiet}},
		{"a counter that is one too low", func(e *chaos.Evidence) {
			e.Second.Pools[0].Counted, e.API.Counted["p"] = 1, 1
		}, []chaos.Rule{chaos.Counter}},
		{"more machines than the limit", func(e *chaos.Evidence) {
			e.Second.Pools[0].Max = 1
		}, []chaos.Rule{chaos.Limit}},
		{"a row that is never looked at again", func(e *chaos.Evidence) {
			e.Second.Instances[0].Due = time.Time{}
		}, []chaos.Rule{chaos.Stuck}},
		{"a lease long past its time", func(e *chaos.Evidence) {
			e.Second.Leases[0].Due = now.Add(-time.Hour)
		}, []chaos.Rule{chaos.Stuck}},
		{"a pool that is not filled", func(e *chaos.Evidence) {
			e.Second.Pools[0].Min = 2
		}, []chaos.Rule{chaos.NotQuiet}},
		{"a machine that failed and stays", func(e *chaos.Evidence) {
			e.Second.Instances[0].State, e.API.Instances["i1"] = "failed", "failed"
		}, []chaos.Rule{chaos.NotQuiet}},
		{"a process whose folder is gone", func(e *chaos.Evidence) {
			e.Cloud.Machines["vm-1"] = chaos.Machine{Name: "vm-1", Pool: "p", PID: 11}
		}, []chaos.Rule{chaos.NotQuiet}},
		{"an API that tells of another machine", func(e *chaos.Evidence) {
			e.API.Leases["a"] = "i1"
		}, []chaos.Rule{chaos.Telling}},
		{"a machine without a row that the metric does not count", func(e *chaos.Evidence) {
			e.Cloud.Machines["vm-9"] = chaos.Machine{Name: "vm-9", Pool: "p", PID: 19, Folder: true}
			e.Excused["vm-9"] = true
		}, []chaos.Rule{chaos.Telling}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := world()
			c.spoil(&e)
			var got []chaos.Rule
			for _, f := range chaos.Audit(e) {
				got = append(got, f.Rule)
			}
			slices.Sort(got)
			got = slices.Compact(got)
			slices.Sort(c.want)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("rules (-want +got):\n%s\n%v", diff, chaos.Audit(e))
			}
		})
	}
}

// TestWhatMovesIsNoFinding: under load the looks are at different moments.
func TestWhatMovesIsNoFinding(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		move func(*chaos.Evidence)
	}{
		{"a machine that was seen and then destroyed", func(e *chaos.Evidence) {
			e.Cloud.Machines["vm-3"] = chaos.Machine{Name: "vm-3", Pool: "p", PID: 13, Folder: true}
			e.Second.Instances[2].Since = now.Add(time.Millisecond)
		}},
		{"a machine that became warm after the look at the cloud", func(e *chaos.Evidence) {
			e.First.Instances[0].State = "booting"
			delete(e.Cloud.Machines, "vm-1")
		}},
		{"a stage that gave its machine back between the looks", func(e *chaos.Evidence) {
			s := e.After.Stages["a"]
			s.Ending = now
			e.After.Stages["a"] = s
			e.Second.Leases[0].State, e.Second.Instances[1].State = "ended", "destroying"
		}},
		{"a stage that was answered after the first look", func(e *chaos.Evidence) {
			e.After.Stages["c"] = chaos.Stage{ID: "c", Machine: "vm-1", Granted: now}
		}},
		{"a machine that we have just killed", func(e *chaos.Evidence) {
			e.After.Killed["vm-2"] = now.Add(-time.Second)
			e.Cloud.Machines["vm-2"] = chaos.Machine{Name: "vm-2", Pool: "p", Folder: true}
		}},
		{"a setup that was read after the destroy that had overtaken it", func(e *chaos.Evidence) {
			e.Second.Leases = append(e.Second.Leases, chaos.LeaseRow{ID: "b", Generation: 2, State: "waiting", Arrived: now, Due: now})
		}},
		{"a store that was lost by our hand", func(e *chaos.Evidence) {
			for id, s := range e.Before.Stages {
				s.Disowned = true
				e.Before.Stages[id], e.After.Stages[id] = s, s
			}
			e.Second = chaos.Rows{At: now}
			e.Excused["vm-1"], e.Excused["vm-2"] = true, true
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := world()
			e.Quiet = false
			c.move(&e)
			if found := chaos.Audit(e); len(found) > 0 {
				t.Errorf("found %v", found)
			}
		})
	}
}

func TestTheLedgerRemembersWhoHadAMachine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		say  func(*chaos.Ledger)
		want []chaos.Rule
	}{
		{"each stage its own", func(l *chaos.Ledger) {
			l.Granted("a", "vm-1", now)
			l.Granted("a", "vm-1", now) // asked again
			l.Granted("b", "vm-2", now)
		}, nil},
		{"two at a time", func(l *chaos.Ledger) {
			l.Granted("a", "vm-1", now)
			l.Granted("b", "vm-1", now)
		}, []chaos.Rule{chaos.GivenTwice}},
		{"one after the other", func(l *chaos.Ledger) {
			l.Granted("a", "vm-1", now)
			l.Ending("a", now)
			l.Ended("a", now)
			l.Granted("b", "vm-1", now)
		}, []chaos.Rule{chaos.GivenTwice}},
		{"another while the first lives", func(l *chaos.Ledger) {
			l.Granted("a", "vm-1", now)
			l.Granted("a", "vm-2", now)
		}, []chaos.Rule{chaos.Swapped}},
		{"another after the first was killed", func(l *chaos.Ledger) {
			l.Granted("a", "vm-1", now)
			l.Killed("vm-1", now)
			l.Granted("a", "vm-2", now)
		}, nil},
		{"also of a stage the store does not know any more", func(l *chaos.Ledger) {
			l.Granted("a", "vm-1", now)
			l.Disown()
			l.Granted("b", "vm-1", now)
		}, []chaos.Rule{chaos.GivenTwice}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := chaos.NewLedger()
			c.say(l)
			var got []chaos.Rule
			for _, f := range l.Read().Broken {
				got = append(got, f.Rule)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
		})
	}
}

func TestALongRunForgetsWhatIsOver(t *testing.T) {
	t.Parallel()
	l := chaos.NewLedger()
	l.Granted("old", "vm-1", now)
	l.Ending("old", now)
	l.Ended("old", now)
	l.Granted("held", "vm-2", now)
	l.Killed("vm-1", now)
	l.Forget(now.Add(time.Second))
	a := l.Read()
	if len(a.Stages) != 1 || len(a.Killed) != 0 || !a.Stages["held"].Holds() {
		t.Errorf("left: %+v", a)
	}
}
