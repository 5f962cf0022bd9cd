package sim

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/testclock"
)

var errCrashed = errors.New("this process has crashed")

// process is what an incarnation of the runner cannot know of itself: when it
// crashes and when it stands still. Every store, cloud and agent call asks it.
type process struct {
	name string
	d    *dice
	host *testclock.Clock
	// life ends with the process, however it ends.
	life context.Context
	// slow is the share of store calls that take long.
	slow float64

	mu     sync.Mutex
	blown  bool
	died   time.Time
	plan   crash
	calls  map[string]int
	frozen time.Time // until when it stands still
	blow   func()
}

// crash is where a process ends: at the nth call of an operation, before the
// call has an effect or after it, when nobody is told. The zero crash is none.
type crash struct {
	op    string
	nth   int
	after bool
}

func newProcess(name string, d *dice, host *testclock.Clock) *process {
	return &process{name: name, d: d, host: host, calls: map[string]int{}, blow: func() {}}
}

// before is asked when a call begins, after when it has had its effect; an
// error from after means that nobody learns of the effect.
func (p *process) before(ctx context.Context, op string) error { return p.pass(ctx, op, false) }

func (p *process) after(ctx context.Context, op string) error { return p.pass(ctx, op, true) }

func (p *process) pass(ctx context.Context, op string, after bool) error {
	p.thaw()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.blown {
		return errCrashed
	}
	if !after {
		p.calls[op]++
	}
	if p.plan.op == op && p.plan.after == after && p.calls[op] >= p.plan.nth {
		p.end()
		return errCrashed
	}
	if after {
		return nil // what was done is answered, whoever waits for it
	}
	return ctx.Err()
}

// alive is asked by calls at which nothing crashes.
func (p *process) alive(ctx context.Context) error {
	p.thaw()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.blown {
		return errCrashed
	}
	return ctx.Err()
}

// thaw returns when the process runs. A process that was stopped does not
// notice that what it waited for has long been given up.
func (p *process) thaw() {
	for {
		p.mu.Lock()
		rest := time.Until(p.frozen)
		p.mu.Unlock()
		if rest <= 0 {
			return
		}
		_ = nap(context.Background(), rest) // never ends early
	}
}

// kill ends the process at this moment.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
}

func (p *process) end() {
	if !p.blown {
		p.blown, p.died = true, time.Now()
		p.blow()
	}
}

// freeze makes the process stand still for d, as SIGSTOP does: its calls hang,
// and go on with old beliefs.
func (p *process) freeze(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = time.Now().Add(d)
}

// running says whether the process lives and does not stand still.
func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.blown && !time.Now().Before(p.frozen)
}

// dawdle takes the time a slow store takes: mostly none, sometimes seconds,
// rarely most of a minute.
func (p *process) dawdle(ctx context.Context, op string) error {
	p.mu.Lock()
	slow := p.slow
	p.mu.Unlock()
	if slow == 0 {
		return nil
	}
	n := p.d.nth(p.name + op)
	switch x := p.d.draw("slow", p.name, op, n) / slow; {
	case x < .1:
		return nap(ctx, p.d.span(40*time.Second, "slow-time", p.name, op, n))
	case x < 1:
		return nap(ctx, p.d.span(2*time.Second, "slow-time", p.name, op, n))
	}
	return nil
}

// spare lets the process live on: its crash is called off and its store is quick.
func (p *process) spare() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plan = crash{}
	p.frozen = time.Time{}
	p.slow = 0
}
