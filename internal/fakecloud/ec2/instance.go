package ec2

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// state is a machine's, with EC2's number for it.
type state struct {
	name string
	code int
}

var (
	pending      = state{"pending", 0}
	running      = state{"running", 16}
	shuttingDown = state{"shutting-down", 32}
	terminated   = state{"terminated", 48}
	stopping     = state{"stopping", 64}
	stopped      = state{"stopped", 80}
)

// cause is why a machine is in its state.
type cause struct{ code, message string }

var (
	byUser      = cause{"Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown"}
	byHibernate = cause{"Client.UserInitiatedHibernate", "Client.UserInitiatedHibernate: User initiated hibernate"}
	byGuest     = cause{"Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown"}
	bySpot      = cause{"Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination"}
	byHost      = cause{"Server.InternalError", "Server.InternalError: Internal error on launch"}
)

// instance is a machine.
type instance struct {
	thing
	reservation, token string
	index              int
	image              *Image
	typ                *Type
	zone               *Zone
	nics               []*networkInterface // one while it exists, none after
	state              state
	cause              cause
	transition         string // StateTransitionReason
	orders             int    // what was ordered before is void
	launched, booted   time.Time
	boots              int
	public             string
	wantsPublic        bool
	userData           []byte
	ends               string // what a shutdown from within does: stop or terminate
	keyName, profile   string
	protected          bool // against termination
	credits            string
	monitored          bool
	ebsOptimized       bool
	metadata           metadataOptions
	hibernates         bool      // can be told to
	asleep             time.Time // since when its memory is on disk
	spot               *spotRequest
	wish               answer // CapacityReservationSpecification
	reserved           *reservation
	tookRoom           bool
	notice             *notice
	events             []maintenance
	impaired           bool
	up                 bool // the guest runs
	console            string
}

// metadataOptions are who may read the machine's metadata, and how.
type metadataOptions struct {
	tokens, endpoint, tags string
	hops                   int
}

// notice is a spot interruption that is coming.
type notice struct {
	action string
	at     time.Time
}

// maintenance is a scheduled event.
type maintenance struct {
	id, code, text string
	from, until    time.Time
}

func (i *instance) live() bool { return i.state != terminated && i.state != shuttingDown }

func (i *instance) private() string {
	if len(i.nics) == 0 {
		return ""
	}
	return i.nics[0].private
}

// machine is what hooks are told.
func (c *Cloud) machine(i *instance, resumed bool) Machine {
	var volumes []Volume
	for _, v := range c.attached(i) {
		if v.device != i.image.RootDevice && v.attachment == "attached" {
			volumes = append(volumes, Volume{v.id, v.device})
		}
	}
	return Machine{
		Volumes: volumes,
		ID:      i.id, Type: i.typ.Name, Zone: i.zone.Name, Image: i.image.ID, PublicIP: i.public, PrivateIP: i.private(),
		Boot: i.boots, Resumed: resumed, UserData: slices.Clone(i.userData), Tags: maps.Clone(i.tags), At: c.now,
	}
}

// stateAnswer is a state as answers have it.
func stateAnswer(s state) answer { return answer{"Name": s.name, "Code": s.code} }

// describe is a machine as DescribeInstances shows it.
func (c *Cloud) describe(i *instance) answer {
	a := answer{
		"InstanceId": i.id, "ImageId": i.image.ID, "State": stateAnswer(i.state), "InstanceType": i.typ.Name, "LaunchTime": i.launched,
		"AmiLaunchIndex": i.index, "KeyName": i.keyName, "ClientToken": i.token, "Architecture": i.image.Architecture, "Platform": i.image.Platform,
		"RootDeviceType": "ebs", "RootDeviceName": i.image.RootDevice, "VirtualizationType": "hvm", "Hypervisor": "xen", "EnaSupport": !i.typ.Xen,
		"StateTransitionReason": i.transition, "Tags": tagSet(i.tags), "EbsOptimized": i.ebsOptimized, "SourceDestCheck": true,
		"Placement":          answer{"AvailabilityZone": i.zone.Name, "Tenancy": "default"},
		"Monitoring":         answer{"State": map[bool]string{true: "enabled", false: "disabled"}[i.monitored]},
		"HibernationOptions": answer{"Configured": i.hibernates},
		"MetadataOptions": answer{
			"State": "applied", "HttpTokens": i.metadata.tokens, "HttpEndpoint": i.metadata.endpoint,
			"HttpPutResponseHopLimit": i.metadata.hops, "InstanceMetadataTags": i.metadata.tags, "HttpProtocolIpv6": "disabled",
		},
		"BlockDeviceMappings": c.mappings(i), "CapacityReservationSpecification": i.wish,
	}
	if i.cause.code != "" {
		a["StateReason"] = answer{"Code": i.cause.code, "Message": i.cause.message}
	}
	if i.profile != "" {
		a["IamInstanceProfile"] = answer{"Arn": c.profileARN(i.profile), "Id": "AIPA" + strings.ToUpper(i.id[2:])}
	}
	if i.spot != nil {
		a["InstanceLifecycle"], a["SpotInstanceRequestId"] = "spot", i.spot.id
	}
	if i.reserved != nil {
		a["CapacityReservationId"] = i.reserved.id
	}
	if len(i.nics) == 0 {
		return a
	}
	nic := i.nics[0]
	a["SubnetId"], a["VpcId"], a["SecurityGroups"] = nic.subnet.id, nic.subnet.vpc.id, groupSet(nic.groups)
	a["PrivateIpAddress"], a["PrivateDnsName"] = nic.private, "ip-"+strings.ReplaceAll(nic.private, ".", "-")+".ec2.internal"
	shown := answer{
		"NetworkInterfaceId": nic.id, "PrivateIpAddress": nic.private, "SubnetId": nic.subnet.id, "VpcId": nic.subnet.vpc.id, "Status": "in-use",
		"Groups": groupSet(nic.groups), "Description": nic.description, "OwnerId": c.o.Account, "SourceDestCheck": true,
		"Attachment": answer{"DeviceIndex": 0, "Status": "attached", "DeleteOnTermination": nic.dot, "AttachmentId": "eni-attach" + nic.id[3:]},
	}
	if i.public != "" {
		a["PublicIpAddress"], a["PublicDnsName"] = i.public, "ec2-"+strings.ReplaceAll(i.public, ".", "-")+".compute-1.amazonaws.com"
		shown["Association"] = answer{"PublicIp": i.public, "IpOwnerId": "amazon"}
	}
	a["NetworkInterfaces"] = []answer{shown}
	return a
}

func (c *Cloud) profileARN(name string) string {
	return "arn:aws:iam::" + c.o.Account + ":instance-profile/" + name
}

// mappings are the volumes a machine has.
func (c *Cloud) mappings(i *instance) []answer {
	list := []answer{}
	for _, v := range c.attached(i) {
		list = append(list, answer{
			"DeviceName": v.device,
			"Ebs":        answer{"VolumeId": v.id, "Status": v.attachment, "DeleteOnTermination": v.dot, "AttachTime": v.attachedAt},
		})
	}
	return list
}

func (c *Cloud) facts(i *instance) facts {
	f := facts{
		"instance-id": {i.id}, "instance-state-name": {i.state.name}, "instance-state-code": {strconv.Itoa(i.state.code)},
		"instance-type": {i.typ.Name}, "availability-zone": {i.zone.Name}, "client-token": {i.token}, "image-id": {i.image.ID},
		"reservation-id": {i.reservation}, "owner-id": {c.o.Account}, "architecture": {i.image.Architecture}, "key-name": {i.keyName},
	}
	for _, nic := range i.nics {
		f["subnet-id"], f["vpc-id"], f["private-ip-address"] = []string{nic.subnet.id}, []string{nic.subnet.vpc.id}, []string{nic.private}
		for _, g := range nic.groups {
			f["instance.group-id"] = append(f["instance.group-id"], g.id)
		}
	}
	if i.public != "" {
		f["ip-address"] = []string{i.public}
	}
	if i.spot != nil {
		f["instance-lifecycle"], f["spot-instance-request-id"] = []string{"spot"}, []string{i.spot.id}
	}
	return f.with(i.tags)
}

func describeInstances(c *Cloud, p params) (answer, error) {
	all, err := chosen(c, &c.instances, p.strs("InstanceIds"), "i", "InvalidInstanceID")
	if err != nil {
		return nil, err
	}
	got, next, err := page(c, "DescribeInstances", p, all, seqOf, c.facts)
	return answer{"Reservations": c.reservationsOf(got), "NextToken": next}, err
}

// reservationsOf groups machines by the call that launched them.
func (c *Cloud) reservationsOf(all []*instance) []answer {
	list := []answer{}
	last := ""
	for _, i := range all {
		if i.reservation != last {
			list = append(list, answer{"ReservationId": i.reservation, "OwnerId": c.o.Account, "Instances": []answer{}})
			last = i.reservation
		}
		r := list[len(list)-1]
		r["Instances"] = append(r["Instances"].([]answer), c.describe(i))
	}
	return list
}

func describeInstanceStatus(c *Cloud, p params) (answer, error) {
	all, err := chosen(c, &c.instances, p.strs("InstanceIds"), "i", "InvalidInstanceID")
	if err != nil {
		return nil, err
	}
	if !p.flag("IncludeAllInstances") {
		all = slices.DeleteFunc(all, func(i *instance) bool { return i.state != running })
	}
	got, next, err := page(c, "DescribeInstanceStatus", p, all, seqOf, func(i *instance) facts {
		f := facts{
			"availability-zone": {i.zone.Name}, "instance-state-name": {i.state.name}, "instance-state-code": {strconv.Itoa(i.state.code)},
			"instance-status.status": {i.status(c.now, false)}, "system-status.status": {i.status(c.now, true)},
		}
		for _, e := range i.events {
			f["event.code"] = append(f["event.code"], e.code)
		}
		return f
	})
	list := []answer{}
	for _, i := range got {
		a := answer{
			"InstanceId": i.id, "AvailabilityZone": i.zone.Name, "InstanceState": stateAnswer(i.state),
			"InstanceStatus": answer{"Status": i.status(c.now, false)}, "SystemStatus": answer{"Status": i.status(c.now, true)},
		}
		events := []answer{}
		for _, e := range i.events {
			events = append(events, answer{"InstanceEventId": e.id, "Code": e.code, "Description": e.text, "NotBefore": e.from, "NotAfter": e.until})
		}
		a["Events"] = events
		list = append(list, a)
	}
	return answer{"InstanceStatuses": list, "NextToken": next}, err
}

// firstChecks is how long status checks take after a start.
const firstChecks = 2 * time.Minute

func (i *instance) status(now time.Time, system bool) string {
	switch {
	case i.state != running:
		return "not-applicable"
	case i.impaired && system:
		return "impaired"
	case i.impaired || now.Sub(i.booted) < firstChecks:
		return map[bool]string{true: "impaired", false: "initializing"}[i.impaired]
	default:
		return "ok"
	}
}
