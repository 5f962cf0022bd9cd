package chaos

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/client"
)

// disk is how a box's disk treats what it has acknowledged.
type disk string

const (
	// honest writes through to the host's disk before it acknowledges.
	honest disk = "cache=directsync"
	// forgetful acknowledges all and has it in a file that goes with the power.
	forgetful disk = "cache=unsafe,snapshot=on"
)

const (
	diskMiB    = 96
	boxMiB     = 512
	bootWithin = 3 * time.Minute
)

// box is a virtual machine with a runner in it: the kernel and programs of the
// image "tiny", a disk with the runner's program, and a disk with a journaling
// file system for its data.
type box struct {
	dir    string
	binary string // QEMU's
	serial string // the kernel's name of its first serial port
	images string
	addr   string
	api    *client.Client
	say    func(format string, a ...any)

	cmd   *exec.Cmd
	exit  chan error
	boots int
}

// boxStart is the kernel's first program: it makes what is on the tools disk
// usable. The modules' list is the image's.
const boxStart = "mount -t proc proc /proc; mount -t devtmpfs dev /dev; " +
	"for m in $(cat /etc/runner-agent/modules); do insmod $m; done; " +
	"tar -xf /dev/vda -C /; exec sh /chaos/start"

// boxScript is the rest, from the tools disk.
const boxScript = `set -e
mount -t sysfs sys /sys
ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
route add default gw 10.0.2.2
mkdir -p /data
mount -t ext4 /dev/vdb /data
export DRONE_HTTP_BIND=0.0.0.0:3000 DRONE_HTTP_ALLOW=10.0.2.0/24 DRONE_LITE_ENGINE_ENABLE_MOCK=true
exec /chaos/runner delegate --pool /chaos/pool.yml --data-dir /data
`

const boxPool = "version: \"1\"\ninstances:\n  - {name: " + poolName + ", type: noop, pool: 4, limit: 20, wait: 1m, spec: {}}\n"

// newBox makes the two disks. What is missing to do so skips the mode.
func newBox(ctx context.Context, o Options, dir string) (*box, error) {
	b := &box{dir: dir, images: filepath.Join(o.Images, "tiny"), binary: "qemu-system-x86_64", serial: "ttyS0"}
	if runtime.GOARCH == "arm64" {
		b.binary, b.serial = "qemu-system-aarch64", "ttyAMA0"
	}
	if o.Static == "" {
		return nil, skipError("no runner without cgo is given")
	}
	if _, err := os.Stat(filepath.Join(b.images, "initramfs")); err != nil {
		return nil, skipError("the image tiny is missing: drone-runner-aws image build tiny")
	}
	if _, err := exec.LookPath(b.binary); err != nil {
		return nil, skipError(b.binary + " is missing: make test installs it")
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		if mkfs, err = exec.LookPath("/sbin/mkfs.ext4"); err != nil {
			return nil, skipError("mkfs.ext4 is missing: install the package e2fsprogs")
		}
	}
	if err := writeTools(filepath.Join(dir, "tools.tar"), o.Static); err != nil {
		return nil, fmt.Errorf("disk with the runner: %w", err)
	}
	data := filepath.Join(dir, "data.raw")
	if err := os.WriteFile(data, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(data, diskMiB<<20); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(ctx, mkfs, "-q", "-F", data).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkfs.ext4: %w: %s", err, out)
	}
	if b.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	b.api, err = client.New("http://" + b.addr)
	return b, err
}

// writeTools makes a disk that is a tar archive.
func writeTools(path, runner string) (err error) {
	program, err := os.ReadFile(runner)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	for _, file := range []struct {
		name string
		mode int64
		data []byte
	}{
		{"chaos/runner", 0o755, program},
		{"chaos/pool.yml", 0o644, []byte(boxPool)},
		{"chaos/start", 0o755, []byte(boxScript)},
	} {
		if err := w.WriteHeader(&tar.Header{Name: file.name, Mode: file.mode, Size: int64(len(file.data)), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		if _, err := w.Write(file.data); err != nil {
			return err
		}
	}
	return w.Close()
}

// boot powers the box on and waits until its runner is ready.
func (b *box) boot(ctx context.Context, kind disk) error {
	b.boots++
	console := filepath.Join(b.dir, fmt.Sprintf("console-%d", b.boots))
	// A kernel that looks whether its timer ticks takes a busy host for a broken
	// board, and panics.
	machine, kernel := "pc", " no_timer_check"
	if runtime.GOARCH == "arm64" {
		machine, kernel = "virt", ""
	}
	// Emulation: it works everywhere, and speed is of no interest here.
	args := []string{
		"-accel", "tcg,tb-size=64", "-machine", machine, "-cpu", "max", "-smp", "1", "-m", fmt.Sprint(boxMiB),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "file:" + console,
		"-kernel", filepath.Join(b.images, "vmlinuz"), "-initrd", filepath.Join(b.images, "initramfs"),
		"-append", "console=" + b.serial + kernel + " quiet panic=-1 rdinit=/bin/sh -- -c \"" + boxStart + "\"",
		"-drive", "if=none,id=tools,format=raw,read-only=on,file=" + filepath.Join(b.dir, "tools.tar"),
		"-device", "virtio-blk-pci,drive=tools",
		"-drive", "if=none,id=data,format=raw," + string(kind) + ",file=" + filepath.Join(b.dir, "data.raw"),
		"-device", "virtio-blk-pci,drive=data",
		"-netdev", "user,id=n0,restrict=on,hostfwd=tcp:" + b.addr + "-:3000", "-device", "virtio-net-pci,netdev=n0",
		"-device", "virtio-rng-pci",
	}
	// Not CommandContext: its end is what is tested.
	cmd := exec.Command(b.binary, args...)
	said, err := os.Create(filepath.Join(b.dir, "qemu.log"))
	if err != nil {
		return err
	}
	defer said.Close()
	cmd.Stdout, cmd.Stderr = said, said
	cmd.Env = append(os.Environ(), "TMPDIR="+b.dir) // where a forgetful disk's file is
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("power on: %w", err)
	}
	exit := make(chan error, 1)
	go func() { exit <- cmd.Wait() }()
	b.cmd, b.exit = cmd, exit
	ctx, cancel := context.WithTimeoutCause(ctx, bootWithin, fmt.Errorf("the runner in the machine was not ready within %s; its console: %s", bootWithin, console))
	defer cancel()
	for {
		call, cancel := context.WithTimeout(ctx, 2*time.Second)
		missing, err := b.api.Pending(call)
		cancel()
		if err == nil && len(missing) == 0 {
			b.say("boot %d: ready after %s", b.boots, time.Since(began).Round(100*time.Millisecond))
			return nil
		}
		if err := b.alive(); err != nil {
			return fmt.Errorf("%w; %s; console: %s", err, tail(said.Name(), 500), tail(console, 1000))
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("%w: %s", err, tail(console, 1000))
		}
	}
}

// alive is an error if the machine has ended by itself.
func (b *box) alive() error {
	select {
	case err := <-b.exit:
		b.exit <- err
		return fmt.Errorf("the virtual machine has ended by itself: %w", errors.Join(err, errors.New("see "+b.dir)))
	default:
		return nil
	}
}

// cut takes the power away.
func (b *box) cut() error {
	if b.cmd == nil {
		return nil
	}
	err := b.alive()
	_ = b.cmd.Process.Kill() // it may have ended
	<-b.exit                 //nolint:errcheck // it was killed
	b.cmd, b.exit = nil, nil
	b.api.Close()
	return err
}
