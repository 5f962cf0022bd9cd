//go:build linux

package qemu

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// flushPatience is how long a machine may take to write to its disks what it
// keeps in memory, before it is ended or saved without.
const flushPatience = 10 * time.Second

// A machine with persistent disks, or of an image with a disk (see bootdisk.go),
// boots from its image instead of being cloned.
// A template fits one list of devices, and its kernel has seen the sizes of its
// disks; disks that are plugged in later need a bus that can, differ between
// architectures, and are one more thing to put back in place when a state is
// loaded. Booting costs a gitspace some seconds when it is made, and nothing
// when it wakes.

// isCold says whether the machine boots from files of its own.
func (m *machine) isCold() bool { return m.Template == "" }

// hasDisks says whether the machine writes to a disk: what is saved of its memory
// then does not fit any more once it has run on.
func (m *meta) hasDisks() bool { return len(m.Disks) > 0 || m.BootDisk != nil }

// fillCold writes what a machine that boots needs to its new folder.
func (d *Driver) fillCold(s seat, m meta) error {
	if !m.hasDisks() {
		return nil
	}
	img, err := d.image(m.Image)
	if err != nil {
		return err
	}
	if m.BootDisk != nil {
		return s.linkDisk(img, *m.BootDisk)
	}
	return s.linkImage(img)
}

// linkImage gives a machine the kernel and initramfs it boots from: also again
// after a crash, when its image may be another.
func (s seat) linkImage(img *image.Image) error {
	for from, to := range map[string]string{img.Kernel(): image.KernelFile, img.Initramfs(): image.InitramfsFile} {
		if err := linkOrCopy(from, s.file(to)); err != nil {
			return err
		}
	}
	return s.writeStubs()
}

// bootCold starts a machine's QEMU from its own kernel, CPUs stopped, and then lets
// them run. Its disks are as they are; nothing mounts them before the machine
// has its identity.
func (d *Driver) bootCold(ctx context.Context, m *machine) error {
	mon, err := d.launch(ctx, m, launching{memory: memoryAnonymous})
	if err != nil {
		return err
	}
	defer mon.Close()
	d.hook(phaseStarted)
	d.hook(phaseLoaded)
	if err := mon.Execute(ctx, "cont", nil, nil); err != nil {
		return err
	}
	d.hook(phaseRuns)
	return nil
}

// bootAgain starts a machine that has ended and was not saved, on its disks: what
// it had in memory is lost. It waits for its identity then, as a new one does.
func (d *Driver) bootAgain(ctx context.Context, m *machine) error {
	if err := d.host.checkMemory(m.Accel, m.MemoryMB); err != nil {
		return err
	}
	if err := removeIfThere(m.file(identifiedName)); err != nil {
		return err
	}
	if err := d.bootCold(ctx, m); err != nil {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpPatience)
		defer cancel()
		return errors.Join(m.withWords(err), m.kill(clean, m.Name, d.reap))
	}
	return m.setStatus(statusRunning)
}

// identifiedName marks a machine that was given its identity: from then on its
// disks may be mounted, and have something in memory that is not on them yet.
const identifiedName = "identified"

// mark notes that a machine with disks is about to get its identity.
func (m *machine) mark() error {
	if len(m.Disks) == 0 {
		return nil
	}
	return os.WriteFile(m.file(identifiedName), nil, 0o600)
}

// flush has a machine write to its disks what it keeps in memory of their files,
// because its memory is about to go. One that cannot is no reason to keep it:
// its file systems have journals.
func (d *Driver) flush(ctx context.Context, m *machine) {
	if len(m.Disks) == 0 {
		return
	}
	st, err := m.status()
	if err != nil || st != statusRunning && st != statusResuming {
		return // its CPUs stand, or there is no QEMU
	}
	if _, err := os.Stat(m.file(identifiedName)); err != nil {
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, flushPatience, errNoAnswer)
	defer cancel()
	if err := d.talk(ctx, m, func(link *guestlink.Host) error { return link.Flush(ctx) }); err != nil && !errors.Is(err, errDead) {
		d.log.Warn("machine did not flush its disks; what it wrote in the last seconds may be lost", "driver", "qemu", "instance", m.Name, "err", err)
	}
}
