package boot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	initName     = "runner-boot-init"
	baseVariable = "RUNNER_BOOT_BASE"
	// exitForbidden is the first process's code where the host does not let it.
	exitForbidden = 3
	searchPath    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Main makes the calling program a machine's first process or one of its stubs
// if that is what it was started as, and does not return then. A program that
// starts machines calls it before anything else.
func Main() {
	switch name := filepath.Base(os.Args[0]); {
	case name == initName:
		if err := firstProcess(os.Getenv(baseVariable)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			if errors.Is(err, unix.EPERM) {
				os.Exit(exitForbidden)
			}
			os.Exit(1)
		}
		os.Exit(0)
	case os.Getpid() != 1 && isStub(name):
		os.Exit(stub(name, os.Args[1:]))
	}
}

// isStub says whether this process is a stub in a machine.
func isStub(name string) bool {
	if _, err := os.Stat(filepath.Join(insideDir, planName)); err != nil {
		return false
	}
	return slices.Contains([]string{"curl", "wget", "systemctl", "ufw", "shutdown", "mount", "apt-get", "dnf", "docker", "sleep"}, name)
}

// firstProcess is a machine's first process: it makes the machine's view of the
// file system, boots, and serves until the power is cut.
func firstProcess(base string) error {
	text, err := os.ReadFile(filepath.Join(base, rootName, insideDir, planName))
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	if err := enter(base, p); err != nil {
		return err
	}
	if err := devices(p); err != nil {
		return err
	}
	if err := loopback(); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	agent, err := net.Listen("unix", filepath.Join(insideDir, agentName))
	if err != nil {
		return err
	}
	go forward(agent)
	drained := make(chan struct{}, 1)
	go readConsole(drained)
	mgr := newManager()
	control, err := net.Listen("unix", filepath.Join(insideDir, controlName))
	if err != nil {
		return err
	}
	go mgr.serve(control)
	go func() {
		said := ""
		if err := bootUp(mgr); err != nil {
			said = err.Error()
		}
		drain(drained)
		temporary := filepath.Join(insideDir, resultName+".new")
		if os.WriteFile(temporary, []byte(said), 0o600) == nil {
			_ = os.Rename(temporary, filepath.Join(insideDir, resultName)) // who waits gives up in time
		}
	}()
	// The starter's end, however it comes, is the machine's.
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // until it is closed
		close(ended)
	}()
	select {
	case <-ended:
	case <-mgr.off:
	}
	return nil
}

// mount is one mount of a machine's.
type mount struct {
	from, to, kind string
	flags          uintptr
	data           string
}

// enter makes base/root this process's root, over the host's /usr without the
// programs that are hidden.
func enter(base string, p plan) error {
	root := filepath.Join(base, rootName)
	for _, name := range p.Hidden {
		for _, dir := range []string{"bin", "sbin"} {
			// What an overlay takes for a file that was removed.
			err := unix.Mknod(filepath.Join(base, upperName, dir, name), unix.S_IFCHR, 0)
			if err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("hide %s: %w", name, err)
			}
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	mounts := []mount{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{root, root, "", unix.MS_BIND, ""},
		{
			"overlay", root + "/usr", "overlay", 0,
			"lowerdir=/usr,upperdir=" + filepath.Join(base, upperName) + ",workdir=" + filepath.Join(base, workName),
		},
		// What somebody installed on this host is no part of an image.
		{filepath.Join(base, localName), root + "/usr/local", "", unix.MS_BIND, ""},
		{self, root + insideDir + "/stub", "", unix.MS_BIND, ""},
		{"proc", root + "/proc", "proc", 0, ""},
		{"tmpfs", root + "/run", "tmpfs", 0, "mode=0755"},
		{"tmpfs", root + "/tmp", "tmpfs", 0, "mode=1777"},
		{"tmpfs", root + "/dev", "tmpfs", 0, "mode=0755"},
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib32", "lib64"} {
		if target, err := os.Readlink("/" + dir); err == nil {
			if err := os.Symlink(target, filepath.Join(root, dir)); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	for _, name := range []string{"passwd", "group", "nsswitch.conf", "ld.so.cache", "mke2fs.conf", "ca-certificates.conf"} {
		text, err := os.ReadFile("/etc/" + name)
		if err != nil {
			continue // not every host has each
		}
		if _, err := os.Stat(filepath.Join(root, "etc", name)); err != nil {
			if err := os.WriteFile(filepath.Join(root, "etc", name), text, 0o644); err != nil {
				return err
			}
		}
	}
	if _, err := os.Stat("/etc/alternatives"); err == nil {
		if err := os.MkdirAll(root+"/etc/alternatives", 0o755); err != nil {
			return err
		}
		mounts = append(mounts, mount{"/etc/alternatives", root + "/etc/alternatives", "", unix.MS_BIND, ""})
	}
	for name, folder := range p.Volumes {
		to := filepath.Join(root, insideDir, "volumes", name)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		mounts = append(mounts, mount{folder, to, "", unix.MS_BIND, ""})
	}
	if p.Store != "" {
		to := filepath.Join(root, storeDir)
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		mounts = append(mounts, mount{p.Store, to, "", unix.MS_BIND, ""})
	}
	for _, m := range mounts {
		if err := unix.Mount(m.from, m.to, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.to, err)
		}
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		dst := filepath.Join(root, "dev", name)
		if err := os.WriteFile(dst, nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, dst, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dst, err)
		}
	}
	if err := unix.PivotRoot(root, root+"/old"); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return unix.Sethostname([]byte("machine"))
}

// devices makes the console and the disks.
func devices(p plan) error {
	if err := unix.Mkfifo("/dev/console", 0o600); err != nil {
		return fmt.Errorf("console: %w", err)
	}
	for device, file := range p.Disks {
		if err := showDisk(device, file); err != nil {
			return err
		}
	}
	return nil
}

func showDisk(device, file string) error {
	if err := os.MkdirAll(filepath.Dir(device), 0o755); err != nil {
		return err
	}
	return os.Symlink(file, device)
}

// storeDir is where a machine has its Options.Store.
const storeDir = insideDir + "/store"

// plugged is a disk that a machine is given while it runs: a device path, the
// file behind it, and the folder in the store with what it holds.
type plugged struct {
	Device string `json:"device"`
	File   string `json:"file"`
	Folder string `json:"folder"`
}

// in plugs the disk in, for all processes of the machine.
func (p *plugged) in() error {
	to := filepath.Join(insideDir, "volumes", filepath.Base(p.File))
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(filepath.Join(storeDir, p.Folder), to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", to, err)
	}
	return showDisk(p.Device, p.File)
}

// consoleMark is what asks the console's reader whether it has come so far. No
// script writes it.
const consoleMark = 0

// readConsole keeps what is written to the console, and tells at each mark that
// all before it is kept.
func readConsole(drained chan<- struct{}) {
	// Open for writing too, so that it never ends.
	in, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return
	}
	out, err := os.OpenFile(filepath.Join(insideDir, consoleName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	buf := make([]byte, 32<<10)
	for { // until the power is cut
		n, err := in.Read(buf)
		if err != nil {
			return
		}
		text := bytes.ReplaceAll(buf[:n], []byte{consoleMark}, nil)
		if _, err := out.Write(text); err != nil {
			return
		}
		if len(text) < n {
			select {
			case drained <- struct{}{}:
			default: // who asked was told before
			}
		}
	}
}

// drain waits until the console's reader has kept what was written so far, so
// that who learns of a boot's end finds its last words.
func drain(drained <-chan struct{}) {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	_, err = console.Write([]byte{consoleMark})
	if cerr := console.Close(); err != nil || cerr != nil {
		return
	}
	<-drained
}

func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // it held nothing
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// forward carries connections to the agent's port.
func forward(l net.Listener) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = in.Close() }() // one end of a copy
			out, err := net.Dial("tcp", "127.0.0.1:9079")
			if err != nil {
				return
			}
			defer func() { _ = out.Close() }() // likewise
			go func() {
				_, _ = io.Copy(out, in)             // until one side ends
				_ = out.(*net.TCPConn).CloseWrite() // it may be gone
			}()
			_, _ = io.Copy(in, out) // until one side ends
		}()
	}
}

// say writes a line to the console.
func say(format string, args ...any) {
	line := strings.TrimRight(fmt.Sprintf(format, args...), "\n") + "\n"
	if f, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
		_, _ = f.WriteString(line) // a console that is full loses lines
		_ = f.Close()              // likewise
	}
}
