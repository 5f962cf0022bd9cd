package chaos

import (
	"context"
	"fmt"
	"syscall"
	"time"
)

// kills kills the runner at random moments under load, also while it starts,
// and audits after every restart.
func kills(ctx context.Context, o Options, res *Result) error {
	return staged(ctx, o, "kills", res, shape{warm: 3, limit: 12, keepers: 2}, func(ctx context.Context, r *rig) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		load := r.callers(ctx, "load", 100*time.Millisecond)
		p := r.runners[0]
		for res.Kills < o.Kills {
			if err := pause(ctx, between(r.rng, 10*time.Millisecond, 700*time.Millisecond)); err != nil {
				return err
			}
			if err := p.kill(); err != nil {
				return err
			}
			res.Kills++
			// Some starts are killed too.
			for r.rng.IntN(4) == 0 && res.Kills < o.Kills {
				if err := p.launch(); err != nil {
					return err
				}
				if err := pause(ctx, between(r.rng, 0, 200*time.Millisecond)); err != nil {
					return err
				}
				if err := p.kill(); err != nil {
					return err
				}
				res.Kills++
			}
			if err := p.start(ctx); err != nil {
				return err
			}
			if err := r.audited(ctx, fmt.Sprintf("kill %d", res.Kills), false); err != nil {
				return err
			}
			if res.Kills%10 == 0 {
				r.say("%d of %d kills, %d stages", res.Kills, o.Kills, load.stages.Load())
			}
		}
		return r.finish(ctx, load)
	})
}

// replicas kills one of two runners on one database, the other, or both, and
// stops one for so long that the other takes over.
func replicas(ctx context.Context, o Options, res *Result) error {
	if o.Postgres == "" {
		return skipError("no Postgres is given")
	}
	dsn, drop, err := newSchema(ctx, o.Postgres, fmt.Sprintf("chaos_%d_%d", syscall.Getpid(), time.Now().UnixMilli()))
	if err != nil {
		return err
	}
	tidy := func() error {
		if len(res.Findings) > 0 {
			res.note("the tables are kept: %s", dsn)
			return nil
		}
		return drop()
	}
	s := shape{warm: 3, limit: 12, keepers: 2, runners: 2, dsn: dsn, closers: []func() error{tidy}}
	return staged(ctx, o, "replicas", res, s, func(ctx context.Context, r *rig) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		load := r.callers(ctx, "load", 100*time.Millisecond)
		for res.Kills < o.Kills {
			if err := pause(ctx, between(r.rng, 10*time.Millisecond, 900*time.Millisecond)); err != nil {
				return err
			}
			victims := r.runners
			if n := r.rng.IntN(3); n < len(r.runners) {
				victims = r.runners[n : n+1]
			}
			for _, p := range victims {
				if err := p.kill(); err != nil {
					return err
				}
				res.Kills++
			}
			if len(victims) < len(r.runners) {
				// The other works alone for a while.
				if err := pause(ctx, between(r.rng, 0, 300*time.Millisecond)); err != nil {
					return err
				}
				if err := r.audited(ctx, fmt.Sprintf("kill %d, one left", res.Kills), false); err != nil {
					return err
				}
			}
			for _, p := range victims {
				if err := p.start(ctx); err != nil {
					return err
				}
			}
			if err := r.audited(ctx, fmt.Sprintf("kill %d", res.Kills), false); err != nil {
				return err
			}
			if res.Kills%10 < len(victims) {
				r.say("%d of %d kills, %d stages", res.Kills, o.Kills, load.stages.Load())
			}
		}
		if err := r.freeze(ctx, r.runners[r.rng.IntN(len(r.runners))], o.Stopped); err != nil {
			return err
		}
		return r.finish(ctx, load)
	})
}

// stopped stops the runner under load, as a debugger or a starved host does.
func stopped(ctx context.Context, o Options, res *Result) error {
	return staged(ctx, o, "stop", res, shape{warm: 3, limit: 12, keepers: 2}, func(ctx context.Context, r *rig) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		load := r.callers(ctx, "load", 100*time.Millisecond)
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		if err := r.freeze(ctx, r.runners[0], o.Stopped); err != nil {
			return err
		}
		return r.finish(ctx, load)
	})
}

// freeze stops one runner for a time and sees it go on.
func (r *rig) freeze(ctx context.Context, p *process, d time.Duration) error {
	r.say("the runner is stopped for %s", d)
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	err := pause(ctx, d)
	if cerr := p.signal(syscall.SIGCONT); cerr != nil {
		return cerr
	}
	if err != nil {
		return err
	}
	before := r.ledger.Read().Claims
	if err := r.until(ctx, 30*time.Second, "setups are answered again", func() bool { return r.ledger.Read().Claims > before+10 }); err != nil {
		return err
	}
	return r.audited(ctx, "the end of the stop", false)
}

// until waits for something the mode demands.
func (r *rig) until(ctx context.Context, within time.Duration, what string, holds func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not within %s: %s", within, what))
	defer cancel()
	for !holds() {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}
