//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/qmp"
)

// savePatience is how long a machine may take to be written to disk or read
// from it: minutes for a large one on a slow disk, measured 0.2 s for tiny.
const savePatience = 5 * time.Minute

// The phases of Suspend and Resume; see Driver.hook.
const (
	phaseSaved    = "saved"    // the state file is whole, QEMU still there
	phaseReloaded = "reloaded" // a new QEMU has the state, its CPUs stand
	phaseRestart  = "restart"  // they are about to run, the file is still there
)

// Suspend writes a machine to disk and ends its QEMU. If that fails it goes on
// as it was.
func (d *Driver) Suspend(ctx context.Context, ref drivers.Ref) error {
	if err := d.suspend(ctx, ref); err != nil {
		return fmt.Errorf("suspend %s: %w", ref.Name, err)
	}
	return nil
}

func (d *Driver) suspend(ctx context.Context, ref drivers.Ref) error {
	ctx, cancel := context.WithTimeoutCause(ctx, savePatience, fmt.Errorf("not saved within %s", savePatience))
	defer cancel()
	m, unlock, err := d.hold(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	st, err := m.status()
	if err != nil {
		return err
	}
	alive, err := m.alive()
	if err != nil {
		return err
	}
	if !alive {
		if m.hasState() {
			return m.setStatus(statusSuspended)
		}
		return d.mustLive(m)
	}
	// A state file beside a living QEMU is the machine only if nothing ran
	// since: a runner died between saving it and ending QEMU.
	if st != statusSuspended || !m.hasState() {
		d.flush(ctx, m) // who gets its disks may not get its memory
		if err := d.saveState(ctx, m, st); err != nil {
			return err
		}
	}
	d.hook(phaseSaved)
	// The machine is its state file from here on: a caller that gives up now
	// gets no half of it, neither saved nor running.
	ctx, cancel = context.WithTimeoutCause(context.WithoutCancel(ctx), cleanUpPatience, fmt.Errorf("QEMU has not ended within %s", cleanUpPatience))
	defer cancel()
	if err := m.kill(ctx, m.Name, d.reap); err != nil {
		return err
	}
	return m.syncOverlay()
}

// saveState stops a machine and writes all of it to its state file. Only a
// whole file gets that name. On failure the machine is left as it was.
func (d *Driver) saveState(ctx context.Context, m *machine, was status) (err error) {
	if err := d.host.checkDisk(m.path, int64(m.MemoryMB)*mib); err != nil {
		return err
	}
	mon, err := m.monitor(ctx)
	if err != nil {
		return err
	}
	defer mon.Close()
	tmp := m.file(stateName + ".new")
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err == nil {
			return
		}
		_ = mon.Close() // the monitor serves one client
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), monitorPatience, fmt.Errorf("QEMU did not answer within %s", monitorPatience))
		defer cancel()
		err = errors.Join(full(m.path, err), removeIfThere(tmp), removeIfThere(m.file(stateName)), goOn(ctx, m, was), m.setStatus(was))
	}()
	if err := mon.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	if err := save(ctx, mon, f, false); err != nil {
		return err
	}
	// QEMU has written it; what the disk cannot keep shows up here.
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp, m.file(stateName)); err != nil {
		return err
	}
	if err := syncDir(m.path); err != nil {
		return err
	}
	return m.setStatus(statusSuspended)
}

// goOn brings a machine whose save failed, or was given up half-way, back to
// what it was.
func goOn(ctx context.Context, m *machine, was status) error {
	mon, err := m.monitor(ctx)
	if err != nil {
		return err
	}
	defer mon.Close()
	if err := abandon(ctx, mon); err != nil {
		return err
	}
	if was == statusPaused {
		return nil
	}
	return run(ctx, mon)
}

// run lets the CPUs run, and sees that they do: for a moment after a save QEMU
// can refuse, and what was under way when its caller gave up can still stop
// them.
func run(ctx context.Context, mon *qmp.Client) error {
	var refusal error
	err := poll(ctx, func() (bool, error) {
		refusal = mon.Execute(ctx, "cont", nil, nil)
		if _, refused := errors.AsType[*qmp.Error](refusal); refusal != nil && !refused {
			return false, refusal
		}
		state, err := runState(ctx, mon)
		return state == "running", err
	})
	if err != nil && refusal != nil && !errors.Is(err, refusal) {
		return fmt.Errorf("%w: %w", err, refusal)
	}
	return err
}

// full adds ErrCapacity and a number to an error for which a full disk is the
// likely cause: QEMU says only that a write failed.
func full(path string, err error) error {
	if err == nil {
		return nil
	}
	free, ferr := diskFree(path)
	if errors.Is(err, unix.ENOSPC) || ferr == nil && free < diskReserve {
		return &drivers.CapacityError{Err: fmt.Errorf("%s has %d MiB free: %w", path, free/mib, err)}
	}
	return err
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// Resume brings a machine back to running from wherever it is: suspended,
// paused or running. One that has ended and was not saved is left as it is,
// unless it has persistent disks: then it boots anew, with what is on them, and
// waits for its identity.
func (d *Driver) Resume(ctx context.Context, ref drivers.Ref) (drivers.Instance, error) {
	m, err := d.resume(ctx, ref)
	if err != nil {
		return drivers.Instance{}, fmt.Errorf("resume %s: %w", ref.Name, err)
	}
	return m.instance(drivers.StatusRunning, ""), nil
}

func (d *Driver) resume(ctx context.Context, ref drivers.Ref) (*machine, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, savePatience, fmt.Errorf("not resumed within %s", savePatience))
	defer cancel()
	m, unlock, err := d.hold(ctx, ref)
	if err != nil {
		return nil, err
	}
	release := func() { unlock(); unlock = func() {} }
	defer func() { release() }()
	alive, err := m.alive()
	if err != nil {
		return nil, err
	}
	switch {
	case alive:
		return m, d.revive(ctx, m, release)
	case !m.hasState() && m.hasDisks():
		return m, d.bootAgain(ctx, m)
	case !m.hasState():
		return nil, fmt.Errorf("%w and was not saved to disk, nothing was changed: %s", errDead, d.reasonOf(m))
	}
	if err := d.restart(ctx, m); err != nil {
		return nil, err
	}
	if m.hasDisks() {
		// From its first step on the machine changes its disks, and the state of
		// before does not fit them again: it goes first, and there is no second try
		// from it. If the machine does not answer it is left running.
		if err := d.revive(ctx, m, release); err != nil {
			return nil, m.withWords(err)
		}
		return m, nil
	}
	if err := d.proceed(ctx, m); err != nil {
		return nil, err
	}
	if err := d.wake(ctx, m); err != nil {
		return nil, d.notResumed(ctx, m, err)
	}
	if err := m.setStatus(statusRunning); err != nil {
		return nil, err
	}
	return m, removeIfThere(m.file(stateName))
}

// dropState removes what was saved of a machine that is about to run. If it has
// disks, also a power cut must not bring that back: it does not fit them any more.
func (m *machine) dropState() error {
	err := os.Remove(m.file(stateName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && m.hasDisks() {
		err = syncDir(m.path)
	}
	return err
}

// restart starts a new QEMU from the state file, which stays. Its CPUs stand.
func (d *Driver) restart(ctx context.Context, m *machine) (err error) {
	if err := d.host.checkMemory(m.Accel, m.MemoryMB); err != nil {
		return err
	}
	f, err := os.Open(m.file(stateName))
	if err != nil {
		return err
	}
	defer f.Close()
	defer func() { err = d.notResumed(ctx, m, err) }()
	mon, err := d.launch(ctx, m, launching{memory: memoryAnonymous, incoming: true})
	if err != nil {
		return err
	}
	defer mon.Close()
	if err := load(ctx, mon, f, false); err != nil {
		return err
	}
	d.hook(phaseReloaded)
	return nil
}

// proceed lets the CPUs of a machine run that was started from its state file,
// which stays until the machine is heard of.
func (d *Driver) proceed(ctx context.Context, m *machine) (err error) {
	defer func() { err = d.notResumed(ctx, m, err) }()
	// From here on the machine may run: the file is not the machine any more,
	// unless nobody ever hears of it.
	if err := m.setStatus(statusResuming); err != nil {
		return err
	}
	d.hook(phaseRestart)
	return d.command(ctx, m, "cont")
}

// notResumed ends the QEMU of a machine that has not come back, so that the next
// try begins anew from its state file.
func (d *Driver) notResumed(ctx context.Context, m *machine, err error) error {
	if err == nil {
		return nil
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpPatience)
	defer cancel()
	return errors.Join(m.withWords(err), m.kill(clean, m.Name, d.reap), m.setStatus(statusSuspended))
}
