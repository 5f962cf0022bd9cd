//go:build linux

package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu/qmp"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// The files of a folder in which a QEMU runs.
const (
	lockName     = "lock"        // held by QEMU while it lives
	monitorName  = "qmp.sock"    // QEMU's monitor
	identityName = "id.sock"     // the machine's identity port
	consoleName  = "console.log" // the serial console
	outputName   = "qemu.log"    // what QEMU itself says
	pidName      = "pid"         // a hint, never trusted
)

// seat is a folder in which one QEMU runs at a time.
type seat struct {
	path string
}

func (s seat) file(name string) string { return filepath.Join(s.path, name) }

// alive says whether a QEMU lives here, or is being started.
func (s seat) alive() (bool, error) { return isHeld(s.file(lockName)) }

// start runs QEMU here. What it needs is opened or bound by us and passed as
// descriptors; it gets a session of its own and outlives us. more are the
// files after the lock, in the order of the fd constants. With a uid it runs
// as that user, without groups and capabilities.
func (s seat) start(ctx context.Context, binary string, args []string, uid *uint32, more ...*os.File) (pid int, err error) {
	var mine []*os.File // ours to close: once QEMU runs, only it may hold them
	defer func() {
		for _, f := range mine {
			err = errors.Join(err, f.Close())
		}
	}()
	lock, err := lockFile(ctx, s.file(lockName), os.O_CREATE)
	if err != nil {
		return 0, err
	}
	mine = append(mine, lock)
	var sockets []*os.File
	for _, name := range []string{monitorName, identityName} {
		f, err := s.bind(name)
		if err != nil {
			return 0, fmt.Errorf("bind %s: %w", name, err)
		}
		sockets, mine = append(sockets, f), append(mine, f)
	}
	// O_WRONLY: QEMU refuses a descriptor whose access mode is another than it asks for.
	console, err := os.OpenFile(s.file(consoleName), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	mine = append(mine, console)
	output, err := os.OpenFile(s.file(outputName), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	mine = append(mine, output)
	pid, err = spawn(binary, args, uid, output, append(append(sockets, console, lock), more...))
	if err != nil {
		return 0, err
	}
	return pid, os.WriteFile(s.file(pidName), []byte(strconv.Itoa(pid)), 0o600)
}

// short runs f with a path of this folder that fits into a socket address,
// which holds 108 bytes.
func (s seat) short(f func(dir string) error) error {
	dir, err := os.OpenFile(s.path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
}

// bind makes a listening socket in the folder, in place of an old one.
func (s seat) bind(name string) (*os.File, error) {
	if err := os.Remove(s.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	err = s.short(func(dir string) error { return unix.Bind(fd, &unix.SockaddrUnix{Name: dir + "/" + name}) })
	if err == nil {
		// QEMU serves one client; a few may wait their turn.
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// dial connects to a socket of the folder.
func (s seat) dial(ctx context.Context, name string) (conn *net.UnixConn, err error) {
	err = s.short(func(dir string) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", dir+"/"+name)
		if err == nil {
			conn = c.(*net.UnixConn)
		}
		return err
	})
	return conn, err
}

// monitor connects to QEMU's monitor.
func (s seat) monitor(ctx context.Context) (*qmp.Client, error) {
	conn, err := s.dial(ctx, monitorName)
	if err != nil {
		return nil, fmt.Errorf("connect to monitor: %w", err)
	}
	return qmp.New(ctx, conn)
}

// link connects to the machine's identity port.
func (s seat) link(ctx context.Context) (*guestlink.Host, error) {
	conn, err := s.dial(ctx, identityName)
	if err != nil {
		return nil, fmt.Errorf("connect to identity port: %w", err)
	}
	return guestlink.NewHost(conn), nil
}

// tail returns at most the last n bytes of a file of the folder.
func (s seat) tail(name string, n int64) ([]byte, error) {
	f, err := os.Open(s.file(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, size-n), n))
}

// lastWords is what QEMU, or else the guest, said last: one line for an error
// message, "" if neither said anything.
func (s seat) lastWords() string {
	for _, name := range []string{outputName, consoleName} {
		raw, err := s.tail(name, 2048)
		if err != nil {
			continue // no reason to hide the error this is asked for
		}
		lines := bytes.Split(bytes.TrimSpace(raw), []byte("\n"))
		if last := strings.TrimSpace(strings.ToValidUTF8(string(lines[len(lines)-1]), "?")); last != "" {
			return name + ": " + last
		}
	}
	return ""
}

// withWords adds to an error what QEMU or the guest said last.
func (s seat) withWords(err error) error {
	if words := s.lastWords(); err != nil && words != "" {
		return fmt.Errorf("%w (%s)", err, words)
	}
	return err
}
