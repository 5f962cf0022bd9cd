//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// Driver runs machines below one data directory. It is safe for concurrent
// use, also beside drivers of other pools and other processes on the same
// directory: what they share is in files, under locks.
type Driver struct {
	cfg       Config
	arch      architecture
	dir       string
	binary    string
	addresses netip.Prefix
	uids      uidRange
	asRoot    bool
	userData  string
	log       drivers.Logger
	host      host
	// hook is called with the name of each phase of Create and Suspend; tests
	// end the process there.
	hook func(phase string)
	// destroyWait and letGo are destroyPatience and letGoPatience; tests have
	// less.
	destroyWait, letGo time.Duration

	mu       sync.Mutex
	children map[int]string     // process ids of QEMUs we started, to reap
	ends     map[string]ending  // how they ended, by machine
	checked  map[string]checked // what the monitor said last, by machine
	probed   probed             // the version of the program
	memory   []ram              // templates' memory, the latest used last
}

var (
	_ drivers.Driver        = (*Driver)(nil)
	_ drivers.Pauser        = (*Driver)(nil)
	_ drivers.Identifier    = (*Driver)(nil)
	_ drivers.Hibernator    = (*Driver)(nil)
	_ drivers.ConsoleReader = (*Driver)(nil)
	_ drivers.DiskKeeper    = (*Driver)(nil)
	_ drivers.Adviser       = (*Driver)(nil)
)

// New makes a driver. It makes the folders it needs below o.DataDir and looks
// at nothing else; see Ping for what must be there.
func New(o drivers.Options) (*Driver, error) {
	cfg, ok := o.Config.(*Config)
	if !ok {
		return nil, fmt.Errorf("%w: qemu: configuration of type %T, want %T", drivers.ErrInvalid, o.Config, cfg)
	}
	c := *cfg
	for _, p := range Check(&c, &o.Platform) {
		if !p.Warning {
			return nil, fmt.Errorf("%w: qemu: %s: %s", drivers.ErrInvalid, p.Path, p.Message)
		}
	}
	addresses, err := parseAddressRange(c.AddressRange)
	if err != nil {
		return nil, fmt.Errorf("%w: qemu: address_range: %w", drivers.ErrInvalid, err)
	}
	if _, n := usable(addresses); n < o.Limit {
		return nil, fmt.Errorf("%w: qemu: address_range %s has %d addresses, fewer than the pool's limit of %d; make it larger",
			drivers.ErrInvalid, addresses, n, o.Limit)
	}
	uids, err := parseUIDRange(c.UIDRange)
	if err != nil {
		return nil, fmt.Errorf("%w: qemu: uid_range: %w", drivers.ErrInvalid, err)
	}
	userData := c.UserData
	if c.UserDataPath != "" {
		raw, err := os.ReadFile(c.UserDataPath)
		if err != nil {
			return nil, fmt.Errorf("%w: qemu: user_data_path: %w", drivers.ErrInvalid, err)
		}
		userData = string(raw)
	}
	if !filepath.IsAbs(o.DataDir) {
		return nil, fmt.Errorf("%w: qemu: data directory %q is not absolute", drivers.ErrInvalid, o.DataDir)
	}
	arch := architectures[runtime.GOARCH]
	d := &Driver{
		cfg: c, arch: arch, dir: filepath.Clean(o.DataDir), binary: c.Binary, addresses: addresses, uids: uids,
		asRoot: os.Geteuid() == 0, userData: userData, log: o.Log, host: realHost(), hook: func(string) {},
		destroyWait: destroyPatience, letGo: letGoPatience,
		children: map[int]string{}, ends: map[string]ending{}, checked: map[string]checked{},
	}
	if d.binary == "" {
		d.binary = arch.binary
	}
	for _, dir := range []string{d.machinesDir(), d.templatesDir(), d.disksDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("qemu: %w", err)
		}
		// What crashed runners left is rubbish, not a reason to refuse.
		if err := d.tidy(context.Background(), dir, time.Now()); err != nil {
			d.log.Warn("left-over folders stay", "driver", "qemu", "err", err)
		}
	}
	return d, nil
}

// Scope names the data directory: all pools of a runner share its machines.
func (d *Driver) Scope() string { return "qemu:" + d.dir }

// ImagesDir is where the images of a data directory are.
func ImagesDir(dataDir string) string { return filepath.Join(dataDir, "images") }

// Ping checks that QEMU, the image and a writable data directory are there.
func (d *Driver) Ping(ctx context.Context) error {
	if _, err := d.program(ctx); err != nil {
		return err
	}
	if _, err := d.image(d.cfg.Image); err != nil {
		return err
	}
	f, err := os.CreateTemp(d.dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("qemu: data directory: %w", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// image finds an image; the error names the command that makes it.
func (d *Driver) image(name string) (*image.Image, error) {
	img, err := image.Inspect(ImagesDir(d.dir), name)
	if err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	if img.Arch != runtime.GOARCH {
		return nil, fmt.Errorf("%w: qemu: image %s is for %s, this host is %s", drivers.ErrInvalid, name, img.Arch, runtime.GOARCH)
	}
	return img, nil
}

// probed remembers the version of one program file.
type probed struct {
	path string
	info os.FileInfo
	version
}

// program is where QEMU is and its version. It is run once per program file.
func (d *Driver) program(ctx context.Context) (probed, error) {
	path, err := exec.LookPath(d.binary)
	if err != nil {
		return probed{}, fmt.Errorf("qemu: %s is not installed: %w; on Debian and Ubuntu: apt-get install %s",
			d.binary, err, d.arch.debian)
	}
	info, err := os.Stat(path)
	if err != nil {
		return probed{}, fmt.Errorf("qemu: %w", err)
	}
	d.mu.Lock()
	p := d.probed
	d.mu.Unlock()
	if p.path == path && os.SameFile(p.info, info) && p.info.ModTime().Equal(info.ModTime()) && p.info.Size() == info.Size() {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "-version").Output()
	if err != nil {
		return probed{}, fmt.Errorf("qemu: %s -version: %w", path, err)
	}
	v, err := parseVersion(string(out))
	if err != nil {
		return probed{}, fmt.Errorf("qemu: %s: %w", path, err)
	}
	if !v.atLeast(7, 2) {
		return probed{}, fmt.Errorf("qemu: %s is version %s, 7.2 or later is needed; the package is %s", path, v.text, d.arch.debian)
	}
	p = probed{path, info, v}
	d.mu.Lock()
	d.probed = p
	d.mu.Unlock()
	return p, nil
}

// instance is a machine as the contract shows it.
func (m *machine) instance(s drivers.Status, reason string) drivers.Instance {
	return drivers.Instance{
		Ref: m.ref(), Tags: m.Tags, Status: s, Address: m.Address, Port: guestlink.AgentPort, Reason: reason,
	}
}

func (m *machine) ref() drivers.Ref { return drivers.Ref{Name: m.Name, ID: m.Name} }

// Console copies the end of the serial console.
func (d *Driver) Console(_ context.Context, ref drivers.Ref, w io.Writer, most int64) error {
	s, err := d.seatOf(ref.Name)
	if err != nil {
		return err
	}
	raw, err := s.tail(consoleName, max(0, most))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(s.path); err == nil {
			return nil // made, and not started yet
		}
		return fmt.Errorf("console of %s: %w", ref.Name, drivers.ErrNotFound)
	}
	if err == nil {
		_, err = w.Write(raw)
	}
	if err != nil {
		return fmt.Errorf("console of %s: %w", ref.Name, err)
	}
	return nil
}
