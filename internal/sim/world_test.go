package sim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// faults says how bad the world is. Shares are from 0 to 1.
type faults struct {
	slow         time.Duration // most that an ordinary cloud call takes
	boot         time.Duration // most that a boot takes
	createFails  float64       // a create without effect
	createLies   float64       // a create that works and answers with an error
	createHangs  float64       // a create that answers nothing until it is given up, and may work later
	neverBoots   float64
	dies         float64 // ends by itself within its first hour, and stays listed
	vanishes     float64 // the same, and is listed no more
	within       time.Duration
	consoleSlow  time.Duration // most that reading a console takes
	destroyFails float64
	destroyHangs float64
	refuses      bool    // refuses every destroy for a while, a day in long seeds
	listPartial  float64 // a listing that lacks machines and says so
	listStale    float64 // a listing as of up to a minute ago, with an honest time
	listFails    float64
	listSlow     float64 // a listing that takes up to a minute
	throttles    bool    // whole minutes in which calls are refused for their rate
	setupFails   float64
	agentHangs   float64
	stepForgets  float64 // an agent that knows nothing of a step it was given
	capacity     int     // most machines at a time, 0 for no bound
	quota        int     // the same, refused as a quota
}

// world is the pretend cloud and what is known of it from outside the engine:
// half of the oracle.
type world struct {
	d   *dice
	log *ledger

	mu       sync.Mutex
	bad      faults
	since    time.Time // when the world began
	machines map[string]*machine
	disks    map[string]disk
	numbers  map[string]int // a machine's ordinal, by name: names are random
	history  []snapshotAt
	// confirmed are the machines the cloud has said are gone.
	confirmed map[string]bool
	made      int
	// renewals counts those of certificates; copied: an old copy of the store may
	// know none of them.
	renewals int
	copied   bool
	// late is how many machines the cloud may yet make of its own.
	late int

	// sabotage breaks the world on purpose, to see that it is noticed.
	sabotage sabotage
}

// sabotage is what a bite breaks outside the store.
type sabotage struct {
	destroyLies bool // a destroy that only says so
	allDead     bool // listings call machines dead that callers use
	strangers   bool // machines that nobody asked for
	eager       bool // a destroy that takes another machine along
	// consoleHangs: reading a console ends with the process only.
	consoleHangs bool
	renames      bool // machines are asked for in another name
	amnesia      bool // agents do not know that they were set up before
	disksLie     bool // the end of a disk that only says so
	unwitnessed  bool // nobody remembers beside the store when it was alive
}

type machine struct {
	name string
	n    int
	tags drivers.Tags
	made time.Time
	// boots is when its agent answers (zero: never), dies and vanishes when it
	// ends by itself (zero: never).
	boots, dies, vanishes time.Time
	paused, asleep        bool
	// late: the cloud made it after the call for it had failed.
	late bool
	// used is the lease its agent was set up for, use what it calls that.
	used, use string
	// cert is what it shows.
	cert []byte
	// steps run in it now.
	steps int
}

type snapshotAt struct {
	at    time.Time
	seen  []drivers.Instance
	disks []drivers.Disk
}

// neighbour is another controller in the same account, whose machines are none
// of ours.
const neighbour = "neighbour"

// befriend puts machines of a neighbour into the account.
func (w *world) befriend(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range n {
		name := fmt.Sprintf("neighbour-%d", i)
		w.machines[name] = &machine{
			name: name, n: w.number(name), made: time.Now(), boots: time.Now(),
			tags: drivers.Tags{Controller: neighbour, Pool: "p", Instance: "of-" + name, Kind: "build", Created: time.Now()},
		}
	}
}

func newWorld(d *dice, f faults, log *ledger) *world {
	return &world{
		d: d, log: log, bad: f, since: time.Now(),
		machines: map[string]*machine{}, disks: map[string]disk{}, numbers: map[string]int{}, confirmed: map[string]bool{},
	}
}

// faults is how bad the world is now.
func (w *world) faults() faults {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bad
}

// calm makes the world behave, except for what it cannot help.
func (w *world) calm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad = faults{capacity: w.bad.capacity, quota: w.bad.quota, slow: w.bad.slow, boot: w.bad.boot}
	now := time.Now()
	for _, m := range w.machines {
		// Whoever has not booted by now is mended, not left for ever; who has
		// not died lives on.
		if m.boots.IsZero() {
			m.boots = now.Add(w.bad.boot)
		}
		if m.dies.After(now) {
			m.dies = time.Time{}
		}
		if m.vanishes.After(now) {
			m.vanishes = time.Time{}
		}
	}
}

// number is a machine's ordinal; w.mu is held.
func (w *world) number(name string) int {
	n := w.numbers[name]
	if n == 0 {
		n = len(w.numbers) + 1
		w.numbers[name] = n
	}
	return n
}

// alive says why a machine's agent cannot answer at now; nil if it can. w.mu
// is held.
func (w *world) reach(name string, now time.Time) (*machine, error) {
	m := w.present(name, now)
	switch {
	case m == nil, m.deadAt(now), m.asleep, m.paused, m.boots.IsZero(), now.Before(m.boots):
		return nil, errUnreachable
	}
	return m, nil
}

// present is a machine that exists to the cloud; w.mu is held.
func (w *world) present(name string, now time.Time) *machine {
	m := w.machines[name]
	if m != nil && !m.vanishes.IsZero() && !now.Before(m.vanishes) {
		delete(w.machines, name)
		w.confirmed[name] = true
		return nil
	}
	return m
}

// dead says whether a machine has ended, by itself or by a destroy.
func (w *world) dead(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	m := w.present(name, now)
	return m == nil || m.deadAt(now)
}

func (m *machine) deadAt(now time.Time) bool { return !m.dies.IsZero() && !now.Before(m.dies) }

// ended says whether the cloud has confirmed that a machine is gone, and
// whether it exists all the same: late is one made after that.
func (w *world) ended(name string) (confirmed, exists, late bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.present(name, time.Now())
	return w.confirmed[name], m != nil, m != nil && m.late
}

// names are the machines that exist, with when they were made.
func (w *world) names() map[string]machine {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	out := make(map[string]machine, len(w.machines))
	for name := range w.machines {
		if m := w.present(name, now); m != nil {
			out[name] = *m
		}
	}
	return out
}

// make begins a machine; the cloud has accepted it.
func (w *world) make(spec drivers.Spec, late bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if w.present(spec.Name, now) != nil {
		return nil
	}
	switch n := len(w.machines); {
	case w.bad.capacity > 0 && n >= w.bad.capacity:
		return &drivers.CapacityError{Zone: "sim-a", Err: fmt.Errorf("stockout: %d machines", n)}
	case w.bad.quota > 0 && n >= w.bad.quota:
		return fmt.Errorf("%w: %d machines", drivers.ErrQuota, n)
	}
	if err := w.attach(spec, late); err != nil {
		return err
	}
	w.made++
	if !late {
		delete(w.confirmed, spec.Name) // an old copy of the store may have it made anew
	}
	n := w.number(spec.Name)
	m := &machine{name: spec.Name, n: n, tags: spec.Tags, cert: spec.Identity.Cert, made: now, late: late}
	if !w.d.chance(w.bad.neverBoots, "never-boots", n) {
		m.boots = now.Add(w.d.span(w.bad.boot, "boot-time", n))
	}
	if w.d.chance(w.bad.dies, "dies", n) {
		m.dies = now.Add(w.d.span(w.bad.within, "dies-at", n))
	}
	if w.d.chance(w.bad.vanishes, "vanishes", n) {
		m.vanishes = now.Add(w.d.span(w.bad.within, "vanishes-at", n))
	}
	w.machines[spec.Name] = m
	if w.sabotage.strangers {
		twin := *m
		twin.name += "x"
		twin.tags.Controller = "somebody" // so that nobody reaps it
		w.machines[twin.name] = &twin
	}
	return nil
}

// refused says whether the cloud does nothing for anybody at this moment: it
// throttles by the minute, and may refuse destroys for a good part of the run.
func (w *world) refused(op string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Since(w.since)
	if minute := int(at / time.Minute); w.bad.throttles && w.d.chance(.2, "throttle", minute) {
		return &drivers.RateLimitError{After: time.Duration(minute+1)*time.Minute - at}
	}
	if op == "destroy" && w.bad.refuses && at > 2*time.Minute {
		return fmt.Errorf("%w: deleting is disabled for this project", drivers.ErrAuth)
	}
	return nil
}

// look is one reading of the cloud.
// Its time is the caller's own.
func (w *world) look(n int, begun time.Time, inUse func(name string) bool) drivers.Listing {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Now()
	now := make([]drivers.Instance, 0, len(w.machines))
	for name := range w.machines {
		m := w.present(name, at)
		if m == nil {
			continue
		}
		status := drivers.StatusRunning
		switch {
		case m.deadAt(at), w.sabotage.allDead && inUse(m.name):
			status = drivers.StatusDead
		case m.asleep:
			status = drivers.StatusSuspended
		case m.paused:
			status = drivers.StatusPaused
		}
		now = append(now, drivers.Instance{
			Ref: drivers.Ref{Name: m.name, ID: "id-" + m.name}, Tags: m.tags, Status: status, Address: "sim/" + m.name, Port: 9079,
		})
	}
	w.history = append(w.history, snapshotAt{at: at, seen: now, disks: w.listDisks()})
	for len(w.history) > 1 && at.Sub(w.history[0].at) > time.Minute {
		w.history = w.history[1:]
	}
	l := drivers.Listing{Instances: now, Disks: w.listDisks(), Complete: true, At: begun}
	switch {
	case w.d.chance(w.bad.listPartial, "list-partial", n):
		l.Instances, l.Complete = now[:len(now)/2], false
		l.Disks = l.Disks[:len(l.Disks)/2]
	case w.d.chance(w.bad.listStale, "list-stale", n):
		// An eventually consistent cloud: what it says is complete as of At,
		// and At is honest.
		old := w.history[w.d.below(len(w.history), "list-age", n)]
		l.Instances, l.Disks, l.At = old.seen, old.disks, begun.Add(old.at.Sub(at))
	}
	return l
}

func nap(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// running is how many steps run in a machine.
func (w *world) running(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m := w.present(name, time.Now()); m != nil {
		return m.steps
	}
	return 0
}

func (w *world) delay(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late += n
}

// latecomers says whether the cloud may yet make a machine of its own.
func (w *world) latecomers() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.late > 0
}
