//go:build linux

package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
)

// A machine of an image with a disk boots from an overlay of its own: what it
// writes goes there, and what it has not written is read from the image's disk,
// which it shares with others and which QEMU gets for reading alone. Image and
// seed are second names of the image's files, so that an image can be made anew
// or removed while machines live. There are no templates of such images: what
// their daemons have drawn at boot, clones would share.

// overlayName is the machine's own part of its boot disk, in its folder.
const overlayName = "overlay.qcow2"

// overlayPatience is how long making an overlay may take; measured 15 ms.
const overlayPatience = 30 * time.Second

// bootDisk is how a machine boots from a disk.
type bootDisk struct {
	// Size is what the machine sees of it, in bytes.
	Size int64 `json:"size"`
	// Kernel: QEMU is given kernel and initramfs; else the firmware finds them.
	Kernel bool `json:"kernel"`
	// Seed: a second disk has what cloud-init needs.
	Seed bool `json:"seed"`
}

// bootDiskOf is the boot disk of a recipe's machines, nil for an image without
// one. gib is the size that is wished, in GB, 0 for the image's own.
func bootDiskOf(img *image.Image, gib int) (*bootDisk, error) {
	switch {
	case img.Disk == nil && gib != 0:
		return nil, fmt.Errorf("%w: image %s has no disk, its machines run from memory; leave the size of the disk out", drivers.ErrInvalid, img.Name)
	case img.Disk == nil:
		return nil, nil
	case gib < 0 || int64(gib) > mostBootDiskGB:
		return nil, fmt.Errorf("%w: a disk of %d GB is none; %d is the most", drivers.ErrInvalid, gib, mostBootDiskGB)
	}
	b := &bootDisk{Size: img.Disk.Size, Kernel: img.HasKernel(), Seed: img.HasSeed()}
	if gib == 0 {
		return b, nil
	}
	if b.Size = int64(gib) * gb; b.Size < img.Disk.Size {
		return nil, fmt.Errorf("%w: a disk of %d GB is smaller than that of image %s, which has %.1f GB", drivers.ErrInvalid, gib, img.Name, float64(img.Disk.Size)/float64(gb))
	}
	return b, nil
}

// A boot disk's size is given as users of clouds give it.
const (
	gb             = int64(1) << 30
	mostBootDiskGB = 2048
)

// linkDisk gives a machine the files of its image's disk.
func (s seat) linkDisk(img *image.Image, b bootDisk) error {
	names := []string{image.DiskFile}
	if b.Seed {
		names = append(names, image.SeedFile)
	}
	if b.Kernel {
		names = append(names, image.KernelFile, image.InitramfsFile)
	}
	for _, name := range names {
		if err := linkOrCopy(filepath.Join(img.Dir, name), s.file(name)); err != nil {
			return err
		}
	}
	if b.Kernel {
		return s.writeStubs()
	}
	return nil
}

// bootFirst starts a machine that has not run yet. What a runner that died may
// have had it write before goes with the old overlay.
func (d *Driver) bootFirst(ctx context.Context, m *machine) error {
	if m.BootDisk != nil {
		if err := m.makeOverlay(ctx, m.BootDisk.Size); err != nil {
			return err
		}
	}
	return d.bootCold(ctx, m)
}

// makeOverlay makes an empty overlay. That it lies over the image's disk is said
// by QEMU's arguments, not in the file: nothing a machine could write there
// opens another file.
func (s seat) makeOverlay(ctx context.Context, size int64) error {
	path, err := exec.LookPath("qemu-img")
	if err != nil {
		return errors.New("qemu-img is not installed; on Debian and Ubuntu: apt-get install qemu-utils")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, overlayPatience, fmt.Errorf("qemu-img has not made the disk within %s", overlayPatience))
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "create", "-q", "-f", "qcow2", s.file(overlayName), fmt.Sprint(size))
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return full(s.path, fmt.Errorf("qemu-img create: %w: %s", err, strings.TrimSpace(stderr.String())))
	}
	return nil
}

// openBootDisk opens what QEMU boots from, in the order of its arguments. One that
// loads a state reads no kernel, and is given as little of one as it takes.
func (s seat) openBootDisk(b bootDisk, incoming bool) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	if b.Kernel {
		kernelName, initramfsName := image.KernelFile, image.InitramfsFile
		if incoming {
			kernelName, initramfsName = stubKernelFile, stubInitramfsFile
		}
		kernel, initramfs, err := s.openPair(kernelName, initramfsName)
		if err != nil {
			return nil, err
		}
		files = append(files, kernel, initramfs)
	}
	base, err := os.Open(s.file(image.DiskFile))
	if err != nil {
		return files, err
	}
	files = append(files, base)
	overlay, err := os.OpenFile(s.file(overlayName), os.O_RDWR, 0)
	if err != nil {
		return files, err
	}
	files = append(files, overlay)
	if !b.Seed {
		return files, nil
	}
	seed, err := os.Open(s.file(image.SeedFile))
	if err != nil {
		return files, err
	}
	return append(files, seed), nil
}

// syncOverlay makes durable what a machine that was saved has on its boot disk:
// QEMU does not, and the state that was saved fits no other.
func (m *machine) syncOverlay() error {
	if m.BootDisk == nil {
		return nil
	}
	f, err := os.OpenFile(m.file(overlayName), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// args adds the disk to a command line; its files begin at descriptor fd.
func (b bootDisk) args(fd int) []string {
	set := func(i int) []string { return []string{"-add-fd", fmt.Sprintf("fd=%d,set=%d", fd+i, fdsetBoot+i)} }
	args := append(set(0), set(1)...)
	args = append(args,
		// Formats are named: what a machine writes is never taken for a header.
		"-blockdev", fmt.Sprintf("driver=qcow2,node-name=base,read-only=on,file.driver=file,file.read-only=on,file.filename=/dev/fdset/%d", fdsetBoot),
		// A machine's own disk ends with it, so that QEMU need not have the host's
		// disk confirm what it wrote.
		"-blockdev", fmt.Sprintf("driver=qcow2,node-name=root,backing=base,cache.no-flush=on,discard=unmap,"+
			"file.driver=file,file.cache.no-flush=on,file.discard=unmap,file.filename=/dev/fdset/%d", fdsetBoot+1),
		"-device", "virtio-blk-pci,drive=root,bootindex=1,werror=enospc,rerror=report",
	)
	if b.Seed {
		args = append(args, set(2)...)
		args = append(args,
			"-blockdev", fmt.Sprintf("driver=raw,node-name=seed,read-only=on,file.driver=file,file.read-only=on,file.filename=/dev/fdset/%d", fdsetBoot+2),
			"-device", "virtio-blk-pci,drive=seed,serial=seed")
	}
	return args
}

// files is how many descriptors the disk takes, kernel and initramfs aside.
func (b *bootDisk) files() int {
	switch {
	case b == nil:
		return 0
	case b.Seed:
		return 3
	default:
		return 2
	}
}

// tryDisk finds out whether machines of a disk image boot under KVM: one is
// booted until its agent asks for an identity.
func (d *Driver) tryDisk(ctx context.Context, r recipe) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, diskTrialPatience, fmt.Errorf("the machine did not boot within %s", diskTrialPatience))
	defer cancel()
	dir, err := os.MkdirTemp(d.templatesDir(), newPrefix)
	if err != nil {
		return err
	}
	m := &machine{seat: seat{dir}, meta: meta{
		Name: filepath.Base(dir), CPUs: r.cpus, MemoryMB: r.memoryMB, Accel: r.accel, BootDisk: r.boot,
	}}
	if d.asRoot {
		m.UID = &d.uids.last
	}
	unlock, err := m.lockOp(ctx)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer unlock()
	defer func() {
		if err != nil {
			err = m.withWords(err)
		}
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpPatience)
		defer cancel()
		err = errors.Join(err, m.kill(clean, m.Name, d.reap), os.RemoveAll(dir))
	}()
	if err := m.linkDisk(r.img, *r.boot); err != nil {
		return err
	}
	if err := d.bootFirst(ctx, m); err != nil {
		return err
	}
	link, err := m.link(ctx)
	if err != nil {
		return err
	}
	defer link.Close()
	_, err = link.Ping(ctx)
	return err
}

// diskTrialPatience is how long a trial boot of a disk image may take: a system
// with cloud-init takes ten times what tiny does.
const diskTrialPatience = 2 * time.Minute

// imageNames are the images of the data directory, for an error message.
func (d *Driver) imageNames() string {
	images, _ := image.List(ImagesDir(d.dir)) // those that can be read
	names := make([]string, len(images))
	for i, img := range images {
		names[i] = img.Name
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
