//go:build linux

package qemu

import (
	"context"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// SetHook lets a test see, or end the process at, the phases of Create.
func (d *Driver) SetHook(f func(phase string)) { d.hook = f }

// SetHost replaces what the driver believes of memory and disk, in bytes.
func (d *Driver) SetHost(total, available, disk int64) {
	d.host = host{
		memory: func() (int64, int64, error) { return total, available, nil },
		disk:   func(string) (int64, error) { return disk, nil },

		formatter: findFormatter,
	}
}

// PhaseLoaded is when the state is in and the CPUs stand.
const PhaseLoaded = phaseLoaded

// PhaseReloaded is when a machine that is resumed has its state and has not run.
const PhaseReloaded = phaseReloaded

// MakeDisks makes the disks of a machine and no machine.
func (d *Driver) MakeDisks(ctx context.Context, spec drivers.Spec) error {
	return d.makeDisks(ctx, spec)
}

// SetDiskRoom replaces what the driver believes of the host's disk, in bytes.
func (d *Driver) SetDiskRoom(free int64) {
	d.host.disk = func(string) (int64, error) { return free, nil }
}

// Phases of Create, in order, of Suspend and Resume, and of making a disk.
var (
	CreatePhases = []string{phaseFolder, phaseStarted, phaseLoaded, phaseRuns}
	SavePhases   = []string{phaseSaved, phaseRestart}
	DiskPhases   = []string{phaseDiskFile, phaseDiskFormatted}
)

// Allocate makes the folder of a machine and nothing more, and returns its
// address.
func (d *Driver) Allocate(ctx context.Context, name string) (string, error) {
	m, unlock, err := d.allocate(ctx, meta{Version: metaVersion, Name: name}, "")
	if err != nil || m == nil {
		return "", err
	}
	unlock()
	return m.Address, nil
}

// SetDestroyPatience replaces how long a destroy waits for who works on a
// machine: before it ends QEMU under them, and after.
func (d *Driver) SetDestroyPatience(soon, letGo time.Duration) { d.destroyWait, d.letGo = soon, letGo }

// AskMonitor connects to a machine's monitor and asks it one thing.
func (d *Driver) AskMonitor(ctx context.Context, name string) (string, error) {
	m, err := d.open(name)
	if err != nil {
		return "", err
	}
	mon, err := m.monitor(ctx)
	if err != nil {
		return "", err
	}
	defer mon.Close()
	return runState(ctx, mon)
}
