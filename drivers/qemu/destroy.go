//go:build linux

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

const (
	// destroyAtOnce bounds how many machines are ended at the same time.
	destroyAtOnce = 8
	// destroyPatience is how long a destroy waits for whoever works on the
	// machine before it ends QEMU under them.
	destroyPatience = 2 * time.Second
	// letGoPatience is how long they may take then to notice.
	letGoPatience = 5 * time.Second
)

// Destroy ends machines and removes all that was theirs, their persistent disks
// only where o says so. A machine whose disks are kept is asked to write to them
// what it has in memory first.
func (d *Driver) Destroy(ctx context.Context, refs []drivers.Ref, o drivers.DestroyOptions) []error {
	errs := make([]error, len(refs))
	slots := make(chan struct{}, destroyAtOnce)
	var wg sync.WaitGroup
	for i, ref := range refs {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := d.destroy(ctx, ref.Name, o.Disks); err != nil {
				errs[i] = fmt.Errorf("destroy %s: %w", ref.Name, err)
			}
		})
	}
	wg.Wait()
	return errs
}

func (d *Driver) destroy(ctx context.Context, name string, disks drivers.DiskPolicy) error {
	s, err := d.seatOf(name)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if _, err := os.Stat(s.path); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	unlock, err := d.lockToDestroy(ctx, s)
	if errors.Is(err, drivers.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	var its []string
	if m, err := d.open(name); err == nil { // else what it has is unknown, and stays
		its = m.Disks
		if disks == drivers.Keep {
			d.flush(ctx, m)
		}
	}
	if err := s.kill(ctx, filepath.Base(s.path), d.reap); err != nil {
		return s.withWords(err)
	}
	if err := d.remove(s); err != nil {
		return err
	}
	d.mu.Lock()
	delete(d.ends, name)
	delete(d.checked, name)
	d.mu.Unlock()
	if disks != drivers.Delete {
		return nil
	}
	var errs []error
	for _, disk := range its {
		if err := d.destroyDisk(ctx, disk); err != nil {
			errs = append(errs, fmt.Errorf("the machine is gone; its disk %s: %w", disk, err))
		}
	}
	return errors.Join(errs...)
}

// lockToDestroy waits for the machine's lock, and if it is not to be had, for
// example because a save hangs, kills QEMU: whoever works on it fails then and
// lets go.
func (d *Driver) lockToDestroy(ctx context.Context, s seat) (func(), error) {
	soon, cancel := context.WithTimeout(ctx, d.destroyWait)
	unlock, err := s.lockOp(soon)
	cancel()
	if err == nil || errors.Is(err, drivers.ErrNotFound) || ctx.Err() != nil {
		return unlock, err
	}
	if err := s.killHolder(filepath.Base(s.path)); err != nil {
		return nil, err
	}
	ctx, cancel = context.WithTimeoutCause(ctx, d.letGo, errors.New("somebody else works on the machine and does not let go"))
	defer cancel()
	return s.lockOp(ctx)
}
