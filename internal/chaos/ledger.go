package chaos

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Stage is one caller's story: what it asked for and was answered.
type Stage struct {
	// ID is the lease's.
	ID string
	// Machine is the name of the machine the last answered setup named, "" before.
	Machine string
	// Granted is when that answer came.
	Granted time.Time
	// Ending is when the caller first sent its destroy; zero while it wants its
	// machine.
	Ending time.Time
	// Ended is when a destroy was answered; zero before.
	Ended time.Time
	// Disowned says that the store cannot know of it.
	Disowned bool
}

// Holds says whether the caller has a machine, has not begun to give it back,
// and the store has to know.
func (s Stage) Holds() bool { return s.Machine != "" && s.Ending.IsZero() && !s.Disowned }

// Ledger is what callers were answered. Nothing in it is ever changed for the
// better: a machine that was named to one stage stays that stage's. It is safe
// for concurrent use.
type Ledger struct {
	mu     sync.Mutex
	stages map[string]Stage
	// owners are the machines that were ever named to a stage.
	owners map[string]string
	// killed are machines that died by our hand.
	killed map[string]time.Time
	broken []Finding
	claims int
}

// NewLedger is an empty ledger.
func NewLedger() *Ledger {
	return &Ledger{stages: map[string]Stage{}, owners: map[string]string{}, killed: map[string]time.Time{}}
}

// Asked notes that a stage exists, before its first request is sent.
func (l *Ledger) Asked(stage string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.stages[stage]; !known {
		l.stages[stage] = Stage{ID: stage}
	}
}

// Granted notes an answered setup. A machine runs one stage and is destroyed,
// so one that was ever another stage's is a finding.
func (l *Ledger) Granted(stage, machine string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.claims++
	if owner, taken := l.owners[machine]; taken && owner != stage {
		first := l.stages[owner]
		how := fmt.Sprintf("after %s had begun to give it back at %s", owner, clock(first.Ending))
		if first.Ending.IsZero() {
			how = fmt.Sprintf("while %s has it since %s", owner, clock(first.Granted))
		}
		l.broken = append(l.broken, Finding{GivenTwice, fmt.Sprintf("machine %s was given to %s at %s %s", machine, stage, clock(at), how)})
	}
	l.owners[machine] = stage
	s := l.stages[stage]
	s.ID = stage
	if s.Machine != "" && s.Machine != machine && s.Ending.IsZero() {
		if _, dead := l.killed[s.Machine]; !dead {
			l.broken = append(l.broken, Finding{Swapped, fmt.Sprintf("stage %s was answered machine %s at %s and %s before, which nobody killed", stage, machine, clock(at), s.Machine)})
		}
	}
	s.Machine, s.Granted = machine, at
	l.stages[stage] = s
}

// Ending notes that a stage is about to send its destroy.
func (l *Ledger) Ending(stage string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stages[stage]
	s.ID = stage
	if s.Ending.IsZero() {
		s.Ending = at
	}
	l.stages[stage] = s
}

// Ended notes that its destroy was answered.
func (l *Ledger) Ended(stage string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stages[stage]
	s.ID, s.Ended = stage, at
	l.stages[stage] = s
}

// Killed notes that we are about to kill a machine.
func (l *Ledger) Killed(machine string, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.killed[machine] = at
}

// Disown says that the store has lost all stages but those named, by no fault
// of the runner: what they were answered need not be known any more. Their
// machines stay theirs.
func (l *Ledger) Disown(but ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, s := range l.stages {
		if !slices.Contains(but, id) {
			s.Disowned = true
			l.stages[id] = s
		}
	}
}

// Forget drops stages that ended before a time, so that a long run does not
// grow; their machines are forgotten with them.
func (l *Ledger) Forget(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, s := range l.stages {
		if !s.Ended.IsZero() && s.Ended.Before(before) {
			delete(l.stages, id)
			delete(l.owners, s.Machine)
		}
	}
	for id, at := range l.killed {
		if at.Before(before) {
			delete(l.killed, id)
		}
	}
}

// Account is the ledger at one moment.
type Account struct {
	Stages map[string]Stage
	Killed map[string]time.Time
	// Broken are the findings the ledger made by itself.
	Broken []Finding
	// Claims is how many setups were answered with a machine.
	Claims int
}

// Read copies the ledger.
func (l *Ledger) Read() Account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := Account{Stages: make(map[string]Stage, len(l.stages)), Killed: make(map[string]time.Time, len(l.killed)), Broken: slices.Clone(l.broken), Claims: l.claims}
	for id, s := range l.stages {
		a.Stages[id] = s
	}
	for id, at := range l.killed {
		a.Killed[id] = at
	}
	return a
}

// Holders are the stages that have a machine now, by id.
func (a Account) Holders() []Stage {
	var all []Stage
	for _, s := range a.Stages {
		if s.Holds() {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b Stage) int { return strings.Compare(a.ID, b.ID) })
	return all
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }
