package guestinit

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reaper collects the dead that process 1 inherits. It must leave alone those
// its own program waits for, so these are started through it.
type reaper struct {
	log *slog.Logger

	// mu keeps a look at the dead apart from a start, whose process could be
	// dead before it is known.
	mu   sync.RWMutex
	own  map[int]struct{}
	ownM sync.Mutex
}

func newReaper(log *slog.Logger) *reaper { return &reaper{log: log, own: make(map[int]struct{})} }

// Start starts a process that its caller will wait for.
func (r *reaper) Start(cmd *exec.Cmd) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	r.ownM.Lock()
	defer r.ownM.Unlock()
	r.own[cmd.Process.Pid] = struct{}{}
	return nil
}

// Exited says that the caller has waited.
func (r *reaper) Exited(cmd *exec.Cmd) {
	r.ownM.Lock()
	defer r.ownM.Unlock()
	delete(r.own, cmd.Process.Pid)
}

// reapEvery covers signals that came together.
const reapEvery = time.Second

// run collects until ctx ends.
func (r *reaper) run(ctx context.Context) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	defer signal.Stop(children)
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-children:
		case <-tick.C:
		}
		r.reap()
	}
}

// reap collects the dead up to the first that somebody else waits for: that
// one goes soon, and the next tick sees the others.
func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		pid, err := firstDead()
		if pid == 0 || errors.Is(err, unix.ECHILD) {
			return
		}
		if err != nil {
			r.log.Warn("cannot look for ended processes", "err", err)
			return
		}
		r.ownM.Lock()
		_, own := r.own[pid]
		r.ownM.Unlock()
		if own {
			return
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil && !errors.Is(err, unix.ECHILD) {
			r.log.Warn("cannot collect an ended process", "pid", pid, "err", err)
			return
		}
	}
}

// firstDead returns a child that has ended and was not waited for, 0 if there
// is none, and leaves it as it is.
func firstDead() (int, error) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		// siginfo_t on 64 bits: three ints, padding, then si_pid.
		const pidOffset = 16
		return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), pidOffset))), nil
	}
}
