package gce

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// instance finds the one a call is about.
func (c *Cloud) instance(r *request, now time.Time) (*instance, error) {
	name := cmp.Or(r.path["instance"], r.path["resource"])
	project, zone := r.path["project"], r.path["zone"]
	i := c.instances[project+"/"+zone+"/"+name]
	if i == nil && isInteger(name, "uint64") {
		for _, other := range c.instances {
			if other.project == project && other.zone == zone && number(other.id) == name {
				i = other
			}
		}
	}
	if i != nil && !now.Before(i.appears) {
		return i, nil
	}
	return nil, notFound("projects/" + project + "/zones/" + zone + "/instances/" + name)
}

func (c *Cloud) getInstance(r *request, _ fakecloud.Call, now time.Time) (object, error) {
	i, err := c.instance(r, now)
	if err != nil {
		return nil, err
	}
	return i.json(), nil
}

func (c *Cloud) visibleInstances(r *request, now time.Time) []object {
	var all []object
	for _, i := range c.instances {
		if i.project == r.path["project"] && (r.path["zone"] == "" || r.path["zone"] == i.zone) && !now.Before(i.appears) {
			all = append(all, i.json())
		}
	}
	return all
}

func (c *Cloud) listInstances(r *request, _ fakecloud.Call, now time.Time) (object, error) {
	return c.page(r, "compute#instanceList", c.visibleInstances(r, now))
}

func (c *Cloud) aggregateInstances(r *request, _ fakecloud.Call, now time.Time) (object, error) {
	return c.aggregate(r, "compute#instanceAggregatedList", "instances", c.visibleInstances(r, now))
}

// instanceChange is a call that changes something about an instance after a
// while, whatever its state. What check says against it refuses the call, or
// then the operation.
func (c *Cloud) instanceChange(r *request, call fakecloud.Call, now time.Time, kind string, check func(i *instance) *Error, do func(i *instance, at time.Time)) (object, error) {
	return c.once(r, func() (*operation, error) {
		i, err := c.instance(r, now)
		if err != nil {
			return nil, err
		}
		if err := check(i); err != nil {
			return nil, err
		}
		op := c.spoil(c.begin(now, kind, i.project, "zones/"+i.zone, i.path(), number(i.id)), call)
		c.change(op, now, c.draw(c.o.Durations.Other, kind, i.zone, i.name), func() *Error {
			if i.gone {
				return notFound(i.path())
			}
			return check(i)
		}, func(at time.Time) { do(i, at) })
		return op, nil
	})
}

func (c *Cloud) setLabels(r *request, call fakecloud.Call, now time.Time) (object, error) {
	labels := labelsOf(r.body)
	return c.instanceChange(r, call, now, "setLabels", func(i *instance) *Error {
		if text(r.body, "labelFingerprint") != i.labelPrint() {
			return conditionNotMet("Labels fingerprint either invalid or resource labels have changed")
		}
		return checkLabels("labels", labels)
	}, func(i *instance, _ time.Time) { i.labels = labels })
}

func (c *Cloud) setMetadata(r *request, call fakecloud.Call, now time.Time) (object, error) {
	values, err := readMetadata("metadata", r.body)
	if err != nil {
		return nil, err
	}
	return c.instanceChange(r, call, now, "setMetadata", func(i *instance) *Error {
		if text(r.body, "fingerprint") != i.metadataPrint() {
			return conditionNotMet("Supplied fingerprint does not match current metadata fingerprint.")
		}
		return nil
	}, func(i *instance, _ time.Time) { i.metadata = values })
}

func (c *Cloud) setTags(r *request, call fakecloud.Call, now time.Time) (object, error) {
	tags, err := readTags("tags", r.body)
	if err != nil {
		return nil, err
	}
	return c.instanceChange(r, call, now, "setTags", func(i *instance) *Error {
		if text(r.body, "fingerprint") != i.tagPrint() {
			return conditionNotMet("Supplied fingerprint does not match current tags fingerprint.")
		}
		return nil
	}, func(i *instance, _ time.Time) { i.tags = tags })
}

func (i *instance) attachment(device string) *attachment {
	for _, a := range i.disks {
		if a.device == device {
			return a
		}
	}
	return nil
}

// unknownDevice refuses the name of a device that is not there.
func (i *instance) unknownDevice(device string) *Error {
	return invalid("deviceName", device, "No attached disk found with device name '%s'", device)
}

func (c *Cloud) setDiskAutoDelete(r *request, call fakecloud.Call, now time.Time) (object, error) {
	device := r.query["deviceName"]
	return c.instanceChange(r, call, now, "setDiskAutoDelete", func(i *instance) *Error {
		if i.attachment(device) == nil {
			return i.unknownDevice(device)
		}
		return nil
	}, func(i *instance, _ time.Time) { i.attachment(device).autoDelete = r.yes("autoDelete") })
}

var modelledAttach = pathSet("autoDelete boot deviceName mode type source interface")

func (c *Cloud) attachDisk(r *request, call fakecloud.Call, now time.Time) (object, error) {
	if err := onlyModelled(modelledAttach, r.body, "", "resource"); err != nil {
		return nil, err
	}
	if r.has("forceAttach") {
		return nil, notModelled("forceAttach")
	}
	var made *attachment
	return c.instanceChange(r, call, now, "attachDisk", func(i *instance) *Error {
		if text(r.body, "source") == "" {
			return required("resource.source")
		}
		if truth(r.body, "boot") {
			return notModelled("the attachment of a boot disk")
		}
		if i.status != running && i.status != terminated {
			return notReady(i.path())
		}
		a, err := c.readAttachment(i, r.body, "resource", len(i.disks), now)
		if err == nil {
			made = a
			err = i.attachable(a, "resource")
		}
		if err != nil {
			return asError(err)
		}
		return nil
	}, func(i *instance, at time.Time) {
		made.disk.user, made.disk.attached = i, at
		i.disks = append(i.disks, made)
	})
}

func (c *Cloud) detachDisk(r *request, call fakecloud.Call, now time.Time) (object, error) {
	device := r.query["deviceName"]
	return c.instanceChange(r, call, now, "detachDisk", func(i *instance) *Error {
		a := i.attachment(device)
		switch {
		case a == nil:
			return i.unknownDevice(device)
		case a.boot && i.status != terminated:
			return invalid("deviceName", device, "The boot disk of a running instance cannot be detached.")
		case i.status == suspended || i.status == suspending:
			return unsupported("Disks of a suspended instance cannot be detached.")
		}
		return nil
	}, func(i *instance, at time.Time) {
		a := i.attachment(device)
		i.disks = slices.DeleteFunc(i.disks, func(other *attachment) bool { return other == a })
		if !a.local {
			a.disk.user, a.disk.detached = nil, at
		}
	})
}

// keptOutput is how much of a serial port the API remembers.
const keptOutput = 1 << 20

func (c *Cloud) serialPort(r *request, _ fakecloud.Call, now time.Time) (object, error) {
	i, err := c.instance(r, now)
	if err != nil {
		return nil, err
	}
	if i.boots == 0 {
		return nil, notReady(i.path())
	}
	output, base := i.serial, i.serialBase
	if port := r.query["port"]; port != "" && port != "1" {
		output, base = nil, 0
	}
	start, _ := strconv.ParseInt(r.query["start"], 10, 64)
	if start < 0 {
		start = base + int64(len(output)) + start
	}
	start = min(max(start, base), base+int64(len(output)))
	return object{
		"kind": "compute#serialPortOutput", "selfLink": link(i.path() + "/serialPort"), "contents": string(output[start-base:]),
		"start": decimal(start), "next": decimal(base + int64(len(output))),
	}, nil
}

// attributeRate is how often a minute guest attributes may be asked for.
const attributeRate = 10

func (c *Cloud) guestAttributes(r *request, _ fakecloud.Call, now time.Time) (object, error) {
	i, err := c.instance(r, now)
	if err != nil {
		return nil, err
	}
	path, key := r.query["queryPath"], r.query["variableKey"]
	if path != "" && key != "" {
		return nil, invalid("queryPath", path, "Only one of queryPath and variableKey can be specified.")
	}
	if !i.asked.Take(1, now) {
		e := TooManyRequests()
		e.Message = fmt.Sprintf("Guest attributes of '%s' may be queried %d times a minute.", i.path(), attributeRate)
		return nil, e
	}
	want := cmp.Or(path, key)
	missing := &Error{Status: http.StatusNotFound, Reason: "notFound", Message: fmt.Sprintf("The resource '%s' of type 'Guest Attribute' was not found.", want)}
	if !strings.EqualFold(i.metadata["enable-guest-attributes"], "true") {
		return nil, missing
	}
	answer := object{"kind": "compute#guestAttributes", "selfLink": link(i.path() + "/getGuestAttributes")}
	if key != "" {
		v, ok := i.attributes[key]
		if !ok {
			return nil, missing
		}
		answer["variableKey"], answer["variableValue"] = key, v
		return answer, nil
	}
	var found []any
	for _, k := range slices.Sorted(mapKeys(i.attributes)) {
		if path == "" || path == "/" || k == path || strings.HasPrefix(k, strings.TrimSuffix(path, "/")+"/") {
			namespace, name, _ := strings.Cut(k, "/")
			found = append(found, object{"namespace": namespace, "key": name, "value": i.attributes[k]})
		}
	}
	if found == nil {
		return nil, missing
	}
	answer["queryPath"], answer["queryValue"] = path, object{"items": found}
	return answer, nil
}
