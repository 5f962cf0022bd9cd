// Package amazon makes machines on Amazon EC2: it knows the keys of a pool's
// spec, their defaults and rules, and how such a machine is launched, found,
// put to sleep and ended. Everything it knows of a machine after a restart
// stands in the machine's tags.
//
// It refuses to know what runs in a machine, and keeps no state of its own but
// what spares calls. The build tag no_amazon leaves all but the keys out.
package amazon

import (
	"maps"
	"slices"
	"strings"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Spec is the `spec` of a pool of type amazon. Its zero value lacks defaults;
// see [drivers.SetDefaults].
type Spec struct {
	Account Account `spec:"account" doc:"Where machines are made, and with whose rights."`
	Name    string  `spec:"name" doc:"Beginning of the machines' Name tag."`
	Size    string  `spec:"size" doc:"Instance type; t3.nano, or t4g.nano on arm64."`
	SizeAlt string  `spec:"size_alt" doc:"Instance type that is tried when there is no capacity for size."`
	AMI     string  `spec:"ami" doc:"Id of an image (ami-…), the name of one of yours or Amazon's, of which the newest is taken, or the path of a public SSM parameter (/aws/…)."`
	VPC     string  `spec:"vpc" doc:"Network in which the security group is made when none is named."`
	drivers.UserData
	Tags          map[string]string `spec:"tags" doc:"Tags of machines, volumes and network interfaces."`
	Disk          Disk              `spec:"disk" doc:"The root volume."`
	Network       Network           `spec:"network" doc:"How machines are reached."`
	ZoneDetails   []Zone            `spec:"zone_details" doc:"Taken as network.zone_details."`
	DeviceName    string            `spec:"device_name" doc:"Root device; by default the image's own."`
	IAMProfileARN string            `spec:"iam_profile_arn" doc:"Instance profile."`
	MarketType    string            `spec:"market_type" enum:"on-demand,spot" doc:"spot asks for spot machines first and takes on-demand ones where there are none."`
	Hibernate     bool              `spec:"hibernate" default:"false" doc:"Whether warm machines wait hibernated. Image, type and volume must allow it."`
	EnableC4D     bool              `spec:"enable_c4d" default:"false" doc:"Whether the largest instance store volume, which ends with the machine, is made scratch space: /mnt/ephemeral, /tmp and /harness."`

	User          string `spec:"user" ignored:"known for compatibility" doc:"User of the image."`
	Type          string `spec:"type" ignored:"known for compatibility" doc:"Written by some generators."`
	RootDirectory string `spec:"root_directory" ignored:"known for compatibility" doc:"Written by some generators."`
}

// Account says where machines are made, and with whose rights. Without keys
// the usual chain of AWS is used.
type Account struct {
	AccessKeyID      string `spec:"access_key_id" secret:"true" doc:"By default AMAZON_ACCESS_KEY_ID, else what AWS programs use."`
	AccessKeySecret  string `spec:"access_key_secret" secret:"true" doc:"By default AMAZON_ACCESS_KEY_SECRET."`
	SessionToken     string `spec:"aws_session_token" secret:"true" doc:"By default AMAZON_SESSION_TOKEN."`
	Region           string `spec:"region" doc:"By default AWS_REGION or AWS_DEFAULT_REGION, else the region this host is in."`
	Retries          int    `spec:"retries" default:"10" min:"0" max:"100" doc:"Attempts of one call."`
	AvailabilityZone string `spec:"availability_zone" doc:"The only zone; network.zone_details names several."`
	KeyPairName      string `spec:"key_pair_name" doc:"Key pair for SSH."`
}

// Disk is the root volume.
type Disk struct {
	Size     int               `spec:"size" default:"32" min:"0" max:"65536" doc:"GB; 0 is 32."`
	Type     string            `spec:"type" default:"gp2" enum:"gp2,gp3,io1,io2,standard" doc:"Kind of volume."`
	IOPS     int               `spec:"iops" numeric:"true" min:"0" max:"256000" doc:"Operations a second, for io1, io2 and gp3; 100 for io1."`
	KMSKeyID string            `spec:"kms_key_id" doc:"Key the volume is encrypted with."`
	Tags     map[string]string `spec:"tags" doc:"Tags of the volume, beside those of the machine."`
}

// Network says how machines are reached.
type Network struct {
	SecurityGroups    []string `spec:"security_groups" single:"true" doc:"Ids; without any, the group harness-runner is found or made."`
	VPCSecurityGroups []string `spec:"vpc_security_group_ids" single:"true" doc:"More ids."`
	SubnetID          string   `spec:"subnet_id" doc:"The only subnet; needed where there is no default VPC. zone_details names several."`
	PrivateIP         bool     `spec:"private_ip" default:"false" doc:"Whether machines have no public address."`
	ZoneDetails       []Zone   `spec:"zone_details" doc:"Zones and their subnets, tried in turn."`
	UserData          string   `spec:"user_data" doc:"Taken as user_data of the spec, with a warning."`
}

// Zone is one zone machines may be made in.
type Zone struct {
	AvailabilityZone string `spec:"availability_zone" required:"true" doc:"The zone."`
	SubnetID         string `spec:"subnet_id" doc:"Its subnet."`
}

// Resolved says what the machines are like; see [drivers.Resolver].
func (s *Spec) Resolved() (image, machineType string, diskGiB int) { return s.AMI, s.Size, s.Disk.Size }

// Hibernates says whether warm machines wait on disk; see [drivers.Sleeper].
func (s *Spec) Hibernates() bool { return s.Hibernate }

// maxBoot is the longest user data of a machine, before base64.
const maxBoot = 16 << 10

// BootOptions says what the boot script is made of; see [drivers.Booted].
func (s *Spec) BootOptions() (drivers.BootOptions, error) {
	text, name, err := s.Script()
	o := drivers.BootOptions{
		Template: text, TemplateName: name, MaxBytes: maxBoot, Gzip: true, PowerShellTags: true,
		// Persistent disks are attached from /dev/sdf on. What the machine calls
		// them depends on its hypervisor and its image.
		Disks: func(i int) []string {
			letter := string(rune('f' + i))
			return []string{"/dev/sd" + letter, "/dev/xvd" + letter}
		},
		SoleDisk: "/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_vol*",
	}
	if s.EnableC4D {
		o.Scratch = []string{"/dev/disk/by-id/nvme-Amazon_EC2_NVMe_Instance_Storage_*"}
	}
	return o, err
}

// Registration tells cmd of this type.
var Registration = drivers.Registration{
	Name: "amazon", Aliases: []string{"aws"},
	NewConfig: drivers.NewOf[Spec](),
	Check:     drivers.CheckOf(check),
	Tenants:   true,
	New:       build,
}

// check validates a spec, moves what stands under a deprecated key, and fills
// in what depends on the platform.
func check(s *Spec, p *drivers.Platform) drivers.Problems {
	var out drivers.Problems
	out.Platform(p, []string{"linux", "windows", "darwin"}, []string{"amd64", "arm64"})
	switch {
	case p.OSName == "" && p.OS == "linux":
		p.OSName = "ubuntu"
	case p.OSName != "" && p.OSName != "ubuntu" && p.OSName != "amazon-linux" && p.OS == "linux":
		out.Errorf("platform.os_name", "%q has no boot script; write ubuntu or amazon-linux", p.OSName)
	}
	if s.Network.UserData != "" {
		if s.UserData.UserData == "" {
			out.Warnf("network.user_data", "taken as user_data of the spec; write it there, beside network")
			s.UserData.UserData = s.Network.UserData
		} else {
			out.Warnf("network.user_data", "not used beside user_data of the spec; remove it")
		}
		s.Network.UserData = ""
	}
	if len(s.ZoneDetails) > 0 {
		if len(s.Network.ZoneDetails) == 0 {
			s.Network.ZoneDetails = s.ZoneDetails
		} else {
			out.Warnf("zone_details", "not used beside network.zone_details; remove it")
		}
		s.ZoneDetails = nil
	}
	out.UserData(s.UserData)
	if (s.Account.AccessKeyID == "") != (s.Account.AccessKeySecret == "") {
		out.Errorf("account", "one of access_key_id and access_key_secret is missing; give both or neither")
	}
	if s.AMI == "" {
		out.Warnf("ami", "missing, so machines can be made only for requests that name an image; give the id or the name of one")
	}
	if strings.HasPrefix(s.AMI, "ami-") && len(s.AMI) < len("ami-")+8 {
		out.Warnf("ami", "%q is too short for an id and taken as the name of an image; ids have at least 8 digits", s.AMI)
	}
	if s.Size == "" {
		s.Size = "t3.nano"
		if p.Arch == "arm64" {
			s.Size = "t4g.nano"
		}
	}
	if s.SizeAlt == s.Size {
		out.Warnf("size_alt", "the same as size, so it helps nothing; name another instance type")
	}
	if s.MarketType == "spot" && s.Hibernate {
		out.Warnf("market_type", "spot machines cannot hibernate, so on-demand ones are made; remove market_type or hibernate")
	}
	checkDisk(&s.Disk, &out)
	checkTags(s.Tags, "tags", &out)
	checkTags(s.Disk.Tags, "disk.tags", &out)
	return out
}

func checkDisk(d *Disk, out *drivers.Problems) {
	if d.Size == 0 {
		d.Size = 32
	}
	switch d.Type {
	case "io1":
		if d.IOPS == 0 {
			d.IOPS = 100
		}
	case "io2":
		if d.IOPS == 0 {
			out.Errorf("disk.iops", "missing; io2 volumes need it")
		}
	case "gp3":
	default:
		if d.IOPS != 0 {
			out.Warnf("disk.iops", "has no effect on %s; choose gp3, io1 or io2", d.Type)
		}
	}
}

// What EC2 allows of tags, less those that the runner adds.
const (
	mostTags     = 35
	longestKey   = 128
	longestValue = 256
)

func checkTags(tags map[string]string, path string, out *drivers.Problems) {
	if len(tags) > mostTags {
		out.Errorf(path, "%d tags; EC2 allows 50 in all, of which %d are yours", len(tags), mostTags)
	}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		switch {
		case strings.HasPrefix(strings.ToLower(key), "aws:"):
			out.Errorf(path, "%q: keys that begin with aws: are Amazon's; choose another", key)
		case key == "" || len([]rune(key)) > longestKey:
			out.Errorf(path, "%.40q: a key has 1 to %d characters", key, longestKey)
		case len([]rune(tags[key])) > longestValue:
			out.Errorf(path, "%q: a value has at most %d characters", key, longestValue)
		}
	}
}
