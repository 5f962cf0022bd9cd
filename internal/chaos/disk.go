package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/client"
)

// diskRounds is how often the disk fills up.
const diskRounds = 3

// fullDisk fills the small disk the database lies on while callers come and go,
// and frees it again. The machines lie elsewhere: what fails is the database.
func fullDisk(ctx context.Context, o Options, res *Result) error {
	small := filepath.Join(o.Dir, "disk", "small")
	if err := os.MkdirAll(small, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("chaos", small, "tmpfs", 0, "size=24m"); err != nil {
		return skipError(fmt.Sprintf("a small disk cannot be mounted: %v; run it as root", err))
	}
	unmount := func() error { return syscall.Unmount(small, syscall.MNT_DETACH) }
	s := shape{warm: 3, limit: 12, keepers: 2, disk: small, closers: []func() error{unmount}}
	return staged(ctx, o, "disk", res, s, func(ctx context.Context, r *rig) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		var full atomic.Bool
		var named, vague atomic.Int64
		var sample atomic.Value
		load := r.newCallers("load", 6, 100*time.Millisecond)
		load.onRefusal = func(e *client.Error) {
			if !full.Load() {
				return
			}
			if e.Status >= 500 && strings.Contains(e.Message, databaseFile) {
				named.Add(1)
				return
			}
			vague.Add(1)
			sample.Store(fmt.Sprintf("%d %s", e.Status, e.Message))
		}
		load.run(ctx)
		for round := range diskRounds {
			if err := pause(ctx, between(r.rng, 300*time.Millisecond, time.Second)); err != nil {
				return err
			}
			filler := filepath.Join(small, "filler")
			if err := fill(filler); err != nil {
				return err
			}
			before := named.Load()
			full.Store(true)
			err := r.until(ctx, 30*time.Second, "a request fails and names the full database", func() bool { return named.Load() > before })
			if err == nil {
				err = pause(ctx, between(r.rng, 500*time.Millisecond, 2*time.Second))
			}
			full.Store(false)
			if err := errors.Join(err, os.Remove(filler)); err != nil {
				return err
			}
			claims := r.ledger.Read().Claims
			if err := r.until(ctx, time.Minute, "setups work again by themselves", func() bool { return r.ledger.Read().Claims > claims+5 }); err != nil {
				return err
			}
			if err := r.audited(ctx, fmt.Sprintf("full disk %d", round+1), false); err != nil {
				return err
			}
		}
		res.note("%d refusals on the full disk named the database, %d did not", named.Load(), vague.Load())
		if n := vague.Load(); n > 0 {
			res.Findings = append(res.Findings, Finding{Behaviour, fmt.Sprintf("%d refusals on a full disk do not name the database: %v", n, sample.Load())})
		}
		return r.finish(ctx, load)
	})
}

// fill writes a file until nothing more fits.
func fill(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err == nil {
			continue
		} else if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		size /= 2
	}
	return nil
}
