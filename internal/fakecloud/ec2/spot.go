package ec2

import (
	"cmp"
	"time"
)

// spotRequest is what a spot machine comes from. A persistent one launches
// another, without tags, as soon as its machine has stopped or ended, until it
// is cancelled.
type spotRequest struct {
	thing
	persistent bool
	behaviour  string
	price      string
	state      string // open, active, closed, cancelled
	status     string
	made       time.Time
	again      launch
	inst       *instance
}

func (c *Cloud) makeSpot(l *launch, i *instance) {
	again := *l
	again.tags, again.token, again.private = nil, "", ""
	s := &spotRequest{
		thing: c.thing("sir", nonNil(l.tags["spot-instances-request"])), persistent: l.spot.persistent, behaviour: l.spot.behaviour,
		price: l.spot.price, state: "active", status: "fulfilled", made: c.now, again: again, inst: i,
	}
	i.spot = s
	c.spots.put(s)
	c.book("spot-instances-request", &s.thing, "", i.zone.Name)
}

// endSpot closes or cancels a request, which stays listed for a while.
func (c *Cloud) endSpot(s *spotRequest, state, status string) {
	if s.state == "closed" || s.state == "cancelled" {
		return
	}
	s.state, s.status = state, status
	c.Books.End("spot-instances-request", s.id, c.now)
	c.after(c.between(c.o.Times.Listed, "listed", s.id), func() { c.spots.drop(s.id) })
}

// spotEnded is what a machine's end, or stop, means to its request.
func (c *Cloud) spotEnded(i *instance) {
	s := i.spot
	if s == nil || s.inst != i || s.state != "active" {
		return
	}
	status := "instance-terminated-by-user"
	if i.cause == bySpot {
		status = "instance-terminated-no-capacity"
	}
	if !s.persistent {
		c.endSpot(s, "closed", status)
		return
	}
	s.state, s.status, s.inst = "open", status, nil
	c.respawn(s)
}

// respawn launches another machine for an open request, as soon as there is
// room.
func (c *Cloud) respawn(s *spotRequest) {
	c.after(c.between(c.o.Times.Respawn, "respawn", s.id, c.now.UnixNano()), func() {
		if s.state != "open" {
			return
		}
		again := s.again
		again.request = s
		made, err := c.launch(&again, 1, 1)
		if err != nil {
			s.status = "capacity-not-available"
			c.respawn(s)
			return
		}
		s.state, s.status, s.inst = "active", "fulfilled", made[0]
	})
}

func describeSpots(c *Cloud, p params) (answer, error) {
	all, err := chosen(c, &c.spots, p.strs("SpotInstanceRequestIds"), "sir", "InvalidSpotInstanceRequestID")
	if err != nil {
		return nil, err
	}
	got, next, err := page(c, "DescribeSpotInstanceRequests", p, all, seqOf, func(s *spotRequest) facts {
		f := facts{"spot-instance-request-id": {s.id}, "state": {s.state}, "status-code": {s.status}, "type": {s.kind()}}
		if s.inst != nil {
			f["instance-id"], f["launched-availability-zone"] = []string{s.inst.id}, []string{s.inst.zone.Name}
		}
		return f.with(s.tags)
	})
	list := []answer{}
	for _, s := range got {
		a := answer{
			"SpotInstanceRequestId": s.id, "State": s.state, "Type": s.kind(), "CreateTime": s.made, "SpotPrice": cmp.Or(s.price, "0.1"),
			"Status": answer{"Code": s.status, "Message": s.status, "UpdateTime": s.made}, "InstanceInterruptionBehavior": s.behaviour,
			"ProductDescription": "Linux/UNIX", "Tags": tagSet(s.tags),
		}
		if s.inst != nil {
			a["InstanceId"], a["LaunchedAvailabilityZone"] = s.inst.id, s.inst.zone.Name
		}
		list = append(list, a)
	}
	return answer{"SpotInstanceRequests": list, "NextToken": next}, err
}

func (s *spotRequest) kind() string {
	if s.persistent {
		return "persistent"
	}
	return "one-time"
}

func cancelSpots(c *Cloud, p params) (answer, error) {
	all, err := chosen(c, &c.spots, p.strs("SpotInstanceRequestIds"), "sir", "InvalidSpotInstanceRequestID")
	if err != nil {
		return nil, err
	}
	list := []answer{}
	for _, s := range all {
		c.endSpot(s, "cancelled", "request-canceled-and-instance-running")
		list = append(list, answer{"SpotInstanceRequestId": s.id, "State": s.state})
	}
	return answer{"CancelledSpotInstanceRequests": list}, nil
}
