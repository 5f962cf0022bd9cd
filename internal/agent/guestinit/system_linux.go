package guestinit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
)

const (
	modulesFile  = "/etc/runner-agent/modules"
	userDataFile = "/run/user-data"
	consolePath  = "/dev/console"
)

// environment gives a bare process 1 what programs expect.
func environment() error {
	for k, v := range map[string]string{
		"PATH": "/bin:/sbin:/usr/bin:/usr/sbin",
		"HOME": "/root",
		"TERM": "linux",
	} {
		if err := os.Setenv(k, v); err != nil {
			return err
		}
	}
	unix.Umask(0o022)
	return os.Chdir("/")
}

// console returns a logger to the console, which is where a machine without a
// disk keeps its log.
func console() *slog.Logger {
	f, err := os.OpenFile(consolePath, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		f = os.Stderr
	}
	return slog.New(slog.NewTextHandler(f, nil))
}

type mount struct {
	kind, at, data string
	flags          uintptr
	mode           os.FileMode
}

var mounts = []mount{
	{kind: "proc", at: "/proc", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, mode: 0o555},
	{kind: "sysfs", at: "/sys", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, mode: 0o555},
	{kind: "devtmpfs", at: "/dev", flags: unix.MS_NOSUID, data: "mode=0755", mode: 0o755},
	{kind: "devpts", at: "/dev/pts", flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "mode=0620,ptmxmode=0666", mode: 0o755},
	{kind: "tmpfs", at: "/dev/shm", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777", mode: 0o1777},
	{kind: "tmpfs", at: "/run", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=0755", mode: 0o755},
	{kind: "tmpfs", at: "/tmp", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=1777", mode: 0o1777},
}

// mountAll mounts what is not mounted yet and makes the folders programs
// expect. A machine that lacks one of them is still worth having, so failures
// are only reported.
func mountAll(log *slog.Logger) {
	for _, m := range mounts {
		if mounted(m.at) {
			continue
		}
		err := os.MkdirAll(m.at, m.mode)
		if err == nil {
			err = unix.Mount(m.kind, m.at, m.kind, m.flags, m.data)
		}
		if err != nil && !errors.Is(err, unix.EBUSY) {
			log.Warn("not mounted", "at", m.at, "err", err)
		}
	}
	for _, dir := range []string{"/root", "/etc", "/var/log", "/var/run"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			log.Warn("folder not made", "err", err)
		}
	}
	for link, to := range map[string]string{"/dev/fd": "/proc/self/fd", "/dev/stdin": "fd/0", "/dev/stdout": "fd/1", "/dev/stderr": "fd/2"} {
		if err := os.Symlink(to, link); err != nil && !errors.Is(err, os.ErrExist) {
			log.Warn("link not made", "err", err)
		}
	}
}

// mounted says whether dir is on another file system than its parent.
func mounted(dir string) bool {
	var here, above unix.Stat_t
	if unix.Lstat(dir, &here) != nil || unix.Lstat(filepath.Dir(dir), &above) != nil {
		return false
	}
	return here.Dev != above.Dev
}

// loadModules loads the kernel modules a list names, one path a line, in
// order. One that is loaded already, or is built in, is no problem; one that
// cannot be loaded is reported, and the rest is tried.
func loadModules(list string, log *slog.Logger) {
	text, err := os.ReadFile(list)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		log.Warn("list of modules not read", "err", err)
		return
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		path := strings.TrimSpace(line)
		if path == "" || strings.HasPrefix(path, "#") {
			continue
		}
		if err := loadModule(path); err != nil {
			log.Warn("module not loaded", "path", path, "err", err)
		}
	}
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(path) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// wake puts the clock right and gives the kernel's generator entropy of this
// machine's own, then has it reseed: a clone's generator is a copy.
func wake(now time.Time, entropy []byte) error {
	if !now.IsZero() {
		tv := unix.NsecToTimeval(now.UnixNano())
		if err := unix.Settimeofday(&tv); err != nil {
			return fmt.Errorf("set clock: %w", err)
		}
	}
	if len(entropy) == 0 {
		return nil
	}
	if err := addEntropy(entropy); err != nil {
		return fmt.Errorf("add entropy: %w", err)
	}
	return nil
}

// maxEntropy is what one call credits, in bytes.
const maxEntropy = 512

// addEntropy credits the bytes to the kernel's pool and reseeds its generator.
func addEntropy(entropy []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	// struct rand_pool_info { int entropy_count; int buf_size; __u32 buf[]; }
	var info struct {
		bits, size int32
		buf        [maxEntropy]byte
	}
	n := copy(info.buf[:], entropy)
	info.bits, info.size = int32(n*8), int32(n)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info))); errno != 0 {
		return errno
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDRESEEDCRNG, 0); errno != 0 {
		return errno
	}
	return nil
}

// setNames gives the machine its host name and a machine id made of its own.
func setNames(hostname, machine string) error {
	if hostname != "" {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
		if err := os.WriteFile("/etc/hostname", []byte(hostname+"\n"), 0o644); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
		hosts := fmt.Sprintf("127.0.0.1 localhost\n127.0.1.1 %s\n::1 localhost\n", hostname)
		if err := os.WriteFile("/etc/hosts", []byte(hosts), 0o644); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	if err := os.WriteFile("/etc/machine-id", []byte(machineID(machine)+"\n"), 0o444); err != nil {
		return fmt.Errorf("set machine id: %w", err)
	}
	return nil
}

// machineID is 32 hexadecimal digits that only this machine has.
func machineID(machine string) string {
	sum := sha256.Sum256([]byte("machine-id of " + machine))
	return hex.EncodeToString(sum[:16])
}

// userDataTail is how much of a failing script's output the host is told.
const userDataTail = 2 << 10

// runUserData runs the machine's script once, before the machine is ready. It
// is a shell script unless it begins with #!.
func runUserData(ctx context.Context, spawn agent.Spawner, script string, log *slog.Logger) error {
	return runScript(ctx, spawn, userDataFile, script, log)
}

func runScript(ctx context.Context, spawn agent.Spawner, path, script string, log *slog.Logger) error {
	if script == "" {
		return nil
	}
	if !strings.HasPrefix(script, "#!") {
		script = "#!/bin/sh\n" + script
	}
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		return fmt.Errorf("user data: %w", err)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // what it leaves in the background does not hold the boot
	err := spawn.Start(cmd)
	if err == nil {
		err = cmd.Wait()
		spawn.Exited(cmd)
	}
	for line := range strings.Lines(out.String()) {
		log.Info("user data", "out", strings.TrimRight(line, "\r\n"))
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		text := out.Bytes()
		return fmt.Errorf("user data: %w: %s", err, bytes.TrimSpace(text[max(0, len(text)-userDataTail):]))
	}
	return nil
}

// powerGrace is how long processes have to end before the power goes.
const powerGrace = 300 * time.Millisecond

// powerOff ends the machine. It returns only if the kernel refuses.
func powerOff() error {
	_ = unix.Kill(-1, unix.SIGTERM) // there may be none
	<-time.After(powerGrace)
	_ = unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	return fmt.Errorf("power off: %w", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}
