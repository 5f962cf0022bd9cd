package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// Bench measures a store: claims answered durably, whole lives of machines,
// each operation by itself, a given rate of claims, and what the size of a pool
// and of the past cost. Beside the time it tells what an operation costs of the
// processors (cpu-us/op), which says more where several share them.
func Bench(b *testing.B, open Open) {
	for _, claimers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("claim/claimers=%d", claimers), func(b *testing.B) { benchClaim(b, open(b), claimers) })
	}
	for _, claimers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("cycle/claimers=%d", claimers), func(b *testing.B) { benchCycle(b, open(b), claimers) })
	}
	for _, o := range benchOps {
		b.Run("op/"+o.name, func(b *testing.B) { benchOp(b, open(b), o) })
	}
	for _, rate := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("open/rate=%d", rate), func(b *testing.B) { benchOpenLoop(b, open(b), rate) })
	}
	for _, size := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("size/warm=%d/old=0", size), func(b *testing.B) { benchSize(b, open(b), size, 0) })
	}
	b.Run("size/warm=1000/old=100000", func(b *testing.B) { benchSize(b, open(b), 1000, 100_000) })
}

// rig makes machines and leases as fast as a store takes them.
type rig struct {
	pool.Store
	b   *testing.B
	ctx context.Context
	n   atomic.Int64
}

func newRig(b *testing.B, s pool.Store, limit int) *rig {
	r := &rig{Store: s, b: b, ctx: b.Context()}
	r.no(s.Configure(r.ctx, []pool.PoolRow{{Name: "a", Driver: "noop", Max: limit, SpecHash: "recipe-1"}}, start))
	return r
}

// no ends the benchmark. Unlike Fatal it may be called from any goroutine.
func (r *rig) no(err error) {
	if err != nil {
		r.b.Error(err)
		panic(err)
	}
}

// key and certificate sizes of the machines' real identities.
var benchPEM = [2][]byte{make([]byte, 240), make([]byte, 750)}

// warm takes one machine from its intent to warm and returns its id.
func (r *rig) warm() string {
	id := r.intend()
	r.accept(id)
	r.prove(id)
	return id
}

func (r *rig) intend() string {
	id := fmt.Sprintf("i%08d", r.n.Add(1))
	identity := identity(id)
	identity.CAKey, identity.Key, identity.CACert, identity.Cert = benchPEM[0], benchPEM[0], benchPEM[1], benchPEM[1]
	_, err := r.Intend(r.ctx, pool.Intent{Instance: pool.Instance{
		ID: id, Name: "vm-" + id, Pool: "a", Driver: "noop", Scope: "noop", Variant: "default", Tenant: "default", Shape: shape,
		Recipe: "recipe-1", OS: "linux", Arch: "amd64", Image: "image", MachineType: "small", Identity: identity,
		Created: start, Due: start.Add(time.Minute), Deadline: start.Add(100 * time.Hour),
	}, Now: start})
	r.no(err)
	return id
}

func (r *rig) accept(id string) {
	_, err := r.Accepted(r.ctx, pool.Acceptance{ID: id, CloudID: "cloud-" + id, Address: "10.0.0.1", Port: 9079, Due: start, Now: start})
	r.no(err)
}

func (r *rig) prove(id string) {
	_, _, err := r.Proven(r.ctx, pool.Proof{ID: id, AgentVersion: "1", Due: start.Add(time.Hour), LeaseDue: start.Add(time.Minute), Now: start})
	r.no(err)
}

// warmAll makes n machines, many at a time so that they share commits.
func (r *rig) warmAll(n int) {
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for k := w; k < n; k += 64 {
				r.warm()
			}
		})
	}
	wg.Wait()
}

func (r *rig) arrive() pool.Grant {
	id := fmt.Sprintf("lease-%08d", r.n.Add(1))
	g, err := r.Arrive(r.ctx, pool.Arrival{
		ID: id, Kind: pool.Build, Choices: []pool.Choice{{Pool: "a", Shape: shape}}, Waiter: "run-1", Digest: "0123456789abcdef",
		NeedUntil: start.Add(time.Hour), WaitUntil: start.Add(time.Minute), Due: start.Add(time.Minute), LeaseDue: start.Add(time.Minute), Now: start,
	})
	r.no(err)
	return g
}

func (r *rig) activate(g pool.Grant) {
	_, err := r.Activate(r.ctx, g.Lease.Key(), start.Add(time.Hour), start)
	r.no(err)
}

func (r *rig) end(g pool.Grant) {
	e, err := r.End(r.ctx, pool.Ending{Lease: g.Lease.Key(), Reason: "destroyed", Now: start})
	r.no(err)
	if e.Instance != nil {
		r.gone(e.Instance.ID)
	}
}

func (r *rig) gone(id string) {
	_, err := r.Change(r.ctx, pool.Change{ID: id, From: []pool.InstanceState{pool.Destroying}, To: pool.Gone, Now: start})
	r.no(err)
}

// share divides b.N calls among goroutines and measures each. unit is what is
// counted per second.
func (r *rig) share(goroutines int, unit string, do func(k int)) {
	var next atomic.Int64
	took := make([][]time.Duration, goroutines)
	var wg sync.WaitGroup
	r.b.ResetTimer()
	used := cpuTime()
	for w := range goroutines {
		wg.Go(func() {
			for {
				k := int(next.Add(1)) - 1
				if k >= r.b.N {
					return
				}
				begun := time.Now()
				do(k)
				took[w] = append(took[w], time.Since(begun))
			}
		})
	}
	wg.Wait()
	used = cpuTime() - used
	r.b.StopTimer()
	r.report(slices.Concat(took...), used, unit)
}

func (r *rig) report(took []time.Duration, used time.Duration, unit string) {
	slices.Sort(took)
	if len(took) == 0 {
		return
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	r.b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
	r.b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
	if s := r.b.Elapsed().Seconds(); s > 0 {
		r.b.ReportMetric(float64(len(took))/s, unit+"/s")
	}
	if used > 0 {
		r.b.ReportMetric(float64(used.Microseconds())/float64(len(took)), "cpu-us/op")
	}
}

// benchClaim is Arrive alone, with a warm machine for each: the part of a setup
// that a caller waits for.
func benchClaim(b *testing.B, s pool.Store, claimers int) {
	r := newRig(b, s, 1<<30)
	r.warmAll(b.N)
	r.share(claimers, "claims", func(int) {
		if !r.arrive().Claimed {
			r.no(fmt.Errorf("no warm machine left"))
		}
	})
}

// benchCycle is everything one stage costs the store: arrive, activate, end,
// gone, and the machine that takes the place of the used one.
func benchCycle(b *testing.B, s pool.Store, claimers int) {
	r := newRig(b, s, 1<<30)
	r.warmAll(2 * claimers)
	r.share(claimers, "cycles", func(int) {
		g := r.arrive()
		if g.Claimed {
			r.activate(g)
		}
		r.end(g)
		r.warm()
	})
}

// benchOpenLoop lets claims come at their own time, whether the ones before are
// answered or not. A claim's time counts from when it was due to come. A second
// of it goes before what is measured: by then every connection is open and knows
// its statements, as those of a server that has been up for a minute do.
func benchOpenLoop(b *testing.B, s pool.Store, rate int) {
	n := max(b.N, rate*2)
	r := newRig(b, s, 1<<30)
	r.warmAll(n + rate)
	r.openLoop(rate, rate)
	b.ResetTimer()
	used := cpuTime()
	took := r.openLoop(n, rate)
	used = cpuTime() - used
	b.StopTimer()
	r.report(took, used, "claims")
}

// openLoop lets n claims come, rate in a second, and says how long each took.
func (r *rig) openLoop(n, rate int) []time.Duration {
	took := make([]time.Duration, n)
	begun := make(chan int, n)
	var wg sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	zero := time.Now()
	at := func(k int) time.Time { return zero.Add(time.Duration(k) * time.Second / time.Duration(rate)) }
	for range 64 {
		wg.Go(func() {
			for k := range begun {
				r.arrive()
				took[k] = time.Since(at(k))
			}
		})
	}
	for k := range n {
		if d := time.Until(at(k)); d > 0 {
			timer.Reset(d)
			<-timer.C
		}
		begun <- k
	}
	close(begun)
	wg.Wait()
	return took
}

// benchSize is a claim, its end and nothing else from a pool of a given size,
// beside a given number of rows of the past.
func benchSize(b *testing.B, s pool.Store, warm, old int) {
	r := newRig(b, s, 1<<30)
	if old > 0 {
		r.past(old)
	}
	r.warmAll(warm)
	b.ResetTimer()
	b.StopTimer()
	took := make([]time.Duration, 0, b.N)
	var total, used time.Duration
	for range b.N {
		before, begun := cpuTime(), time.Now()
		g := r.arrive()
		used += cpuTime() - before
		took = append(took, time.Since(begun))
		total += took[len(took)-1]
		r.end(g)
		r.warm()
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "claim-us")
	r.report(took, used, "claims")
}

// past makes leases and machines that have ended.
func (r *rig) past(n int) {
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for k := w; k < n; k += 64 {
				r.warm()
				r.end(r.arrive())
			}
		})
	}
	wg.Wait()
}
