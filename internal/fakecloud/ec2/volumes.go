package ec2

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// volume is a disk.
type volume struct {
	thing
	zone             *Zone
	gb, iops, speed  int
	kind             string
	encrypted        bool
	key, snapshot    string
	state            string // creating, available, in-use, deleting
	made, attachedAt time.Time
	inst             *instance
	device           string
	attachment       string // attaching, attached, detaching, or ""
	dot              bool   // it is deleted with its machine
}

// maxIOPS are the most of the types for which one may say it.
var maxIOPS = map[string]int{"io1": 64000, "io2": 256000, "gp3": 80000}

var (
	volumeTypes = []string{"standard", "gp2", "gp3", "io1", "io2", "sc1", "st1"}
	deviceRE    = regexp.MustCompile(`^(/dev/)?(sd[a-z][0-9]{0,2}|xvd[a-z]{1,2}[0-9]{0,2}|hd[a-z])$`)
)

// readVolume reads what a volume shall be, from CreateVolume or the Ebs of a
// mapping; names are of the parameters of either.
func (c *Cloud) readVolume(p params, size string, least int) (*volume, error) {
	v := &volume{
		gb: p.num(size), kind: cmp.Or(p.str("VolumeType"), "gp2"), iops: p.num("Iops"), speed: p.num("Throughput"),
		encrypted: p.flag("Encrypted"), key: p.str("KmsKeyId"), snapshot: p.str("SnapshotId"), dot: p.flagOr("DeleteOnTermination", true),
	}
	if v.snapshot != "" {
		i := slices.IndexFunc(c.o.Images, func(i Image) bool { return i.Snapshot == v.snapshot })
		if i < 0 {
			return nil, refuse("InvalidSnapshot.NotFound", "The snapshot '%s' does not exist.", v.snapshot)
		}
		least = max(least, c.o.Images[i].GB)
	}
	if v.gb == 0 && !p.has(size) {
		v.gb = least
	}
	switch most := maxIOPS[v.kind]; {
	case !slices.Contains(volumeTypes, v.kind):
		return nil, invalidValue("volumeType", v.kind, "")
	case v.gb == 0:
		return nil, refuse("MissingParameter", "The request must contain the parameter size or snapshotId")
	case v.gb < max(least, 1) || v.gb > 16384 && v.kind != "io2" && v.kind != "gp3" || v.gb > 65536:
		return nil, invalidValue("size", v.gb, "It is smaller than the snapshot, or out of the bounds of the volume type.")
	case (v.kind == "io1" || v.kind == "io2") && (v.gb < 4 || !p.has("Iops")):
		return nil, refuse("MissingParameter", "The parameter iops must be specified for %s volumes, whose size is at least 4 GiB", v.kind)
	case p.has("Iops") && most == 0:
		return nil, refuse("InvalidParameterCombination", "The parameter iops is not supported for %s volumes.", v.kind)
	case p.has("Iops") && (v.iops < 100 || v.iops > most || v.kind == "gp3" && v.iops < 3000):
		return nil, invalidValue("iops", v.iops, "It is out of the bounds of "+v.kind+".")
	case p.has("Throughput") && v.kind != "gp3":
		return nil, refuse("InvalidParameterCombination", "The parameter throughput is not supported for %s volumes.", v.kind)
	case p.has("Throughput") && (v.speed < 125 || v.speed > 2000):
		return nil, invalidValue("throughput", v.speed, "")
	case v.key != "" && !v.encrypted:
		return nil, refuse("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set.")
	}
	return v, nil
}

func (c *Cloud) volumeGB() (n int) {
	for _, v := range c.volumes.order {
		n += v.gb
	}
	return n
}

func createVolume(c *Cloud, p params) (answer, error) {
	before, err := c.remembered("CreateVolume", p)
	if err != nil {
		return nil, err
	}
	if len(before) > 0 {
		v, _ := before[0].(*volume)
		return c.describeVolume(v), nil
	}
	zone, err := c.zoneOf(p.str("AvailabilityZone"), p.str("AvailabilityZoneId"))
	if err != nil {
		return nil, err
	}
	if zone == nil {
		return nil, refuse("MissingParameter", "The request must contain the parameter AvailabilityZone")
	}
	v, err := c.readVolume(p, "Size", 0)
	if err != nil {
		return nil, err
	}
	tags, err := c.tagsFor(p, "volume")
	if err != nil {
		return nil, err
	}
	if c.o.MaxVolumeGB > 0 && c.volumeGB()+v.gb > c.o.MaxVolumeGB {
		return nil, refuse("VolumeLimitExceeded", "You have exceeded your maximum gp2 storage limit of %d GiB in this region.", c.o.MaxVolumeGB)
	}
	v.zone, v.dot = zone, false
	c.makeVolume(v, tags["volume"])
	if err := c.maybeFailTagging(p); err != nil {
		c.dropVolume(v)
		return nil, err
	}
	c.remember("CreateVolume", p, v)
	c.after(c.between(c.o.Times.Volume, "create", v.id), func() {
		if v.state == "creating" {
			v.state = "available"
			if v.key != "" && !slices.Contains(c.o.KMSKeys, v.key) {
				c.dropVolume(v) // as real ones do: gone without a word
			}
		}
	})
	return c.describeVolume(v), nil
}

// zoneOf is a zone by name or id, nil for neither.
func (c *Cloud) zoneOf(name, id string) (*Zone, error) {
	if name == "" && id == "" {
		return nil, nil
	}
	if name != "" && id != "" {
		return nil, refuse("InvalidParameterCombination", "You cannot specify both AvailabilityZone and AvailabilityZoneId")
	}
	for i := range c.o.Zones {
		if z := &c.o.Zones[i]; z.Name == name || z.ID == id && id != "" {
			return z, nil
		}
	}
	return nil, refuse("InvalidParameterValue", "Invalid availability zone: [%s]", name+id)
}

func (c *Cloud) makeVolume(v *volume, tags map[string]string) {
	v.thing = c.thing("vol", nonNil(tags))
	v.state, v.made = "creating", c.now
	c.volumes.put(v)
	c.book("volume", &v.thing, "", v.zone.Name)
}

func nonNil(tags map[string]string) map[string]string {
	if tags == nil {
		return map[string]string{}
	}
	return tags
}

func (c *Cloud) dropVolume(v *volume) {
	c.volumes.drop(v.id)
	v.state, v.inst = "deleted", nil
	c.Books.End("volume", v.id, c.now)
}

// attached are a machine's volumes, the root first.
func (c *Cloud) attached(i *instance) []*volume {
	return slices.DeleteFunc(slices.Clone(c.volumes.order), func(v *volume) bool { return v.inst != i })
}

func attachVolume(c *Cloud, p params) (answer, error) {
	v, err := one(c, &c.volumes, p.str("VolumeId"), "vol", "InvalidVolume")
	if err != nil {
		return nil, err
	}
	i, err := one(c, &c.instances, p.str("InstanceId"), "i", "InvalidInstanceID")
	if err != nil {
		return nil, err
	}
	device := p.str("Device")
	switch {
	case v.state == "in-use":
		return nil, refuse("VolumeInUse", "%s is already attached to an instance", v.id)
	case v.state != "available":
		return nil, refuse("IncorrectState", "%s is not 'available'.", v.id)
	case i.state != running && i.state != stopped:
		return nil, refuse("IncorrectState", "Instance '%s' is not 'running'.", i.id)
	case i.zone != v.zone:
		return nil, refuse("InvalidVolume.ZoneMismatch", "The volume '%s' is not in the same availability zone as instance '%s'", v.id, i.id)
	case !deviceRE.MatchString(device):
		return nil, invalidValue("device", device, "It is not a valid EBS device name.")
	case slices.ContainsFunc(c.attached(i), func(other *volume) bool { return other.device == device }):
		return nil, refuse("InvalidParameterValue", "Invalid value '%s' for unixDevice. Attachment point %s is already in use", device, device)
	}
	v.state, v.inst, v.device, v.attachment, v.attachedAt, v.dot = "in-use", i, device, "attaching", c.now, false
	c.after(c.between(c.o.Times.Volume, "attach", v.id, c.now.UnixNano()), func() {
		if v.inst != i || v.attachment != "attaching" {
			return
		}
		v.attachment = "attached"
		if c.o.Attaches != nil {
			m, given := c.machine(i, false), Volume{v.id, v.device}
			c.hooks = append(c.hooks, func() { c.o.Attaches(m, given) })
		}
	})
	return c.attachmentOf(v), nil
}

func (c *Cloud) attachmentOf(v *volume) answer {
	return answer{
		"VolumeId": v.id, "InstanceId": v.inst.id, "Device": v.device, "State": v.attachment, "AttachTime": v.attachedAt, "DeleteOnTermination": v.dot,
	}
}

func detachVolume(c *Cloud, p params) (answer, error) {
	v, err := one(c, &c.volumes, p.str("VolumeId"), "vol", "InvalidVolume")
	if err != nil {
		return nil, err
	}
	i := v.inst
	switch {
	case i == nil:
		return nil, refuse("IncorrectState", "Volume '%s' is in the 'available' state.", v.id)
	case p.str("InstanceId") != "" && p.str("InstanceId") != i.id, p.str("Device") != "" && p.str("Device") != v.device:
		return nil, refuse("InvalidAttachment.NotFound", "Volume '%s' is not attached as specified", v.id)
	case v.device == i.image.RootDevice && i.state != stopped:
		return nil, refuse("OperationNotPermitted", "Unable to detach root volume '%s' from instance '%s'", v.id, i.id)
	}
	v.attachment = "detaching"
	a := c.attachmentOf(v)
	took := c.between(c.o.Times.Volume, "detach", v.id, c.now.UnixNano())
	if p.flag("Force") {
		took = 0
	}
	c.after(took, func() {
		if v.inst == i && v.attachment == "detaching" {
			v.state, v.inst, v.device, v.attachment = "available", nil, "", ""
		}
	})
	return a, nil
}

func deleteVolume(c *Cloud, p params) (answer, error) {
	v, err := one(c, &c.volumes, p.str("VolumeId"), "vol", "InvalidVolume")
	if err != nil {
		return nil, err
	}
	switch v.state {
	case "in-use":
		return nil, refuse("VolumeInUse", "Volume %s is currently attached to %s", v.id, v.inst.id)
	case "available":
		v.state = "deleting"
		c.after(c.between(c.o.Times.Volume, "delete", v.id), func() { c.dropVolume(v) })
		return answer{}, nil
	case "deleting":
		return answer{}, nil
	default:
		return nil, refuse("IncorrectState", "The volume '%s' is '%s'.", v.id, v.state)
	}
}

func (c *Cloud) describeVolume(v *volume) answer {
	a := answer{
		"VolumeId": v.id, "AvailabilityZone": v.zone.Name, "Size": v.gb, "VolumeType": v.kind, "State": v.state, "CreateTime": v.made,
		"Encrypted": v.encrypted, "SnapshotId": v.snapshot, "Tags": tagSet(v.tags),
	}
	if v.key != "" {
		a["KmsKeyId"] = v.key
	}
	if v.iops > 0 {
		a["Iops"] = v.iops
	}
	if v.speed > 0 {
		a["Throughput"] = v.speed
	}
	return a
}

func describeVolumes(c *Cloud, p params) (answer, error) {
	all, err := chosen(c, &c.volumes, p.strs("VolumeIds"), "vol", "InvalidVolume")
	if err != nil {
		return nil, err
	}
	got, next, err := page(c, "DescribeVolumes", p, all, seqOf, func(v *volume) facts {
		f := facts{
			"volume-id": {v.id}, "status": {v.state}, "availability-zone": {v.zone.Name}, "volume-type": {v.kind}, "size": {strconv.Itoa(v.gb)},
			"encrypted": {strconv.FormatBool(v.encrypted)}, "snapshot-id": {v.snapshot},
		}
		if v.inst != nil {
			f["attachment.instance-id"], f["attachment.status"] = []string{v.inst.id}, []string{v.attachment}
			f["attachment.device"], f["attachment.delete-on-termination"] = []string{v.device}, []string{strconv.FormatBool(v.dot)}
		}
		return f.with(v.tags)
	})
	list := []answer{}
	for _, v := range got {
		a := c.describeVolume(v)
		if v.inst != nil {
			a["Attachments"] = []answer{c.attachmentOf(v)}
		}
		list = append(list, a)
	}
	return answer{"Volumes": list, "NextToken": next}, err
}
