// Package storetest is the contract of pool.Store made executable: every
// implementation passes Run, and Bench measures it. The tests see a store only
// through the interface, so that a new implementation is held to the same
// sentences, and each opens a store of its own.
package storetest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// Open opens an empty store that is closed when the test ends.
type Open func(t testing.TB) pool.Store

// Run runs the whole suite, each test on a store of its own.
func Run(t *testing.T, open Open) {
	t.Helper()
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"controller", controllerTests},
		{"pools", poolTests},
		{"holds", holdTests},
		{"gates", gateTests},
		{"flavours", flavourTests},
		{"spent", spentTests},
		{"arrive", arriveTests},
		{"hibernated", hibernatedTests},
		{"held", heldTests},
		{"position", positionTests},
		{"intend", intendTests},
		{"instances", instanceTests},
		{"transitions", transitionTests},
		{"leases", leaseTests},
		{"end", endTests},
		{"gitspaces", gitspaceTests},
		{"disks", diskTests},
		{"variables", variableTests},
		{"due", dueTests},
		{"lists", listTests},
		{"upkeep", upkeepTests},
		{"replicas", replicaTests},
		{"concurrency", concurrencyTests},
		{"random", randomTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			t.Parallel()
			for _, tt := range group.tests {
				t.Run(tt.name, func(t *testing.T) {
					t.Parallel()
					tt.run(&harness{T: t, Store: open(t), ctx: t.Context(), now: start})
				})
			}
		})
	}
}

// test is one sentence of the contract.
type test struct {
	name string
	run  func(h *harness)
}

// start is when every test begins. It has milliseconds that must survive.
var start = time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.UTC)

// harness is a store in a test, with the shortest way to each situation.
type harness struct {
	*testing.T
	pool.Store
	ctx context.Context
	now time.Time
	n   int
}

// tick moves the test's time on and returns it.
func (h *harness) tick() time.Time {
	h.now = h.now.Add(time.Second)
	return h.now
}

// no fails the test if err is not nil.
func (h *harness) no(err error) {
	h.Helper()
	if err != nil {
		h.Fatalf("unexpected error: %v", err)
	}
}

// is fails the test if err is not target.
func (h *harness) is(err, target error) {
	h.Helper()
	if !isErr(err, target) {
		h.Fatalf("error is %v, want %v", err, target)
	}
}

// equal fails the test if got differs from want.
func (h *harness) equal(what string, got, want any) {
	h.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		h.Fatalf("%s differs (-want +got):\n%s", what, diff)
	}
}

const shape = "default|default|image|small|0|false|false"

// pools configures pools of the given limit.
func (h *harness) pools(limit int, names ...string) {
	h.Helper()
	rows := make([]pool.PoolRow, len(names))
	for k, name := range names {
		rows[k] = pool.PoolRow{Name: name, Driver: "noop", Scope: "noop:" + name, Min: 1, Max: limit, SpecHash: "recipe-1"}
	}
	h.no(h.Configure(h.ctx, rows, h.now))
}

// spec is a machine of a pool; its id and name are new.
func (h *harness) spec(in string) pool.Instance {
	h.n++
	id := fmt.Sprintf("%s-i%04d", in, h.n)
	return pool.Instance{
		ID: id, Name: "vm-" + id, Pool: in, Driver: "noop", Scope: "noop:" + in, Kind: pool.Build,
		Variant: "default", Tenant: "default", Shape: shape, Recipe: "recipe-1",
		OS: "linux", Arch: "amd64", Image: "image", MachineType: "small", Zone: "zone-a", DiskGiB: 20,
		Identity: identity(id), StorageID: "", Created: h.tick(), Due: h.now.Add(time.Minute), Deadline: h.now.Add(24 * time.Hour),
	}
}

func identity(id string) drivers.Identity {
	return drivers.Identity{
		Machine: id, Hostname: "host-" + id, ServerName: "drone",
		CAKey: []byte("CA KEY of " + id), CACert: []byte("CA CERT of " + id),
		Key: []byte("TLS KEY of " + id), Cert: []byte("TLS CERT of " + id),
	}
}

// creating writes the intent of a refill, booting has it accepted, warm proven.
func (h *harness) creating(in string, edit ...func(*pool.Instance)) pool.Instance {
	h.Helper()
	spec := h.spec(in)
	for _, e := range edit {
		e(&spec)
	}
	i, err := h.Intend(h.ctx, pool.Intent{Instance: spec, Now: h.now})
	h.no(err)
	return i
}

func (h *harness) booting(in string, edit ...func(*pool.Instance)) pool.Instance {
	h.Helper()
	return h.accept(h.creating(in, edit...))
}

func (h *harness) accept(i pool.Instance) pool.Instance {
	h.Helper()
	i, err := h.Accepted(h.ctx, pool.Acceptance{
		ID: i.ID, CloudID: "cloud-" + i.ID, Zone: i.Zone, Address: "10.0.0.1", Port: 9079,
		Due: h.tick().Add(3 * time.Minute), Now: h.now,
	})
	h.no(err)
	return i
}

func (h *harness) warm(in string, edit ...func(*pool.Instance)) pool.Instance {
	h.Helper()
	i, l := h.prove(h.booting(in, edit...))
	if l != nil || i.State != pool.Warm {
		h.Fatalf("machine is %s of lease %v, want warm", i.State, l)
	}
	return i
}

func (h *harness) prove(i pool.Instance) (pool.Instance, *pool.Lease) {
	h.Helper()
	i, l, err := h.Proven(h.ctx, pool.Proof{
		ID: i.ID, AgentVersion: "1.2.3", Due: h.tick().Add(time.Hour), LeaseDue: h.now.Add(5 * time.Minute), Now: h.now,
	})
	h.no(err)
	return i, l
}

// arrival is a build's setup that would take any machine of the pools.
func (h *harness) arrival(id string, pools ...string) pool.Arrival {
	a := pool.Arrival{
		ID: id, Kind: pool.Build, Waiter: "run-1", Digest: "digest-" + id, NeedUntil: h.tick().Add(time.Hour),
		WaitUntil: h.now.Add(10 * time.Minute), Due: h.now.Add(12 * time.Minute), LeaseDue: h.now.Add(5 * time.Minute), Now: h.now,
	}
	for _, p := range pools {
		a.Choices = append(a.Choices, pool.Choice{Pool: p, Shape: shape})
	}
	return a
}

func (h *harness) arrive(a pool.Arrival) pool.Grant {
	h.Helper()
	g, err := h.Arrive(h.ctx, a)
	h.no(err)
	return g
}

// waiting arrives and must have to wait, claimed must get a warm machine.
func (h *harness) waiting(id string, pools ...string) pool.Lease {
	h.Helper()
	g := h.arrive(h.arrival(id, pools...))
	if g.Claimed || g.Instance != nil || g.Lease.State != pool.LeaseWaiting {
		h.Fatalf("lease %q is %s with %v, want it to wait", id, g.Lease.State, g.Instance)
	}
	return g.Lease
}

func (h *harness) claimed(id string, pools ...string) (pool.Lease, pool.Instance) {
	h.Helper()
	g := h.arrive(h.arrival(id, pools...))
	if !g.Claimed || g.Instance == nil || g.Lease.State != pool.LeaseStarting {
		h.Fatalf("lease %q is %s, claimed %v, want it to have a machine", id, g.Lease.State, g.Claimed)
	}
	return g.Lease, *g.Instance
}

// active has a warm machine made, claimed and activated.
func (h *harness) active(id, in string) (pool.Lease, pool.Instance) {
	h.Helper()
	h.warm(in)
	l, i := h.claimed(id, in)
	return h.activate(l), i
}

func (h *harness) activate(l pool.Lease) pool.Lease {
	h.Helper()
	l, err := h.Activate(h.ctx, l.Key(), h.tick().Add(24*time.Hour), h.now)
	h.no(err)
	return l
}

// gitspace has an active gitspace on a machine made for it.
func (h *harness) gitspace(id, in string) (pool.Lease, pool.Instance) {
	h.Helper()
	a := h.arrival(id, in)
	a.Kind, a.NoClaim = pool.Gitspace, true
	a.Want = pool.Want{Storage: "disk-1", Ports: []int{8080}, Labels: map[string]string{"a": "b"}}
	g := h.arrive(a)
	if g.Claimed {
		h.Fatal("a gitspace was given a warm machine")
	}
	i := h.cold(g.Lease, in, func(i *pool.Instance) { i.Kind, i.Deadline = pool.Gitspace, time.Time{} })
	i, l := h.prove(h.accept(i))
	if l == nil || i.State != pool.Leased {
		h.Fatalf("the machine of a gitspace is %s", i.State)
	}
	return h.activate(*l), i
}

// cold writes the intent of a machine for a lease.
func (h *harness) cold(l pool.Lease, in string, edit ...func(*pool.Instance)) pool.Instance {
	h.Helper()
	spec := h.spec(in)
	for _, e := range edit {
		e(&spec)
	}
	i, err := h.Intend(h.ctx, pool.Intent{Instance: spec, Lease: l.Key(), Now: h.now})
	h.no(err)
	return i
}

// change makes a transition that must be allowed.
func (h *harness) change(id string, from, to pool.InstanceState) pool.Instance {
	h.Helper()
	i, err := h.Change(h.ctx, pool.Change{
		ID: id, From: []pool.InstanceState{from}, To: to, Due: h.tick().Add(time.Minute), Now: h.now,
	})
	h.no(err)
	return i
}

// gone takes a machine from whatever state to its end.
func (h *harness) gone(id string) {
	h.Helper()
	if i := h.get(id); i.State != pool.Destroying {
		h.change(id, i.State, pool.Destroying)
	}
	h.change(id, pool.Destroying, pool.Gone)
}

func (h *harness) get(id string) pool.Instance {
	h.Helper()
	i, err := h.Instance(h.ctx, id)
	h.no(err)
	return i
}

func (h *harness) lease(id string) pool.Lease {
	h.Helper()
	l, err := h.Lease(h.ctx, id)
	h.no(err)
	return l
}

func (h *harness) counted(in string) int {
	h.Helper()
	rows, err := h.Pools(h.ctx)
	h.no(err)
	for _, r := range rows {
		if r.Name == in {
			return r.Counted
		}
	}
	h.Fatalf("no pool %s", in)
	return 0
}

// story is the reasons of the events of a query, in order.
func (h *harness) story(q pool.EventQuery) []string {
	h.Helper()
	events, err := h.Events(h.ctx, q)
	h.no(err)
	reasons := []string{}
	for _, e := range events {
		reasons = append(reasons, e.Reason)
	}
	return reasons
}

// sound checks what must hold at any moment between operations.
func (h *harness) sound() {
	h.Helper()
	drift, err := h.Recount(h.ctx)
	h.no(err)
	if len(drift) > 0 {
		h.Errorf("the counters have drifted: %+v", drift)
	}
	instances, err := h.Instances(h.ctx, pool.InstanceQuery{})
	h.no(err)
	leases, err := h.Leases(h.ctx, pool.LeaseQuery{})
	h.no(err)
	pools, err := h.Pools(h.ctx)
	h.no(err)
	live := map[string]int{}
	liveOf := map[[3]string]int{}
	byID := map[string]pool.Instance{}
	for _, i := range instances {
		byID[i.ID] = i
		if i.State.Costs() {
			live[i.Pool]++
			liveOf[[3]string{i.Pool, i.Tenant, i.Variant}]++
		}
	}
	for _, p := range pools {
		if live[p.Name] > p.Max {
			h.Errorf("pool %s has %d machines, its limit is %d", p.Name, live[p.Name], p.Max)
		}
		if live[p.Name] != p.Counted {
			h.Errorf("pool %s counts %d machines, it has %d", p.Name, p.Counted, live[p.Name])
		}
		for _, f := range p.Flavours {
			if n := liveOf[[3]string{p.Name, f.Tenant, f.Variant}]; n != f.Counted || f.Max >= 0 && n > f.Max {
				h.Errorf("variant %s of tenant %s in pool %s counts %d machines of %d, it has %d", f.Variant, f.Tenant, p.Name, f.Counted, f.Max, n)
			}
		}
	}
	holder := map[string]string{}
	open := map[string]string{}
	for _, l := range leases {
		if l.State.Final() {
			continue
		}
		key := fmt.Sprintf("%q/%d", l.ID, l.Generation)
		if other, twice := open[l.ID]; twice {
			h.Errorf("leases %s and %s are both open", other, key)
		}
		open[l.ID] = key
		if l.State == pool.LeaseWaiting {
			if l.InstanceID != "" {
				h.Errorf("waiting lease %s has machine %s", key, l.InstanceID)
			}
			h.nothingFits(l, instances)
			continue
		}
		if other, twice := holder[l.InstanceID]; twice {
			h.Errorf("machine %s is held by %s and %s", l.InstanceID, other, key)
		}
		holder[l.InstanceID] = key
		i, ok := byID[l.InstanceID]
		if !ok {
			h.Errorf("lease %s is %s on machine %q, which has no row", key, l.State, l.InstanceID)
			continue
		}
		if i.LeaseID != l.ID || i.LeaseGeneration != l.Generation {
			h.Errorf("lease %s is %s on machine %s, which belongs to %q/%d", key, l.State, i.ID, i.LeaseID, i.LeaseGeneration)
		}
	}
	for _, i := range instances {
		if (i.State == pool.Warm || i.State == pool.Hibernated) && i.LeaseID != "" {
			h.Errorf("%s machine %s belongs to lease %q", i.State, i.ID, i.LeaseID)
		}
		if i.State == pool.Leased && holder[i.ID] == "" {
			h.Errorf("leased machine %s has no open lease: it is of %q/%d, whose leases are %v", i.ID, i.LeaseID, i.LeaseGeneration, h.leasesOf(i.LeaseID))
		}
	}
}

// leasesOf tells the leases of an id, for a complaint.
func (h *harness) leasesOf(id string) (out []string) {
	h.Helper()
	all, err := h.Leases(h.ctx, pool.LeaseQuery{})
	h.no(err)
	for _, l := range all {
		if l.ID == id {
			out = append(out, fmt.Sprintf("%d: %s %s on %q since %s, %s", l.Generation, l.Kind, l.State, l.InstanceID, l.Claimed, l.Reason))
		}
	}
	return out
}

// nothingFits checks that no free machine fits a waiting lease of a builder's
// suite. Gitspaces here never take warm machines, and all builds need an hour
// from their arrival.
func (h *harness) nothingFits(l pool.Lease, instances []pool.Instance) {
	h.Helper()
	if l.Waiter == "" || l.Kind == pool.Gitspace {
		return
	}
	need := l.Arrived.Add(time.Hour)
	for _, c := range l.Choices {
		for _, i := range instances {
			if (i.State == pool.Warm || i.State == pool.Hibernated) && !i.Held && i.Pool == c.Pool && i.Shape == c.Shape && (c.Zone == "" || c.Zone == i.Zone) &&
				(i.Deadline.IsZero() || !i.Deadline.Before(need)) {
				h.Errorf("lease %q waits although machine %s is %s and fits", l.ID, i.ID, i.State)
			}
		}
	}
}
