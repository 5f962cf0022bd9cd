//go:build linux

package qemu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// The files of a template's folder. Kernel and initramfs are its own, so that
// an image can be built anew while machines of the old one live.
const (
	ramFile      = "ram"   // memory, sparse; never changed once it is here
	devicesFile  = "state" // all of the machine but its memory
	templateFile = "template.json"
	// What QEMU is given as kernel and initramfs when it only loads a state.
	stubKernelFile    = "vmlinuz.stub"
	stubInitramfsFile = "initramfs.stub"
)

const (
	// bootPatience is how long a first boot may take: ten times what emulation
	// takes on a busy host.
	bootPatience = 60 * time.Second
	// settle is how long a booted machine is left alone before it is saved, so
	// that what the kernel puts off is not put off in every clone.
	settle = time.Second
	// keepUnused is how long a template no machine uses is kept: long enough
	// to change a pool and change it back.
	keepUnused = 7 * 24 * time.Hour
)

// recipe is everything a template depends on and what a machine gets besides.
type recipe struct {
	img      *image.Image
	boot     *bootDisk // nil for an image that runs from memory
	accel    string
	reason   string // why not KVM
	memoryMB int
	cpus     int
	qemu     probed
}

// template is a booted machine to clone.
type template struct {
	seat
	key string
	templateInfo
}

// templateInfo is what the folder says of itself, mostly for people.
type templateInfo struct {
	QEMU     string    `json:"qemu"`
	Args     []string  `json:"args"`
	Image    string    `json:"image"`
	MemoryMB int       `json:"memory_mb"`
	Built    time.Time `json:"built"`
}

func (d *Driver) templatesDir() string { return filepath.Join(d.dir, "templates") }

// commandLine is how QEMU is told to make this recipe's template.
func (d *Driver) commandLine(r recipe) commandLine {
	return commandLine{arch: d.arch, accel: r.accel, memoryMB: r.memoryMB, cpus: r.cpus, memory: memoryShared, boot: r.boot, guest: "template"}
}

// templateKey names the template of a recipe by all that must match for its
// state to load: version, arguments (machine type, devices, sizes) and image.
// Under KVM the guest also knows the host's CPU. User data is not in it: a
// script runs in each machine after it got its identity.
func (d *Driver) templateKey(r recipe) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, r.qemu.text)
	fmt.Fprintln(h, strings.Join(d.commandLine(r).args(), "\x00"))
	fmt.Fprintln(h, r.img.Hash())
	if r.accel == AccelKVM {
		flags, err := cpuFlags()
		if err != nil {
			return "", err
		}
		fmt.Fprintln(h, flags)
	}
	return hex.EncodeToString(h.Sum(nil))[:20], nil
}

// openTemplate reads a finished template.
func (d *Driver) openTemplate(key string) (*template, error) {
	t := &template{seat: seat{filepath.Join(d.templatesDir(), key)}, key: key}
	raw, err := os.ReadFile(t.file(templateFile))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &t.templateInfo); err != nil {
		return nil, fmt.Errorf("%s: %w", t.file(templateFile), err)
	}
	return t, nil
}

// needTemplate makes the recipe's template if there is none.
// Whoever comes while it is being made, also from another process, waits.
func (d *Driver) needTemplate(ctx context.Context, r recipe) error {
	key, err := d.templateKey(r)
	if err != nil {
		return err
	}
	lock, err := lockFile(ctx, filepath.Join(d.templatesDir(), key+".lock"), os.O_CREATE)
	if err != nil {
		return fmt.Errorf("template %s: %w", key, err)
	}
	defer lock.Close()
	t, err := d.openTemplate(key)
	if err == nil {
		// The time of the folder's file says when it was used last.
		now := time.Now()
		return os.Chtimes(t.file(templateFile), now, now)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("template is unreadable and made anew", "template", key, "err", err)
		if err := os.RemoveAll(filepath.Join(d.templatesDir(), key)); err != nil {
			return fmt.Errorf("template %s: %w", key, err)
		}
	}
	began := time.Now()
	d.log.Info("booting a machine to clone the others from", "driver", "qemu", "template", key, "image", r.img.Name,
		"accelerator", r.accel, "reason", r.reason, "memory_mb", r.memoryMB)
	if err := d.buildTemplate(ctx, r, key); err != nil {
		return fmt.Errorf("template of image %s: %w", r.img.Name, err)
	}
	d.log.Info("machines can be cloned", "driver", "qemu", "template", key, "took", time.Since(began).Round(time.Millisecond))
	if err := d.dropUnusedTemplates(key, time.Now()); err != nil {
		d.log.Warn("unused templates stay", "driver", "qemu", "err", err)
	}
	_, err = d.openTemplate(key)
	return err
}

// dropTemplate removes a template whose state did not load, so that the next
// machine makes it anew. Machines that live are not touched: they have it open.
func (d *Driver) dropTemplate(t *template) error {
	gone := filepath.Join(d.templatesDir(), gonePrefix+t.key+"-"+time.Now().UTC().Format("150405.000000000"))
	if err := os.Rename(t.path, gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// dropUnusedTemplates removes templates that no machine was made from and that
// nobody asked for in keepUnused. A suspended machine needs its template's
// kernel to be resumed.
func (d *Driver) dropUnusedTemplates(except string, now time.Time) error {
	used := map[string]bool{except: true}
	machines, err := os.ReadDir(d.machinesDir())
	if err != nil {
		return err
	}
	for _, e := range machines {
		if m, err := d.open(e.Name()); err == nil {
			used[m.Template] = true
		} else if !errors.Is(err, drivers.ErrNotFound) && !errors.Is(err, drivers.ErrInvalid) {
			return err // what it uses is unknown
		}
	}
	entries, err := os.ReadDir(d.templatesDir())
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") || used[e.Name()] {
			continue
		}
		info, err := os.Stat(filepath.Join(d.templatesDir(), e.Name(), templateFile))
		if err == nil && now.Sub(info.ModTime()) > keepUnused {
			errs = append(errs, d.dropTemplate(&template{seat: seat{filepath.Join(d.templatesDir(), e.Name())}, key: e.Name()}))
		}
	}
	return errors.Join(errs...)
}

// buildTemplate boots the image until its agent waits for an identity, saves
// memory and devices and puts them into place as one.
func (d *Driver) buildTemplate(ctx context.Context, r recipe, key string) (err error) {
	if err := d.tidy(ctx, d.templatesDir(), time.Now()); err != nil {
		d.log.Warn("left-over folders stay", "driver", "qemu", "err", err)
	}
	if err := d.host.checkMemory(r.accel, r.memoryMB); err != nil {
		return err
	}
	if err := d.host.checkDisk(d.dir, int64(r.memoryMB)*mib); err != nil {
		return err
	}
	b, err := d.boot(ctx, r, bootPatience)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.end(ctx)) }()
	timer := time.NewTimer(settle)
	select {
	case <-ctx.Done():
		timer.Stop()
		return context.Cause(ctx)
	case <-timer.C:
	}
	if err := b.saveTo(ctx); err != nil {
		return b.withWords(err)
	}
	if err := b.writeStubs(); err != nil {
		return err
	}
	info := templateInfo{QEMU: r.qemu.text, Args: d.commandLine(r).args(), Image: r.img.Name, MemoryMB: r.memoryMB, Built: time.Now().UTC()}
	raw, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	if err := writeSynced(b.file(templateFile), append(raw, '\n')); err != nil {
		return err
	}
	if err := syncDir(b.path); err != nil {
		return err
	}
	if err := os.Rename(b.path, filepath.Join(d.templatesDir(), key)); err != nil {
		return err
	}
	return syncDir(d.templatesDir())
}

// booted is a machine that was started from the image alone, to be saved or
// only to see that it boots. It has no address, no tags and no identity.
type booted struct {
	seat
	d     *Driver
	ram   *os.File
	guest string
	// unlock lets go of the folder: until then nobody tidies it away.
	unlock func()
}

// boot starts the image in a folder of its own and waits until its agent waits
// for an identity. The caller ends it, whatever became of it.
func (d *Driver) boot(ctx context.Context, r recipe, patience time.Duration) (_ *booted, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the machine did not boot within %s", patience))
	defer cancel()
	dir, err := os.MkdirTemp(d.templatesDir(), newPrefix)
	if err != nil {
		return nil, err
	}
	b := &booted{seat: seat{dir}, d: d, guest: filepath.Base(dir)}
	if b.unlock, err = b.lockOp(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(b.withWords(err), b.end(ctx))
		}
	}()
	for from, to := range map[string]string{r.img.Kernel(): image.KernelFile, r.img.Initramfs(): image.InitramfsFile} {
		if err := linkOrCopy(from, b.file(to)); err != nil {
			return nil, err
		}
	}
	if b.ram, err = newRAM(b.guest, int64(r.memoryMB)*mib); err != nil {
		return nil, err
	}
	kernel, initramfs, err := b.openPair(image.KernelFile, image.InitramfsFile)
	if err != nil {
		return nil, err
	}
	defer kernel.Close()
	defer initramfs.Close()
	cmd := d.commandLine(r)
	cmd.guest = b.guest
	var uid *uint32
	if d.asRoot {
		uid = &d.uids.last
	}
	pid, err := b.start(ctx, r.qemu.path, cmd.args(), uid, kernel, initramfs, b.ram)
	if err != nil {
		return nil, err
	}
	d.born(pid, b.guest)
	link, err := b.link(ctx)
	if err != nil {
		return nil, err
	}
	defer link.Close()
	// Written before the guest has a driver, read when its agent runs.
	res, err := link.Ping(ctx)
	if err == nil && res.State != guestlink.StateWaiting {
		err = fmt.Errorf("the agent in the image says %q instead of %q", res.State, guestlink.StateWaiting)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// saveTo stops the machine, writes its devices and its memory to the folder
// and ends it.
func (b *booted) saveTo(ctx context.Context) error {
	devices, err := os.OpenFile(b.file(devicesFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer devices.Close()
	m, err := b.monitor(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	if err := save(ctx, m, devices, true); err != nil {
		return err
	}
	if err := devices.Sync(); err != nil {
		return err
	}
	if err := b.kill(ctx, b.guest, b.d.reap); err != nil {
		return err
	}
	info, err := b.ram.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(b.file(ramFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = out.Truncate(info.Size())
	if err == nil {
		err = copyPages(out, b.ram, info.Size())
	}
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// end ends the machine and removes its folder, unless it has become a template.
func (b *booted) end(ctx context.Context) error {
	// The folder must not stay because the caller has given up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killPatience+quitPatience)
	defer cancel()
	defer b.unlock()
	var errs []error
	if _, err := os.Stat(b.path); err == nil {
		errs = append(errs, b.kill(ctx, b.guest, b.d.reap), os.RemoveAll(b.path))
	}
	if b.ram != nil {
		errs = append(errs, b.ram.Close())
	}
	return errors.Join(errs...)
}

// openPair opens a kernel and an initramfs of a template's folder.
func (s seat) openPair(kernelName, initramfsName string) (kernel, initramfs *os.File, err error) {
	if kernel, err = os.Open(s.file(kernelName)); err != nil {
		return nil, nil, err
	}
	if initramfs, err = os.Open(s.file(initramfsName)); err != nil {
		return nil, nil, errors.Join(err, kernel.Close())
	}
	return kernel, initramfs, nil
}

// writeStubs makes what QEMU reads as kernel and initramfs when it loads a
// state: it insists on both and keeps a copy, 14 MB of each machine, though a
// machine that has booted never looks at them again. For a PC the header is
// enough; elsewhere, where QEMU puts the kernel into the guest's memory itself,
// they are the whole files.
func (s seat) writeStubs() error {
	if runtime.GOARCH != "amd64" {
		return errors.Join(os.Link(s.file(image.KernelFile), s.file(stubKernelFile)), os.Link(s.file(image.InitramfsFile), s.file(stubInitramfsFile)))
	}
	kernel, err := os.ReadFile(s.file(image.KernelFile))
	if err != nil {
		return err
	}
	n := setupSize(kernel) + sector // QEMU wants something behind the header
	if n > len(kernel) {
		return fmt.Errorf("%s is no Linux kernel", image.KernelFile)
	}
	for name, data := range map[string][]byte{stubKernelFile: kernel[:n], stubInitramfsFile: make([]byte, sector)} {
		if err := writeSynced(s.file(name), data); err != nil {
			return err
		}
		// QEMU may run under another user.
		if err := os.Chmod(s.file(name), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// sector is the unit of a kernel's header.
const sector = 512

// setupSize is the size of a bzImage's real-mode part: a boot sector and as
// many more as its byte at 0x1f1 says, 4 for 0; see the kernel's
// Documentation/arch/x86/boot.rst.
func setupSize(kernel []byte) int {
	const setupSects = 0x1f1
	if len(kernel) <= setupSects {
		return len(kernel)
	}
	n := int(kernel[setupSects])
	if n == 0 {
		n = 4
	}
	return (n + 1) * sector
}

// linkOrCopy gives a file a second name, or where that is not possible (another
// file system, another owner) a copy that other users may read.
func linkOrCopy(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Chmod(0o644), out.Close())
}

// WarmTemplate makes the template of a configuration, if there is none, so that
// the first machine need not wait for it.
func WarmTemplate(ctx context.Context, o drivers.Options) error {
	d, err := New(o)
	if err != nil {
		return err
	}
	return d.WarmTemplate(ctx)
}

// WarmTemplate makes the template of the driver's own configuration.
func (d *Driver) WarmTemplate(ctx context.Context) error {
	r, err := d.recipe(ctx, drivers.Spec{})
	if err != nil || r.boot != nil {
		return err // machines with a disk have none
	}
	return d.needTemplate(ctx, r)
}
