//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Locks are flock(2) locks: they belong to the open file, so goroutines of one
// process exclude each other like processes do, a child that inherits the file
// holds the lock, and the kernel lets go of it whatever ends the holder.

// tryLock takes an exclusive lock, or says that somebody holds one.
func tryLock(f *os.File) (bool, error) { return flock(f, unix.LOCK_EX) }

// isHeld says whether somebody holds an exclusive lock on the file. It asks by
// taking a shared one for a moment, so askers do not disturb each other and a
// locker has to try again.
func isHeld(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	free, err := flock(f, unix.LOCK_SH)
	return !free, err
}

func flock(f *os.File, how int) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}

// The pauses between two attempts at a lock or a look at a process.
const (
	pollFirst = 500 * time.Microsecond
	pollMost  = 20 * time.Millisecond
)

// poll calls done until it says true, with growing pauses, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	pause := pollFirst
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
		pause = min(2*pause, pollMost)
	}
}

// lockFile opens a file, made if need be, and waits for its lock. If the file
// was removed or replaced meanwhile, os.ErrNotExist or the new file's lock
// results. Closing the file unlocks it.
func lockFile(ctx context.Context, path string, flags int) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|flags, 0o600)
		if err != nil {
			return nil, err
		}
		if err := poll(ctx, func() (bool, error) { return tryLock(f) }); err != nil {
			return nil, errors.Join(fmt.Errorf("wait for %s: %w", path, err), f.Close())
		}
		if samePath(f, path) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// samePath says whether path still leads to f.
func samePath(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}
