package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// caller is one delegate: stages one after the other, with all its habits.
func (s *sim) caller(ctx context.Context, n int) {
	for i := 0; ctx.Err() == nil; i++ {
		st := &stage{s: s, id: fmt.Sprintf("c%d-s%d", n, i)}
		st.live(ctx)
		_ = nap(ctx, s.d.span(40*time.Second, "think", st.id))
	}
}

// stage is the life of one lease from its caller's side. Once it is told of a
// machine it counts on it until it asks for its end.
type stage struct {
	s   *sim
	id  string
	req pool.SetupRequest
	res pool.SetupResult
	// calls is the ordinal of the last call, first when the machine was first
	// asked for.
	calls int
	first time.Time
}

func (st *stage) habit(share float64, name string) bool { return st.s.d.chance(share, name, st.id) }

// transport says whether a caller cannot know what became of its call.
func transport(err error) bool {
	return errors.Is(err, errCrashed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		strings.Contains(err.Error(), "is stopping")
}

// once makes one request to the runner of a host, for no longer than patience.
// A runner that stands still is not waited for: what it answers later nobody
// hears. errCrashed is that of a host without a runner.
func once[T any](ctx context.Context, s *sim, host *replica, patience time.Duration, f func(context.Context, *pool.Manager) (T, error)) (v T, err error) {
	in := host.runner()
	if in == nil {
		return v, errCrashed
	}
	type answer struct {
		v   T
		err error
	}
	one, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answers := make(chan answer, 1)
	s.requests.Go(func() {
		v, err := f(one, in.m)
		answers <- answer{v, err}
	})
	select {
	case a := <-answers:
		return a.v, a.err
	case <-one.Done():
	}
	select {
	case a := <-answers:
		return a.v, a.err
	case <-time.After(time.Second):
		return v, context.DeadlineExceeded
	}
}

// ask makes one request to whatever runner there is, again as often as it
// takes; patience bounds one try.
func ask[T any](ctx context.Context, st *stage, patience time.Duration, f func(context.Context, *pool.Manager) (T, error)) (T, error) {
	s := st.s
	for try := 0; ; try++ {
		st.calls++
		host := s.replicas[s.d.below(len(s.replicas), "which", st.id, st.calls)]
		v, err := once(ctx, s, host, patience, f)
		if err == nil || ctx.Err() != nil || !transport(err) || try > 200 {
			return v, err
		}
		if err := nap(ctx, 2*time.Second); err != nil {
			return v, err
		}
	}
}

// call is ask for what has no answer but that it is done.
func (st *stage) call(ctx context.Context, patience time.Duration, f func(context.Context, *pool.Manager) error) error {
	_, err := ask(ctx, st, patience, func(ctx context.Context, m *pool.Manager) (none, error) { return none{}, f(ctx, m) })
	return err
}

func (st *stage) live(ctx context.Context) {
	s := st.s
	kind := pool.Build
	if s.plan.gitspaces && st.habit(.4, "gitspace") {
		kind = pool.Gitspace
	}
	st.req = pool.SetupRequest{ID: st.id, Kind: kind, Pools: s.choose(st.id), Body: bodyOf(st.id), Timeout: s.wait(), Want: s.want(st.id)}
	if kind == pool.Gitspace && st.habit(.7, "disk") {
		st.req.Want.Storage = "disk-of-" + st.id
	}
	if st.habit(.05, "overtakes") {
		// A destroy that overtakes its setup.
		_ = st.destroy(ctx, "")
	}
	st.first = time.Now()
	err := st.setUp(ctx)
	// Whatever comes, the end is asked for, until it is granted, as the
	// delegate's clean-up does; but some never come back.
	if s.plan.times.BusyAge < time.Hour && s.plan.times.BusyAge > 0 && kind == pool.Build && st.habit(.1, "forgetful") {
		s.log.left(st.id)
		return
	}
	defer st.end(context.WithoutCancel(ctx))
	if err != nil {
		s.refused.Add(1)
		var se *pool.SetupError
		if ctx.Err() == nil && (err.Error() == "" || errors.As(err, &se) && len(se.Causes) == 0) {
			s.log.wrong(ruleReason, st.id, "setup %s failed without a reason: %v", st.id, err)
		}
		return
	}
	s.served.Add(1)
	if st.habit(.15, "again") {
		_ = st.setUp(ctx) // the same machine, or another if it died
	}
	if kind == pool.Gitspace && st.habit(.7, "sleeps") && !st.sleep(ctx) {
		return
	}
	if st.req.Want.Storage != "" && st.habit(.3, "resets") && !st.reset(ctx) {
		return
	}
	for i := range 1 + s.d.below(2, "steps", st.id) {
		if !st.step(ctx, i) {
			return
		}
	}
	if kind == pool.Build && st.habit(.05, "stale") {
		// A late destroy that names a machine it never had touches nothing.
		_ = st.destroy(ctx, "id-of-another-machine")
	}
}

// setUp asks for the machine; a hasty caller hangs up early and asks again.
func (st *stage) setUp(ctx context.Context) error {
	s := st.s
	patience := s.wait() + 5*time.Minute
	tries := 1
	if st.habit(.2, "hasty") {
		patience, tries = 2*time.Second+s.d.span(20*time.Second, "patience", st.id), 3
	}
	var err error
	for range tries {
		limit, cancel := context.WithTimeout(ctx, patience)
		var r pool.SetupResult
		r, err = ask(limit, st, patience, func(ctx context.Context, m *pool.Manager) (pool.SetupResult, error) {
			return m.Setup(ctx, st.req)
		})
		cancel()
		if err == nil {
			st.told(r)
		}
		if err == nil || ctx.Err() != nil || !transport(err) {
			return err
		}
	}
	return err
}

// told takes an answer.
func (st *stage) told(r pool.SetupResult) {
	s := st.s
	before := st.res.Instance
	if before.ID != "" && before.ID != r.Instance.ID {
		if !s.world.dead(before.Name) && !s.log.ordered(st.id, before.Name) && !s.log.forgot(st.id) {
			s.log.wrong(ruleDurable, st.id, "%s was told of %s and then of %s", st.id, before.Name, r.Instance.Name)
		}
	}
	st.res = r
	s.fits(st.req, r.Instance)
	s.log.answered(st.id, r.Instance.Name, st.first)
}

// step runs one step; false means that the stage is over.
func (st *stage) step(ctx context.Context, i int) bool {
	s, name := st.s, st.res.Instance.Name
	s.log.called(st.id)
	err := st.call(ctx, time.Hour, func(ctx context.Context, m *pool.Manager) error {
		_, err := m.Step(ctx, pool.StepRequest{
			Lease: st.id, Step: fmt.Sprintf("%s-%d", st.id, i),
			Body: func(map[string]string) (json.RawMessage, error) { return bodyOf(st.id), nil },
		})
		return err
	})
	s.log.called(st.id)
	if err == nil {
		return true
	}
	if ctx.Err() == nil && !s.world.dead(name) && !transport(err) && !s.log.ordered(st.id, name) && !s.log.forgot(st.id) {
		switch {
		case errors.Is(err, pool.ErrLost):
			s.log.wrong(ruleFalseDeath, name, "a step of %s says that its machine died, but it lives: %v", st.id, err)
		case errors.Is(err, pool.ErrNotFound):
			s.log.wrong(ruleDurable, name, "a step of %s is refused, but %s lives: %v", st.id, name, err)
		}
	}
	return false
}

// sleep suspends and resumes a gitspace. It is the same machine afterwards,
// whatever happened meanwhile; false means that it could not be resumed now.
func (st *stage) sleep(ctx context.Context) bool {
	s := st.s
	err := st.call(ctx, 10*time.Minute, func(ctx context.Context, m *pool.Manager) error {
		return m.Suspend(ctx, pool.SuspendRequest{Lease: st.id, Body: bodyOf(st.id)})
	})
	if err != nil {
		return false // dead, or the time is over
	}
	_ = nap(ctx, s.d.span(5*time.Minute, "sleep", st.id))
	for try := 0; try < 20 && ctx.Err() == nil; try++ {
		if err := st.setUp(ctx); err == nil {
			return true
		}
		_ = nap(ctx, 10*time.Second)
	}
	return false
}

// destroy asks once, naming a machine if instance is set.
func (st *stage) destroy(ctx context.Context, instance string) error {
	return st.destroyWith(ctx, instance, drivers.Keep)
}

func (st *stage) destroyWith(ctx context.Context, instance string, disks drivers.DiskPolicy) error {
	return st.call(ctx, 15*time.Minute, func(ctx context.Context, m *pool.Manager) error {
		return m.Destroy(ctx, pool.DestroyRequest{Lease: st.id, Instance: instance, Disks: disks})
	})
}

// end asks for the end until it is granted.
func (st *stage) end(ctx context.Context) {
	s := st.s
	s.log.givenUp(st.id)
	disks := drivers.Keep
	if st.req.Want.Storage != "" && st.habit(.6, "deletes") {
		disks = drivers.Delete
		s.log.askedFor(st.req.Want.Storage)
	}
	err := st.destroyWith(ctx, "", disks)
	if err == nil && disks == drivers.Delete {
		st.deleted(st.req.Want.Storage)
	}
	if err != nil && st.req.Kind == pool.Build {
		s.log.wrong(ruleError, st.id, "destroy %s: %v", st.id, err)
	}
}

// choose is the pools a stage asks for.
func (s *sim) choose(id string) []string {
	var names []string
	for _, p := range s.plan.pools {
		names = append(names, p.name)
	}
	if len(names) > 1 {
		switch x := s.d.draw("choice", id); {
		case x < .3:
			slices.Reverse(names)
		case x < .6:
			names = names[:1]
		}
	}
	return names
}
