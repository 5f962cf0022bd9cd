//go:build linux

package qemu

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/qmp"
)

// cleanUpPatience is how long cleaning up after a failed call may take, also
// when the caller has gone.
const cleanUpPatience = killPatience + quitPatience

// The phases of Create, in order; see Driver.hook.
const (
	phaseFolder  = "folder"  // the folder is there, with address and tags
	phaseStarted = "started" // QEMU runs and waits for its state
	phaseLoaded  = "loaded"  // the state is in, the CPUs stand
	phaseRuns    = "runs"    // the CPUs run, nobody has noted it
)

// Create clones a machine. The first one of a recipe waits for its template.
func (d *Driver) Create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	m, err := d.create(ctx, spec)
	if err != nil {
		return drivers.Ref{}, fmt.Errorf("create %s: %w", spec.Name, err)
	}
	return m.ref(), nil
}

func (d *Driver) create(ctx context.Context, spec drivers.Spec) (*machine, error) {
	s, err := d.seatOf(spec.Name)
	if err != nil {
		return nil, err
	}
	for {
		m, unlock, err := d.adopt(ctx, s, spec.Name)
		if errors.Is(err, drivers.ErrNotFound) {
			m, unlock, err = d.found(ctx, spec)
		}
		if err != nil {
			return nil, err
		}
		if m == nil {
			continue // somebody else was faster: adopt theirs
		}
		return m, d.finish(ctx, m, unlock)
	}
}

// adopt takes an existing folder for Create, whole or half made.
func (d *Driver) adopt(ctx context.Context, s seat, name string) (*machine, func(), error) {
	if _, err := os.Stat(s.path); errors.Is(err, os.ErrNotExist) {
		return nil, nil, drivers.ErrNotFound
	}
	unlock, err := s.lockOp(ctx) // while it is being made, this waits
	if err != nil {
		return nil, nil, err
	}
	m, err := d.open(name)
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return m, unlock, nil
}

// found makes a new folder; nil if there is one by now.
func (d *Driver) found(ctx context.Context, spec drivers.Spec) (*machine, func(), error) {
	r, err := d.recipe(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	key, err := d.templateKey(r)
	if err != nil {
		return nil, nil, err
	}
	m := meta{
		Version: metaVersion, Name: spec.Name, Tags: spec.Tags, Recipe: recipeKey(key, d.userData), Template: key,
		Image: r.img.Name, CPUs: r.cpus, MemoryMB: r.memoryMB, Accel: r.accel, Created: time.Now().UTC(), BootDisk: r.boot,
	}
	for _, k := range spec.Disks {
		m.Disks = append(m.Disks, k.Name)
	}
	if m.hasDisks() {
		m.Template = "" // see cold.go
	} else if err := d.needTemplate(ctx, r); err != nil {
		return nil, nil, err
	}
	if err := d.host.checkMemory(r.accel, r.memoryMB); err != nil {
		return nil, nil, err
	}
	if err := d.host.checkDisk(d.dir, 0); err != nil {
		return nil, nil, err
	}
	if len(spec.Disks) > 0 {
		if err := d.prepareDisks(ctx, spec); err != nil {
			return nil, nil, err
		}
	}
	return d.allocate(ctx, m, d.userData)
}

// recipeKey tells machines apart that were not made alike.
func recipeKey(template, userData string) string {
	sum := sha256.Sum256([]byte(userData))
	return template + "-" + hex.EncodeToString(sum[:])[:8]
}

// finish starts the machine of a folder, unless that was done, and unlocks it.
// If it fails, the folder goes.
func (d *Driver) finish(ctx context.Context, m *machine, unlock func()) (err error) {
	defer unlock()
	st, err := m.status()
	if err != nil {
		return err
	}
	if st != statusNew {
		return nil // made before, whatever has become of it
	}
	defer func() {
		if err == nil {
			return
		}
		// Also when the caller has gone: nothing may stay of a failed create.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpPatience)
		defer cancel()
		err = m.withWords(err)
		if kerr := m.kill(ctx, m.Name, d.reap); kerr != nil {
			err = errors.Join(err, kerr) // the folder stays, so that List shows it
			return
		}
		err = errors.Join(err, d.remove(m.seat))
	}()
	d.hook(phaseFolder)
	// A runner that died half-way may have left a QEMU; it has no identity.
	if err := m.kill(ctx, m.Name, d.reap); err != nil {
		return err
	}
	begin := d.clone
	if m.isCold() {
		begin = d.bootFirst
	}
	if err := begin(ctx, m); err != nil {
		return err
	}
	return m.setStatus(statusRunning)
}

// clone starts a machine from its template.
func (d *Driver) clone(ctx context.Context, m *machine) error {
	t, err := d.openTemplate(m.Template)
	if err != nil {
		return fmt.Errorf("template %s: %w", m.Template, err)
	}
	ram, err := d.sealedRAM(t)
	if err != nil {
		return err
	}
	defer ram.Close()
	devices, err := os.Open(t.file(devicesFile))
	if err != nil {
		return err
	}
	defer devices.Close()
	// The clone's kernel began in the template, and so does its console.
	boot, err := t.tail(consoleName, consoleKept)
	if err != nil {
		return err
	}
	if err := os.WriteFile(m.file(consoleName), boot, 0o600); err != nil {
		return full(m.path, err)
	}
	mon, err := d.launch(ctx, m, launching{memory: memoryPrivate, ram: ram, incoming: true})
	if err != nil {
		return err
	}
	defer mon.Close()
	d.hook(phaseStarted)
	if err := load(ctx, mon, devices, true); err != nil {
		if ctx.Err() == nil && !d.endOf(m.Name).killed {
			// What does not load once never will: the next one makes it anew.
			d.log.Warn("template does not load and is dropped", "driver", "qemu", "template", t.key, "err", m.withWords(err))
			err = errors.Join(err, d.dropTemplate(t))
		}
		return err
	}
	d.hook(phaseLoaded)
	if err := mon.Execute(ctx, "cont", nil, nil); err != nil {
		return err
	}
	d.hook(phaseRuns)
	return nil
}

// launching is how a machine's QEMU begins.
type launching struct {
	memory memory
	// ram is the file behind memoryPrivate, nil for other memory.
	ram *os.File
	// incoming: it waits for a state to be loaded. Else it has yet to boot.
	incoming bool
}

// launch starts a machine's QEMU, CPUs stopped, with its disks, and connects to
// it.
func (d *Driver) launch(ctx context.Context, m *machine, l launching) (*qmp.Client, error) {
	program, err := d.program(ctx)
	if err != nil {
		return nil, err
	}
	files, err := d.openBoot(m, l)
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	if l.ram != nil {
		files = append(files, l.ram)
	}
	disks, err := d.takeDisks(ctx, m)
	if err != nil {
		return nil, err
	}
	defer closeAll(disks)
	cmd := commandLine{
		arch: d.arch, accel: m.Accel, memoryMB: m.MemoryMB, cpus: m.CPUs, memory: l.memory,
		guest: m.Name, address: m.Address, incoming: l.incoming, stopped: true, disks: len(disks), boot: m.BootDisk,
	}
	pid, err := m.start(ctx, program.path, cmd.args(), m.UID, append(files, disks...)...)
	if pid != 0 {
		d.born(pid, m.Name)
	}
	if err != nil {
		return nil, err
	}
	return m.monitor(ctx)
}

// openBoot opens what a machine's QEMU boots from: kernel and initramfs, its boot
// disk, or both.
func (d *Driver) openBoot(m *machine, l launching) ([]*os.File, error) {
	if m.BootDisk != nil {
		return m.openBootDisk(*m.BootDisk, l.incoming)
	}
	from, kernelName, initramfsName := m.seat, image.KernelFile, image.InitramfsFile
	if l.incoming {
		kernelName, initramfsName = stubKernelFile, stubInitramfsFile
	}
	if !m.isCold() {
		t, err := d.openTemplate(m.Template)
		if err != nil {
			return nil, fmt.Errorf("template %s: %w", m.Template, err)
		}
		from = t.seat
	}
	kernel, initramfs, err := from.openPair(kernelName, initramfsName)
	if err != nil {
		return nil, err
	}
	return []*os.File{kernel, initramfs}, nil
}

// recipe is what a machine of this spec is made of. What the driver cannot do
// is refused by name.
func (d *Driver) recipe(ctx context.Context, spec drivers.Spec) (recipe, error) {
	name := cmp.Or(spec.Image, d.cfg.Image)
	switch {
	case spec.Nested:
		return recipe{}, fmt.Errorf("%w: local machines cannot run machines (nested virtualisation)", drivers.ErrInvalid)
	case spec.GPU:
		return recipe{}, fmt.Errorf("%w: local machines have no GPU", drivers.ErrInvalid)
	}
	if err := checkDisks(spec.Disks); err != nil {
		return recipe{}, err
	}
	r, err := d.baseRecipe(ctx, name)
	if err != nil {
		return recipe{}, err
	}
	if r.boot, err = bootDiskOf(r.img, cmp.Or(spec.DiskGiB, d.cfg.Disk.Size)); err != nil {
		return recipe{}, err
	}
	if spec.MachineType != "" {
		if r.cpus, r.memoryMB, err = parseMachineType(spec.MachineType); err != nil {
			return recipe{}, err
		}
	}
	if r.memoryMB < r.img.MinMemoryMB {
		return recipe{}, fmt.Errorf("%w: %d MiB of memory are less than the %d that image %s needs", drivers.ErrInvalid, r.memoryMB, r.img.MinMemoryMB, name)
	}
	v, err := d.accelerator(ctx, r)
	r.accel, r.reason = v.Accel, v.Reason
	return r, err
}

// baseRecipe is what the configuration says, without an accelerator.
func (d *Driver) baseRecipe(ctx context.Context, name string) (recipe, error) {
	program, err := d.program(ctx)
	if err != nil {
		return recipe{}, err
	}
	img, err := d.image(name)
	if errors.Is(err, image.ErrNotExist) && name != d.cfg.Image {
		// Somebody's request, not the pool.
		return recipe{}, fmt.Errorf("%w: %w; the images that are here: %s", drivers.ErrInvalid, err, d.imageNames())
	}
	if err != nil {
		return recipe{}, err
	}
	boot, err := bootDiskOf(img, 0)
	return recipe{img: img, boot: boot, memoryMB: d.cfg.MemoryMB, cpus: d.cfg.CPUs, qemu: program}, err
}
