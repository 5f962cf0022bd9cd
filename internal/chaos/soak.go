package chaos

import (
	"context"
	"fmt"
	"time"
)

const (
	// soakEvery is how often the soak looks, killEvery how often it kills a
	// machine.
	soakEvery = 20 * time.Second
	killEvery = 5 * time.Second
	// warmUp is how long caches and pools may grow before the first measure.
	warmUp = 2 * time.Minute
	// settle is longer than the runner keeps the setup of a caller that hung up
	// (2 minutes), whose goroutine is there so long.
	settle = 2*time.Minute + 15*time.Second
)

// vitals is what a runner takes of its host.
type vitals struct {
	goroutines, heap, resident, files float64
}

func (v vitals) String() string {
	return fmt.Sprintf("%.0f goroutines, heap %.1f MiB, resident %.1f MiB, %.0f files", v.goroutines, v.heap/(1<<20), v.resident/(1<<20), v.files)
}

func measure(ctx context.Context, p *process) (v vitals, err error) {
	for _, m := range []struct {
		name string
		to   *float64
	}{
		{"go_goroutines", &v.goroutines},
		{"go_memstats_heap_inuse_bytes", &v.heap},
		{"process_resident_memory_bytes", &v.resident},
		{"process_open_fds", &v.files},
	} {
		if *m.to, err = metric(ctx, p.addr, m.name); err != nil {
			return v, err
		}
	}
	return v, nil
}

// grown says what of a runner is more at the end than it may be. Heap and
// resident memory breathe, and the process has pages it does not give back.
func grown(start, end vitals) []Finding {
	var found []Finding
	check := func(what string, start, end, factor, slack float64) {
		if end > start*factor+slack {
			found = append(found, Finding{Behaviour, fmt.Sprintf("%s grew from %.0f to %.0f", what, start, end)})
		}
	}
	check("goroutines", start.goroutines, end.goroutines, 1, 15)
	check("open files", start.files, end.files, 1, 15)
	check("heap", start.heap, end.heap, 1.5, 16<<20)
	check("resident memory", start.resident, end.resident, 1.5, 32<<20)
	return found
}

// soak puts load on for long, kills machines now and then, looks often, and
// compares what the runner takes at the end with what it took at the start.
// The runner is not killed: its growth is what is watched.
func soak(ctx context.Context, o Options, res *Result) error {
	if o.Memory == 0 {
		o.Memory = 5 * time.Minute
	}
	return staged(ctx, o, "soak", res, shape{warm: 3, limit: 12, keepers: 2}, func(ctx context.Context, r *rig) error {
		if err := r.begin(ctx); err != nil {
			return err
		}
		p := r.runners[0]
		first, err := r.atRest(ctx, "warm", min(warmUp, o.Soak/4))
		if err != nil {
			return err
		}
		r.say("at the start: %s", first)
		end := time.Now().Add(o.Soak)
		load := r.callers(ctx, "soak", 200*time.Millisecond)
		for look := time.Now(); time.Now().Before(end); {
			if err := pause(ctx, min(killEvery, time.Until(end)+time.Millisecond)); err != nil {
				return err
			}
			if err := p.ended(); err != nil {
				return err
			}
			if err := r.killMachine(); err != nil {
				return err
			}
			if time.Since(look) < soakEvery {
				continue
			}
			look = time.Now()
			if err := r.audited(ctx, "the soak", false); err != nil {
				return err
			}
			if now, err := measure(ctx, p); err == nil {
				r.say("%s left, %d stages; %s", time.Until(end).Round(time.Second), load.stages.Load(), now)
			}
		}
		if err := r.rest(ctx, "the end of the load", load); err != nil {
			return err
		}
		last, err := r.atRest(ctx, "last", 5*time.Second)
		if err != nil {
			return err
		}
		res.note("start: %s", first)
		res.note("end: %s", last)
		res.add("the end", grown(first, last))
		return r.finish(ctx)
	})
}

// atRest lets load run for a time, waits for quiet, and measures.
func (r *rig) atRest(ctx context.Context, name string, d time.Duration) (vitals, error) {
	load := r.callers(ctx, name, 200*time.Millisecond)
	if err := pause(ctx, d); err != nil {
		return vitals{}, err
	}
	if err := r.rest(ctx, "rest", load); err != nil {
		return vitals{}, err
	}
	if err := pause(ctx, settle); err != nil {
		return vitals{}, err
	}
	return measure(ctx, r.runners[0])
}
