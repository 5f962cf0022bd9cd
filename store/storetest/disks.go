package storetest

import (
	"errors"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// space begins a gitspace's machine in pool in with the given disks.
func (h *harness) space(id, in string, names ...string) (pool.Lease, pool.Instance, error) {
	h.Helper()
	a := h.arrival(id, in)
	a.Kind, a.NoClaim = pool.Gitspace, true
	g := h.arrive(a)
	spec := h.spec(in)
	spec.Kind, spec.Deadline, spec.StorageID, spec.Zone = pool.Gitspace, time.Time{}, "disks", ""
	in2 := pool.Intent{Instance: spec, Lease: g.Lease.Key(), Now: h.now}
	for _, n := range names {
		in2.Disks = append(in2.Disks, pool.Disk{Name: n, SizeGiB: 10, Type: "fast"})
	}
	i, err := h.Intend(h.ctx, in2)
	return g.Lease, i, err
}

// disk is the one row of a name.
func (h *harness) disk(name string) pool.Disk {
	h.Helper()
	rows, err := h.Disks(h.ctx, pool.DiskQuery{Name: name})
	h.no(err)
	if len(rows) != 1 {
		h.Fatalf("%d rows of disk %s: %+v", len(rows), name, rows)
	}
	return rows[0]
}

var diskTests = []test{
	{"disks are written with the intent, placed when the machine is, and outlive it", func(h *harness) {
		h.pools(9, "a")
		_, i, err := h.space("space-1", "a", "home", "cache")
		h.no(err)
		want := pool.Disk{
			Scope: "noop:a", Name: "home", Pool: "a", LeaseID: "space-1", Instance: i.ID, SizeGiB: 10, Type: "fast", Created: i.Since,
		}
		h.equal("row", h.disk("home"), want)
		_, err = h.Accepted(h.ctx, pool.Acceptance{ID: i.ID, Zone: "zone-b", Now: h.tick()})
		h.no(err)
		want.Zone = "zone-b"
		h.equal("row of an accepted machine", h.disk("home"), want)
		h.equal("the other's zone", h.disk("cache").Zone, "zone-b")
		h.end("space-1")
		h.equal("row of a machine on its way out", h.disk("home").Instance, i.ID)
		h.gone(i.ID)
		want.Instance = ""
		h.equal("row of a machine that is gone", h.disk("home"), want)
		h.sound()
	}},
	{"a disk is found again by name and has one live machine at most", func(h *harness) {
		h.pools(9, "a")
		_, i, err := h.space("space-1", "a", "home")
		h.no(err)
		_, err = h.Accepted(h.ctx, pool.Acceptance{ID: i.ID, Zone: "zone-b", Now: h.tick()})
		h.no(err)
		l, _, err := h.space("space-2", "a", "other", "home")
		h.is(err, pool.ErrDisk)
		var used *pool.DiskError
		if !errors.As(err, &used) || used.Lease != "space-1" || used.Instance != i.Name || used.Disk != "home" {
			h.Fatalf("refused with %v", err)
		}
		rows, err := h.Disks(h.ctx, pool.DiskQuery{})
		h.no(err)
		if len(rows) != 1 || h.lease(l.ID).State != pool.LeaseWaiting {
			h.Fatalf("a refused intent has left %+v", rows)
		}
		h.end("space-1")
		_, _, err = h.space("space-3", "a", "home")
		h.is(err, pool.ErrDisk) // its machine is not gone
		h.gone(i.ID)
		_, next, err := h.space("space-4", "a", "home")
		h.no(err)
		got := h.disk("home")
		if got.Instance != next.ID || got.LeaseID != "space-4" || got.Zone != "zone-b" || !got.Created.Equal(i.Since) {
			h.Fatalf("found again: %+v", got)
		}
		h.sound()
	}},
	{"a machine destroyed with its disks leaves them doomed, and a doomed disk is nobody's", func(h *harness) {
		h.pools(9, "a")
		_, i, err := h.space("space-1", "a", "home")
		h.no(err)
		_, err = h.End(h.ctx, pool.Ending{Lease: pool.LeaseKey{ID: "space-1"}, Disks: drivers.Delete, Now: h.tick()})
		h.no(err)
		none, err := h.Disks(h.ctx, pool.DiskQuery{Doomed: true})
		h.no(err)
		h.equal("doomed before the machine is gone", len(none), 0)
		h.no(h.DropDisk(h.ctx, h.disk("home")))
		h.disk("home") // attached: left alone
		h.gone(i.ID)
		doomed, err := h.Disks(h.ctx, pool.DiskQuery{Scope: "noop:a", Doomed: true})
		h.no(err)
		if len(doomed) != 1 || doomed[0].Name != "home" || doomed[0].Doomed.IsZero() {
			h.Fatalf("doomed: %+v", doomed)
		}
		_, _, err = h.space("space-2", "a", "home")
		h.is(err, pool.ErrDisk)
		h.no(h.DropDisk(h.ctx, doomed[0]))
		h.no(h.DropDisk(h.ctx, doomed[0]))
		all, err := h.Disks(h.ctx, pool.DiskQuery{})
		h.no(err)
		h.equal("rows", len(all), 0)
	}},
	{"a later wish dooms the detached disks of a lease, never those in use", func(h *harness) {
		h.pools(9, "a")
		_, i, err := h.space("space-1", "a", "home", "cache")
		h.no(err)
		none, err := h.DoomDisks(h.ctx, pool.Doom{Lease: "space-1", Now: h.tick()})
		h.no(err)
		h.equal("doomed in use", len(none), 0)
		h.end("space-1")
		h.gone(i.ID)
		none, err = h.DoomDisks(h.ctx, pool.Doom{Lease: "space-2", Scope: "noop:a", Names: []string{"home", "never"}, Now: h.tick()})
		h.no(err)
		h.equal("doomed by a stranger", len(none), 0)
		first, err := h.DoomDisks(h.ctx, pool.Doom{Lease: "space-1", Scope: "noop:a", Names: []string{"home"}, Now: h.tick()})
		h.no(err)
		both, err := h.DoomDisks(h.ctx, pool.Doom{Lease: "space-1", Now: h.tick()})
		h.no(err)
		if len(first) != 1 || first[0].Name != "home" || len(both) != 2 {
			h.Fatalf("doomed %+v, then %+v", first, both)
		}
		h.equal("when it was doomed", h.disk("home"), first[0])
	}},
	{"a wish dooms what a machine on its way out has, and its end keeps to it", func(h *harness) {
		h.pools(9, "a")
		l, i, err := h.space("space-1", "a", "home")
		h.no(err)
		_, err = h.requeue(l, false, pool.Choice{Pool: "a"})
		h.no(err)
		h.end("space-1")
		doomed, err := h.DoomDisks(h.ctx, pool.Doom{Lease: "space-1", Now: h.tick()})
		h.no(err)
		if len(doomed) != 1 || doomed[0].Instance != i.ID || !doomed[0].Doomed.Equal(h.now) {
			h.Fatalf("doomed: %+v", doomed)
		}
		at := h.now
		none, err := h.Disks(h.ctx, pool.DiskQuery{Doomed: true})
		h.no(err)
		h.equal("to be deleted before the machine is gone", len(none), 0)
		h.gone(i.ID)
		if d := h.disk("home"); d.Instance != "" || !d.Doomed.Equal(at) {
			h.Fatalf("after its machine: %+v", d)
		}
	}},
	{"a disk is used from when its machine is proven, or from a listing on", func(h *harness) {
		h.pools(9, "a")
		_, i, err := h.space("space-1", "a", "home")
		h.no(err)
		_, err = h.Accepted(h.ctx, pool.Acceptance{ID: i.ID, Zone: "zone-b", Now: h.tick()})
		h.no(err)
		h.equal("accepted", h.disk("home").Used.IsZero(), true)
		h.prove(i)
		at := h.now
		h.equal("proven", h.disk("home").Used.Equal(at), true)
		h.end("space-1")
		h.gone(i.ID)
		_, i, err = h.space("space-1", "a", "home")
		h.no(err)
		h.prove(h.accept(i))
		h.equal("proven again", h.disk("home").Used.Equal(at), true)
	}},
	{"what listings say of disks is learned, and takes nothing from anybody", func(h *harness) {
		h.pools(9, "a")
		learned := pool.Disk{Scope: "noop:a", Name: "home", Zone: "zone-c", Pool: "a", LeaseID: "space-1", SizeGiB: 7, Created: h.tick(), Seen: h.now}
		h.no(h.SaveDisk(h.ctx, learned))
		learned.Used = h.now // nobody here knows what is on it
		h.equal("learned", h.disk("home"), learned)
		_, i, err := h.space("space-1", "a", "home", "cache")
		h.no(err)
		learned.Zone, learned.Name, learned.SizeGiB, learned.Seen = "zone-c", "cache", 8, h.tick()
		h.no(h.SaveDisk(h.ctx, learned))
		got := h.disk("cache")
		if got.Instance != i.ID || got.Zone != "zone-c" || got.SizeGiB != 8 || got.Type != "fast" {
			h.Fatalf("seen: %+v", got)
		}
	}},
	{"a machine without a row is taken over once, asleep, with its disks", func(h *harness) {
		h.pools(9, "a")
		spec := h.spec("a")
		spec.Deadline, spec.StorageID, spec.Address, spec.Port = time.Time{}, "home", "10.1.1.1", 9079
		r := pool.Readmission{
			Instance: spec, Lease: "space-1", Want: pool.Want{Storage: "home"}, Choices: []pool.Choice{{Pool: "a", Shape: shape}},
			Disks: []pool.Disk{{Name: "home", Zone: "zone-a", SizeGiB: 9, Controller: "lost"}}, Due: h.now, Now: h.now,
		}
		l, i, err := h.Readmit(h.ctx, r)
		h.no(err)
		if l.State != pool.LeaseSuspended || i.State != pool.Suspended || l.InstanceID != i.ID || l.Active.IsZero() || i.LeaseID != l.ID {
			h.Fatalf("lease %+v, machine %+v", l, i)
		}
		h.equal("lease read back", h.lease("space-1"), l)
		h.equal("machine read back", h.get(i.ID), i)
		h.equal("identity", i.Identity, spec.Identity)
		if d := h.disk("home"); d.Instance != i.ID || d.Controller != "lost" || d.LeaseID != "space-1" {
			h.Fatalf("disk %+v", d)
		}
		_, _, err = h.Readmit(h.ctx, r)
		h.is(err, pool.ErrConflict)
		_, m, err := h.Waking(h.ctx, l.Key(), "run-1", h.now, h.tick())
		h.no(err)
		h.equal("woken", m.State, pool.Resuming)
		h.sound()
	}},
	{"an init script is kept with the identity and goes with it", func(h *harness) {
		h.pools(9, "a")
		i := h.creating("a", func(i *pool.Instance) { i.InitScript = "#!/bin/sh\necho hello\n" })
		h.equal("script", h.get(i.ID).InitScript, "#!/bin/sh\necho hello\n")
		h.gone(i.ID)
		h.equal("script of a machine that is gone", h.get(i.ID).InitScript, "")
	}},
	{"a proxy is kept with the identity, also when that is renewed, and goes with it", func(h *harness) {
		h.pools(9, "a")
		const proxy = "http://proxy.example.com:3128"
		i := h.warm("a", func(i *pool.Instance) { i.Proxy, i.ProxyCA = proxy, true })
		h.equal("proxy", h.get(i.ID).Proxy, proxy)
		h.equal("its authority", h.get(i.ID).ProxyCA, true)
		next := identity("next")
		_, err := h.Renewing(h.ctx, pool.Renewal{ID: i.ID, From: i.Identity.Cert, Next: next, Now: h.tick()})
		h.no(err)
		h.equal("proxy while it is renewed", h.get(i.ID).Proxy, proxy)
		_, err = h.Renewed(h.ctx, pool.Renewal{ID: i.ID, Next: next, Now: h.tick()})
		h.no(err)
		h.equal("proxy after it", h.get(i.ID).Proxy, proxy)
		h.equal("its authority after it", h.get(i.ID).ProxyCA, true)
		h.gone(i.ID)
		h.equal("proxy of a machine that is gone", h.get(i.ID).Proxy, "")
	}},
}
