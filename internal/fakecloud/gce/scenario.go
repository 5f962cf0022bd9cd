package gce

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// What follows happens to machines without anybody's call. A machine is named by
// its name where only one has it, or by "zone/name".

// at has something happen to a machine now.
func (c *Cloud) at(name string, do func(i *instance, now time.Time) error) error {
	return c.look(func(now time.Time) error {
		var found []*instance
		for _, i := range c.instances {
			if i.name == name || i.zone+"/"+i.name == name {
				found = append(found, i)
			}
		}
		if len(found) != 1 {
			return fmt.Errorf("%d machines are called %q", len(found), name)
		}
		return do(found[0], now)
	})
}

func (i *instance) mustRun() error {
	if i.status != running {
		return fmt.Errorf("machine %s is %s, not %s", i.name, i.status, running)
	}
	return nil
}

// Preempt takes a spot machine away: its metadata says so at once, it is
// STOPPING for as long as Durations.Preempting says, and is then TERMINATED or
// deleted as it was told to be.
func (c *Cloud) Preempt(name string) error {
	return c.at(name, func(i *instance, now time.Time) error {
		if err := i.mustRun(); err != nil {
			return err
		}
		if !i.scheduling.preemptible {
			return fmt.Errorf("machine %s is no spot machine", name)
		}
		i.preempted = true
		c.system(now, "compute.instances.preempted", i)
		d := c.drawFor(i, c.o.Durations.Preempting, "preempt")
		i.enter(stopping, nil)
		i.message = "Instance was preempted."
		c.later(i, now, d, func(at time.Time) {
			i.enter(terminated, nil)
			i.lastStop = at
			c.off(i)
			if i.scheduling.action == "DELETE" {
				c.remove(i, at)
			}
		})
		return nil
	})
}

// HostError has the host of a running machine break: with automaticRestart it is
// REPAIRING for a while and boots anew, without it is TERMINATED.
func (c *Cloud) HostError(name string) error {
	return c.at(name, func(i *instance, now time.Time) error {
		if err := i.mustRun(); err != nil {
			return err
		}
		c.system(now, "compute.instances.hostError", i)
		i.enter(repairing, nil)
		c.off(i)
		if !i.scheduling.restarts {
			i.enter(terminated, nil)
			i.lastStop = now
			return nil
		}
		c.later(i, now, c.drawFor(i, c.o.Durations.Repairing, "repair"), func(at time.Time) {
			if err := c.grant(i, at); err != nil {
				i.enter(terminated, nil)
				i.lastStop = at
				return
			}
			c.system(at, "compute.instances.automaticRestart", i)
			c.run(i, at)
		})
		return nil
	})
}

// Shutdown has a machine switch itself off from inside: it is STOPPING, then
// TERMINATED.
func (c *Cloud) Shutdown(name string) error {
	return c.at(name, func(i *instance, now time.Time) error {
		if err := i.mustRun(); err != nil {
			return err
		}
		c.system(now, "compute.instances.guestTerminate", i)
		c.stopWithin(i, nil, now, min(c.drawFor(i, c.o.Durations.Stopping, "shutdown"), 5*time.Second))
		return nil
	})
}

// Reboot has a machine boot again from inside, its state unchanged.
func (c *Cloud) Reboot(name string) error {
	return c.at(name, func(i *instance, _ time.Time) error {
		if err := i.mustRun(); err != nil {
			return err
		}
		i.boots++
		c.tell(c.o.Boots, i)
		return nil
	})
}

// Console has a machine write to its first serial port.
func (c *Cloud) Console(name, text string) error {
	return c.at(name, func(i *instance, _ time.Time) error {
		i.serial = append(i.serial, text...)
		if over := len(i.serial) - keptOutput; over > 0 {
			i.serialBase += int64(over)
			i.serial = append([]byte(nil), i.serial[over:]...)
		}
		return nil
	})
}

// GuestAttribute has a machine set one of its guest attributes, "namespace/key".
// It is refused unless the metadata enable-guest-attributes is TRUE.
func (c *Cloud) GuestAttribute(name, key, value string) error {
	return c.at(name, func(i *instance, _ time.Time) error {
		if !strings.EqualFold(i.metadata["enable-guest-attributes"], "true") {
			return fmt.Errorf("machine %s has no guest attributes: its metadata does not enable them", name)
		}
		i.attributes[key] = value
		return nil
	})
}

// Machine is what there is of a machine now.
func (c *Cloud) Machine(name string) (m Machine, err error) {
	err = c.at(name, func(i *instance, _ time.Time) error { m = i.report(); return nil })
	return m, err
}

// Machines are all there are now, by zone and name.
func (c *Cloud) Machines() (all []Machine) {
	_ = c.look(func(time.Time) error {
		for _, key := range slices.Sorted(mapKeys(c.instances)) {
			all = append(all, c.instances[key].report())
		}
		return nil
	})
	return all
}

// At is the machine that runs at an address now, for those who answer in its
// agent's place. A machine that is being stopped still answers.
func (c *Cloud) At(ip netip.Addr) (m Machine, ok bool) {
	_ = c.look(func(time.Time) error {
		if i := c.taken[ip]; i != nil && i.on() {
			m, ok = i.report(), true
		}
		return nil
	})
	return m, ok
}
