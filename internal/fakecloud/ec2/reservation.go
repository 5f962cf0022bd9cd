package ec2

import (
	"cmp"
	"slices"
	"time"
)

// reservation is capacity that is paid for.
type reservation struct {
	thing
	typ         *Type
	zone        *Zone
	count, used int
	match       string // open or targeted
	state       string // active, cancelled, expired
	platform    string
	made, ends  time.Time
}

func (r *reservation) rooms() []room {
	return []room{{r.zone.Name, r.typ.Name, false}, {r.zone.Name, "", false}}
}

// reservationFor is the reservation that a machine is to use, nil for none.
func (c *Cloud) reservationFor(i *instance) (*reservation, error) {
	if target, ok := i.wish["CapacityReservationTarget"].(answer); ok {
		id, _ := target["CapacityReservationId"].(string)
		r, err := one(c, &c.reservations, id, "cr", "InvalidCapacityReservationId")
		switch {
		case err != nil:
			return nil, err
		case r.state != "active":
			return nil, refuse("InvalidCapacityReservationState", "The capacity reservation %s is %s", id, r.state)
		case r.typ != i.typ || r.zone != i.zone:
			return nil, refuse("InvalidParameterValue", "The capacity reservation %s is for %s in %s", id, r.typ.Name, r.zone.Name)
		case r.used >= r.count:
			return nil, refuse("ReservationCapacityExceeded", "The requested reservation %s does not have sufficient compatible and available capacity for this request.", id)
		}
		return r, nil
	}
	if i.wish["CapacityReservationPreference"] == "none" || i.spot != nil {
		return nil, nil
	}
	for _, r := range c.reservations.order {
		if r.state == "active" && r.match == "open" && r.typ == i.typ && r.zone == i.zone && r.used < r.count {
			return r, nil
		}
	}
	return nil, nil
}

func createReservation(c *Cloud, p params) (answer, error) {
	before, err := c.remembered("CreateCapacityReservation", p)
	if err != nil {
		return nil, err
	}
	if len(before) > 0 {
		r, _ := before[0].(*reservation)
		return answer{"CapacityReservation": c.describeReservation(r)}, nil
	}
	typ, err := c.typeNamed(p.str("InstanceType"))
	if err != nil {
		return nil, err
	}
	zone, err := c.zoneOf(p.str("AvailabilityZone"), p.str("AvailabilityZoneId"))
	if err != nil {
		return nil, err
	}
	tags, err := c.tagsFor(p, "capacity-reservation")
	if err != nil {
		return nil, err
	}
	r := &reservation{
		typ: typ, zone: zone, count: p.num("InstanceCount"), match: cmp.Or(p.str("InstanceMatchCriteria"), "open"), state: "active",
		platform: p.str("InstancePlatform"), made: c.now,
	}
	r.ends, _ = p.get("EndDate").(time.Time)
	switch limited := p.str("EndDateType") == "limited"; {
	case zone == nil:
		return nil, refuse("MissingParameter", "The request must contain the parameter AvailabilityZone")
	case slices.Contains(typ.NotIn, zone.Name):
		return nil, ErrUnsupported(zone.Name, typ.Name)
	case r.count < 1 || r.count > 1000:
		return nil, invalidValue("InstanceCount", r.count, "")
	case limited != !r.ends.IsZero():
		return nil, refuse("InvalidParameterCombination", "EndDate is for the EndDateType limited, and needed there")
	case limited && !r.ends.After(c.now):
		return nil, invalidValue("EndDate", r.ends, "It is past.")
	case !c.takeFrom(r.rooms(), r.count):
		return nil, ErrCapacity(zone.Name, typ.Name)
	}
	r.thing = c.thing("cr", nonNil(tags["capacity-reservation"]))
	c.reservations.put(r)
	c.book("capacity-reservation", &r.thing, "", zone.Name)
	if err := c.maybeFailTagging(p); err != nil {
		c.endReservation(r, "cancelled")
		c.reservations.drop(r.id)
		return nil, err
	}
	if !r.ends.IsZero() {
		c.after(r.ends.Sub(c.now), func() { c.endReservation(r, "expired") })
	}
	c.remember("CreateCapacityReservation", p, r)
	return answer{"CapacityReservation": c.describeReservation(r)}, nil
}

// endReservation gives back what is not used; its machines run on.
func (c *Cloud) endReservation(r *reservation, state string) {
	if r.state != "active" {
		return
	}
	r.state = state
	c.giveTo(r.rooms(), r.count-r.used)
	c.Books.End("capacity-reservation", r.id, c.now)
}

func cancelReservation(c *Cloud, p params) (answer, error) {
	r, err := one(c, &c.reservations, p.str("CapacityReservationId"), "cr", "InvalidCapacityReservationId")
	if err != nil {
		return nil, err
	}
	if r.state == "expired" {
		return nil, refuse("InvalidCapacityReservationState", "The capacity reservation %s is %s", r.id, r.state)
	}
	c.endReservation(r, "cancelled")
	return answer{"Return": true}, nil
}

func (c *Cloud) describeReservation(r *reservation) answer {
	endType := "unlimited"
	if !r.ends.IsZero() {
		endType = "limited"
	}
	return answer{
		"CapacityReservationId": r.id, "InstanceType": r.typ.Name, "AvailabilityZone": r.zone.Name, "AvailabilityZoneId": r.zone.ID,
		"TotalInstanceCount": r.count, "AvailableInstanceCount": r.count - r.used, "State": r.state, "InstanceMatchCriteria": r.match,
		"InstancePlatform": r.platform, "Tenancy": "default", "OwnerId": c.o.Account, "CreateDate": r.made, "StartDate": r.made,
		"EndDate": r.ends, "EndDateType": endType, "Tags": tagSet(r.tags),
	}
}

func describeReservations(c *Cloud, p params) (answer, error) {
	all, err := chosen(c, &c.reservations, p.strs("CapacityReservationIds"), "cr", "InvalidCapacityReservationId")
	if err != nil {
		return nil, err
	}
	got, next, err := page(c, "DescribeCapacityReservations", p, all, seqOf, func(r *reservation) facts {
		return facts{
			"instance-type": {r.typ.Name}, "availability-zone": {r.zone.Name}, "state": {r.state}, "tenancy": {"default"},
			"instance-match-criteria": {r.match}, "owner-id": {c.o.Account},
		}.with(r.tags)
	})
	list := []answer{}
	for _, r := range got {
		list = append(list, c.describeReservation(r))
	}
	return answer{"CapacityReservations": list, "NextToken": next}, err
}
