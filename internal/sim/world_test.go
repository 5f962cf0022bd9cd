package sim

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// faults says how bad the world is. All are shares from 0 to 1.
type faults struct {
	createFails float64 // a create that has no effect
	createLies  float64 // a create that works but answers with an error
	neverBoots  float64
	diesEarly   float64 // dies within its first hours
	destroyFail float64 // a destroy that has no effect
	listPartial float64 // a listing that lacks machines and says so
	listStale   float64 // a listing as of half a minute ago
	listFails   float64
	setupFails  float64
	capacity    int // most machines at a time, 0 for no bound
	slow        time.Duration
}

// world is the pretend cloud and everything that is known from outside the
// engine: the oracle.
type world struct {
	seed uint64

	faultsMu sync.Mutex
	bad      faults

	mu       sync.Mutex
	machines map[string]*machine
	history  []snapshotAt
	tries    map[string]int
	holder   map[string]string // machine name -> lease id that holds it, by the caller's account
	everHeld map[string]string // machine name -> lease id it was ever given to
	made     int
	wrong    []string

	// sabotage breaks the world on purpose, to see that it is noticed.
	sabotage struct{ destroyLies, allDead bool }
}

type machine struct {
	name   string
	tags   drivers.Tags
	made   time.Time
	boots  time.Time // when its agent answers; zero: never
	dies   time.Time // zero: never
	paused bool
	asleep bool
}

type snapshotAt struct {
	at    time.Time
	names []drivers.Instance
}

func newWorld(seed uint64, f faults) *world {
	return &world{
		seed: seed, bad: f, machines: map[string]*machine{}, tries: map[string]int{},
		holder: map[string]string{}, everHeld: map[string]string{},
	}
}

// faults is how bad the world is now.
func (w *world) faults() faults {
	w.faultsMu.Lock()
	defer w.faultsMu.Unlock()
	return w.bad
}

// calm makes the world behave, except for what it cannot help.
func (w *world) calm() {
	w.faultsMu.Lock()
	defer w.faultsMu.Unlock()
	w.bad = faults{capacity: w.bad.capacity, slow: w.bad.slow}
}

// chance draws from the seed and the name of the event, so that the same thing
// has the same fate whatever runs before it.
func (w *world) chance(p float64, what ...any) bool {
	return w.draw(what...) < p
}

func (w *world) draw(what ...any) float64 {
	h := fnv.New64a()
	fmt.Fprint(h, w.seed, what)
	// One more mix: fnv alone leaves the high bits of short inputs alike.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	return float64(x>>11) / (1 << 53)
}

func (w *world) try(what string) int {
	w.tries[what]++
	return w.tries[what]
}

func (w *world) accuse(format string, args ...any) {
	w.wrong = append(w.wrong, fmt.Sprintf("%s: ", time.Now().Format("15:04:05.000"))+fmt.Sprintf(format, args...))
}

// hold records that a caller was given a machine and counts on it.
func (w *world) hold(name, lease string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if other := w.everHeld[name]; other != "" && other != lease {
		w.accuse("machine %s of %s was given to %s", name, other, lease)
	}
	w.everHeld[name] = lease
	w.holder[name] = lease
}

// drop records that the caller gives the machine up.
func (w *world) drop(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.holder, name)
}

func (w *world) dead(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.machines[name]
	return m == nil || m.deadAt(time.Now())
}

func (m *machine) deadAt(now time.Time) bool { return !m.dies.IsZero() && !now.Before(m.dies) }

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.machines)
}

func (w *world) complaints() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.wrong)
}

// fuse makes every call of one incarnation fail from its crash on.
type fuse struct {
	mu    sync.Mutex
	blown bool
	calls int
	at    int // the call at which it blows; 0: never by itself
	blow  func()
}

var errCrashed = errors.New("this incarnation has crashed")

// pass is asked before and after each store and cloud call; an error after a
// call means that its effect is there but nobody learns of it.
func (f *fuse) pass() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blown {
		return errCrashed
	}
	f.calls++
	if f.at > 0 && f.calls >= f.at {
		f.blown = true
		if f.blow != nil {
			f.blow()
		}
		return errCrashed
	}
	return nil
}

// cloud is the driver one incarnation has of the world.
type cloud struct {
	w    *world
	fuse *fuse
}

var (
	_ drivers.Driver     = cloud{}
	_ drivers.Pauser     = cloud{}
	_ drivers.Hibernator = cloud{}
)

var errCloud = errors.New("the cloud has a bad moment")

func nap(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c cloud) Scope() string { return "sim" }

func (c cloud) Ping(context.Context) error { return c.fuse.pass() }

func (c cloud) Create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	if err := c.fuse.pass(); err != nil {
		return drivers.Ref{}, err
	}
	w := c.w
	ref := drivers.Ref{Name: spec.Name, ID: "id-" + spec.Name}
	w.mu.Lock()
	n := w.try("create " + spec.Name)
	order := w.try("create")
	w.mu.Unlock()
	if err := nap(ctx, time.Duration(w.draw("create-time", order, n)*float64(w.faults().slow))); err != nil {
		// The call was sent; whether it worked nobody here learns.
		if w.chance(0.5, "create-cancel", order, n) {
			w.make(spec)
		}
		return drivers.Ref{}, err
	}
	switch {
	case w.chance(w.faults().createFails, "create-fails", order, n):
		return drivers.Ref{}, errCloud
	case w.chance(w.faults().createLies, "create-lies", order, n):
		w.make(spec)
		return drivers.Ref{}, errCloud
	}
	if err := w.make(spec); err != nil {
		return drivers.Ref{}, err
	}
	if err := c.fuse.pass(); err != nil {
		return drivers.Ref{}, err
	}
	return ref, nil
}

func (w *world) make(spec drivers.Spec) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.machines[spec.Name] != nil {
		return nil
	}
	if w.faults().capacity > 0 && len(w.machines) >= w.faults().capacity {
		return &drivers.CapacityError{Zone: "sim-a", Err: errors.New("stockout")}
	}
	w.made++
	order, now := w.made, time.Now() // the first machine of a seed, the second, …
	m := &machine{name: spec.Name, tags: spec.Tags, made: now}
	if !w.chance(w.faults().neverBoots, "never-boots", order) {
		m.boots = now.Add(time.Duration(w.draw("boot-time", order) * float64(10*w.faults().slow)))
	}
	if w.chance(w.faults().diesEarly, "dies", order) {
		m.dies = now.Add(time.Duration(w.draw("dies-at", order) * float64(2*time.Hour)))
	}
	w.machines[spec.Name] = m
	return nil
}

func (c cloud) Destroy(ctx context.Context, refs []drivers.Ref, _ drivers.DestroyOptions) []error {
	errs := make([]error, len(refs))
	for i, ref := range refs {
		errs[i] = c.destroy(ctx, ref)
	}
	return errs
}

func (c cloud) destroy(ctx context.Context, ref drivers.Ref) error {
	if err := c.fuse.pass(); err != nil {
		return err
	}
	w := c.w
	if err := nap(ctx, time.Duration(w.draw("destroy-time", ref.Name)*float64(w.faults().slow))); err != nil {
		return err
	}
	w.mu.Lock()
	m := w.machines[ref.Name]
	if m != nil {
		// The oracle: a caller still counts on it.
		if lease := w.holder[ref.Name]; lease != "" && !m.deadAt(time.Now()) {
			w.accuse("machine %s is destroyed while %s uses it", ref.Name, lease)
		}
		if w.chance(w.faults().destroyFail, "destroy-fails", ref.Name, w.try("destroy "+ref.Name)) {
			w.mu.Unlock()
			return errCloud
		}
		if !w.sabotage.destroyLies {
			delete(w.machines, ref.Name)
		}
	}
	w.mu.Unlock()
	return c.fuse.pass()
}

func (c cloud) List(ctx context.Context, _ drivers.Query) (drivers.Listing, error) {
	if err := c.fuse.pass(); err != nil {
		return drivers.Listing{}, err
	}
	w := c.w
	at := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.try("list")
	if w.chance(w.faults().listFails, "list-fails", n) {
		return drivers.Listing{}, errCloud
	}
	now := make([]drivers.Instance, 0, len(w.machines))
	for _, m := range w.machines {
		status := drivers.StatusRunning
		switch {
		case m.deadAt(at), w.sabotage.allDead && w.holder[m.name] != "":
			status = drivers.StatusDead
		case m.asleep:
			status = drivers.StatusSuspended
		case m.paused:
			status = drivers.StatusPaused
		}
		now = append(now, drivers.Instance{
			Ref: drivers.Ref{Name: m.name, ID: "id-" + m.name}, Tags: m.tags, Status: status,
			Address: "sim/" + m.name, Port: 9079,
		})
	}
	w.history = append(w.history, snapshotAt{at: at, names: now})
	for len(w.history) > 1 && at.Sub(w.history[0].at) > time.Minute {
		w.history = w.history[1:]
	}
	l := drivers.Listing{Instances: now, Complete: true, At: at}
	switch {
	case w.chance(w.faults().listPartial, "list-partial", n):
		l.Instances, l.Complete = now[:len(now)/2], false
	case w.chance(w.faults().listStale, "list-stale", n):
		// An eventually consistent cloud: what it says is complete as of At,
		// and At is honest.
		l.Instances, l.At = w.history[0].names, w.history[0].at
	}
	return l, c.fuse.pass()
}

func (c cloud) onMachine(ref drivers.Ref, f func(*machine) error) error {
	if err := c.fuse.pass(); err != nil {
		return err
	}
	c.w.mu.Lock()
	m := c.w.machines[ref.Name]
	var err error
	switch {
	case m == nil:
		err = fmt.Errorf("%w: %s", drivers.ErrNotFound, ref.Name)
	case m.deadAt(time.Now()):
		err = errCloud
	default:
		err = f(m)
	}
	c.w.mu.Unlock()
	return errors.Join(err, c.fuse.pass())
}

func (c cloud) Pause(_ context.Context, ref drivers.Ref) error {
	return c.onMachine(ref, func(m *machine) error { m.paused = true; return nil })
}

func (c cloud) Unpause(_ context.Context, ref drivers.Ref) error {
	return c.onMachine(ref, func(m *machine) error { m.paused = false; return nil })
}

func (c cloud) Suspend(_ context.Context, ref drivers.Ref) error {
	return c.onMachine(ref, func(m *machine) error { m.asleep = true; return nil })
}

func (c cloud) Resume(_ context.Context, ref drivers.Ref) (drivers.Instance, error) {
	err := c.fuse.pass()
	if err != nil {
		return drivers.Instance{}, err
	}
	c.w.mu.Lock()
	m := c.w.machines[ref.Name]
	if m == nil {
		err = fmt.Errorf("%w: %s", drivers.ErrNotFound, ref.Name)
	} else {
		m.asleep, m.paused, m.dies = false, false, time.Time{} // a dead one restarts on its disk
	}
	c.w.mu.Unlock()
	return drivers.Instance{Ref: ref, Status: drivers.StatusRunning, Address: "sim/" + ref.Name, Port: 9079}, errors.Join(err, c.fuse.pass())
}

func (c cloud) Console(_ context.Context, ref drivers.Ref, out io.Writer, _ int64) error {
	_, err := io.WriteString(out, "console of "+ref.Name)
	return err
}
