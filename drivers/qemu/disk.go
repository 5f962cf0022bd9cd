//go:build linux

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// A persistent disk is a folder, whole or not there: its record, and a sparse
// file with a file system. Which machine has it is said by that machine's
// record alone, so a disk is free in the moment the machine's folder is gone.

// The files of a disk's folder.
const (
	diskRecordName = "disk.json"
	diskDataName   = "data" // locked by the QEMU that has it open
)

// diskVersion is the format of disk.json; a newer one is not read.
const diskVersion = 1

const gib = int64(1) << 30

const (
	// defaultDiskGiB is the size of a disk whose request names none.
	defaultDiskGiB = 10
	// mostDiskGiB is the largest file ext4 and most of its kind can hold.
	mostDiskGiB = 16 << 10
	// mostDisks is below the number of free places on a machine's bus.
	mostDisks = 16
	// takePatience is how long a disk may still be open in a QEMU that has been
	// killed.
	takePatience = 5 * time.Second
)

// diskRecord is what a disk is, for as long as it exists.
type diskRecord struct {
	Version int          `json:"version"`
	Name    string       `json:"name"`
	Tags    drivers.Tags `json:"tags"`
	SizeGiB int          `json:"size_gib"`
	Created time.Time    `json:"created"`
}

// disk is one disk's folder, read.
type disk struct {
	seat
	diskRecord
}

// diskNameRE is what clouds take, and what stays inside the folder.
var diskNameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

func (d *Driver) disksDir() string { return filepath.Join(d.dir, "disks") }

// openDisk reads a disk; drivers.ErrNotFound if there is none.
func (d *Driver) openDisk(name string) (*disk, error) {
	if !diskNameRE.MatchString(name) {
		return nil, fmt.Errorf("%w: disk name %q: want a letter or digit and then at most 127 letters, digits, dots, dashes and underscores", drivers.ErrInvalid, name)
	}
	k := &disk{seat: seat{filepath.Join(d.disksDir(), name)}}
	path := k.file(diskRecordName)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: disk %s", drivers.ErrNotFound, name)
	}
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(raw, &k.diskRecord)
	switch {
	case err != nil:
	case k.Version != diskVersion:
		err = fmt.Errorf("format %d, this runner knows %d", k.Version, diskVersion)
	case k.Name != name:
		err = fmt.Errorf("is of disk %q", k.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// take opens a disk for one QEMU. The lock goes with the descriptor: a disk has
// one QEMU at most, and is free again when that has ended, however it ends.
func (k *disk) take(ctx context.Context) (*os.File, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, takePatience, errors.New("a process still has it open"))
	defer cancel()
	f, err := lockFile(ctx, k.file(diskDataName), 0)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", k.Name, err)
	}
	return f, nil
}

// takeDisks opens the disks of a machine, all or none.
func (d *Driver) takeDisks(ctx context.Context, m *machine) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
			files = nil
		}
	}()
	for _, name := range m.Disks {
		k, err := d.openDisk(name)
		if err != nil {
			return files, err
		}
		f, err := k.take(ctx)
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

// closeAll closes files QEMU has descriptors of its own of.
func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // nothing was written through it
	}
}

// guestDisks are the disks as the machine's agent is told of them.
func (m *machine) guestDisks() []guestlink.Disk {
	var disks []guestlink.Disk
	for i, name := range m.Disks {
		disks = append(disks, guestlink.Disk{Serial: diskSerial(i), Folder: drivers.DiskFolder(i, name)})
	}
	return disks
}

// diskSerial is the serial number under which a machine sees its i-th disk.
func diskSerial(i int) string { return fmt.Sprintf("disk-%d", i) }

// checkDisks refuses disks no machine can have.
func checkDisks(disks []drivers.DiskSpec) error {
	seen := map[string]bool{}
	for _, k := range disks {
		switch {
		case !diskNameRE.MatchString(k.Name):
			return fmt.Errorf("%w: %q is no name of a disk: want a letter or digit and then at most 127 letters, digits, dots, dashes and underscores", drivers.ErrInvalid, k.Name)
		case seen[k.Name]:
			return fmt.Errorf("%w: disk %s is asked for twice", drivers.ErrInvalid, k.Name)
		case k.SizeGiB < 0 || k.SizeGiB > mostDiskGiB:
			return fmt.Errorf("%w: disk %s of %d GiB: a local disk has at most %d", drivers.ErrInvalid, k.Name, k.SizeGiB, mostDiskGiB)
		}
		seen[k.Name] = true
	}
	if len(disks) > mostDisks {
		return fmt.Errorf("%w: %d disks: a local machine has at most %d", drivers.ErrInvalid, len(disks), mostDisks)
	}
	return nil
}

// free says whether a machine may have these disks, by what the records of all
// machines say.
func (u inUse) free(machine string, disks ...string) error {
	for _, name := range disks {
		if holder := u.disks[name]; holder != "" && holder != machine {
			return fmt.Errorf("%w: disk %s is attached to machine %s; destroy that one first", drivers.ErrInvalid, name, holder)
		}
	}
	if len(disks) > 0 && u.unreadable != "" {
		return fmt.Errorf("machine folder %s is unreadable, and which disks are its own is unknown: repair it, or destroy machine %s", u.unreadable, filepath.Base(u.unreadable))
	}
	return nil
}

// DestroyDisks deletes disks that no machine has.
func (d *Driver) DestroyDisks(ctx context.Context, disks []drivers.Ref) []error {
	errs := make([]error, len(disks))
	for i, ref := range disks {
		if err := d.destroyDisk(ctx, ref.Name); err != nil {
			errs[i] = fmt.Errorf("destroy disk %s: %w", ref.Name, err)
		}
	}
	return errs
}

func (d *Driver) destroyDisk(ctx context.Context, name string) error {
	if !diskNameRE.MatchString(name) {
		return nil // there never was one
	}
	s := seat{filepath.Join(d.disksDir(), name)}
	if _, err := os.Stat(s.path); errors.Is(err, fs.ErrNotExist) {
		return ctx.Err()
	}
	// Nobody can get it while we look whether somebody has it.
	lock, err := d.lockAllocation(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	used, err := d.inUse()
	if err != nil {
		return err
	}
	if err := used.free("", name); err != nil {
		return err
	}
	open, err := isHeld(s.file(diskDataName))
	if err != nil {
		return err
	}
	if open {
		return errors.New("a process still has it open")
	}
	return removeFolder(d.disksDir(), s)
}

// listDisks reads all disks for a listing, which is not complete if one could not
// be read: that one is there by name only.
func (d *Driver) listDisks(ctx context.Context, l *drivers.Listing) ([]drivers.Disk, error) {
	entries, err := os.ReadDir(d.disksDir())
	if err != nil {
		return nil, err
	}
	var disks []drivers.Disk
	scratch := false
	for _, e := range entries {
		if !diskNameRE.MatchString(e.Name()) {
			scratch = scratch || isScratch(e.Name())
			continue
		}
		k, err := d.openDisk(e.Name())
		if err != nil {
			if _, serr := os.Stat(filepath.Join(d.disksDir(), e.Name())); errors.Is(serr, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			d.log.Warn("disk folder is unreadable; it is listed by name only", "driver", "qemu", "disk", e.Name(), "err", err)
			disks, l.Complete = append(disks, drivers.Disk{Name: e.Name()}), false
			continue
		}
		disks = append(disks, drivers.Disk{Name: k.Name, Tags: k.Tags, SizeGiB: k.SizeGiB})
	}
	if scratch {
		if err := d.tidy(ctx, d.disksDir(), time.Now()); err != nil {
			d.log.Warn("left-over folders stay", "driver", "qemu", "err", err)
		}
	}
	return disks, nil
}
