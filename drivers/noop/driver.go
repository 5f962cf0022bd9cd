package noop

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// agentPort is where a machine's agent listens.
const agentPort = 9079

// Driver makes pretend machines. Beside [drivers.Driver] it can hibernate and
// read consoles.
type Driver struct {
	cfg    Config
	scope  string
	cloud  cloud
	faults *Faults
}

var (
	_ drivers.Driver        = (*Driver)(nil)
	_ drivers.Hibernator    = (*Driver)(nil)
	_ drivers.ConsoleReader = (*Driver)(nil)
	_ drivers.Ephemeral     = (*Driver)(nil)
	_ drivers.DiskKeeper    = (*Driver)(nil)
)

// cloud is one of the two places where pretend machines live. Names are
// checked, delays and injected failures done by the Driver.
type cloud interface {
	ping(ctx context.Context) error
	// exists says whether there is a machine of that name, dead ones included.
	exists(name string) (bool, error)
	// create makes the machine, within the pool's capacity, or returns the one of that name.
	create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error)
	// stopping marks the machine as on its way out, if it exists.
	stopping(name string)
	destroy(ctx context.Context, name string, o drivers.DiskPolicy) error
	disks(ctx context.Context) ([]drivers.Disk, error)
	destroyDisk(ctx context.Context, name string) error
	list(ctx context.Context) ([]drivers.Instance, error)
	// find reports one machine, or drivers.ErrNotFound.
	find(name string) (drivers.Instance, error)
	suspend(ctx context.Context, name string) error
	resume(ctx context.Context, name string) (drivers.Instance, error)
	console(name string) (io.ReadCloser, error)
}

// New makes the driver of one pool. o.Config is a *Config.
func New(o drivers.Options, s Setup) (*Driver, error) {
	cfg, ok := o.Config.(*Config)
	if !ok {
		return nil, fmt.Errorf("%w: the configuration of pool %s is a %T, not a *noop.Config", drivers.ErrInvalid, o.Pool, o.Config)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	d := &Driver{cfg: *cfg, faults: s.Faults}
	if cfg.Process {
		root := filepath.Join(o.DataDir, "noop")
		p, err := newProcesses(root, o, *cfg, s)
		if err != nil {
			return nil, err
		}
		d.scope, d.cloud = "noop-process:"+root, p
		return d, nil
	}
	if s.World == nil {
		return nil, errors.New("noop driver without a world: make it through its Registration")
	}
	// Not only "noop": replicas on one database each have a world of their
	// own, and must not take each other's machines for gone.
	d.scope = "noop:" + o.DataDir
	d.cloud = &worldCloud{w: s.World, pool: o.Pool, cfg: *cfg}
	return d, nil
}

// Scope is the data directory: machines of one runner on one host.
func (d *Driver) Scope() string { return d.scope }

// Dies says whether this pool's machines end with the runner's process.
func (d *Driver) Dies() bool { return !d.cfg.Process }

// Ping proves that machines can be made here.
func (d *Driver) Ping(ctx context.Context) error {
	return d.faults.around(ctx, "ping", "", func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return d.cloud.ping(ctx)
	})
}

// nameRule is Spec.Name's. It also keeps names inside their directory.
var nameRule = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

// diskRule is that of the names of disks: what clouds take, and what stays
// inside a directory.
var diskRule = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,127})$`)

// Create makes a machine after the configured delay, unless its name is among
// those that fail or the pool's capacity is used up.
func (d *Driver) Create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	var ref drivers.Ref
	err := d.faults.around(ctx, "create", spec.Name, func() (err error) {
		ref, err = d.create(ctx, spec)
		return err
	})
	if err != nil {
		return drivers.Ref{}, err
	}
	return ref, nil
}

func (d *Driver) create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	if err := ctx.Err(); err != nil {
		return drivers.Ref{}, err
	}
	if !nameRule.MatchString(spec.Name) {
		return drivers.Ref{}, fmt.Errorf("%w: %q is no machine name", drivers.ErrInvalid, spec.Name)
	}
	known, err := d.cloud.exists(spec.Name)
	if err != nil {
		return drivers.Ref{}, err
	}
	if !known {
		if err := wait(ctx, d.cfg.CreateDelay); err != nil {
			return drivers.Ref{}, err
		}
		if unlucky(spec.Name, d.cfg.FailRate) {
			return drivers.Ref{}, errors.New("creation failed by fail_rate")
		}
	}
	return d.cloud.create(ctx, spec)
}

// unlucky decides from the name alone, so that a replay fails alike.
func unlucky(name string, rate float64) bool {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name) // a hash never fails to be written
	// FNV's high bits hardly change with the last characters; spread them.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return float64(x)/math.MaxUint64 < rate
}

// Destroy ends all machines at once after one delay.
func (d *Driver) Destroy(ctx context.Context, refs []drivers.Ref, o drivers.DestroyOptions) []error {
	errs := make([]error, len(refs))
	var wg sync.WaitGroup
	for i, ref := range refs {
		wg.Go(func() {
			errs[i] = d.faults.around(ctx, "destroy", ref.Name, func() error { return d.destroy(ctx, ref.Name, o.Disks) })
		})
	}
	wg.Wait()
	return errs
}

func (d *Driver) destroy(ctx context.Context, name string, o drivers.DiskPolicy) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !nameRule.MatchString(name) {
		return nil // no such machine can exist
	}
	if known, err := d.cloud.exists(name); err != nil || !known {
		return err
	}
	d.cloud.stopping(name)
	if err := wait(ctx, d.cfg.DestroyDelay); err != nil {
		return err
	}
	return d.cloud.destroy(ctx, name, o)
}

// List reads the whole pretend cloud; it is always complete.
func (d *Driver) List(ctx context.Context, q drivers.Query) (drivers.Listing, error) {
	l := drivers.Listing{At: time.Now().UTC()}
	err := d.faults.around(ctx, "list", "", func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		all, err := d.cloud.list(ctx)
		if err != nil {
			return err
		}
		for _, inst := range all {
			if q.Controller == "" || inst.Tags.Controller == q.Controller {
				l.Instances = append(l.Instances, inst)
			}
		}
		disks, err := d.cloud.disks(ctx)
		if err != nil {
			return err
		}
		for _, disk := range disks {
			if q.Controller == "" || disk.Tags.Controller == q.Controller {
				l.Disks = append(l.Disks, disk)
			}
		}
		l.Complete = true
		return nil
	})
	if err != nil {
		l.Complete = false
		return l, err
	}
	if d.faults != nil && d.faults.Listing != nil {
		d.faults.Listing(&l)
	}
	return l, nil
}

// Find looks at one machine. A listing that faults change is what it reports
// from, too.
func (d *Driver) Find(ctx context.Context, ref drivers.Ref) (drivers.Instance, error) {
	if d.faults != nil && d.faults.Listing != nil {
		l, err := d.List(ctx, drivers.Query{})
		if err != nil {
			return drivers.Instance{}, err
		}
		for _, inst := range l.Instances {
			if inst.Name == ref.Name {
				return inst, nil
			}
		}
		return drivers.Instance{}, fmt.Errorf("%w: %s", drivers.ErrNotFound, ref.Name)
	}
	var inst drivers.Instance
	err := d.faults.around(ctx, "list", ref.Name, func() (err error) {
		inst, err = d.cloud.find(ref.Name)
		return err
	})
	return inst, err
}

// Suspend puts a machine to sleep. It keeps its address.
func (d *Driver) Suspend(ctx context.Context, ref drivers.Ref) error {
	return d.faults.around(ctx, "suspend", ref.Name, func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return d.cloud.suspend(ctx, ref.Name)
	})
}

// Resume wakes a machine and returns when it has booted. A child process that
// has died cannot come back, since its identity was only in its memory.
func (d *Driver) Resume(ctx context.Context, ref drivers.Ref) (drivers.Instance, error) {
	var inst drivers.Instance
	err := d.faults.around(ctx, "resume", ref.Name, func() (err error) {
		if err := ctx.Err(); err != nil {
			return err
		}
		inst, err = d.cloud.resume(ctx, ref.Name)
		return err
	})
	return inst, err
}

// Console copies the end of what the machine printed.
func (d *Driver) Console(ctx context.Context, ref drivers.Ref, w io.Writer, limit int64) error {
	return d.faults.around(ctx, "console", ref.Name, func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := d.cloud.console(ref.Name)
		if err != nil {
			return err
		}
		defer r.Close()
		if s, ok := r.(io.Seeker); ok {
			end, err := s.Seek(0, io.SeekEnd)
			if err != nil {
				return err
			}
			if _, err := s.Seek(max(0, end-limit), io.SeekStart); err != nil {
				return err
			}
		}
		_, err = io.Copy(w, io.LimitReader(r, limit))
		return err
	})
}

func wait(ctx context.Context, d time.Duration) error {
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
