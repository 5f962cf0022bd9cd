package noop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// World is a pretend cloud in memory: machines, and how many were ever made.
// It outlives the drivers that speak to it, holds no goroutines or
// timers, and reads the time only by time.Now, so it works in synctest
// bubbles. Its methods are safe for concurrent use; the ones that break
// machines are for tests.
type World struct {
	mu       sync.Mutex
	machines map[string]*machine // by name
	owned    map[string]*machine // the same by our instance id
	made     int                 // ever: names would make a runner grow for as long as it runs
	disks    shelf
}

// machine is one entry, guarded by the world's mutex.
type machine struct {
	inst drivers.Instance
	pool string
	// spec is what was asked for, without secrets.
	spec drivers.Spec
	// status is what was last decided; a running machine counts as pending
	// until booted.
	status  drivers.Status
	booted  time.Time
	console strings.Builder
}

// NewWorld is an empty cloud.
func NewWorld() *World {
	return &World{machines: make(map[string]*machine), owned: make(map[string]*machine), disks: shelf{}}
}

// remove needs w.mu.
func (w *World) remove(name string) bool {
	m, ok := w.machines[name]
	if !ok {
		return false
	}
	delete(w.machines, name)
	w.disks.detach(name, drivers.Keep)
	if w.owned[m.inst.Tags.Instance] == m {
		delete(w.owned, m.inst.Tags.Instance)
	}
	return true
}

// Machines lists what exists now, by name: the audit of a test, past any
// driver and its faults.
func (w *World) Machines() []drivers.Instance {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	all := make([]drivers.Instance, 0, len(w.machines))
	for _, name := range slices.Sorted(maps.Keys(w.machines)) {
		all = append(all, w.machines[name].report(now))
	}
	return all
}

// Made is how many machines were ever made.
func (w *World) Made() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.made
}

// Alive says why the agent of an instance (by our id) cannot be reached: nil
// for a booted, running machine. It is the hook of a pretend agent.
func (w *World) Alive(instance string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.owned[instance]
	if !ok {
		return fmt.Errorf("machine of instance %s: %w", instance, drivers.ErrNotFound)
	}
	if s := m.report(time.Now()).Status; s != drivers.StatusRunning {
		return fmt.Errorf("machine %s is %s", m.inst.Name, s)
	}
	return nil
}

// Has says whether an instance (by our id) lives in this world.
func (w *World) Has(instance string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.owned[instance]
	return ok
}

// Spec is what a machine was asked to be, without identity and boot data: it
// shows what of a pool file and a request reaches a cloud. It says whether there
// is such a machine.
func (w *World) Spec(name string) (drivers.Spec, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.machines[name]
	if !ok {
		return drivers.Spec{}, false
	}
	return asked(m.spec), true
}

// asked is a copy of a spec without its secrets.
func asked(spec drivers.Spec) drivers.Spec {
	spec.Identity, spec.Boot = drivers.Identity{}, nil
	spec.Zones = slices.Clone(spec.Zones)
	spec.Disks = slices.Clone(spec.Disks)
	spec.Facts = maps.Clone(spec.Facts)
	spec.Tags.Labels = maps.Clone(spec.Tags.Labels)
	return spec
}

// Kill makes a machine die by itself: it stays listed as dead with a reason.
// It says whether there was such a machine.
func (w *World) Kill(name, reason string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	m, ok := w.machines[name]
	if !ok {
		return false
	}
	m.status, m.inst.Reason = drivers.StatusDead, reason
	fmt.Fprintf(&m.console, "%s died: %s\n", name, reason)
	return true
}

// Vanish removes a machine behind everybody's back and says whether it was there.
func (w *World) Vanish(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.remove(name)
}

func (m *machine) report(now time.Time) drivers.Instance {
	inst := m.inst
	inst.Tags.Labels = maps.Clone(inst.Tags.Labels)
	inst.Status = m.status
	if m.status == drivers.StatusRunning && now.Before(m.booted) {
		inst.Status = drivers.StatusPending
	}
	// The address is known once the agent answers, and stays through a sleep.
	if inst.Status == drivers.StatusPending {
		inst.Address, inst.Port = "", 0
	}
	return inst
}

// worldCloud is the world as one pool sees it.
type worldCloud struct {
	w    *World
	pool string
	cfg  Config
}

func (c *worldCloud) ping(context.Context) error { return nil }

func (c *worldCloud) exists(name string) (bool, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	_, ok := c.w.machines[name]
	return ok, nil
}

func (c *worldCloud) create(_ context.Context, spec drivers.Spec) (drivers.Ref, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if m, ok := c.w.machines[spec.Name]; ok {
		return m.inst.Ref, nil
	}
	if c.cfg.Capacity > 0 {
		n := 0
		for _, m := range c.w.machines {
			if m.pool == c.pool {
				n++
			}
		}
		if n >= c.cfg.Capacity {
			return drivers.Ref{}, full(n, c.cfg.Capacity)
		}
	}
	if err := c.w.disks.attach(spec, c.w.exists); err != nil {
		return drivers.Ref{}, err
	}
	tags := spec.Tags
	tags.Labels = maps.Clone(tags.Labels)
	m := &machine{
		inst: drivers.Instance{
			Ref:     drivers.Ref{Name: spec.Name, ID: "noop-" + spec.Name},
			Tags:    tags,
			Address: "127.0.0.1",
			Port:    agentPort,
		},
		pool:   c.pool,
		spec:   asked(spec),
		status: drivers.StatusRunning,
		booted: time.Now().Add(c.cfg.BootDelay),
	}
	fmt.Fprintf(&m.console, "%s boots\n", spec.Name)
	c.w.machines[spec.Name] = m
	c.w.owned[tags.Instance] = m
	c.w.made++
	return m.inst.Ref, nil
}

func full(n, capacity int) error {
	return &drivers.CapacityError{Err: fmt.Errorf("%d of %d pretend machines exist", n, capacity)}
}

func (c *worldCloud) stopping(name string) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if m, ok := c.w.machines[name]; ok {
		m.status = drivers.StatusStopping
	}
}

func (c *worldCloud) destroy(_ context.Context, name string, o drivers.DiskPolicy) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.w.disks.detach(name, o)
	c.w.remove(name)
	return nil
}

func (c *worldCloud) list(context.Context) ([]drivers.Instance, error) {
	return c.w.Machines(), nil
}

func (c *worldCloud) find(name string) (drivers.Instance, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	m, ok := c.w.machines[name]
	if !ok {
		return drivers.Instance{}, fmt.Errorf("%w: %s", drivers.ErrNotFound, name)
	}
	return m.report(time.Now()), nil
}

func (c *worldCloud) suspend(_ context.Context, name string) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	m, ok := c.w.machines[name]
	switch {
	case !ok:
		return fmt.Errorf("%w: no machine %s", drivers.ErrNotFound, name)
	case m.status == drivers.StatusSuspended:
		return nil
	case m.status != drivers.StatusRunning:
		return fmt.Errorf("machine %s is %s and cannot be suspended", name, m.status)
	}
	m.status = drivers.StatusSuspended
	fmt.Fprintf(&m.console, "%s sleeps\n", name)
	return nil
}

func (c *worldCloud) resume(ctx context.Context, name string) (drivers.Instance, error) {
	until, err := c.wake(name)
	if err != nil {
		return drivers.Instance{}, err
	}
	if err := wait(ctx, time.Until(until)); err != nil {
		return drivers.Instance{}, err
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	m, ok := c.w.machines[name]
	if !ok {
		return drivers.Instance{}, fmt.Errorf("%w: machine %s went while it woke", drivers.ErrNotFound, name)
	}
	return m.report(time.Now()), nil
}

// wake decides that the machine runs and says when it will have booted.
func (c *worldCloud) wake(name string) (time.Time, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	m, ok := c.w.machines[name]
	if !ok {
		return time.Time{}, fmt.Errorf("%w: no machine %s", drivers.ErrNotFound, name)
	}
	switch m.status {
	case drivers.StatusStopping:
		return time.Time{}, errors.New("machine " + name + " is being destroyed")
	case drivers.StatusRunning:
	default:
		m.status, m.inst.Reason = drivers.StatusRunning, ""
		m.booted = time.Now().Add(c.cfg.BootDelay)
		fmt.Fprintf(&m.console, "%s wakes\n", name)
	}
	return m.booted, nil
}

func (c *worldCloud) console(name string) (io.ReadCloser, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	m, ok := c.w.machines[name]
	if !ok {
		return nil, fmt.Errorf("%w: no machine %s", drivers.ErrNotFound, name)
	}
	return seekCloser{bytes.NewReader([]byte(m.console.String()))}, nil
}

type seekCloser struct{ *bytes.Reader }

func (seekCloser) Close() error { return nil }
