package containers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

const (
	// defaultPatience is how long steps wait for a daemon that does not answer: one
	// that is restarted is back in seconds, one of an emulated machine that has just
	// booted takes 20 to 40.
	defaultPatience = time.Minute
	// setupPatience is how long a setup that needs the daemon waits: its caller may
	// give it 30 seconds in all.
	setupPatience = 15 * time.Second
	// quickTime is how long a daemon may take over the simplest question before it
	// counts as one that is not there yet.
	quickTime = 3 * time.Second
	// tellTime is how long a step waits for an answer before it says so: a daemon
	// that is busy is no news.
	tellTime = 10 * time.Second
	// awaitPause is the time between two tries to reach it.
	awaitPause = 250 * time.Millisecond
	// missedTime is how long a daemon counts as missed after a step has looked for
	// it last. Who waits looks more often.
	missedTime = time.Minute
)

// absence is since when steps have waited for the daemon in vain. Its zero value
// is a daemon nobody misses. It is safe for concurrent use.
type absence struct {
	mu          sync.Mutex
	since, last time.Time // when it was missed first, and last
}

// missed says how long the daemon has been missed, now that it does not answer.
// It counts anew when nobody has looked for a while: the daemon may have been there
// meanwhile.
func (a *absence) missed(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.since.IsZero() || now.Sub(a.last) > missedTime {
		a.since = now
	}
	a.last = now
	return now.Sub(a.since)
}

// over says that the daemon answers.
func (a *absence) over() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.since = time.Time{}
}

// awaitDaemon returns when the daemon answers, or with what it is like. A daemon
// that is not there, or silent, may be starting: whoever comes first waits for
// it with all patience, which out is told of; whoever comes then waits for the
// rest of that time. Nobody waits where there is no daemon to start.
func (e *Engine) awaitDaemon(ctx context.Context, out Output, patience time.Duration) error {
	begun, within, told := time.Now(), min(max(patience, quickTime), tellTime), false
	for {
		err := e.pingWithin(ctx, within)
		switch {
		case err == nil:
			e.absent.over()
			if told {
				out.Note(fmt.Sprintf("the Docker daemon answers after %s", time.Since(begun).Round(time.Second/10)))
			}
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !isAway(err):
			return err
		}
		if !e.expected() {
			out.Note("there is no Docker on this machine: install it, or run the stage on a machine that has it; steps without an image need none")
			return err
		}
		left := patience - e.absent.missed(time.Now())
		if left <= 0 {
			out.Note(fmt.Sprintf("the Docker daemon at %s has not come within %s: look at it on the machine with systemctl status docker, and with journalctl -u docker for why", e.host, patience))
			return err
		}
		if !told {
			told = true
			out.Note(fmt.Sprintf("waiting up to %s for the Docker daemon at %s, which may be starting", left.Round(time.Second/10), e.host))
		}
		within = min(max(left, quickTime), askTime)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(awaitPause, left)):
		}
	}
}

// logNotes keeps notes in the log, where there is no step to tell.
type logNotes struct{ *slog.Logger }

func (l logNotes) Note(text string)          { l.Info(text) } //nolint:sloglint // one of the few texts of awaitDaemon
func (logNotes) Line(string)                 {}
func (logNotes) Write(p []byte) (int, error) { return len(p), nil }

// answers says whether the daemon does, at once.
func (e *Engine) answers(ctx context.Context) bool { return e.pingWithin(ctx, quickTime) == nil }

// pingWithin asks the daemon whether it is there, and gives it a time.
func (e *Engine) pingWithin(ctx context.Context, d time.Duration) error {
	return e.tell(ctx, "ping", d, func(ctx context.Context) error {
		_, err := e.api.ping(ctx)
		return err
	})
}

// isAway says whether an error is that of a daemon that is not there, or silent.
func isAway(err error) bool {
	var slow *slowError
	return errors.Is(err, ErrUnreachable) || errors.As(err, &slow)
}

// expected says whether there may be a daemon sooner or later: there is something
// at its address, somebody has named the address, or the system has a program
// that is one.
func (e *Engine) expected() bool {
	return e.named || Present(e.host) || hasDaemon(e.programs)
}

// programDirs are the folders where the programs of env and of services are.
func programDirs(env []string) []string {
	dirs := filepath.SplitList(lookup(env, "PATH"))
	if runtime.GOOS != "windows" {
		dirs = append(dirs, "/usr/bin", "/usr/sbin", "/usr/local/bin")
	}
	return dirs
}

// hasDaemon looks for the daemon's program, or the one that comes with it.
func hasDaemon(dirs []string) bool {
	for _, dir := range dirs {
		for _, name := range []string{"dockerd", "docker"} {
			if _, err := exec.LookPath(filepath.Join(dir, name)); dir != "" && err == nil {
				return true
			}
		}
	}
	return false
}
