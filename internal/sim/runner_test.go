package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/testclock"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// replica is one host on which the runner is restarted whenever it ends.
type replica struct {
	s    *sim
	name string
	// power is taken while the runner is started: who has it keeps it off.
	power chan struct{}
	// clock is the host's own; off is by how much it differs from the others'.
	clock testclock.Clock
	off   time.Duration

	mu      sync.Mutex
	current *incarnation
	started int
	// up is since when this host has had a runner that runs.
	up time.Time
}

func newReplica(s *sim, name string) *replica {
	return &replica{s: s, name: name, power: make(chan struct{}, 1)}
}

// incarnation is one life of the runner, from start to crash.
type incarnation struct {
	p    *process
	m    *pool.Manager
	stop context.CancelFunc
	done chan struct{}
}

// fatal operations, at which a plan lets a process crash: before the commit or
// the cloud's effect, and after it, when nobody is told.
var fatal = []string{
	"Intend", "Accepted", "Proven", "Change", "Arrive", "Activate", "Requeue", "End", "Lose", "Sleep", "Waking", "Woken",
	"Postpone", "Unwait", "Configure", "Orphans", "Adopt", "Recount", "Controller",
	"cloud create", "cloud create", "cloud destroy", "cloud destroy", "cloud list", "cloud suspend", "cloud resume",
	"Instance", "LeaseAt", "Snapshot", "DueInstances", "Touch", "Note",
}

// begin starts a new incarnation on what the last one left.
func (r *replica) begin(ctx context.Context) *incarnation {
	s := r.s
	r.mu.Lock()
	r.started++
	n := r.started
	r.mu.Unlock()
	name := fmt.Sprintf("%s%d", r.name, n)
	p := newProcess(name, s.d, &r.clock)
	if s.plan.slowStore && !s.isQuiet() {
		p.slow = s.plan.slowShare
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	in := &incarnation{p: p, stop: stop, done: make(chan struct{})}
	p.blow, p.life = stop, life
	if left := s.plan.crashes - n + 1; left > 0 && !s.isQuiet() {
		op := fatal[s.d.below(len(fatal), name, "crash-op")]
		p.plan = crash{op: op, nth: 1 + s.d.below(12, name, "crash-nth"), after: s.d.chance(.5, name, "crash-after")}
		// If that call never comes, it ends all the same: by a kill, or by a signal.
		end := p.kill
		if s.d.chance(.4, name, "clean-stop") {
			end = stop
		}
		timer := time.AfterFunc(s.d.span(s.plan.load/2, name, "crash-time"), func() {
			if s.isQuiet() {
				return
			}
			s.log.tell(name, "", "", "%s is stopped", name)
			end()
		})
		context.AfterFunc(life, func() { timer.Stop() })
	}
	s.log.tell(name, "", "", "%s starts", name)
	m, err := pool.New(life, s.config(name, p))
	if err != nil {
		if !errors.Is(err, errCrashed) && life.Err() == nil {
			s.log.wrong(ruleError, "", "start: %v", err)
		}
		stop()
		close(in.done)
		return in // crashed while it started
	}
	in.m = m
	go func() {
		defer close(in.done)
		defer stop()
		if err := m.Run(life); err != nil && !errors.Is(err, errCrashed) {
			s.log.wrong(ruleError, "", "run: %v", err)
		}
	}()
	return in
}

// config is what an incarnation is made of.
func (s *sim) config(name string, p *process) pool.ManagerConfig {
	cfg := pool.ManagerConfig{
		Store: fused{s.store(), p, s.witness}, Agent: agents{s.world, p}, Solo: s.plan.replicas == 1,
		Log: s.logger.With("process", name), Incarnation: name, Timeouts: s.plan.times, Now: p.host.Now,
		Open: func(pc pool.PoolConfig) (pool.Opened, error) {
			pp := s.poolNamed(pc.Name)
			if pp == nil {
				return pool.Opened{}, fmt.Errorf("no pool %s was ever planned", pc.Name)
			}
			var d drivers.Driver = cloud{s.world, p, pp.scope}
			if pp.pausing {
				d = pausing{cloud{s.world, p, pp.scope}}
			}
			return pool.Opened{
				Client: drivers.NewClient(d, drivers.ClientOptions{Pool: pc.Name, Type: "sim", Now: p.host.Now}), Image: "img", Local: pp.local,
			}, nil
		},
	}
	if s.plan.restore == byHand && !s.bite.world.unwitnessed {
		cfg.Witness = &s.vault
	}
	for i := range s.plan.pools {
		pp := &s.plan.pools[i]
		if i > 0 && s.plan.leaves && !s.isQuiet() && s.d.chance(.5, name, "leaves") {
			continue
		}
		pc := pool.PoolConfig{
			Name: pp.name, Driver: "sim", Min: pp.min + s.bite.minOff, Max: pp.max + s.bite.limitOff, Wait: s.wait(),
			SpecJSON: json.RawMessage(`{}`), Image: "img",
		}
		pp.configure(&pc)
		if s.bite.config != nil {
			s.bite.config(&pc)
		}
		cfg.Pools = append(cfg.Pools, pc)
	}
	return cfg
}

// supervise keeps a runner running until ctx ends: after a crash a new one is
// started a little later, as a container's restart policy would.
func (r *replica) supervise(ctx context.Context) {
	for ctx.Err() == nil {
		r.power <- struct{}{}
		in := r.begin(ctx)
		r.mu.Lock()
		r.current, r.up = in, time.Now()
		n := r.started
		r.mu.Unlock()
		<-r.power
		select {
		case <-in.done:
			r.mu.Lock()
			r.up = time.Time{}
			r.mu.Unlock()
			r.s.log.tell(in.p.name, "", "", "%s has ended", in.p.name)
			_ = nap(ctx, time.Second+r.s.d.span(20*time.Second, r.name, "restart", n)) // an ended ctx ends the loop
		case <-ctx.Done():
			in.stop()
			<-in.done
		}
	}
}

// runner is the present incarnation's engine, or nil while it is restarted.
func (r *replica) runner() *incarnation {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil || r.current.m == nil {
		return nil
	}
	select {
	case <-r.current.done:
		return nil
	default:
		return r.current
	}
}

// since is since when this host has had a running runner, zero if it has none.
func (r *replica) since() time.Time {
	in := r.runner()
	r.mu.Lock()
	defer r.mu.Unlock()
	if in == nil || !in.p.running() {
		return time.Time{}
	}
	return r.up
}
