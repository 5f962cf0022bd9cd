package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// cloud is the driver one process has of the world.
type cloud struct {
	w *world
	p *process
	// scope is the account; pools of one scope are swept together.
	scope string
}

// pausing is the same with machines that can be stopped while they wait.
type pausing struct{ cloud }

var (
	_ drivers.Driver        = cloud{}
	_ drivers.Hibernator    = cloud{}
	_ drivers.ConsoleReader = cloud{}
	_ drivers.DiskKeeper    = cloud{}
	_ drivers.Pauser        = pausing{}
)

var errCloud = errors.New("the cloud has a bad moment")

// during makes one cloud call: the process may crash or stand still before and
// after it.
func (c cloud) during(ctx context.Context, op string, call func() error) error {
	if err := c.p.before(ctx, "cloud "+op); err != nil {
		return err
	}
	err := call()
	if crash := c.p.after(ctx, "cloud "+op); crash != nil {
		return crash
	}
	return err
}

// Scope implements drivers.Driver.
func (c cloud) Scope() string { return c.scope }

// Ping implements drivers.Driver.
func (c cloud) Ping(ctx context.Context) error {
	return c.during(ctx, "ping", func() error { return c.w.refused("ping") })
}

// Create implements drivers.Driver.
func (c cloud) Create(ctx context.Context, spec drivers.Spec) (ref drivers.Ref, err error) {
	err = c.during(ctx, "create", func() error {
		if c.w.sabotage.renames {
			spec.Name += "x"
		}
		c.w.log.creating(spec.Name, spec.Tags.Instance)
		return c.create(ctx, spec)
	})
	if err != nil {
		return ref, err
	}
	return drivers.Ref{Name: spec.Name, ID: "id-" + spec.Name}, nil
}

func (c cloud) create(ctx context.Context, spec drivers.Spec) error {
	w, d, bad := c.w, c.w.d, c.w.faults()
	if err := w.refused("create"); err != nil {
		return err
	}
	w.mu.Lock()
	n := w.number(spec.Name)
	w.mu.Unlock()
	try := d.nth("create " + spec.Name)
	if d.chance(bad.createHangs, "create-hangs", n, try) {
		if d.chance(.7, "create-late", n, try) {
			w.delay(1)
			time.AfterFunc(d.span(4*time.Minute, "create-lateness", n, try), func() {
				_ = w.make(spec, true) // nobody is there to be told
				w.delay(-1)
			})
		}
		<-ctx.Done()
		return ctx.Err()
	}
	if err := nap(ctx, d.span(bad.slow, "create-time", n, try)); err != nil {
		if d.chance(.5, "create-cancelled", n, try) {
			_ = w.make(spec, true) // the call was sent; nobody learns of the answer
		}
		return err
	}
	switch {
	case d.chance(bad.createFails, "create-fails", n, try):
		return errCloud
	case d.chance(bad.createLies, "create-lies", n, try):
		_ = w.make(spec, true) // nobody is told
		return errCloud
	}
	return w.make(spec, false)
}

// Destroy implements drivers.Driver.
func (c cloud) Destroy(ctx context.Context, refs []drivers.Ref, _ drivers.DestroyOptions) []error {
	errs := make([]error, len(refs))
	for i, ref := range refs {
		errs[i] = c.during(ctx, "destroy", func() error { return c.destroy(ctx, ref) })
	}
	return errs
}

func (c cloud) destroy(ctx context.Context, ref drivers.Ref) error {
	w, d, bad := c.w, c.w.d, c.w.faults()
	w.log.destroying(ref.Name)
	if err := w.refused("destroy"); err != nil {
		return err
	}
	w.mu.Lock()
	n := w.number(ref.Name)
	w.mu.Unlock()
	try := d.nth("destroy " + ref.Name)
	if d.chance(bad.destroyHangs, "destroy-hangs", n, try) {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := nap(ctx, d.span(bad.slow, "destroy-time", n, try)); err != nil {
		return err
	}
	if d.chance(bad.destroyFails, "destroy-fails", n, try) {
		return errCloud
	}
	// Again at the moment it happens: much may have come to pass meanwhile.
	w.log.destroying(ref.Name)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.confirmed[ref.Name] = true
	if w.sabotage.destroyLies {
		return nil
	}
	delete(w.machines, ref.Name)
	if w.sabotage.eager {
		for name := range w.machines {
			w.mu.Unlock()
			w.log.destroying(name)
			w.mu.Lock()
			delete(w.machines, name)
			break
		}
	}
	return nil
}

// List implements drivers.Driver.
func (c cloud) List(ctx context.Context, _ drivers.Query) (l drivers.Listing, err error) {
	err = c.during(ctx, "list", func() error {
		d, bad := c.w.d, c.w.faults()
		if err := c.w.refused("list"); err != nil {
			return err
		}
		n := d.nth("list")
		if d.chance(bad.listFails, "list-fails", n) {
			return errCloud
		}
		l = c.w.look(n, c.p.host.Now().UTC().Round(0), c.w.log.inUse)
		if d.chance(bad.listSlow, "list-slow", n) {
			// Read at once, answered late.
			return nap(ctx, d.span(50*time.Second, "list-time", n))
		}
		return nil
	})
	return l, err
}

func (c cloud) onMachine(ctx context.Context, op string, ref drivers.Ref, f func(*machine)) error {
	return c.during(ctx, op, func() error {
		d, bad := c.w.d, c.w.faults()
		if err := c.w.refused(op); err != nil {
			return err
		}
		c.w.mu.Lock()
		n := c.w.number(ref.Name)
		c.w.mu.Unlock()
		if err := nap(ctx, d.span(bad.slow/4, op, n, d.nth(op+" "+ref.Name))); err != nil {
			return err
		}
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		now := time.Now()
		m := c.w.present(ref.Name, now)
		switch {
		case m == nil:
			return fmt.Errorf("%w: %s", drivers.ErrNotFound, ref.Name)
		case m.deadAt(now) && op != "resume":
			return errCloud
		}
		f(m)
		return nil
	})
}

// Pause implements drivers.Pauser.
func (c pausing) Pause(ctx context.Context, ref drivers.Ref) error {
	return c.onMachine(ctx, "pause", ref, func(m *machine) { m.paused = true })
}

// Unpause implements drivers.Pauser.
func (c pausing) Unpause(ctx context.Context, ref drivers.Ref) error {
	return c.onMachine(ctx, "unpause", ref, func(m *machine) { m.paused = false })
}

// Suspend implements drivers.Hibernator.
func (c cloud) Suspend(ctx context.Context, ref drivers.Ref) error {
	return c.onMachine(ctx, "suspend", ref, func(m *machine) { m.asleep = true })
}

// Resume implements drivers.Hibernator.
func (c cloud) Resume(ctx context.Context, ref drivers.Ref) (drivers.Instance, error) {
	err := c.onMachine(ctx, "resume", ref, func(m *machine) {
		m.asleep, m.paused, m.dies = false, false, time.Time{} // a dead one restarts on its disk
	})
	return drivers.Instance{Ref: ref, Status: drivers.StatusRunning, Address: "sim/" + ref.Name, Port: 9079}, err
}

// Console implements drivers.ConsoleReader.
func (c cloud) Console(ctx context.Context, ref drivers.Ref, out io.Writer, _ int64) error {
	if c.w.sabotage.consoleHangs {
		<-c.p.life.Done()
	}
	if err := nap(ctx, c.w.d.span(c.w.faults().consoleSlow, "console", c.w.d.nth("console"))); err != nil {
		return err
	}
	_, err := io.WriteString(out, "console of "+ref.Name)
	return err
}
