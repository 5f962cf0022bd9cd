package hostrunner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// Limits is how much of the host stages may take. A zero field means no limit
// of that kind.
type Limits struct {
	// Stages is how many may run at once.
	Stages int
	// CPUs is what a stage is reckoned with, in processors; half of one is what
	// the platform asks for at least.
	CPUs float64
	// Memory is what a stage is reckoned with, in bytes; also that much must be
	// free when it begins.
	Memory uint64
	// Disk is what must be free below the data directory, in bytes.
	Disk uint64
}

// What the platform says a stage needs at least, and what keeps a host from
// filling its disk.
const (
	DefaultCPUs   = 0.5
	DefaultMemory = 1500 << 20
	DefaultDisk   = 2 << 30
)

// DefaultLimits reckons with the platform's minimum and no number of stages.
func DefaultLimits() Limits {
	return Limits{CPUs: DefaultCPUs, Memory: DefaultMemory, Disk: DefaultDisk}
}

// Facts is the host at one moment. Zero means not known.
type Facts struct {
	CPUs            int    `json:"cpus"`
	MemoryTotal     uint64 `json:"memory_total_bytes"`
	MemoryAvailable uint64 `json:"memory_available_bytes"`
	DiskFree        uint64 `json:"disk_free_bytes"`
}

// refusal says why no further stage fits beside those that run, "" if one
// does. A host without stages takes one whatever its CPUs and memory are, since
// waiting would not change them; a full disk lets nobody in.
func (l Limits) refusal(running int, h Facts) string {
	next := running + 1
	switch {
	case l.Disk > 0 && h.DiskFree > 0 && h.DiskFree < l.Disk:
		return fmt.Sprintf("disk: %s are free, %s must be: free some, or lower --disk-reserve", size(h.DiskFree), size(l.Disk))
	case l.Stages > 0 && running >= l.Stages:
		return fmt.Sprintf("stages: %d run, the limit is %d (--max-stages)", running, l.Stages)
	case running == 0:
		return ""
	case l.CPUs > 0 && h.CPUs > 0 && float64(next)*l.CPUs > float64(h.CPUs):
		return fmt.Sprintf("cpu: %d stages at %s CPUs each are more than the host's %d (--stage-cpus)", next, number(l.CPUs), h.CPUs)
	case l.Memory > 0 && h.MemoryTotal > 0 && uint64(next)*l.Memory > h.MemoryTotal:
		return fmt.Sprintf("memory: %d stages at %s each are more than the host's %s (--stage-memory)", next, size(l.Memory), size(h.MemoryTotal))
	case l.Memory > 0 && h.MemoryAvailable > 0 && h.MemoryAvailable < l.Memory:
		return fmt.Sprintf("memory: %s are available, a stage needs %s (--stage-memory)", size(h.MemoryAvailable), size(l.Memory))
	}
	return ""
}

func number(f float64) string { return fmt.Sprintf("%g", math.Round(f*100)/100) }

// size prints bytes in the unit a person reads them in.
func size(n uint64) string {
	for _, u := range []struct {
		bytes uint64
		name  string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}} {
		if n >= u.bytes {
			return number(float64(n)/float64(u.bytes)) + " " + u.name
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// lookAgain is how often the head of the queue looks at the host again: memory
// and disks get free without anybody telling.
const lookAgain = time.Second

// errWaited ends a wait that was too long.
var errWaited = errors.New("no room on this host")

// queue lets stages in, in the order of arrival. It is safe for concurrent use.
type queue struct {
	limits Limits
	facts  func() (Facts, error)
	now    func() time.Time

	mu      sync.Mutex
	inside  map[string]bool
	waiting []*waiter
	refusal string        // of the last look by anybody
	changed chan struct{} // closed and replaced when somebody leaves
}

type waiter struct {
	id     string
	since  time.Time
	reason string // of the last look, "" for those behind the head
}

func newQueue(l Limits, facts func() (Facts, error), now func() time.Time) *queue {
	return &queue{limits: l, facts: facts, now: now, inside: make(map[string]bool), changed: make(chan struct{})}
}

// enter waits until there is room for a stage, at most for patience, or until
// ctx ends, whose cause it returns. The error of a wait that was too long says
// for what it was, and how many were ahead.
func (q *queue) enter(ctx context.Context, id string, patience time.Duration) error {
	me := &waiter{id: id, since: q.now()}
	q.mu.Lock()
	q.waiting = append(q.waiting, me)
	q.mu.Unlock()
	tooLong := time.NewTimer(patience)
	defer tooLong.Stop()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		changed, in := q.try(me)
		if in {
			return nil
		}
		select {
		case <-changed:
		case <-again.C:
		case <-tooLong.C:
			ahead := q.giveUp(me)
			return q.inVain(me, ahead, patience)
		case <-ctx.Done():
			q.giveUp(me)
			return context.Cause(ctx)
		}
	}
}

// try lets me in if I am first and there is room. The host is looked at without
// the lock: a file system may take its time to answer.
func (q *queue) try(me *waiter) (changed <-chan struct{}, in bool) {
	q.mu.Lock()
	changed = q.changed
	first := q.waiting[0] == me
	q.mu.Unlock()
	if !first {
		return changed, false
	}
	facts, err := q.facts()
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		me.reason = fmt.Sprintf("the host cannot be looked at: %v", err)
	} else {
		me.reason = q.limits.refusal(len(q.inside), facts)
	}
	if q.refusal = me.reason; me.reason != "" {
		return changed, false
	}
	q.inside[me.id] = true
	q.removeLocked(me)
	return changed, true
}

// giveUp takes me out of the queue and returns how many were ahead.
func (q *queue) giveUp(me *waiter) (ahead int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.removeLocked(me)
}

func (q *queue) removeLocked(me *waiter) (ahead int) {
	ahead = slices.Index(q.waiting, me)
	q.waiting = slices.Delete(q.waiting, ahead, ahead+1)
	q.announceLocked()
	return ahead
}

func (q *queue) announceLocked() {
	close(q.changed)
	q.changed = make(chan struct{})
}

func (q *queue) inVain(me *waiter, ahead int, patience time.Duration) error {
	q.mu.Lock()
	reason := cmp.Or(me.reason, q.refusal) // who is behind has not looked
	inside := len(q.inside)
	q.mu.Unlock()
	return fmt.Errorf("%w: stage %s has waited %s, with %d ahead of it and %d running; %s; wait longer with --wait",
		errWaited, me.id, patience, ahead, inside, reason)
}

// admit takes a stage in without asking: one that was there before a restart.
func (q *queue) admit(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inside[id] = true
}

// leave gives a stage's place back. Twice is no error.
func (q *queue) leave(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.inside[id] {
		delete(q.inside, id)
		q.announceLocked()
	}
}

// Waiting is a stage that waits for room.
type Waiting struct {
	ID    string    `json:"id"`
	Since time.Time `json:"since"`
	// Ahead is how many are let in before it.
	Ahead int `json:"ahead"`
	// Reason is what the first in the queue waits for.
	Reason string `json:"reason,omitempty"`
}

// list tells who waits, in order.
func (q *queue) list() []Waiting {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]Waiting, 0, len(q.waiting))
	for i, w := range q.waiting {
		all = append(all, Waiting{ID: w.id, Since: w.since, Ahead: i, Reason: q.waiting[0].reason})
	}
	return all
}
