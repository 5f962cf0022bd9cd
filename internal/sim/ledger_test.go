package sim

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// rule names what is promised; a complaint begins with it.
type rule string

// The rules of the promise.
const (
	ruleIntent     rule = "intent first"
	ruleConfirmed  rule = "row until confirmed"
	ruleOneLease   rule = "one lease per machine"
	ruleUsed       rule = "no machine twice"
	ruleInUse      rule = "none in use destroyed"
	ruleGate       rule = "destroyed only when it is to be"
	ruleFalseDeath rule = "lost only if dead"
	ruleLimit      rule = "never over the limit"
	ruleCounter    rule = "counter is the truth"
	ruleTransition rule = "legal transitions"
	ruleDue        rule = "due within its state's bound"
	ruleOverdue    rule = "nothing long overdue"
	ruleDurable    rule = "answers are durable"
	ruleOrder      rule = "first come first served"
	ruleReason     rule = "a refusal says why"
	ruleStranger   rule = "no machine without a row"
	ruleQuiet      rule = "quiet in the end"
	ruleIdle       rule = "idle when quiet"
	ruleLeak       rule = "nothing kept in memory"
	ruleError      rule = "no error of its own"
	ruleHeld       rule = "what is held is left alone"
	ruleFits       rule = "what is given fits"
	ruleStarved    rule = "no flavour starves"
	ruleGuard      rule = "no more than its guards allow"
	ruleOpens      rule = "a gate opens again"
	ruleClosed     rule = "nothing begun in a closed pool"
	ruleDisk       rule = "no disk deleted unless its owner says so"
	ruleDeleted    rule = "what was deleted is gone"
	ruleDiskRow    rule = "no disk without a row"
	ruleKnownCert  rule = "the store knows each machine's certificate"
)

// answer is a machine a caller was told of and counts on.
type answer struct {
	lease   string
	machine string
	arrived time.Time
	called  time.Time
	// told is when it was given first.
	told time.Time
	// left: its caller will never come back, and age may end it.
	left bool
	// unknown: the store was put back to a copy that does not have it.
	unknown bool
}

// line is one event of the story.
type line struct {
	at   time.Time
	who  string
	what string
	// about are the lease and the machine it concerns.
	lease, machine string
}

// ledger is what is known of the run from outside the engine: what callers
// were told, what happened in which order, and what was wrong. Its lock is
// taken last of all.
type ledger struct {
	// dead asks the world about a machine; called without the lock.
	dead func(name string) bool
	// steps asks the world how many steps run in a machine; without the lock.
	steps func(name string) int
	// refresh looks at the rows again, where another process's write may not
	// have been looked at yet; without the lock.
	refresh func()
	// busyAge and idle are the engine's; grip is how long a destroy that had
	// begun when its machine was held may yet take.
	// slack is how much the clocks of hosts may differ.
	busyAge, idle, grip, slack time.Duration

	mu      sync.Mutex
	rows    map[string]row     // live instances by id, as last seen
	byName  map[string]string  // their ids
	past    map[string]bool    // names that ever had a row
	answers map[string]*answer // by machine
	gone    map[string]bool    // leases whose callers never come back
	// What orders may have ended, and how many: machines and leases by name.
	doomed, ended map[string]int
	// gripped is since when a machine is held although it was already being
	// destroyed then: a destroy that had begun may still come true.
	gripped map[string]time.Time
	// holding are the machines an operator was told to be held, released those
	// somebody was ever told to let go.
	holding, released map[string]bool
	story             []line
	wrongs            []complaint
	// restored: the store was put back to an old copy; forgotten are the leases
	// that were answered since that was made.
	restored  bool
	forgotten map[string]bool
	// deletable are the disks whose owners have asked for their end.
	deletable map[string]bool
}

type complaint struct {
	rule    rule
	subject string
	text    string
}

func newLedger() *ledger {
	return &ledger{
		rows: map[string]row{}, byName: map[string]string{}, past: map[string]bool{}, answers: map[string]*answer{}, gone: map[string]bool{},
		doomed: map[string]int{}, ended: map[string]int{}, gripped: map[string]time.Time{},
		forgotten: map[string]bool{}, deletable: map[string]bool{}, holding: map[string]bool{}, released: map[string]bool{},
	}
}

const maxComplaints = 20

// wrong files a complaint about a machine or lease.
func (l *ledger) wrong(r rule, subject, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrongs) < maxComplaints {
		l.wrongs = append(l.wrongs, complaint{r, subject, stampOf(time.Now()) + " " + string(r) + ": " + fmt.Sprintf(format, args...)})
	}
}

func stampOf(t time.Time) string { return t.UTC().Format("02T15:04:05.000") }

// tell adds to the story.
func (l *ledger) tell(who, lease, machine, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.story = append(l.story, line{time.Now(), who, fmt.Sprintf(format, args...), lease, machine})
}

// complaints are everything that was wrong, each with the last events of what
// it is about.
func (l *ledger) complaints() []complaint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wrongs
}

// tale is the end of the story of a machine or lease, and of what it met.
func (l *ledger) tale(subject string, most int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	about := map[string]bool{subject: true}
	for _, e := range l.story {
		if e.lease != "" && e.machine != "" && (e.lease == subject || e.machine == subject) {
			about[e.lease], about[e.machine] = true, true
		}
	}
	var out []string
	for i := len(l.story) - 1; i >= 0 && len(out) < most; i-- {
		e := l.story[i]
		if subject == "" || about[e.lease] && e.lease != "" || about[e.machine] && e.machine != "" || e.lease == "" && e.machine == "" {
			out = append(out, fmt.Sprintf("    %s %-6s %s", stampOf(e.at), e.who, e.what))
		}
	}
	var b strings.Builder
	for i := len(out) - 1; i >= 0; i-- {
		b.WriteString(out[i] + "\n")
	}
	return b.String()
}

// answered records that a caller was told of its machine.
func (l *ledger) answered(lease, name string, arrived time.Time) {
	l.tell("caller", lease, name, "%s is told of %s", lease, name)
	l.mu.Lock()
	other := l.answers[name]
	now := time.Now()
	a := &answer{lease: lease, machine: name, arrived: arrived, called: now, told: now}
	if other != nil && other.lease == lease {
		a.told = other.told
	}
	l.answers[name] = a
	l.mu.Unlock()
	if other != nil && other.lease != lease {
		l.wrong(ruleUsed, name, "%s, which %s was told of, is given to %s", name, other.lease, lease)
	}
}

// called records a call for a lease.
func (l *ledger) called(lease string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.answers {
		if a.lease == lease {
			a.called = time.Now()
		}
	}
}

// givenUp records that a caller asks for the end of its lease.
func (l *ledger) givenUp(lease string) {
	l.tell("caller", lease, "", "%s is given up", lease)
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, a := range l.answers {
		if a.lease == lease {
			delete(l.answers, name)
		}
	}
}

// left records that a caller will never come back.
func (l *ledger) left(lease string) {
	l.tell("caller", lease, "", "%s is left alone for ever", lease)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone[lease] = true
	for _, a := range l.answers {
		if a.lease == lease {
			a.left = true
		}
	}
}

// isLeft says whether a lease's caller will never come back.
func (l *ledger) isLeft(lease string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gone[lease]
}

// inUse says whether a caller counts on a machine.
func (l *ledger) inUse(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answers[name] != nil
}

// holds is the answer a machine was given in, if its caller may still count on
// it: one that never comes back does until age may end its lease.
func (l *ledger) holds(name string) (answer, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.answers[name]
	if a == nil {
		return answer{}, false
	}
	if l.doomed[name] > 0 || l.ended[a.lease] > 0 {
		return answer{}, false
	}
	now := time.Now()
	if a.left && now.Sub(a.arrived) >= l.busyAge-l.slack && now.Sub(a.called) >= l.idle-l.slack {
		return answer{}, false
	}
	return *a, true
}

// row is a machine's row, looked for again if it is not as expected.
func (l *ledger) row(name string, want pool.InstanceState) row {
	find := func() row {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.rows[l.byName[name]]
	}
	r := find()
	if r.state != want && l.refresh != nil {
		l.refresh()
		r = find()
	}
	return r
}

// creating is told when the cloud is asked for a machine.
func (l *ledger) creating(name, id string) {
	r := l.row(name, pool.Creating)
	l.tell("cloud", "", name, "asked to make %s", name)
	if r.id != id || id == "" {
		l.wrong(ruleIntent, name, "the cloud is asked for %s, which no row describes", name)
	}
}

// destroying is told when the cloud is asked to end a machine, and again when
// it does so.
func (l *ledger) destroying(name string) {
	r := l.row(name, pool.Destroying)
	ok := r.id != ""
	l.mu.Lock()
	known := l.past[name]
	named := l.doomed[name] > 0
	grip, late := l.gripped[name]
	l.mu.Unlock()
	l.tell("cloud", "", name, "asked to destroy %s (row: %s)", name, r.state)
	dead := l.dead(name)
	if a, held := l.holds(name); held && !dead {
		l.wrong(ruleInUse, name, "%s is destroyed while %s uses it", name, a.lease)
	}
	if ok && r.bound && !dead && l.steps(name) > 0 {
		l.wrong(ruleInUse, name, "%s is destroyed while a step of %s runs in it", name, r.lease)
	}
	switch {
	case ok && r.state != "destroying":
		l.wrong(ruleGate, name, "%s is destroyed although its row is %s", name, r.state)
	case ok && r.held && (!late || time.Since(grip) > l.grip):
		l.wrong(ruleHeld, name, "%s is destroyed although an operator holds it", name)
	case !ok && !known && !dead && !named:
		l.wrong(ruleGate, name, "%s, which never had a row, is destroyed", name)
	}
}

// setUp is told when an agent is set up for a lease, or refuses to be.
func (l *ledger) setUp(name, before, lease string, refused bool) {
	l.mu.Lock()
	restored := l.restored
	l.mu.Unlock()
	if refused && restored {
		// An old copy of the store cannot know; that is what agents refuse for.
		l.tell("agent", lease, name, "%s, which is %s's, refuses to be set up for %s", name, before, lease)
		return
	}
	l.tell("agent", lease, name, "%s is set up for %s", name, lease)
	if before != "" && before != lease {
		l.wrong(ruleUsed, name, "%s was set up for %s and is now for %s", name, before, lease)
	}
}
