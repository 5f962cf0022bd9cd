//go:build unix

package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// lock is held on <file>.lock while the store is open. The kernel lets go of it
// when the process ends, however it ends.
type lock struct{ f *os.File }

// lockFile takes the lock of a database file, waiting until ctx ends. SQLite's
// own locks do not serve: they come and go with transactions.
func lockFile(ctx context.Context, path string) (*lock, error) {
	name := path + ".lock"
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; let this user (uid %d) write the directory", pool.ErrUnavailable, path, err, os.Getuid())
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close() // nothing was written
			return nil, fmt.Errorf("%w: %s: lock: %w; use a local disk", pool.ErrUnavailable, name, err)
		}
		t := time.NewTimer(lockPause)
		select {
		case <-ctx.Done():
			t.Stop()
			holder := holderOf(f)
			_ = f.Close() // nothing was written
			return nil, fmt.Errorf("%w: %s is in use by another runner (process %s, lock %s); stop it, or let the replicas share a Postgres",
				pool.ErrUnavailable, path, holder, name)
		case <-t.C:
		}
	}
	// For the message of whoever comes second; the lock holds without it.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return &lock{f}, nil
}

func holderOf(f *os.File) string {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return pid
	}
	return "unknown"
}

// release lets go. The file stays: removing it would let two others each lock
// their own.
func (l *lock) release() {
	_ = l.f.Truncate(0) // only the message's pid
	_ = l.f.Close()     // lets go of the lock
}
