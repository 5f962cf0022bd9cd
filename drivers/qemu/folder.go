//go:build linux

package qemu

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// The files of a machine's folder, beside those of its seat.
const (
	metaName     = "meta.json" // what it is; written before all else
	statusName   = "status"    // what was done with it last
	stateName    = "state"     // the machine saved to disk
	userDataName = "user-data" // the script it runs once
	opLockName   = "op.lock"   // held by whoever changes the machine
	linkLockName = "link.lock" // held by whoever talks on its identity port
)

// status is what was last done with a machine, as its folder remembers it. It
// is written after the deed, or before one that must not be taken for undone.
type status string

const (
	// statusNew: QEMU has not loaded the template yet; no file.
	statusNew       status = ""
	statusRunning   status = "running"
	statusPaused    status = "paused"
	statusSuspended status = "suspended" // the state file is the machine
	statusResuming  status = "resuming"  // the state file was loaded and the machine may have run since
)

// metaVersion is the format of meta.json; a newer one is not read.
const metaVersion = 1

// meta is what a machine is, for as long as it exists. No secret is in it. One
// without a template boots from files of its own; see cold.go.
type meta struct {
	Version  int          `json:"version"`
	Name     string       `json:"name"`
	Tags     drivers.Tags `json:"tags"`
	Recipe   string       `json:"recipe"`
	Template string       `json:"template"`
	Image    string       `json:"image"`
	CPUs     int          `json:"cpus"`
	MemoryMB int          `json:"memory_mb"`
	Accel    string       `json:"accelerator"`
	Address  string       `json:"address"`
	// UID is QEMU's user, nil for the runner's own.
	UID     *uint32   `json:"uid,omitempty"`
	Created time.Time `json:"created"`
	// Disks are the names of its persistent disks, in their order. Nobody else
	// has them while this folder is there.
	Disks []string `json:"disks,omitempty"`
	// BootDisk is what it boots from, nil if it runs from memory.
	BootDisk *bootDisk `json:"boot_disk,omitempty"`
}

// machine is one machine's folder, read.
type machine struct {
	seat
	meta
}

// nameRE is the contract of Spec.Name. It also keeps names inside the folder.
var nameRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

func (d *Driver) machinesDir() string { return filepath.Join(d.dir, "machines") }

// seatOf is the folder of a machine, which may not exist.
func (d *Driver) seatOf(name string) (seat, error) {
	if !nameRE.MatchString(name) {
		return seat{}, fmt.Errorf("%w: machine name %q: want a letter and then at most 62 letters, digits and dashes, lower case", drivers.ErrInvalid, name)
	}
	return seat{filepath.Join(d.machinesDir(), name)}, nil
}

// open reads a machine; drivers.ErrNotFound if there is none.
func (d *Driver) open(name string) (*machine, error) {
	s, err := d.seatOf(name)
	if err != nil {
		return nil, err
	}
	m := &machine{seat: s}
	m.meta, err = readMeta(s.file(metaName), name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: machine %s", drivers.ErrNotFound, name)
	}
	return m, err
}

func readMeta(path, name string) (meta, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return meta{}, err
	}
	m, err := parseMeta(raw)
	if err == nil && m.Name != name {
		err = fmt.Errorf("is of machine %q", m.Name)
	}
	if err != nil {
		return meta{}, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

func parseMeta(raw []byte) (meta, error) {
	var m meta
	if err := json.Unmarshal(raw, &m); err != nil {
		return meta{}, err
	}
	if m.Version != metaVersion {
		return meta{}, fmt.Errorf("format %d, this runner knows %d", m.Version, metaVersion)
	}
	return m, nil
}

// lockOp waits for the right to change a machine.
func (s seat) lockOp(ctx context.Context) (unlock func(), err error) {
	return s.lockNamed(ctx, opLockName)
}

// lockLink waits for the right to talk on the machine's identity port.
func (s seat) lockLink(ctx context.Context) (unlock func(), err error) {
	return s.lockNamed(ctx, linkLockName)
}

func (s seat) lockNamed(ctx context.Context, name string) (func(), error) {
	f, err := lockFile(ctx, s.file(name), os.O_CREATE)
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, fmt.Errorf("%w: machine %s", drivers.ErrNotFound, filepath.Base(s.path))
	}
	if err != nil {
		return func() {}, err
	}
	return func() { _ = f.Close() }, nil // closing a lock file loses nothing
}

// status reads what was last done; statusNew if nothing was.
func (s seat) status() (status, error) {
	raw, err := os.ReadFile(s.file(statusName))
	if errors.Is(err, fs.ErrNotExist) {
		return statusNew, nil
	}
	return status(raw), err
}

// setStatus notes what was done. It is not synced: after a power cut there is
// no QEMU that it could be wrong about, and the state file speaks for itself.
func (s seat) setStatus(st status) error {
	tmp := s.file(statusName + ".new")
	if err := os.WriteFile(tmp, []byte(st), 0o600); err != nil {
		return fmt.Errorf("note that the machine is %s: %w", st, err)
	}
	return os.Rename(tmp, s.file(statusName))
}

// hasState says whether the machine was saved to disk.
func (s seat) hasState() bool {
	_, err := os.Stat(s.file(stateName))
	return err == nil
}

// make writes a new machine's folder, as a whole or not at all, and returns it
// with its op lock held. No machine and no error mean that somebody else has
// made it.
func (d *Driver) make(ctx context.Context, m meta, userData string) (*machine, func(), error) {
	final, err := d.seatOf(m.Name)
	if err != nil {
		return nil, nil, err
	}
	tmp, err := os.MkdirTemp(d.machinesDir(), newPrefix+m.Name+"-*")
	if err != nil {
		return nil, nil, err
	}
	unlock, err := d.fill(ctx, seat{tmp}, m, userData)
	if err != nil {
		return nil, nil, errors.Join(full(d.dir, err), os.RemoveAll(tmp))
	}
	err = os.Rename(tmp, final.path)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		unlock()
		return nil, nil, os.RemoveAll(tmp)
	}
	if err == nil {
		err = syncDir(d.machinesDir())
	}
	if err != nil {
		unlock()
		return nil, nil, errors.Join(full(d.dir, err), os.RemoveAll(tmp), d.remove(final))
	}
	return &machine{seat: final, meta: m}, unlock, nil
}

// fill writes what is known of a machine before it is started, and returns with
// its lock held.
func (d *Driver) fill(ctx context.Context, s seat, m meta, userData string) (func(), error) {
	unlock, err := s.lockOp(ctx)
	if err != nil {
		return nil, err
	}
	err = d.fillCold(s, m)
	if err == nil {
		err = writeRecord(s, m, userData)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// writeRecord writes meta and script so that they survive a power cut.
func writeRecord(s seat, m meta, userData string) error {
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if userData != "" {
		if err := writeSynced(s.file(userDataName), []byte(userData)); err != nil {
			return err
		}
	}
	if err := writeSynced(s.file(metaName), append(raw, '\n')); err != nil {
		return err
	}
	return syncDir(s.path)
}

// Folders with these beginnings are being made or removed. A crash leaves them
// behind; tidy removes them.
const (
	newPrefix  = ".new-"
	gonePrefix = ".gone-"
)

// remove deletes a machine's folder. From the first moment it is no machine
// any more; its address is free then.
func (d *Driver) remove(s seat) error { return removeFolder(d.machinesDir(), s) }

// removeFolder takes a folder out of dir, at once, and then deletes it.
func removeFolder(dir string, s seat) error {
	gone := filepath.Join(dir, gonePrefix+filepath.Base(s.path)+"-"+rand.Text())
	if err := os.Rename(s.path, gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.RemoveAll(gone)
}

// tidyAfter is the age at which a half-made folder that has no lock yet, or no
// more, is rubbish.
const tidyAfter = time.Minute

// tidy removes what crashed runners left of folders in the making or going,
// and ends the QEMU of a template whose maker has died. Folders whose lock is
// held are somebody's work.
func (d *Driver) tidy(ctx context.Context, dir string, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if isScratch(e.Name()) {
			errs = append(errs, d.tidyFolder(ctx, seat{filepath.Join(dir, e.Name())}, now))
		}
	}
	return errors.Join(errs...)
}

func isScratch(name string) bool {
	return strings.HasPrefix(name, newPrefix) || strings.HasPrefix(name, gonePrefix)
}

func (d *Driver) tidyFolder(ctx context.Context, s seat, now time.Time) error {
	lock, err := os.OpenFile(s.file(opLockName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		info, err := os.Stat(s.path)
		if err != nil || now.Sub(info.ModTime()) < tidyAfter {
			return nil //nolint:nilerr // gone already, or somebody has just begun
		}
		return os.RemoveAll(s.path)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if free, err := tryLock(lock); err != nil || !free {
		return err
	}
	// Its maker makes the lock and then takes it: without anything else in it the
	// folder is that of one who has just begun, too.
	entries, err := os.ReadDir(s.path)
	if err != nil {
		return err
	}
	if info, err := os.Stat(s.path); err == nil && len(entries) == 1 && now.Sub(info.ModTime()) < tidyAfter {
		return nil
	}
	if err := s.kill(ctx, filepath.Base(s.path), d.reap); err != nil {
		return err
	}
	return os.RemoveAll(s.path)
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes the names in a folder durable.
func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
