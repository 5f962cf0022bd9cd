package ec2

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strconv"
)

func describeRegions(c *Cloud, p params) (answer, error) {
	names := []string{"us-east-1", "us-east-2", "us-west-2", "eu-central-1"}
	if !slices.Contains(names, c.o.Region) {
		names = append(names, c.o.Region)
	}
	for _, name := range p.strs("RegionNames") {
		if !slices.Contains(names, name) {
			return nil, refuse("InvalidParameterValue", "Invalid region name %s", name)
		}
	}
	if err := checkFilters("DescribeRegions", p.subs("Filters")); err != nil {
		return nil, err
	}
	list := []answer{}
	for _, name := range names {
		endpoint := "ec2." + name + ".amazonaws.com"
		wanted := p.strs("RegionNames")
		if len(wanted) > 0 && !slices.Contains(wanted, name) ||
			!matches(p.subs("Filters"), facts{"region-name": {name}, "endpoint": {endpoint}, "opt-in-status": {"opt-in-not-required"}}) {
			continue
		}
		list = append(list, answer{"RegionName": name, "Endpoint": endpoint, "OptInStatus": "opt-in-not-required"})
	}
	return answer{"Regions": list}, nil
}

func describeZones(c *Cloud, p params) (answer, error) {
	if err := checkFilters("DescribeAvailabilityZones", p.subs("Filters")); err != nil {
		return nil, err
	}
	names, ids := p.strs("ZoneNames"), p.strs("ZoneIds")
	for _, name := range names {
		if _, err := c.zoneOf(name, ""); err != nil {
			return nil, err
		}
	}
	for _, id := range ids {
		if _, err := c.zoneOf("", id); err != nil {
			return nil, err
		}
	}
	list := []answer{}
	for _, z := range c.o.Zones {
		if len(names) > 0 && !slices.Contains(names, z.Name) || len(ids) > 0 && !slices.Contains(ids, z.ID) ||
			!matches(p.subs("Filters"), facts{
				"zone-name": {z.Name}, "zone-id": {z.ID}, "state": {"available"}, "region-name": {c.o.Region},
				"zone-type": {"availability-zone"}, "opt-in-status": {"opt-in-not-required"}, "group-name": {c.o.Region},
			}) {
			continue
		}
		list = append(list, answer{
			"ZoneName": z.Name, "ZoneId": z.ID, "State": "available", "RegionName": c.o.Region, "GroupName": c.o.Region,
			"NetworkBorderGroup": c.o.Region, "ZoneType": "availability-zone", "OptInStatus": "opt-in-not-required",
		})
	}
	return answer{"AvailabilityZones": list}, nil
}

// entry is one of a fixed list, with its place as its number.
type entry[T any] struct {
	seq int
	of  T
}

func entries[T any](all []T) []entry[T] {
	list := make([]entry[T], len(all))
	for i, v := range all {
		list[i] = entry[T]{i + 1, v}
	}
	return list
}

func (e entry[T]) number() int { return e.seq }

func describeImages(c *Cloud, p params) (answer, error) {
	all := entries(c.o.Images)
	if ids := p.strs("ImageIds"); len(ids) > 0 {
		for _, id := range ids {
			if _, err := c.imageOf(id); err != nil {
				return nil, err
			}
		}
		all = slices.DeleteFunc(all, func(e entry[Image]) bool { return !slices.Contains(ids, e.of.ID) })
	}
	if owners := p.strs("Owners"); len(owners) > 0 {
		all = slices.DeleteFunc(all, func(e entry[Image]) bool {
			self := e.of.Owner == c.o.Account && slices.Contains(owners, "self")
			return !self && !slices.Contains(owners, e.of.Owner) && (e.of.Alias == "" || !slices.Contains(owners, e.of.Alias))
		})
	}
	got, next, err := page(c, "DescribeImages", p, all, entry[Image].number, func(e entry[Image]) facts {
		i := e.of
		f := facts{
			"image-id": {i.ID}, "name": {i.Name}, "architecture": {i.Architecture}, "state": {"available"}, "owner-id": {i.Owner},
			"owner-alias": {i.Alias}, "is-public": {strconv.FormatBool(i.Owner != c.o.Account)}, "root-device-type": {"ebs"},
			"root-device-name": {i.RootDevice}, "virtualization-type": {"hvm"},
		}
		if i.Platform != "" {
			f["platform"] = []string{i.Platform}
		}
		return f.with(nil)
	})
	list := []answer{}
	for _, e := range got {
		i := e.of
		list = append(list, answer{
			"ImageId": i.ID, "Name": i.Name, "OwnerId": i.Owner, "ImageOwnerAlias": i.Alias, "Architecture": i.Architecture, "Platform": i.Platform,
			"State": "available", "CreationDate": i.Created.Format("2006-01-02T15:04:05.000Z"), "Public": i.Owner != c.o.Account,
			"RootDeviceName": i.RootDevice, "RootDeviceType": "ebs", "VirtualizationType": "hvm", "Hypervisor": "xen", "EnaSupport": true,
			"ImageType": "machine", "ImageLocation": cmp.Or(i.Alias, i.Owner) + "/" + i.Name,
			"BlockDeviceMappings": []answer{{
				"DeviceName": i.RootDevice,
				"Ebs":        answer{"SnapshotId": i.Snapshot, "VolumeSize": i.GB, "VolumeType": "gp2", "DeleteOnTermination": true, "Encrypted": false},
			}},
		})
	}
	return answer{"Images": list, "NextToken": next}, err
}

func describeTypes(c *Cloud, p params) (answer, error) {
	all := entries(c.o.Types)
	if names := p.strs("InstanceTypes"); len(names) > 0 {
		for _, name := range names {
			if _, err := c.typeNamed(name); err != nil {
				return nil, refuse("InvalidInstanceType", "The following supplied instance types do not exist: [%s]", name)
			}
		}
		all = slices.DeleteFunc(all, func(e entry[Type]) bool { return !slices.Contains(names, e.of.Name) })
	}
	got, next, err := page(c, "DescribeInstanceTypes", p, all, entry[Type].number, func(e entry[Type]) facts {
		t, yes := e.of, strconv.FormatBool
		return facts{
			"instance-type": {t.Name}, "current-generation": {yes(!t.Xen)}, "hibernation-supported": {yes(t.Hibernates)}, "bare-metal": {yes(t.Metal)},
			"burstable-performance-supported": {yes(t.Burstable)}, "hypervisor": {hypervisor(t)}, "instance-storage-supported": {yes(t.NVMeGB > 0)},
			"processor-info.supported-architecture": {t.Architecture}, "vcpu-info.default-vcpus": {strconv.Itoa(t.VCPUs)},
			"memory-info.size-in-mib": {strconv.Itoa(t.MemoryMiB)}, "supported-usage-class": {"on-demand", "spot"},
		}
	})
	list := []answer{}
	for _, e := range got {
		t := e.of
		a := answer{
			"InstanceType": t.Name, "CurrentGeneration": !t.Xen, "BareMetal": t.Metal, "HibernationSupported": t.Hibernates,
			"BurstablePerformanceSupported": t.Burstable, "VCpuInfo": answer{"DefaultVCpus": t.VCPUs}, "MemoryInfo": answer{"SizeInMiB": t.MemoryMiB},
			"ProcessorInfo":            answer{"SupportedArchitectures": []string{t.Architecture}},
			"InstanceStorageSupported": t.NVMeGB > 0, "SupportedUsageClasses": []string{"on-demand", "spot"},
			"SupportedRootDeviceTypes": []string{"ebs"}, "SupportedVirtualizationTypes": []string{"hvm"}, "Hypervisor": hypervisor(t),
		}
		if t.NVMeGB > 0 {
			a["InstanceStorageInfo"] = answer{"TotalSizeInGB": t.NVMeGB, "NvmeSupport": "required", "Disks": []answer{{"SizeInGB": t.NVMeGB, "Count": 1, "Type": "ssd"}}}
		}
		list = append(list, a)
	}
	return answer{"InstanceTypes": list, "NextToken": next}, err
}

func hypervisor(t Type) string {
	switch {
	case t.Metal:
		return ""
	case t.Xen:
		return "xen"
	default:
		return "nitro"
	}
}

// offering is one type in one place.
type offering struct{ typ, kind, location string }

func describeOfferings(c *Cloud, p params) (answer, error) {
	kind := cmp.Or(p.str("LocationType"), "region")
	var all []offering
	for _, t := range c.o.Types {
		switch kind {
		case "region":
			all = append(all, offering{t.Name, kind, c.o.Region})
		case "availability-zone", "availability-zone-id":
			for _, z := range c.o.Zones {
				if slices.Contains(t.NotIn, z.Name) {
					continue
				}
				location := z.Name
				if kind == "availability-zone-id" {
					location = z.ID
				}
				all = append(all, offering{t.Name, kind, location})
			}
		default:
			return nil, unmodelled("offerings by %s", kind)
		}
	}
	got, next, err := page(c, "DescribeInstanceTypeOfferings", p, entries(all), entry[offering].number, func(e entry[offering]) facts {
		return facts{"instance-type": {e.of.typ}, "location": {e.of.location}}
	})
	list := []answer{}
	for _, e := range got {
		list = append(list, answer{"InstanceType": e.of.typ, "LocationType": e.of.kind, "Location": e.of.location})
	}
	return answer{"InstanceTypeOfferings": list, "NextToken": next}, err
}

func describeAccount(c *Cloud, p params) (answer, error) {
	v := "none"
	if d := c.defaultVPC(); d != nil {
		v = d.id
	}
	all := []struct{ name, value string }{
		{"supported-platforms", "VPC"}, {"default-vpc", v}, {"max-instances", strconv.Itoa(cmp.Or(c.o.MaxInstances, 100000))}, {"vpc-max-security-groups-per-interface", "5"},
	}
	list := []answer{}
	for _, a := range all {
		if wanted := p.strs("AttributeNames"); len(wanted) == 0 || slices.Contains(wanted, a.name) {
			list = append(list, answer{"AttributeName": a.name, "AttributeValues": []answer{{"AttributeValue": a.value}}})
		}
	}
	return answer{"AccountAttributes": list}, nil
}

// consoleWithout is how many times longer the console takes without Latest.
const consoleWithout = 10

func consoleOutput(c *Cloud, p params) (answer, error) {
	i, err := one(c, &c.instances, p.str("InstanceId"), "i", "InvalidInstanceID")
	if err != nil {
		return nil, err
	}
	wait := c.between(c.o.Times.Console, "console", i.id, i.boots)
	if !p.flag("Latest") {
		wait *= consoleWithout
	} else if i.typ.Xen {
		return nil, refuse("UnsupportedOperation", "This instance type does not support retrieving the latest console logs. Supported instance types are: Nitro")
	}
	a := answer{"InstanceId": i.id, "Timestamp": c.now}
	if !i.booted.IsZero() && c.now.Sub(i.booted) >= wait {
		a["Output"] = base64.StdEncoding.EncodeToString([]byte(tail(i.console)))
	}
	return a, nil
}

// maxConsole is what EC2 keeps of a console.
const maxConsole = 64 << 10

func tail(s string) string { return s[max(0, len(s)-maxConsole):] }
