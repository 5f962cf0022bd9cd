//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

const (
	// confirmEvery is how old a machine's own word on its state may be. In
	// between the folder's word is taken: only we pause and continue machines.
	confirmEvery = 15 * time.Second
	// confirmPatience is how long a listing waits for one monitor.
	confirmPatience = 500 * time.Millisecond
	// confirmAtOnce bounds how many monitors are asked at the same time.
	confirmAtOnce = 8
	// consoleMost is the size at which a console log is cut, consoleKept what
	// is left of it: a guest that prints without end must not fill the disk.
	consoleMost = 8 * mib
	consoleKept = 256 << 10
)

// stateIOError is what a monitor says of a machine that was stopped because the
// host's disk is full; see commandLine.diskArgs.
const stateIOError = "io-error"

// checked is what a monitor said, and when.
type checked struct {
	at     time.Time
	status drivers.Status
	reason string
}

// List reads the folders of all machines and disks.
func (d *Driver) List(ctx context.Context, q drivers.Query) (drivers.Listing, error) {
	l := drivers.Listing{Complete: true, At: time.Now()}
	d.reap()
	var disks []drivers.Disk
	attached := map[string]string{}
	if !q.NoDisks {
		// Before the machines, so that what they say of a disk is not older.
		var err error
		if disks, err = d.listDisks(ctx, &l); err != nil {
			return drivers.Listing{At: l.At}, err
		}
	}
	entries, err := os.ReadDir(d.machinesDir())
	if err != nil {
		return drivers.Listing{At: l.At}, err
	}
	var machines []*machine
	scratch := false
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return drivers.Listing{At: l.At}, context.Cause(ctx)
		}
		if !nameRE.MatchString(e.Name()) {
			scratch = scratch || isScratch(e.Name())
			continue
		}
		m, err := d.open(e.Name())
		if errors.Is(err, drivers.ErrNotFound) {
			// A folder that goes is renamed first; one that is still here has
			// lost its record.
			if _, serr := os.Stat(filepath.Join(d.machinesDir(), e.Name())); errors.Is(serr, os.ErrNotExist) {
				continue
			}
		}
		switch {
		case err != nil:
			d.log.Warn("machine folder is unreadable; it is listed by name only", "driver", "qemu", "instance", e.Name(), "err", err)
			l.Complete = false
			if q.Controller == "" {
				l.Instances = append(l.Instances, drivers.Instance{
					Ref: drivers.Ref{Name: e.Name(), ID: e.Name()}, Status: drivers.StatusUnknown, Reason: err.Error(),
				})
			}
		case q.Controller == "" || m.Tags.Controller == q.Controller:
			machines = append(machines, m)
		}
		if err == nil {
			for _, name := range m.Disks {
				attached[name] = m.Name
			}
		}
	}
	for _, k := range disks {
		if q.Controller == "" || k.Tags.Controller == q.Controller {
			k.AttachedTo = attached[k.Name]
			l.Disks = append(l.Disks, k)
		}
	}
	at := len(l.Instances)
	l.Instances = append(l.Instances, make([]drivers.Instance, len(machines))...)
	slots := make(chan struct{}, confirmAtOnce)
	var wg sync.WaitGroup
	for i, m := range machines {
		known, err := d.observe(m, l.At)
		if err != nil {
			d.log.Warn("machine cannot be looked at", "driver", "qemu", "instance", m.Name, "err", err)
			l.Complete = false
		}
		l.Instances[at+i] = m.instance(known.status, known.reason)
		if !known.at.IsZero() {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			known := d.confirm(ctx, m, known)
			l.Instances[at+i] = m.instance(known.status, known.reason)
		})
	}
	wg.Wait()
	if scratch {
		if err := d.tidy(ctx, d.machinesDir(), time.Now()); err != nil {
			d.log.Warn("left-over folders stay", "driver", "qemu", "err", err)
		}
	}
	return l, nil
}

// Find looks at one machine as List looks at all.
func (d *Driver) Find(ctx context.Context, ref drivers.Ref) (drivers.Instance, error) {
	d.reap()
	m, err := d.open(ref.Name)
	if err != nil {
		return drivers.Instance{}, err
	}
	known, err := d.observe(m, time.Now())
	if err != nil {
		return drivers.Instance{}, fmt.Errorf("find %s: %w", ref.Name, err)
	}
	if known.at.IsZero() {
		known = d.confirm(ctx, m, known)
	}
	return m.instance(known.status, known.reason), nil
}

// observe finds a machine's status without disturbing it: from its lock, what
// was last done with it, and what its monitor said not long ago. A zero time
// says that the monitor should be asked.
func (d *Driver) observe(m *machine, now time.Time) (checked, error) {
	st, err := m.status()
	if err != nil {
		return checked{at: now, status: drivers.StatusUnknown, reason: err.Error()}, err
	}
	alive, err := m.alive()
	if err != nil {
		return checked{at: now, status: drivers.StatusUnknown, reason: err.Error()}, err
	}
	if !alive {
		return d.observeDead(m, st, now)
	}
	m.trimConsole(d.log)
	want := map[status]drivers.Status{
		statusNew: drivers.StatusPending, statusRunning: drivers.StatusRunning, statusPaused: drivers.StatusPaused,
		statusSuspended: drivers.StatusStopping, statusResuming: drivers.StatusRunning,
	}[st]
	d.mu.Lock()
	known, ok := d.checked[m.Name]
	d.mu.Unlock()
	if ok && known.status == want && now.Sub(known.at) < confirmEvery {
		return known, nil
	}
	return checked{status: want}, nil
}

func (d *Driver) observeDead(m *machine, st status, now time.Time) (checked, error) {
	if m.hasState() {
		return checked{at: now, status: drivers.StatusSuspended}, nil
	}
	busy, err := isHeld(m.file(opLockName))
	if err != nil {
		return checked{at: now, status: drivers.StatusUnknown, reason: err.Error()}, err
	}
	switch {
	case st == statusNew && busy:
		return checked{at: now, status: drivers.StatusPending}, nil
	case st == statusNew:
		return checked{at: now, status: drivers.StatusDead, reason: "half made: the runner ended while it made this machine"}, nil
	}
	return checked{at: now, status: drivers.StatusDead, reason: d.reasonOf(m)}, nil
}

// confirm asks the monitor, unless somebody is working on the machine.
func (d *Driver) confirm(ctx context.Context, m *machine, known checked) checked {
	ctx, cancel := context.WithTimeout(ctx, confirmPatience)
	defer cancel()
	lock, err := os.OpenFile(m.file(opLockName), os.O_RDWR, 0)
	if err != nil {
		return known // removed meanwhile
	}
	defer lock.Close()
	if free, err := tryLock(lock); err != nil || !free {
		return known
	}
	mon, err := m.monitor(ctx)
	if err != nil {
		return d.unanswered(m, known, err)
	}
	defer mon.Close()
	said, err := runState(ctx, mon)
	if err != nil {
		return d.unanswered(m, known, err)
	}
	switch said {
	case "running":
		// A half-made machine stays pending: nobody has noted that it runs.
		if known.status == drivers.StatusPaused {
			known.status = drivers.StatusRunning
		}
	case "paused", "prelaunch", "inmigrate", "postmigrate", "finish-migrate", "save-vm", "restore-vm", "suspended":
		// Not running, whatever it was meant to be.
		if known.status == drivers.StatusRunning {
			known.status = drivers.StatusPaused
		}
	default:
		// io-error, internal-error, guest-panicked, shutdown, watchdog: QEMU is
		// there and the machine is not coming back.
		known.status, known.reason = drivers.StatusDead, "QEMU reports "+said
		if said == stateIOError {
			known.reason += ": the host's disk could not take what it wrote; make room there, then resume it, and it goes on"
		}
	}
	known.at = time.Now()
	d.mu.Lock()
	d.checked[m.Name] = known
	d.mu.Unlock()
	return known
}

// unanswered is a machine whose monitor gave no answer: it may have ended just
// now; else the folder's word stands, for a busy QEMU is no dead one.
func (d *Driver) unanswered(m *machine, known checked, err error) checked {
	if alive, aerr := m.alive(); aerr == nil && !alive {
		return checked{status: drivers.StatusDead, reason: d.reasonOf(m)}
	}
	d.log.Debug("monitor gives no answer", "driver", "qemu", "instance", m.Name, "err", err)
	return known
}

// trimConsole cuts a console log that has grown too long down to its end. QEMU
// appends, so what it writes next follows.
func (s seat) trimConsole(log drivers.Logger) {
	info, err := os.Stat(s.file(consoleName))
	if err != nil || info.Size() < consoleMost {
		return
	}
	end, err := s.tail(consoleName, consoleKept)
	if err == nil {
		err = os.Truncate(s.file(consoleName), 0)
	}
	if err == nil {
		var f *os.File
		if f, err = os.OpenFile(s.file(consoleName), os.O_WRONLY|os.O_APPEND, 0); err == nil {
			_, err = f.Write(end)
			err = errors.Join(err, f.Close())
		}
	}
	if err != nil {
		log.Warn("console log is not cut", "driver", "qemu", "file", s.file(consoleName), "err", err)
	}
}
