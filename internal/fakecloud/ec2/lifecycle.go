package ec2

import (
	"fmt"
	"slices"
	"time"
)

// plan has something happen to a machine later, unless it gets other orders
// before.
func (c *Cloud) plan(i *instance, d time.Duration, do func()) {
	orders := i.orders
	c.after(d, func() {
		if i.orders == orders {
			do()
		}
	})
}

// toRunning begins a start: a launch, or that of a stopped machine.
func (c *Cloud) toRunning(i *instance) {
	i.orders++
	i.state, i.cause, i.transition, i.launched = pending, cause{"pending", "pending"}, "", c.now
	c.plan(i, c.between(c.o.Times.Pending, "pending", i.id, i.boots), func() {
		resumed := !i.asleep.IsZero() && c.now.Sub(i.asleep) <= longestHibernation
		i.state, i.cause, i.booted, i.asleep = running, cause{}, c.now, time.Time{}
		i.boots, i.up = i.boots+1, true
		public, private := "", ""
		if c.o.Addresses != nil {
			public, private = c.o.Addresses(c.machine(i, resumed))
		}
		if private != "" {
			i.nics[0].private = private
		}
		if i.wantsPublic {
			if i.public = public; public == "" {
				c.made++
				i.public = fmt.Sprintf("198.%d.%d.%d", 18+c.made>>16&1, c.made>>8&255, c.made&255)
			}
		}
		if c.o.Boots != nil {
			m := c.machine(i, resumed)
			c.hooks = append(c.hooks, func() { c.o.Boots(m) })
		}
	})
}

// halts tells that a guest does not run any more, and whether its memory is kept.
func (c *Cloud) halts(i *instance, asleep bool) {
	if c.o.Halts != nil && i.up {
		m := c.machine(i, false)
		m.Asleep = asleep
		c.hooks = append(c.hooks, func() { c.o.Halts(m) })
	}
	i.up = false
}

func (c *Cloud) stamp(what string) string {
	return what + " (" + c.now.UTC().Format("2006-01-02 15:04:05") + " GMT)"
}

// stop begins a stop. With hibernate its memory is kept, if that succeeds.
func (c *Cloud) stop(i *instance, why cause, hibernate bool) {
	i.orders++
	took := c.o.Times.Stopping
	kept := hibernate
	if hibernate {
		took = c.o.Times.Hibernating
		why = byHibernate
		if c.trouble.hibernations > 0 { // EC2 shuts down then, and says so nowhere else
			c.trouble.hibernations--
			kept, why, took = false, byUser, c.o.Times.Stopping
		}
	}
	c.halts(i, kept)
	i.state, i.cause, i.transition, i.public, i.notice = stopping, why, c.stamp("User initiated"), "", nil
	c.plan(i, c.between(took, "stopping", i.id, i.boots), func() {
		i.state, i.impaired = stopped, false
		if kept {
			i.asleep = c.now
		}
		c.giveRoom(i)
		c.spotEnded(i)
	})
}

// terminate begins the end; its end is after a while, or at once.
func (c *Cloud) terminate(i *instance, why cause, transition string, atOnce bool) {
	if !i.live() {
		return
	}
	c.halts(i, false)
	i.orders++
	i.state, i.cause, i.transition, i.public = shuttingDown, why, c.stamp(transition), ""
	if atOnce {
		c.ended(i)
		return
	}
	c.plan(i, c.between(c.o.Times.ShuttingDown, "terminating", i.id), func() { c.ended(i) })
}

// ended is a machine's end, with all that goes with it.
func (c *Cloud) ended(i *instance) {
	if c.o.Gone != nil {
		m := c.machine(i, false)
		c.hooks = append(c.hooks, func() { c.o.Gone(m) })
	}
	i.state, i.impaired, i.notice = terminated, false, nil
	c.giveRoom(i)
	for _, v := range c.attached(i) {
		if v.dot {
			c.dropVolume(v)
		} else {
			v.inst, v.attachment, v.device, v.state = nil, "", "", "available"
		}
	}
	for _, nic := range i.nics {
		if nic.dot {
			c.interfaces.drop(nic.id)
			c.Books.End("network-interface", nic.id, c.now)
		} else {
			nic.inst = nil
		}
	}
	i.nics = nil
	c.Books.End("instance", i.id, c.now)
	c.spotEnded(i)
	c.after(c.between(c.o.Times.Listed, "listed", i.id), func() { c.instances.drop(i.id) })
}

// change is one machine's states before and after a call.
func change(i *instance, before state) answer {
	return answer{"InstanceId": i.id, "CurrentState": stateAnswer(i.state), "PreviousState": stateAnswer(before)}
}

// named are the machines of a call that acts on all or none.
func (c *Cloud) named(p params) ([]*instance, error) {
	ids := p.strs("InstanceIds")
	if len(ids) == 0 {
		return nil, refuse("MissingParameter", "The request must contain the parameter InstanceId")
	}
	return chosen(c, &c.instances, ids, "i", "InvalidInstanceID")
}

func errIncorrectState(i *instance, what string) *Error {
	return refuse("IncorrectInstanceState", "The instance '%s' is not in a state from which it can be %s (%s).", i.id, what, i.state.name)
}

func terminateInstances(c *Cloud, p params) (answer, error) {
	all, err := c.named(p)
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if i.protected && i.live() {
			return nil, refuse("OperationNotPermitted", "The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", i.id)
		}
	}
	if err := c.takeResources("TerminateInstances", len(all)); err != nil {
		return nil, err
	}
	list := []answer{}
	for _, i := range all {
		before := i.state
		c.terminate(i, byUser, "User initiated", false)
		list = append(list, change(i, before))
	}
	return answer{"TerminatingInstances": list}, nil
}

func stopInstances(c *Cloud, p params) (answer, error) {
	all, err := c.named(p)
	if err != nil {
		return nil, err
	}
	hibernate := p.flag("Hibernate")
	for _, i := range all {
		switch {
		case i.state != running && i.state != stopping && i.state != stopped:
			return nil, errIncorrectState(i, "stopped")
		case i.spot != nil && !i.spot.persistent:
			return nil, refuse("UnsupportedOperation", "You can't stop the Spot Instance '%s' because it is associated with a one-time Spot Instance request. You can only stop Spot Instances associated with persistent Spot Instance requests.", i.id)
		case hibernate && !i.hibernates:
			return nil, refuse("UnsupportedHibernationConfiguration", "The instance '%s' was not launched with hibernation configured", i.id)
		case hibernate && i.state == running && c.now.Sub(i.booted) < c.between(c.o.Times.HibernateReady, "ready", i.id, i.boots):
			return nil, refuse("UnsupportedOperation", "Instance %s is not ready to hibernate yet, retry in a few minutes", i.id)
		}
	}
	if err := c.takeResources("StopInstances", len(all)); err != nil {
		return nil, err
	}
	list := []answer{}
	for _, i := range all {
		before := i.state
		if before == running {
			c.stop(i, byUser, hibernate)
		}
		list = append(list, change(i, before))
	}
	return answer{"StoppingInstances": list}, nil
}

func startInstances(c *Cloud, p params) (answer, error) {
	all, err := c.named(p)
	if err != nil {
		return nil, err
	}
	machines, cpus := 0, 0
	for _, i := range all {
		if i.state == stopped {
			machines, cpus = machines+1, cpus+i.typ.VCPUs
		} else if i.state != pending && i.state != running {
			return nil, errIncorrectState(i, "started")
		}
	}
	if err := c.quota(machines, cpus); err != nil {
		return nil, err
	}
	if err := c.takeResources("StartInstances", len(all)); err != nil {
		return nil, err
	}
	// All or none, as of the room there is.
	var took []*instance
	for _, i := range all {
		if i.state != stopped {
			continue
		}
		if err := c.takeRoom(i); err != nil {
			for _, other := range took {
				c.giveRoom(other)
			}
			return nil, err
		}
		took = append(took, i)
	}
	list := []answer{}
	for _, i := range all {
		before := i.state
		if before == stopped {
			c.toRunning(i)
		}
		list = append(list, change(i, before))
	}
	return answer{"StartingInstances": list}, nil
}

func rebootInstances(c *Cloud, p params) (answer, error) {
	all, err := c.named(p)
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if i.state != running {
			return nil, errIncorrectState(i, "rebooted")
		}
	}
	for _, i := range all {
		c.reboot(i)
	}
	return answer{}, nil
}

// reboot ends the guest and starts it; EC2 shows nothing of it.
func (c *Cloud) reboot(i *instance) {
	c.halts(i, false)
	i.boots, i.booted, i.impaired, i.up = i.boots+1, c.now, false, true
	if c.o.Boots != nil {
		m := c.machine(i, false)
		c.hooks = append(c.hooks, func() { c.o.Boots(m) })
	}
}

// modifyInstance changes one attribute, as EC2 demands.
func modifyInstance(c *Cloud, p params) (answer, error) {
	i, err := one(c, &c.instances, p.str("InstanceId"), "i", "InvalidInstanceID")
	if err != nil {
		return nil, err
	}
	if !i.live() {
		return nil, errIncorrectState(i, "modified")
	}
	if n := len(p) - 1; n != 1 && !(n == 2 && p.has("DryRun")) {
		return nil, refuse("InvalidParameterCombination", "Fields for multiple attribute types specified: only one attribute can be modified at a time")
	}
	switch {
	case p.has("DisableApiTermination"):
		i.protected = p.flag("DisableApiTermination.Value")
	case p.has("InstanceInitiatedShutdownBehavior"):
		ends := p.str("InstanceInitiatedShutdownBehavior.Value")
		if ends != "stop" && ends != "terminate" {
			return nil, invalidValue("instanceInitiatedShutdownBehavior", ends, "")
		}
		i.ends = ends
	case p.has("Groups"):
		groups, err := c.groupsIn(p.strs("Groups"), i.nics[0].subnet.vpc)
		if err != nil {
			return nil, err
		}
		i.nics[0].groups = groups
	case p.has("InstanceType"), p.has("UserData"):
		if i.state != stopped {
			return nil, errIncorrectState(i, "modified")
		}
		return c.modifyStopped(i, p)
	case p.has("BlockDeviceMappings"):
		return c.modifyMappings(i, p.subs("BlockDeviceMappings"))
	}
	return answer{}, nil
}

func (c *Cloud) modifyStopped(i *instance, p params) (answer, error) {
	if p.has("UserData") {
		data, _ := p.get("UserData.Value").([]byte)
		if len(data) > maxUserData {
			return nil, errUserData()
		}
		i.userData = data
		return answer{}, nil
	}
	if i.hibernates {
		return nil, refuse("UnsupportedOperation", "The instance type of '%s' cannot be changed while hibernation is configured", i.id)
	}
	typ, err := c.typeNamed(p.str("InstanceType.Value"))
	if err != nil {
		return nil, err
	}
	if typ.Architecture != i.image.Architecture {
		return nil, errArchitecture(typ, i.image)
	}
	i.typ = typ
	return answer{}, nil
}

func (c *Cloud) modifyMappings(i *instance, mappings []params) (answer, error) {
	vols := c.attached(i)
	for _, m := range mappings {
		at := slices.IndexFunc(vols, func(v *volume) bool { return v.device == m.str("DeviceName") })
		if at < 0 {
			return nil, refuse("InvalidInstanceAttributeValue", "No device is currently mapped at %s", m.str("DeviceName"))
		}
		if m.has("Ebs.DeleteOnTermination") {
			vols[at].dot = m.flag("Ebs.DeleteOnTermination")
		}
	}
	return answer{}, nil
}
