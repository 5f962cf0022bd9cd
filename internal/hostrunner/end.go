package hostrunner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
)

// Destroy ends a stage: its processes, containers, networks and folders. It is
// never an error that there is none. What could not be removed is returned; the
// runner tries again by itself. It goes on when ctx ends.
func (r *Runner) Destroy(ctx context.Context, id string) ([]string, error) {
	if id == "" {
		return nil, badRequest("id not specified")
	}
	st := r.find(id)
	if st == nil {
		return nil, nil
	}
	st.cancel(errDestroyed) // a setup that is going on
	ended := make(chan []string, 1)
	r.work.Go(func() { ended <- r.end(context.WithoutCancel(ctx), st) })
	select {
	case left := <-ended:
		return left, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (r *Runner) find(id string) *stage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stages[id]
}

// end destroys a stage that is ready, or whose setup has failed, and returns
// what is left of it. Calls of one stage take turns; those after the one that
// did it have nothing to do.
func (r *Runner) end(ctx context.Context, st *stage) []string {
	<-st.ready
	st.ends.Lock()
	defer st.ends.Unlock()
	if r.find(st.rec.ID) != st {
		return nil // gone
	}
	left := r.tearDown(ctx, st)
	st.mu.Lock()
	st.leftover = left
	st.mu.Unlock()
	r.room.leave(st.rec.ID)
	if len(left) > 0 {
		r.log.WarnContext(ctx, "a stage is destroyed but for what cannot be removed; the runner tries again each minute", "stage", st.rec.ID, "leftover", left)
		return left
	}
	r.mu.Lock()
	delete(r.stages, st.rec.ID)
	r.checkEmptyLocked()
	r.mu.Unlock()
	r.log.InfoContext(ctx, "stage destroyed", "stage", st.rec.ID)
	return nil
}

// tearDown removes all there is of a stage, its record last: as long as
// something is left, the next run knows of it. It may be called again.
func (r *Runner) tearDown(ctx context.Context, st *stage) []string {
	rec := &st.rec
	if _, err := os.Stat(r.dirs.recordFile(rec.Key)); err == nil && !rec.Ending {
		rec.Ending = true
		if err := agent.ReplaceJSON(r.dirs.recordFile(rec.Key), rec); err != nil {
			r.log.WarnContext(ctx, "the end of a stage cannot be recorded", "stage", rec.ID, "err", err)
		}
	}
	st.mu.Lock()
	st.ended = true
	st.mu.Unlock()
	left := r.endAgent(ctx, st)
	if len(left) > 0 {
		return left // its folders may be in use
	}
	st.followers.Wait() // all steps have ended
	if !st.released {
		st.released = true
		st.remove = append(r.uses.release(rec.Uses), rec.Dir, rec.Shared)
	}
	st.remove = slices.DeleteFunc(st.remove, func(path string) bool {
		if path == "" {
			return true
		}
		err := removeAll(path)
		if err != nil {
			left = append(left, err.Error())
		}
		return err == nil
	})
	if len(left) > 0 {
		return left
	}
	if err := os.RemoveAll(r.dirs.stage(rec.Key)); err != nil {
		return []string{err.Error()}
	}
	return nil
}

// endAgent ends all that runs for a stage. The agent of one that an earlier run
// has left may not have come up yet: it is what knows the processes.
func (r *Runner) endAgent(ctx context.Context, st *stage) (left []string) {
	st.cancel(errDestroyed)
	if _, err := os.Stat(r.dirs.agent(st.rec.Key)); st.agent == nil && err == nil {
		a, err := agent.New(r.agentOptions(&st.rec))
		if err != nil {
			return []string{err.Error()}
		}
		st.agent = a
	}
	if st.agent == nil {
		return nil
	}
	left = st.agent.Destroy(ctx).Leftover
	if err := st.agent.Close(); err != nil {
		left = append(left, err.Error())
	}
	return left
}

// removeAll removes a folder of a stage, also what steps have protected against
// themselves: a folder without write permission is given it and tried again.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	if err == nil || !errors.Is(err, os.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(path, func(p string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700) // the second try tells what this could not help
		}
		if err != nil && d != nil && d.IsDir() {
			return filepath.SkipDir
		}
		return nil
	})
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("%w; files of containers that ran as root can be removed by root only", err)
	}
	return nil
}
