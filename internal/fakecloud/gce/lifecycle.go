package gce

import (
	"net/http"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// later has something happen to an instance, unless something else happens to
// it first.
func (c *Cloud) later(i *instance, at time.Time, d time.Duration, do func(at time.Time)) {
	epoch := i.epoch
	c.after(at, d, func(at time.Time) {
		if i.epoch == epoch && !i.gone {
			do(at)
		}
	})
}

// drawFor takes a duration for an instance's next transition.
func (c *Cloud) drawFor(i *instance, r Range, what string) time.Duration {
	return c.draw(r, what, i.zone, i.name, decimal(int64(i.epoch)))
}

// enter gives an instance a new state, and voids what was to happen to it.
func (i *instance) enter(status string, op *operation) {
	i.epoch++
	i.status, i.message, i.op = status, "", op
}

// tell calls a hook once the lock is given back, with the instance as it is now.
func (c *Cloud) tell(hook func(Machine), i *instance) {
	if hook != nil {
		m := i.report()
		c.told = append(c.told, func() { hook(m) })
	}
}

// rise has an instance be provisioned, staged and run. Fail is what becomes of
// it when there is no room for it.
func (c *Cloud) rise(i *instance, op *operation, at time.Time, fail func(at time.Time)) {
	i.enter(provisioning, op)
	first, second := c.drawFor(i, c.o.Durations.Provisioning, "provision"), c.drawFor(i, c.o.Durations.Staging, "stage")
	op.due = at.Add(first)
	c.later(i, at, first, func(at time.Time) {
		if op.nothing {
			return
		}
		err := op.spoiled
		if err == nil {
			err = c.grant(i, at)
		}
		if err != nil {
			fail(at)
			c.end(op, at, err)
			return
		}
		i.status, op.due = staging, at.Add(second)
		c.later(i, at, second, func(at time.Time) {
			c.run(i, at)
			c.end(op, at, nil)
		})
	})
}

// run has an instance boot.
func (c *Cloud) run(i *instance, at time.Time) {
	i.boots++
	i.lastStart = at
	i.alive, i.preempted = true, false
	c.connect(i, at)
	c.tell(c.o.Boots, i)
}

// connect has an instance be reachable, after a boot or a resume, and counts
// down to its end.
func (c *Cloud) connect(i *instance, at time.Time) {
	i.enter(running, nil)
	internal, external := c.address(i)
	for n, e := range i.nics {
		if n == 0 && internal.IsValid() {
			delete(c.taken, e.internal)
			e.internal = internal
			c.taken[internal] = i
		}
		if e.outside {
			if e.external = c.outsideAddress(); n == 0 && external.IsValid() {
				e.external = external
			}
			c.taken[e.external] = i
		}
	}
	most := i.scheduling.most
	if i.scheduling.preemptible && !i.scheduling.spot && (most == 0 || most > legacyPreemptible) {
		most = legacyPreemptible
	}
	if i.ends = (time.Time{}); most > 0 {
		i.ends = at.Add(most)
		c.later(i, at, most, func(at time.Time) { c.expire(i, at) })
	}
}

// legacyPreemptible is how long a preemptible machine of the old kind lives.
const legacyPreemptible = 24 * time.Hour

// expire ends an instance whose time is up.
func (c *Cloud) expire(i *instance, at time.Time) {
	if i.scheduling.action == "DELETE" {
		c.system(at, "compute.instances.scheduledDelete", i)
		c.delete(i, nil, at)
		return
	}
	c.system(at, "compute.instances.scheduledStop", i)
	c.stop(i, nil, at)
}

// off has an instance be switched off, also one that sleeps.
func (c *Cloud) off(i *instance) {
	c.release(i)
	if i.alive {
		i.alive = false
		c.tell(c.o.Halts, i)
	}
}

// release gives back what an instance holds only while it runs, among it its
// outside address.
func (c *Cloud) release(i *instance) {
	i.granted, i.ends = false, time.Time{}
	for _, n := range i.nics {
		if n.external.IsValid() {
			delete(c.taken, n.external)
			n.external = netipNone
		}
	}
	if i.reservation != nil {
		i.reservation.used--
		i.reservation = nil
	}
}

// stop has a running instance be terminated.
func (c *Cloud) stop(i *instance, op *operation, at time.Time) {
	c.stopWithin(i, op, at, c.drawFor(i, c.o.Durations.Stopping, "stop"))
}

func (c *Cloud) stopWithin(i *instance, op *operation, at time.Time, d time.Duration) {
	i.enter(stopping, op)
	if op != nil {
		if op.due = at.Add(d); op.nothing {
			return
		}
	}
	c.later(i, at, d, func(at time.Time) {
		i.enter(terminated, nil)
		i.lastStop = at
		c.off(i)
		c.end(op, at, nil)
	})
}

// delete has an instance be stopped and be no more.
func (c *Cloud) delete(i *instance, op *operation, at time.Time) {
	// What was under way is not going to be.
	c.end(i.op, at, &Error{Status: http.StatusConflict, Reason: "operationCanceledByUser", Message: "Operation was canceled by the deletion of the resource."})
	var first time.Duration
	if i.status != terminated && i.status != suspended {
		first = c.drawFor(i, c.o.Durations.Stopping, "stop")
	}
	second := c.drawFor(i, c.o.Durations.Deleting, "delete")
	i.enter(stopping, op)
	if op != nil {
		if op.due = at.Add(first + second); op.nothing {
			return
		}
	}
	c.later(i, at, first, func(at time.Time) {
		c.off(i)
		c.later(i, at, second, func(at time.Time) {
			c.remove(i, at)
			c.end(op, at, nil)
		})
	})
}

// remove has an instance be no more, and its disks, as far as they go with it.
func (c *Cloud) remove(i *instance, at time.Time) {
	c.off(i)
	i.gone = true
	delete(c.instances, i.key())
	for _, n := range i.nics {
		delete(c.taken, n.internal)
	}
	for _, a := range i.disks {
		if a.local {
			continue
		}
		a.disk.user, a.disk.detached = nil, at
		if a.autoDelete {
			c.removeDisk(a.disk, at)
		}
	}
	c.Books.End("instance", number(i.id), at)
	c.tell(c.o.Gone, i)
}

// suspend has a running instance sleep. A sleep that lasts too long ends in
// TERMINATED.
func (c *Cloud) suspend(i *instance, op *operation, at time.Time) {
	i.enter(suspending, op)
	d := c.drawFor(i, c.o.Durations.Suspending, "suspend")
	if op.due = at.Add(d); op.nothing {
		return
	}
	c.later(i, at, d, func(at time.Time) {
		i.enter(suspended, nil)
		c.release(i)
		c.tell(c.o.Halts, i)
		i.lastSuspend = at
		c.sleep(i, at)
		c.end(op, at, nil)
	})
}

// sleep counts down to the end of a suspension.
func (c *Cloud) sleep(i *instance, at time.Time) {
	left := i.lastSuspend.Add(c.o.Durations.Suspended).Sub(at)
	c.later(i, at, left, func(at time.Time) {
		i.enter(terminated, nil)
		i.message = "Instance was suspended for too long."
		i.lastStop = at
		c.off(i)
		c.system(at, "compute.instances.terminateSuspended", i)
	})
}

// resume wakes a suspended instance, if there is room.
func (c *Cloud) resume(i *instance, op *operation, at time.Time) {
	i.enter(provisioning, op)
	d := c.drawFor(i, c.o.Durations.Resuming, "resume")
	if op.due = at.Add(d); op.nothing {
		return
	}
	c.later(i, at, d, func(at time.Time) {
		if err := c.grant(i, at); err != nil {
			i.enter(suspended, nil)
			c.sleep(i, at)
			c.end(op, at, err)
			return
		}
		i.lastStart = at
		c.connect(i, at)
		c.tell(c.o.Wakes, i)
		c.end(op, at, nil)
	})
}

// lifecycle is a call that brings an instance from one state to another. Change
// says what becomes of it in its present state: an error that refuses the call,
// or one that the operation ends with, or what to do.
func (c *Cloud) lifecycle(r *request, call fakecloud.Call, now time.Time, kind string,
	change func(i *instance) (do func(op *operation), failed *Error, refused error),
) (object, error) {
	return c.once(r, func() (*operation, error) {
		i, err := c.instance(r, now)
		if err != nil {
			return nil, err
		}
		do, failed, refused := change(i)
		if refused != nil {
			return nil, refused
		}
		op := c.spoil(c.begin(now, kind, i.project, "zones/"+i.zone, i.path(), number(i.id)), call)
		if op.spoiled == nil {
			op.spoiled = failed
		}
		if op.spoiled != nil || do == nil {
			c.change(op, now, c.drawFor(i, c.o.Durations.Other, kind), nil, func(time.Time) {})
			return op, nil
		}
		do(op)
		return op, nil
	})
}

func (c *Cloud) startInstance(r *request, call fakecloud.Call, now time.Time) (object, error) {
	return c.lifecycle(r, call, now, "start", func(i *instance) (func(*operation), *Error, error) {
		switch i.status {
		case running:
			return nil, nil, nil // it is so already
		case suspended:
			return nil, unsupported("Instance '%s' is suspended: it can be resumed, not started.", i.name), nil
		case terminated:
			return func(op *operation) {
				c.rise(i, op, now, func(time.Time) { i.enter(terminated, nil) })
			}, nil, nil
		}
		return nil, nil, notReady(i.path())
	})
}

func (c *Cloud) stopInstance(r *request, call fakecloud.Call, now time.Time) (object, error) {
	if r.has("discardLocalSsd") || r.has("noGracefulShutdown") {
		return nil, notModelled("the parameters of stop")
	}
	return c.lifecycle(r, call, now, "stop", func(i *instance) (func(*operation), *Error, error) {
		switch i.status {
		case terminated:
			return nil, nil, nil
		case running, suspended:
			return func(op *operation) { c.stop(i, op, now) }, nil, nil
		}
		return nil, nil, notReady(i.path())
	})
}

func (c *Cloud) resetInstance(r *request, call fakecloud.Call, now time.Time) (object, error) {
	return c.lifecycle(r, call, now, "reset", func(i *instance) (func(*operation), *Error, error) {
		if i.status != running {
			return nil, nil, notReady(i.path())
		}
		return func(op *operation) {
			c.change(op, now, c.drawFor(i, c.o.Durations.Other, "reset"), nil, func(at time.Time) {
				if i.status == running {
					i.boots++
					c.tell(c.o.Boots, i)
				}
			})
		}, nil, nil
	})
}

// largestSuspended is the most memory of a machine that can be suspended.
const largestSuspended = 208 << 10 // MB

func (c *Cloud) suspendInstance(r *request, call fakecloud.Call, now time.Time) (object, error) {
	return c.lifecycle(r, call, now, "suspend", func(i *instance) (func(*operation), *Error, error) {
		local := false
		for _, a := range i.disks {
			local = local || a.local
		}
		switch {
		case i.status == provisioning || i.status == staging || i.status == repairing:
			return nil, nil, notReady(i.path())
		case i.status != running:
			return nil, unsupported("Instance '%s' is %s: only a running instance can be suspended.", i.name, i.status), nil
		case local && !r.has("discardLocalSsd"):
			return nil, unsupported("Instance '%s' has local SSDs: discardLocalSsd must be given.", i.name), nil
		case len(i.accelerators) > 0 || i.machine.GPU || !i.machine.Suspends:
			return nil, unsupported("Instance '%s' cannot be suspended: its machine type %s or its accelerators do not allow it.", i.name, i.machine.Name), nil
		case i.machine.MemoryMB > largestSuspended:
			return nil, unsupported("Instance '%s' cannot be suspended: it has more than 208 GB of memory.", i.name), nil
		}
		return func(op *operation) { c.suspend(i, op, now) }, nil, nil
	})
}

func (c *Cloud) resumeInstance(r *request, call fakecloud.Call, now time.Time) (object, error) {
	return c.lifecycle(r, call, now, "resume", func(i *instance) (func(*operation), *Error, error) {
		switch i.status {
		case suspended:
			return func(op *operation) { c.resume(i, op, now) }, nil, nil
		case running, terminated:
			return nil, unsupported("Instance '%s' is %s: only a suspended instance can be resumed.", i.name, i.status), nil
		}
		return nil, nil, notReady(i.path())
	})
}

func (c *Cloud) deleteInstance(r *request, call fakecloud.Call, now time.Time) (object, error) {
	if r.has("noGracefulShutdown") {
		return nil, notModelled("noGracefulShutdown")
	}
	return c.lifecycle(r, call, now, "delete", func(i *instance) (func(*operation), *Error, error) {
		if i.protected {
			return nil, nil, invalid("resource.deletionProtection", true, "Resource cannot be deleted if it's protected against deletion.")
		}
		if i.status == stopping && i.op != nil && i.op.kind == "delete" {
			// Operations on one resource follow each other: when this one's turn comes
			// there is nothing left.
			first := i.op
			return func(op *operation) {
				c.change(op, now, max(first.due.Sub(now), 0)+time.Millisecond, func() *Error {
					if i.gone {
						return notFound(i.path())
					}
					return nil
				}, func(time.Time) {})
			}, nil, nil
		}
		return func(op *operation) { c.delete(i, op, now) }, nil, nil
	})
}
