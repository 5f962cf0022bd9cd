package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// keepAlive is how often a quiet connection is probed: answers may take hours,
// and routers forget idle connections after minutes.
const keepAlive = 15 * time.Second

// AdminSocket is the name of the admin socket in the data directory.
const AdminSocket = "admin.sock"

// ErrServed is ListenAdmin's error for a socket that a running runner has.
var ErrServed = errors.New("a runner already serves")

// A runner that was killed while it started another program leaves its port
// taken until that program's process has let go of it, a moment later: a
// restart waits so long, looking ever so often.
const (
	portWait  = time.Second
	portPause = 20 * time.Millisecond
)

// Listen opens the TCP listener with the keep-alive long answers need. An
// address that stays in use for a second is an error that names it and the
// variable to change.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive}}
	wait, cancel := context.WithTimeout(ctx, portWait)
	defer cancel()
	l, err := lc.Listen(ctx, "tcp", addr)
	for errors.Is(err, syscall.EADDRINUSE) && wait.Err() == nil {
		t := time.NewTimer(portPause)
		select {
		case <-t.C:
		case <-wait.Done():
			t.Stop()
		}
		l, err = lc.Listen(ctx, "tcp", addr)
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s: another program uses this port; stop it or set DRONE_HTTP_BIND: %w", addr, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s (DRONE_HTTP_BIND): %w", addr, err)
	}
	return l, nil
}

// ListenAdmin opens an admin socket of that name, AdminSocket mostly, in the
// data directory, mode 0600 from the first moment. A socket left by a dead
// process is replaced; one that answers belongs to a running runner and is
// refused with ErrServed. Closing removes the file.
func ListenAdmin(ctx context.Context, dataDir, name string) (net.Listener, error) {
	path := filepath.Join(dataDir, name)
	if err := checkStale(ctx, path); err != nil {
		return nil, err
	}
	// The socket is made in a directory of our own and moved into place, so
	// that nobody can connect before its mode is right.
	dir, err := os.MkdirTemp(dataDir, ".admin")
	if err != nil {
		return nil, fmt.Errorf("admin socket: %w; let this user (uid %d) write the data directory %s, or choose another with --data-dir", err, os.Getuid(), dataDir)
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "s")
	lc := net.ListenConfig{}
	l, err := lc.Listen(ctx, "unix", made)
	if err != nil {
		if len(made) > 100 {
			return nil, fmt.Errorf("admin socket: the path of the data directory %s is too long for a socket (%d characters, about 85 are possible): %w", dataDir, len(dataDir), err)
		}
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	ul, ok := l.(*net.UnixListener)
	if ok {
		ul.SetUnlinkOnClose(false)
	}
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("admin socket %s: %w", path, err), l.Close())
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("admin socket %s: %w", path, err), l.Close())
	}
	return &adminListener{Listener: l, path: path, made: info}, nil
}

// checkStale is nil if nobody answers on the socket.
func checkStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("admin socket: %s exists and is no socket; move it away", path)
	}
	for {
		serves, err := answers(ctx, path)
		switch {
		case serves:
			return fmt.Errorf("admin socket: %w %s; stop it or use another data directory", ErrServed, path)
		case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE):
			return fmt.Errorf("admin socket %s: cannot tell whether a runner serves it: %w", path, err)
		}
	}
}

// answers says whether somebody behind the socket talks, or is there and slow
// to. A runner that was killed just now may have left its socket to a child
// that it was about to turn into a machine: that one takes the connection, says
// nothing, and is another program in a moment, which ends the connection.
func answers(ctx context.Context, path string) (bool, error) {
	const patience = time.Second
	d := net.Dialer{Timeout: patience}
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return false, err
	}
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		return errors.Is(err, os.ErrDeadlineExceeded), err
	}
	n, err := conn.Read(make([]byte, 1))
	return n > 0 || errors.Is(err, os.ErrDeadlineExceeded), err
}

// adminListener removes its file when closed, unless another runner has put
// its own in place.
type adminListener struct {
	net.Listener
	path string
	made fs.FileInfo
	once sync.Once
	err  error
}

// Close may be called more than once.
func (l *adminListener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.made) {
			_ = os.Remove(l.path) // a file that stays is replaced at the next start
		}
		l.err = l.Listener.Close()
	})
	return l.err
}
