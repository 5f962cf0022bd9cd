package chaos

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/client"
)

const (
	// copyAge is how old the copy is at least.
	copyAge = 70 * time.Second
	// reportedAfter is how long the runner watches a machine of its own before
	// it says what it makes of it; another's it reports at once.
	reportedAfter = 5*time.Minute + 20*time.Second
)

// strangersStay watches machines the store does not know: they are left alone
// and reported. foreign says that they are another controller's.
func (r *rig) strangersStay(ctx context.Context, pids map[string]int, when string, foreign bool) error {
	r.say("%d machines without a row are watched for %s", len(pids), r.o.Watch)
	for end := time.Now().Add(r.o.Watch); time.Now().Before(end); {
		c, err := LookAround(r.root)
		if err != nil {
			return err
		}
		var found []Finding
		for name, pid := range pids {
			if now := c.Machines[name].PID; now != pid {
				found = append(found, Finding{TakenAway, fmt.Sprintf("machine %s, process %d, was in use and is gone", name, pid)})
			}
		}
		if len(found) > 0 {
			r.result.add(when, found)
			return fmt.Errorf("%w: machines in use were destroyed", errBroken)
		}
		if err := r.audited(ctx, when, false); err != nil {
			return err
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	events, err := r.runners[0].api.Events(ctx, client.EventQuery{Limit: 1000})
	if err != nil {
		return err
	}
	reported := map[string]bool{}
	for _, e := range events.Events {
		if e.Reason == "orphan_reported" {
			reported[e.Message] = true
		}
	}
	if len(reported) < len(r.excused) && (foreign || r.o.Watch > reportedAfter) {
		r.result.add(when, []Finding{{Behaviour, fmt.Sprintf("%d of %d machines without a row were reported as events", len(reported), len(r.excused))}})
	}
	return nil
}

// running are the processes of all machines.
func (r *rig) running() (map[string]int, error) {
	c, err := LookAround(r.root)
	if err != nil {
		return nil, err
	}
	pids := map[string]int{}
	for name, m := range c.Machines {
		if m.PID > 0 {
			pids[name] = m.PID
		}
	}
	return pids, nil
}

// removeDatabase removes the file and what SQLite keeps beside it.
func removeDatabase(path string) error {
	var errs []error
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + suffix); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// lostStore deletes the database while the runner is down: the new store knows
// nothing, and reaps nothing.
func lostStore(ctx context.Context, o Options, res *Result) error {
	return staged(ctx, o, "lost", res, shape{warm: 3, limit: 30, keepers: 2}, func(ctx context.Context, r *rig) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		load := r.callers(ctx, "before", 100*time.Millisecond)
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		if err := r.rest(ctx, "the last moment of the first store", load); err != nil {
			return err
		}
		r.keepers.stop()
		p := r.runners[0]
		if err := p.stop(ctx); err != nil {
			return err
		}
		if err := removeDatabase(filepath.Join(p.dir, databaseFile)); err != nil {
			return err
		}
		old, err := r.running()
		if err != nil {
			return err
		}
		for name := range old {
			r.excused[name] = true
		}
		// The new store cannot know what it never heard of.
		r.ledger.Disown()
		if err := p.start(ctx); err != nil {
			return err
		}
		again := r.callers(ctx, "after", 100*time.Millisecond)
		if err := r.strangersStay(ctx, old, "the new store", true); err != nil {
			return err
		}
		return r.rest(ctx, "the end", again)
	})
}

// restoredStore replaces the database by an older copy: machines that were
// warm when it was made are in use now.
func restoredStore(ctx context.Context, o Options, res *Result) error {
	return staged(ctx, o, "restored", res, shape{warm: 3, limit: 30, keepers: 2}, func(ctx context.Context, r *rig) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		p := r.runners[0]
		database := filepath.Join(p.dir, databaseFile)
		saved := filepath.Join(r.dir, "copy.sqlite3")
		if err := copyDatabase(ctx, database, saved); err != nil {
			return err
		}
		// Stages of which the copy knows nothing: the first take the machines
		// that are warm in it, the others ones it has never heard of.
		for i := range 6 {
			id := fmt.Sprintf("%s-later-%d", r.mode, i)
			r.ledger.Asked(id)
			answer, err := p.api.Setup(ctx, setupRequest(id))
			if err != nil {
				return fmt.Errorf("setup %s: %w", id, err)
			}
			r.ledger.Granted(id, answer.InstanceInfo.Name, time.Now())
		}
		// A younger copy than this the runner cannot tell from a restart: its
		// signs of life are some seconds apart.
		if err := pause(ctx, copyAge); err != nil {
			return err
		}
		if err := r.audited(ctx, "the last moment before the restore", true); err != nil {
			return err
		}
		if err := p.kill(); err != nil {
			return err
		}
		if err := errors.Join(removeDatabase(database), os.Rename(saved, database)); err != nil {
			return err
		}
		inUse := map[string]int{}
		all, err := r.running()
		if err != nil {
			return err
		}
		known, err := r.tables.Read(ctx, time.Time{})
		if err != nil {
			return err
		}
		for _, s := range r.ledger.Read().Holders() {
			inUse[s.Machine] = all[s.Machine]
		}
		for name := range all {
			r.excused[name] = true
		}
		for _, row := range known.Instances {
			delete(r.excused, row.Name)
		}
		r.ledger.Disown(r.keepers.names...)
		if err := p.start(ctx); err != nil {
			return err
		}
		load := r.callers(ctx, "after", 100*time.Millisecond)
		if err := r.strangersStay(ctx, inUse, "the restored store", false); err != nil {
			return err
		}
		load.stop()
		r.keepers.stop()
		return nil
	})
}
