package ec2

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
)

// room is where capacity may be bounded: a type, or "" for all, in a zone; for
// spot machines alone, or for all.
type room struct {
	zone, typ string
	spot      bool
}

func (i *instance) rooms() []room {
	all := []room{{i.zone.Name, i.typ.Name, false}, {i.zone.Name, "", false}}
	if i.spot != nil {
		all = append(all, room{i.zone.Name, i.typ.Name, true}, room{i.zone.Name, "", true})
	}
	return all
}

// takeRoom takes a machine's place, in its reservation or in the open.
func (c *Cloud) takeRoom(i *instance) error {
	if i.tookRoom {
		return nil
	}
	if r, err := c.reservationFor(i); err != nil {
		return err
	} else if r != nil {
		r.used++
		i.reserved, i.tookRoom = r, true
		return nil
	}
	if i.wish["CapacityReservationPreference"] == "capacity-reservations-only" {
		return refuse("ReservationCapacityExceeded", "There is no capacity reservation with room for the instance")
	}
	if !c.takeFrom(i.rooms(), 1) {
		return ErrCapacity(i.zone.Name, i.typ.Name)
	}
	i.tookRoom = true
	return nil
}

// takeFrom takes n places in all of the rooms, or none.
func (c *Cloud) takeFrom(rooms []room, n int) bool {
	for _, r := range rooms {
		if left, bounded := c.room[r]; bounded && left < n {
			return false
		}
	}
	for _, r := range rooms {
		if _, bounded := c.room[r]; bounded {
			c.room[r] -= n
		}
	}
	return true
}

func (c *Cloud) giveRoom(i *instance) {
	if !i.tookRoom {
		return
	}
	i.tookRoom = false
	if i.reserved != nil {
		i.reserved.used--
		if i.reserved.state == "active" {
			i.reserved = nil
			return
		}
		i.reserved = nil // which has ended: the place is everybody's
	}
	c.giveTo(i.rooms(), 1)
}

func (c *Cloud) giveTo(rooms []room, n int) {
	for _, r := range rooms {
		if _, bounded := c.room[r]; bounded {
			c.room[r] += n
		}
	}
}

// launch makes as many machines as there is room for, all in one zone.
func (c *Cloud) launch(l *launch, least, most int) ([]*instance, error) {
	// Where nobody says a zone, it is left to chance, and to where there is room.
	h := fnv.New64a()
	fmt.Fprint(h, c.o.Seed, l.token, c.made)
	first := int(h.Sum64() % uint64(len(l.subnets)))
	var refused error
	for n := range l.subnets {
		made, err := c.launchIn(l, l.subnets[(first+n)%len(l.subnets)], least, most)
		if err == nil {
			return made, nil
		}
		if refused == nil {
			refused = err
		}
	}
	return nil, refused
}

func (c *Cloud) launchIn(l *launch, s *subnet, least, most int) ([]*instance, error) {
	var made []*instance
	for len(made) < most {
		i := &instance{
			token: l.token, index: len(made), image: l.image, typ: l.typ, zone: s.zone, ends: l.ends, userData: l.userData,
			keyName: l.keyName, profile: l.profile, protected: l.protected, credits: l.credits, monitored: l.monitored,
			ebsOptimized: l.ebsOptimized, metadata: l.metadata, hibernates: l.hibernates, wish: l.wish,
			wantsPublic: s.public,
		}
		if l.spot != nil {
			i.spot = &spotRequest{} // what it is, is said below
		}
		if l.public != nil {
			i.wantsPublic = *l.public
		}
		if err := c.takeRoom(i); err != nil {
			if len(made) >= least {
				break
			}
			for _, other := range made {
				c.giveRoom(other)
			}
			return nil, err
		}
		made = append(made, i)
	}
	reservation := c.id("r")
	for _, i := range made {
		i.reservation = reservation
		c.makeInstance(l, i, s)
	}
	return made, nil
}

// makeInstance makes a machine and what belongs to it.
func (c *Cloud) makeInstance(l *launch, i *instance, s *subnet) {
	i.thing = c.thing("i", nonNil(maps.Clone(l.tags["instance"])))
	c.instances.put(i)
	c.book("instance", &i.thing, "", s.zone.Name)
	nic := &networkInterface{
		thing: c.thing("eni", nonNil(maps.Clone(l.tags["network-interface"]))), inst: i, subnet: s, groups: slices.Clone(l.groups),
		description: l.description, private: l.private, dot: l.interfaceDot,
	}
	if nic.private == "" {
		nic.private = s.address()
	}
	i.nics = []*networkInterface{nic}
	c.interfaces.put(nic)
	c.book("network-interface", &nic.thing, "", s.zone.Name)
	failed := cause{}
	for _, m := range l.volumes {
		v := *m.volume
		v.zone, v.inst, v.device, v.attachment, v.attachedAt = s.zone, i, m.device, "attached", c.now
		switch {
		case c.o.MaxVolumeGB > 0 && c.volumeGB()+v.gb > c.o.MaxVolumeGB:
			failed = cause{"Client.VolumeLimitExceeded", "Client.VolumeLimitExceeded: Volume limit exceeded"}
		case v.key != "" && !slices.Contains(c.o.KMSKeys, v.key):
			failed = cause{"Client.InternalError", "Client.InternalError: Client error on launch"}
		}
		c.makeVolume(&v, maps.Clone(l.tags["volume"]))
		v.state = "in-use"
	}
	if i.spot = l.request; l.spot != nil && l.request == nil {
		c.makeSpot(l, i)
	}
	c.toRunning(i)
	if failed == (cause{}) && c.trouble.launches > 0 {
		c.trouble.launches--
		failed = c.trouble.launchCause
	}
	if failed != (cause{}) {
		i.orders++
		c.plan(i, c.between(c.o.Times.Volume, "failed launch", i.id), func() { c.terminate(i, failed, "Server failure", true) })
	}
}

// rollBack takes a machine back of which nobody was told.
func (c *Cloud) rollBack(i *instance) {
	if i.spot != nil {
		c.endSpot(i.spot, "closed", "instance-terminated-by-service")
		c.spots.drop(i.spot.id)
	}
	c.terminate(i, byHost, "Server failure", true)
	for _, v := range c.attached(i) {
		c.dropVolume(v)
	}
	c.instances.drop(i.id)
}
