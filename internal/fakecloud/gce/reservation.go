package gce

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// reservation holds room in a zone for machines of one type.
type reservation struct {
	id                  uint64
	project, zone, name string
	description         string
	machineType         string
	count, used         int64
	only                bool // for those who name it
	created             time.Time
	status              string
}

func (v *reservation) path() string {
	return "projects/" + v.project + "/zones/" + v.zone + "/reservations/" + v.name
}

func (v *reservation) key() string { return v.project + "/" + v.zone + "/" + v.name }

func (v *reservation) json() object {
	return object{
		"kind": "compute#reservation", "id": number(v.id), "name": v.name, "selfLink": link(v.path()),
		"zone": link("projects/" + v.project + "/zones/" + v.zone), "creationTimestamp": stamp(v.created), "status": v.status,
		"description": v.description, "specificReservationRequired": v.only, "specificReservation": object{
			"count": decimal(v.count), "inUseCount": decimal(v.used), "instanceProperties": object{"machineType": v.machineType},
		},
	}
}

var modelledReservation = pathSet(`name description zone specificReservation specificReservation.count specificReservation.instanceProperties
	specificReservation.instanceProperties.machineType specificReservationRequired`)

func (c *Cloud) insertReservation(r *request, call fakecloud.Call, now time.Time) (object, error) {
	return c.once(r, func() (*operation, error) {
		b := r.body
		if err := onlyModelled(modelledReservation, b, "", "resource"); err != nil {
			return nil, err
		}
		specific := inner(b, "specificReservation")
		v := &reservation{
			project: r.path["project"], zone: r.path["zone"], name: text(b, "name"), description: text(b, "description"),
			machineType: text(inner(specific, "instanceProperties"), "machineType"), count: whole(specific, "count"),
			only: truth(b, "specificReservationRequired"), created: now, status: "CREATING",
		}
		if err := checkName("resource.name", v.name); err != nil {
			return nil, err
		}
		t, ok := c.machineType(v.zone, v.machineType)
		switch {
		case specific == nil:
			return nil, required("resource.specificReservation")
		case v.machineType == "":
			return nil, required("resource.specificReservation.instanceProperties.machineType")
		case !ok:
			return nil, invalid("resource.specificReservation.instanceProperties.machineType", v.machineType, "The referenced resource does not exist.")
		case v.count < 1 || v.count > 1000:
			return nil, invalid("resource.specificReservation.count", v.count, "The count must be between 1 and 1000.")
		case c.reservations[v.key()] != nil:
			return nil, alreadyExists(v.path())
		}
		v.id = c.id()
		c.reservations[v.key()] = v
		c.Books.Make(fakecloud.Thing{Kind: "reservation", ID: number(v.id), Name: v.name, Zone: v.zone, Made: now})
		op := c.spoil(c.begin(now, "insert", v.project, "zones/"+v.zone, v.path(), number(v.id)), call)
		d := c.draw(c.o.Durations.Other, "reservation", v.zone, v.name)
		op.due = now.Add(d)
		c.after(now, d, func(at time.Time) {
			if op.nothing {
				return
			}
			err := op.spoiled
			if err == nil && c.out(v.zone, t.Name, at) != nil {
				err = Stockout(v.zone, t.Name, c.out(v.zone, t.Name, at).hints...)
			}
			if err != nil {
				delete(c.reservations, v.key())
				c.Books.End("reservation", number(v.id), at)
			} else {
				v.status = "READY"
			}
			c.end(op, at, err)
		})
		return op, nil
	})
}

func (c *Cloud) reservationOf(r *request) (*reservation, error) {
	key := r.path["project"] + "/" + r.path["zone"] + "/" + r.path["reservation"]
	if v := c.reservations[key]; v != nil {
		return v, nil
	}
	return nil, notFound("projects/" + r.path["project"] + "/zones/" + r.path["zone"] + "/reservations/" + r.path["reservation"])
}

func (c *Cloud) getReservation(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	v, err := c.reservationOf(r)
	if err != nil {
		return nil, err
	}
	return v.json(), nil
}

func (c *Cloud) listReservations(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	var all []object
	for _, v := range c.reservations {
		if v.project == r.path["project"] && v.zone == r.path["zone"] {
			all = append(all, v.json())
		}
	}
	return c.page(r, "compute#reservationList", all)
}

func (c *Cloud) deleteReservation(r *request, call fakecloud.Call, now time.Time) (object, error) {
	return c.once(r, func() (*operation, error) {
		v, err := c.reservationOf(r)
		if err != nil {
			return nil, err
		}
		op := c.spoil(c.begin(now, "delete", v.project, "zones/"+v.zone, v.path(), number(v.id)), call)
		c.change(op, now, c.draw(c.o.Durations.Other, "delete", v.zone, v.name), func() *Error {
			if c.reservations[v.key()] != v {
				return notFound(v.path())
			}
			return nil
		}, func(at time.Time) {
			delete(c.reservations, v.key())
			c.Books.End("reservation", number(v.id), at)
		})
		return op, nil
	})
}

// reservationKey is the key of an affinity that names a reservation.
const reservationKey = "compute.googleapis.com/reservation-name"

func (c *Cloud) readAffinity(i *instance, b object) error {
	i.affinity = inner(b, "reservationAffinity")
	const field = "resource.reservationAffinity"
	switch kind := text(i.affinity, "consumeReservationType"); kind {
	case "", "ANY_RESERVATION", "NO_RESERVATION":
		return nil
	case "SPECIFIC_RESERVATION":
		values := items(i.affinity, "values")
		if text(i.affinity, "key") != reservationKey || len(values) != 1 {
			return invalid(field, "", "A specific reservation needs the key %s and one value.", reservationKey)
		}
		name, _ := values[0].(string)
		v := c.reservations[i.project+"/"+i.zone+"/"+name]
		switch {
		case v == nil:
			return notFound("projects/" + i.project + "/zones/" + i.zone + "/reservations/" + name)
		case !v.only:
			return invalid(field, name, "The reservation can be consumed by any instance: it cannot be named.")
		case v.machineType != i.machine.Name:
			return invalid(field, name, "The reservation is for machines of type %s.", v.machineType)
		}
		return nil
	default:
		return notModelled("the reservation type " + kind)
	}
}

// reserved is the reservation an instance runs in, if any.
func (c *Cloud) reserved(i *instance) (*reservation, *Error) {
	switch text(i.affinity, "consumeReservationType") {
	case "NO_RESERVATION":
		return nil, nil
	case "SPECIFIC_RESERVATION":
		name, _ := items(i.affinity, "values")[0].(string)
		if v := c.reservations[i.project+"/"+i.zone+"/"+name]; v != nil && v.status == "READY" && v.used < v.count {
			return v, nil
		}
		return nil, &Error{
			Status: http.StatusBadRequest, Reason: "invalidUsage", Code: "INVALID_USAGE",
			Message: fmt.Sprintf("Specified reservation '%s' does not have available resources for the request.", name),
		}
	}
	for _, key := range slices.Sorted(mapKeys(c.reservations)) {
		v := c.reservations[key]
		if v.project == i.project && v.zone == i.zone && !v.only && v.machineType == i.machine.Name && v.status == "READY" && v.used < v.count && !i.scheduling.preemptible {
			return v, nil
		}
	}
	return nil, nil
}
