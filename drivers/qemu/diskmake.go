//go:build linux

package qemu

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

const (
	// makeLockName is the lock under which disks are made, one at a time: the
	// room for one is not promised twice, and a name has one disk.
	makeLockName = ".make.lock"
	// formatPatience is how long a file system may take to be made; measured
	// 0.1 s for 10 GiB, of which little is written.
	formatPatience = 2 * time.Minute
)

// The phases of making a disk, in order; see Driver.hook.
const (
	phaseDiskFile      = "disk file"      // the file is there, empty
	phaseDiskFormatted = "disk formatted" // all of the disk is there, under another name
)

// prepareDisks sees that a machine that is to be made can have its disks, and
// makes those that do not exist.
func (d *Driver) prepareDisks(ctx context.Context, spec drivers.Spec) error {
	used, err := d.inUse()
	if err != nil {
		return err
	}
	// Before anything is made; once more when they are given out.
	for _, k := range spec.Disks {
		if err := used.free(spec.Name, k.Name); err != nil {
			return err
		}
	}
	return d.makeDisks(ctx, spec)
}

// makeDisks makes those of a machine's disks that do not exist. What exists is
// taken as it is: a file system is made in the same breath as the disk, under
// another name, and never on a disk that has its own.
func (d *Driver) makeDisks(ctx context.Context, spec drivers.Spec) error {
	for _, want := range spec.Disks {
		_, err := d.openDisk(want.Name)
		if errors.Is(err, drivers.ErrNotFound) {
			err = d.makeDisk(ctx, diskRecord{
				Version: diskVersion, Name: want.Name, Tags: spec.Tags, SizeGiB: cmp.Or(want.SizeGiB, defaultDiskGiB), Created: time.Now().UTC(),
			})
		}
		if err != nil {
			return fmt.Errorf("disk %s: %w", want.Name, err)
		}
	}
	return nil
}

func (d *Driver) makeDisk(ctx context.Context, r diskRecord) (err error) {
	lock, err := lockFile(ctx, filepath.Join(d.disksDir(), makeLockName), os.O_CREATE)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := d.openDisk(r.Name); !errors.Is(err, drivers.ErrNotFound) {
		return err // made meanwhile
	}
	program, err := d.host.formatter()
	if err != nil {
		return err
	}
	promised, err := d.promised()
	if err != nil {
		return err
	}
	if err := d.host.checkDisk(d.dir, promised+int64(r.SizeGiB)*gib); err != nil {
		return fmt.Errorf("%d GiB, and %d MiB that other disks may still grow: %w", r.SizeGiB, promised/mib, err)
	}
	tmp, err := os.MkdirTemp(d.disksDir(), newPrefix)
	if err != nil {
		return full(d.dir, err)
	}
	s := seat{tmp}
	unlock, err := s.lockOp(ctx) // until it is whole nobody tidies it away
	if err != nil {
		return errors.Join(full(d.dir, err), os.RemoveAll(tmp))
	}
	defer unlock()
	err = d.fillDisk(ctx, s, program, r)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(d.disksDir(), r.Name))
	}
	if err != nil {
		return errors.Join(full(d.dir, err), os.RemoveAll(tmp))
	}
	d.log.Info("disk made", "driver", "qemu", "disk", r.Name, "gib", r.SizeGiB)
	return syncDir(d.disksDir())
}

// fillDisk writes all of a disk so that it survives a power cut.
func (d *Driver) fillDisk(ctx context.Context, s seat, program string, r diskRecord) error {
	f, err := os.OpenFile(s.file(diskDataName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(int64(r.SizeGiB) * gib); err != nil {
		return err
	}
	d.hook(phaseDiskFile)
	if err := d.format(ctx, program, f, drivers.DiskLabel(r.Name)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := writeSynced(s.file(diskRecordName), append(raw, '\n')); err != nil {
		return err
	}
	d.hook(phaseDiskFormatted)
	return syncDir(s.path)
}

// format makes an empty ext4 of a file. The program is run without privileges
// and has nothing but the file: as root under the user id of templates, which
// owns the file meanwhile.
func (d *Driver) format(ctx context.Context, program string, f *os.File, label string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, formatPatience, fmt.Errorf("%s has not ended within %s", program, formatPatience))
	defer cancel()
	const file = "/proc/self/fd/3"
	// The file is new, so its empty parts read as zeros and none are written:
	// neither now nor, as without the options, by the machine's kernel later.
	cmd := exec.CommandContext(ctx, program, "-q", "-F", "-t", "ext4", "-L", label,
		"-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0", file)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.ExtraFiles = []*os.File{f}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if d.asRoot {
		uid := d.uids.last
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{}}
		if err := f.Chown(int(uid), int(uid)); err != nil {
			return err
		}
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(said.Bytes()))
	}
	if d.asRoot {
		return f.Chown(0, 0)
	}
	return nil
}

// promised is by how many bytes the disks there are can still grow.
func (d *Driver) promised() (int64, error) {
	files, err := filepath.Glob(filepath.Join(d.disksDir(), "*", diskDataName))
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, file := range files {
		var st unix.Stat_t
		if err := unix.Stat(file, &st); errors.Is(err, unix.ENOENT) {
			continue // deleted meanwhile
		} else if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		sum += max(0, st.Size-st.Blocks*512)
	}
	return sum, nil
}

// findFormatter finds mke2fs, which is often on no user's PATH.
func findFormatter() (string, error) {
	const name = "mke2fs"
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	if err != nil {
		return "", fmt.Errorf("%s, which makes the file system of a persistent disk, is not installed; on Debian and Ubuntu: apt-get install e2fsprogs", name)
	}
	return path, nil
}

// Advice says whether gitspaces can have disks here.
func (d *Driver) Advice(context.Context) []drivers.Advice {
	if _, err := d.host.formatter(); err != nil {
		return []drivers.Advice{{Part: "disks", Detail: "gitspaces cannot have new disks: mke2fs is not installed", Fix: err.Error()}}
	}
	return nil
}
