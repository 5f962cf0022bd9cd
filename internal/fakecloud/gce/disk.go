package gce

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// disk is a persistent disk of a zone.
type disk struct {
	id                  uint64
	project, zone, name string
	description, kind   string
	size                int64 // GB
	image               *Image
	labels              map[string]string
	iops, throughput    int64
	created, appears    time.Time
	attached, detached  time.Time
	status              string
	user                *instance
	with                *instance // what it was made with
	op                  *operation
}

func (d *disk) path() string {
	return "projects/" + d.project + "/zones/" + d.zone + "/disks/" + d.name
}

func (d *disk) key() string { return d.project + "/" + d.zone + "/" + d.name }

func (d *disk) labelPrint() string { return fingerprint("labels", d.id, d.labels) }

// metric is the quota it counts to.
func (d *disk) metric() string {
	if d.kind == "pd-standard" {
		return "DISKS_TOTAL_GB"
	}
	return "SSD_TOTAL_GB"
}

func (d *disk) json() object {
	here := "projects/" + d.project + "/zones/" + d.zone
	o := object{
		"kind": "compute#disk", "id": number(d.id), "name": d.name, "selfLink": link(d.path()), "zone": link(here),
		"status": d.status, "sizeGb": decimal(d.size), "type": link(here + "/diskTypes/" + d.kind), "creationTimestamp": stamp(d.created),
		"labelFingerprint": d.labelPrint(), "physicalBlockSizeBytes": "4096",
	}
	if d.description != "" {
		o["description"] = d.description
	}
	if len(d.labels) > 0 {
		o["labels"] = anyOf(d.labels)
	}
	if d.image != nil {
		img := d.image.json()
		o["sourceImage"], o["sourceImageId"], o["architecture"] = link(d.image.path()), img["id"], img["architecture"]
	}
	if d.iops > 0 {
		o["provisionedIops"] = decimal(d.iops)
	}
	if d.throughput > 0 {
		o["provisionedThroughput"] = decimal(d.throughput)
	}
	if d.user != nil {
		o["users"] = []any{link(d.user.path())}
	}
	if !d.attached.IsZero() {
		o["lastAttachTimestamp"] = stamp(d.attached)
	}
	if !d.detached.IsZero() {
		o["lastDetachTimestamp"] = stamp(d.detached)
	}
	return o
}

func (c *Cloud) addDisk(d *disk, now time.Time) {
	c.disks[d.key()] = d
	c.Books.Make(fakecloud.Thing{Kind: "disk", ID: number(d.id), Name: d.name, Zone: d.zone, Tags: d.labels, Made: now})
}

func (c *Cloud) removeDisk(d *disk, at time.Time) {
	delete(c.disks, d.key())
	c.Books.End("disk", number(d.id), at)
}

// disk finds the one a call is about.
func (c *Cloud) disk(r *request, now time.Time) (*disk, error) {
	name := cmp.Or(r.path["disk"], r.path["resource"])
	project, zone := r.path["project"], r.path["zone"]
	d := c.disks[project+"/"+zone+"/"+name]
	if d == nil && isInteger(name, "uint64") {
		for _, other := range c.disks {
			if other.project == project && other.zone == zone && number(other.id) == name {
				d = other
			}
		}
	}
	if d != nil && !now.Before(d.appears) {
		return d, nil
	}
	return nil, notFound("projects/" + project + "/zones/" + zone + "/disks/" + name)
}

// diskSpec is what a new disk is asked to be, by a disk's body or an instance's.
type diskSpec struct {
	field                   string
	name, kind, image, text string
	size                    int64
	labels                  map[string]string
	iops, throughput        int64
}

// newDisk checks what a new disk is asked to be.
func (c *Cloud) newDisk(project, zone string, s diskSpec, now time.Time) (*disk, error) {
	d := &disk{project: project, zone: zone, name: s.name, description: s.text, size: s.size, labels: s.labels, created: now, status: "READY", kind: "pd-standard"}
	if err := checkLabels(s.field+".labels", s.labels); err != nil {
		return nil, err
	}
	if s.kind != "" {
		ref, ok := readReference(s.kind, "diskTypes")
		switch {
		case !ok || !strings.HasPrefix(ref.scope, "zones/"):
			return nil, malformed(s.field+".type", s.kind)
		case ref.scope != "zones/"+zone:
			return nil, invalid(s.field+".type", s.kind, "The disk type must be in the zone of the disk: %s.", zone)
		case diskTypeJSON(project, zone, ref.name) == nil:
			return nil, invalid(s.field+".type", s.kind, "The referenced resource does not exist.")
		}
		d.kind = ref.name
	}
	if s.image != "" {
		img, err := c.imageByURL(project, s.field+".sourceImage", s.image)
		if err != nil {
			return nil, err
		}
		d.image = &img
		if d.size == 0 {
			d.size = img.SizeGB
		}
		if d.size < img.SizeGB {
			return nil, invalid(s.field+".sizeGb", d.size, "Requested disk size cannot be smaller than the image size (%d GB)", img.SizeGB)
		}
	}
	if d.size == 0 {
		d.size = 500
	}
	for _, t := range diskTypes {
		if t.name == d.kind && (d.size < t.least || d.size > t.most) {
			return nil, invalid(s.field+".sizeGb", d.size, "Disk size must be between %d GB and %d GB.", t.least, t.most)
		}
	}
	if (s.iops > 0 || s.throughput > 0) && !strings.HasPrefix(d.kind, "hyperdisk-") {
		return nil, invalid(s.field+".provisionedIops", s.iops, "Provisioned IOPS and throughput cannot be set for disk type %s.", d.kind)
	}
	d.iops, d.throughput = s.iops, s.throughput
	if c.disks[d.key()] != nil {
		return nil, alreadyExists(d.path())
	}
	d.id = c.id()
	return d, nil
}

// imageByURL finds the image that a disk is to be made of.
func (c *Cloud) imageByURL(project, field, url string) (Image, error) {
	ref, ok := readReference(url, "images")
	if !ok || ref.scope != "global" {
		return Image{}, malformed(field, url)
	}
	return c.image(cmp.Or(ref.project, project), ref.name)
}

// readDisks reads the disks of a new instance.
func (c *Cloud) readDisks(i *instance, b object, now time.Time) error {
	all := items(b, "disks")
	if len(all) == 0 {
		return required("resource.disks")
	}
	boots := 0
	for n, e := range all {
		o, _ := e.(object)
		field := fmt.Sprintf("resource.disks[%d]", n)
		a, err := c.readAttachment(i, o, field, n, now)
		if err != nil {
			return err
		}
		if a.boot {
			if boots++; n > 0 {
				return invalid(field+".boot", true, "The boot disk must be the first disk attached to the instance.")
			}
		}
		if err := i.attachable(a, field); err != nil {
			return err
		}
		i.disks = append(i.disks, a)
	}
	if boots != 1 {
		return invalid("resource.disks", "", "Boot disk must be specified: an instance needs exactly one.")
	}
	return nil
}

// attachable says whether an instance can have one more disk.
func (i *instance) attachable(a *attachment, field string) error {
	for _, other := range i.disks {
		switch {
		case other.device == a.device:
			return invalid(field+".deviceName", a.device, "The device name is already used by another disk of the instance.")
		case !a.local && !other.local && other.disk.name == a.disk.name:
			return invalid(field+".source", a.disk.name, "The disk is attached twice.")
		}
	}
	if !a.local && i.machine.Hyperdisk && !strings.HasPrefix(a.disk.kind, "hyperdisk-") {
		return invalid(field+".type", a.disk.kind, "%s disk type cannot be used by %s machine type.", a.disk.kind, i.machine.Name)
	}
	return nil
}

// readAttachment reads one disk of an instance: an existing one, one to be made,
// or a local SSD.
func (c *Cloud) readAttachment(i *instance, o object, field string, n int, now time.Time) (*attachment, error) {
	params, source := inner(o, "initializeParams"), text(o, "source")
	a := &attachment{
		boot: truth(o, "boot"), autoDelete: truth(o, "autoDelete"), mode: cmp.Or(text(o, "mode"), "READ_WRITE"),
		device: cmp.Or(text(o, "deviceName"), fmt.Sprintf("persistent-disk-%d", n)),
	}
	switch {
	case text(o, "type") == "SCRATCH":
		if ref, ok := readReference(text(params, "diskType"), "diskTypes"); !ok || ref.name != "local-ssd" || source != "" || a.boot {
			return nil, invalid(field, "", "A scratch disk is a local SSD, has no source, and is not for booting.")
		}
		if !a.autoDelete {
			return nil, invalid(field+".autoDelete", false, "Scratch disks are always deleted with their instance.")
		}
		a.local, a.device = true, cmp.Or(text(o, "deviceName"), fmt.Sprintf("local-ssd-%d", n))
		return a, nil
	case source != "" && params != nil:
		return nil, invalid(field, "", "Only one of source and initializeParams can be specified.")
	case source == "" && params == nil:
		return nil, invalid(field, "", "One of source and initializeParams must be specified.")
	case source != "":
		ref, ok := readReference(source, "disks")
		if !ok || !strings.HasPrefix(ref.scope, "zones/") {
			return nil, malformed(field+".source", source)
		}
		if ref.scope != "zones/"+i.zone {
			return nil, invalid(field+".source", source, "Disk must be in the same zone as the instance: %s.", i.zone)
		}
		d := c.disks[cmp.Or(ref.project, i.project)+"/"+i.zone+"/"+ref.name]
		switch {
		case d == nil:
			return nil, notFound("projects/" + cmp.Or(ref.project, i.project) + "/" + ref.scope + "/disks/" + ref.name)
		case d.status != "READY":
			return nil, notReady(d.path())
		case d.user != nil:
			return nil, inUse("disk resource '"+d.path()+"'", d.user.path())
		}
		a.disk = d
		return a, nil
	}
	name := text(params, "diskName")
	if name == "" {
		if name = i.name; n > 0 {
			name = fmt.Sprintf("%s-%d", i.name, n)
		}
	}
	if err := checkName(field+".initializeParams.diskName", name); err != nil {
		return nil, err
	}
	if a.boot && text(params, "sourceImage") == "" {
		return nil, invalid(field+".initializeParams.sourceImage", "", "A boot disk must be made of an image.")
	}
	d, err := c.newDisk(i.project, i.zone, diskSpec{
		field: field + ".initializeParams", name: name, kind: text(params, "diskType"), image: text(params, "sourceImage"),
		text: text(params, "description"), size: whole(params, "diskSizeGb"), labels: labelsOf(params),
		iops: whole(params, "provisionedIops"), throughput: whole(params, "provisionedThroughput"),
	}, now)
	if err != nil {
		return nil, err
	}
	d.with, d.appears, a.disk = i, i.appears, d
	return a, nil
}

var modelledDisk = pathSet("name description sizeGb type labels labels.* sourceImage provisionedIops provisionedThroughput zone")

func (c *Cloud) insertDisk(r *request, call fakecloud.Call, now time.Time) (object, error) {
	return c.once(r, func() (*operation, error) {
		b := r.body
		if err := onlyModelled(modelledDisk, b, "", "resource"); err != nil {
			return nil, err
		}
		if err := checkName("resource.name", text(b, "name")); err != nil {
			return nil, err
		}
		d, err := c.newDisk(r.path["project"], r.path["zone"], diskSpec{
			field: "resource", name: text(b, "name"), kind: text(b, "type"), image: cmp.Or(r.query["sourceImage"], text(b, "sourceImage")),
			text: text(b, "description"), size: whole(b, "sizeGb"), labels: labelsOf(b),
			iops: whole(b, "provisionedIops"), throughput: whole(b, "provisionedThroughput"),
		}, now)
		if err != nil {
			return nil, err
		}
		d.appears = now.Add(c.draw(c.o.Appears, "appear", d.zone, d.name))
		d.status = "CREATING"
		c.addDisk(d, now)
		op := c.spoil(c.begin(now, "insert", d.project, "zones/"+d.zone, d.path(), number(d.id)), call)
		d.op = op
		took := c.draw(c.o.Durations.Disk, "disk", d.zone, d.name)
		op.due = now.Add(took)
		c.after(now, took, func(at time.Time) {
			if op.nothing {
				return
			}
			err := op.spoiled
			region := c.regionOf(d.zone)
			if limit := c.limit(region, d.metric()); err == nil && c.usage(d.project, region)[d.metric()] > limit {
				err = QuotaExceeded(region, d.metric(), limit)
			}
			if err != nil {
				c.removeDisk(d, at)
			} else {
				d.status = "READY"
			}
			c.end(op, at, err)
		})
		return op, nil
	})
}

func (c *Cloud) getDisk(r *request, _ fakecloud.Call, now time.Time) (object, error) {
	d, err := c.disk(r, now)
	if err != nil {
		return nil, err
	}
	return d.json(), nil
}

func (c *Cloud) visibleDisks(r *request, now time.Time) []object {
	var all []object
	for _, d := range c.disks {
		if d.project == r.path["project"] && (r.path["zone"] == "" || r.path["zone"] == d.zone) && !now.Before(d.appears) {
			all = append(all, d.json())
		}
	}
	slices.SortFunc(all, byPath)
	return all
}

func (c *Cloud) listDisks(r *request, _ fakecloud.Call, now time.Time) (object, error) {
	return c.page(r, "compute#diskList", c.visibleDisks(r, now))
}

func (c *Cloud) aggregateDisks(r *request, _ fakecloud.Call, now time.Time) (object, error) {
	return c.aggregate(r, "compute#diskAggregatedList", "disks", c.visibleDisks(r, now))
}

// diskChange is a call that changes a disk after a while. What check says
// against it refuses the call, or then the operation.
func (c *Cloud) diskChange(r *request, call fakecloud.Call, now time.Time, kind string, check func(d *disk) *Error, do func(d *disk, at time.Time)) (object, error) {
	return c.once(r, func() (*operation, error) {
		d, err := c.disk(r, now)
		if err != nil {
			return nil, err
		}
		if d.status != "READY" {
			return nil, notReady(d.path())
		}
		if err := check(d); err != nil {
			return nil, err
		}
		op := c.spoil(c.begin(now, kind, d.project, "zones/"+d.zone, d.path(), number(d.id)), call)
		c.change(op, now, c.draw(c.o.Durations.Disk, kind, d.zone, d.name), func() *Error {
			if c.disks[d.key()] != d {
				return notFound(d.path())
			}
			return check(d)
		}, func(at time.Time) { do(d, at) })
		return op, nil
	})
}

func (c *Cloud) deleteDisk(r *request, call fakecloud.Call, now time.Time) (object, error) {
	return c.diskChange(r, call, now, "delete", func(d *disk) *Error {
		if d.user != nil {
			return inUse("disk resource '"+d.path()+"'", d.user.path())
		}
		return nil
	}, func(d *disk, at time.Time) { c.removeDisk(d, at) })
}

func (c *Cloud) resizeDisk(r *request, call fakecloud.Call, now time.Time) (object, error) {
	size := whole(r.body, "sizeGb")
	return c.diskChange(r, call, now, "resizeDisk", func(d *disk) *Error {
		if size <= d.size {
			return invalid("sizeGb", size, "New disk size '%d' must be larger than existing size '%d'.", size, d.size)
		}
		return nil
	}, func(d *disk, _ time.Time) { d.size = size })
}

func (c *Cloud) setDiskLabels(r *request, call fakecloud.Call, now time.Time) (object, error) {
	labels := labelsOf(r.body)
	return c.diskChange(r, call, now, "setLabels", func(d *disk) *Error {
		if text(r.body, "labelFingerprint") != d.labelPrint() {
			return conditionNotMet("Labels fingerprint either invalid or resource labels have changed")
		}
		return checkLabels("labels", labels)
	}, func(d *disk, _ time.Time) { d.labels = labels })
}
