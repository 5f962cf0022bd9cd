package ec2

import (
	"fmt"
	"slices"
	"time"
)

// trouble is what was ordered for later.
type trouble struct {
	launches     int // that end instead of running
	launchCause  cause
	hibernations int // that become shutdowns
	taggings     int // that fail, and what was made with them
}

// Machine is a machine as hooks see it, and its state's name; false if there is
// none, or not any more.
func (c *Cloud) Machine(id string) (m Machine, state string, ok bool) {
	c.lock()
	defer c.unlock()
	i := c.instances.byID[id]
	if i == nil {
		return Machine{}, "", false
	}
	return c.machine(i, false), i.state.name, true
}

// on does something to a machine that exists.
func (c *Cloud) on(id string, do func(*instance)) error {
	c.lock()
	defer c.unlock()
	i := c.instances.byID[id]
	if i == nil || !i.live() {
		return fmt.Errorf("no live instance %s", id)
	}
	do(i)
	return nil
}

// Console adds to what a machine has written on its console.
func (c *Cloud) Console(id, text string) error {
	return c.on(id, func(i *instance) { i.console = tail(i.console + text) })
}

// Interrupt takes a spot machine back: two minutes after its metadata say so,
// or, if it is to hibernate, without a word.
func (c *Cloud) Interrupt(id string) error {
	refused := error(nil)
	err := c.on(id, func(i *instance) {
		if i.spot == nil || i.state != running {
			refused = fmt.Errorf("%s is no running spot machine", id)
			return
		}
		end := func() {
			switch i.spot.behaviour {
			case "stop", "hibernate":
				c.stop(i, bySpot, false)
				i.cause = bySpot
			default:
				c.terminate(i, bySpot, "Server.SpotInstanceTermination", false)
			}
		}
		if i.spot.behaviour == "hibernate" {
			end()
			return
		}
		i.notice = &notice{i.spot.behaviour, c.now.Add(interruptionNotice)}
		c.plan(i, interruptionNotice, end)
	})
	if err != nil {
		return err
	}
	return refused
}

// HostFailure breaks what a machine runs on: its checks fail from now on, and
// after a while EC2 stops it.
func (c *Cloud) HostFailure(id string) error {
	return c.on(id, func(i *instance) {
		i.impaired = true
		i.events = append(i.events, maintenance{
			"instance-event-" + i.id[2:], "instance-retirement", "The instance is running on degraded hardware", c.now, c.now.Add(time.Hour),
		})
		c.halts(i, false)
		c.plan(i, c.between(c.o.Times.Stopping, "host", i.id), func() {
			i.state, i.cause, i.transition, i.public = stopped, byHost, c.stamp("Server.ScheduledStop"), ""
			c.giveRoom(i)
			c.spotEnded(i)
		})
	})
}

// GuestShutdown is a machine that shuts itself down, which ends or stops it as
// it was launched for.
func (c *Cloud) GuestShutdown(id string) error {
	return c.on(id, func(i *instance) {
		if i.state != running {
			return
		}
		if i.ends == "terminate" || i.spot != nil && !i.spot.persistent {
			c.terminate(i, byGuest, "Instance initiated", false)
			return
		}
		c.stop(i, byGuest, false)
	})
}

// Schedule announces maintenance of a machine; code is as "system-reboot".
func (c *Cloud) Schedule(id, code string, from, until time.Time) error {
	return c.on(id, func(i *instance) {
		i.events = append(i.events, maintenance{fmt.Sprintf("instance-event-%x", c.dice.Between(1<<20, 1<<40, id, code)), code, "scheduled " + code, from, until})
	})
}

// Hide has a thing, of any kind, be in no list and not be found for a while, as
// when EC2's copies disagree.
func (c *Cloud) Hide(id string, d time.Duration) error {
	c.lock()
	defer c.unlock()
	all, err := c.taggables([]string{id})
	if err != nil {
		return err
	}
	all[0].seen = c.now.Add(d)
	return nil
}

// Capacity leaves room for n machines more of a type in a zone, 0 for none and
// less for any number. The type "" is all types together.
func (c *Cloud) Capacity(zone, instanceType string, n int) {
	c.setRoom(room{zone, instanceType, false}, n)
}

// SpotCapacity is Capacity for spot machines alone, within that for all.
func (c *Cloud) SpotCapacity(zone, instanceType string, n int) {
	c.setRoom(room{zone, instanceType, true}, n)
}

func (c *Cloud) setRoom(r room, n int) {
	c.lock()
	defer c.unlock()
	if n < 0 {
		delete(c.room, r)
		return
	}
	c.room[r] = n
}

// Quota sets the account's most machines and processors, 0 for no bound.
func (c *Cloud) Quota(machines, vcpus int) {
	c.lock()
	defer c.unlock()
	c.o.MaxInstances, c.o.MaxVCPUs = machines, vcpus
}

// FailLaunches has the next n machines end at once instead of running, with the
// state reason's code, as "Client.InternalError".
func (c *Cloud) FailLaunches(n int, code string) {
	c.lock()
	defer c.unlock()
	c.trouble.launches, c.trouble.launchCause = n, cause{code, code + ": Client error on launch"}
}

// FailHibernations has the next n hibernations become ordinary shutdowns: what
// was in memory is lost, and no answer says so.
func (c *Cloud) FailHibernations(n int) {
	c.lock()
	defer c.unlock()
	c.trouble.hibernations = n
}

// FailTaggings has the tags of the next n creations fail, which takes back what
// was made.
func (c *Cloud) FailTaggings(n int) {
	c.lock()
	defer c.unlock()
	c.trouble.taggings = n
}

func (c *Cloud) maybeFailTagging(p params) error {
	if c.trouble.taggings == 0 || len(p.subs("TagSpecifications")) == 0 {
		return nil
	}
	c.trouble.taggings--
	return ErrInternal()
}

// GrantUntil ends the token of a key at a time, as when credentials run out.
func (c *Cloud) GrantUntil(keyID string, until time.Time) {
	c.lock()
	defer c.unlock()
	keys := slices.Clone(c.o.Keys)
	for i := range keys {
		if keys[i].ID == keyID {
			keys[i].Until = until
		}
	}
	c.o.Keys = keys
}
