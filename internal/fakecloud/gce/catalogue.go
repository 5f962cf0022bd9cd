package gce

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// opened is when everything that was always there was made.
var opened = time.Date(2014, 5, 30, 18, 35, 16, 514_000_000, time.UTC)

// fixed is the number of something that was always there.
func fixed(parts ...any) string {
	var n uint64
	for _, b := range []byte(fmt.Sprint(parts...)) {
		n = n*131 + uint64(b)
	}
	return number(n>>16 + 1000)
}

// is gives what every resource has.
func is(kind, path string, made time.Time, more object) object {
	o := object{"kind": "compute#" + kind, "id": fixed(path), "name": last(path), "selfLink": link(path), "creationTimestamp": stamp(made)}
	for k, v := range more {
		o[k] = v
	}
	return o
}

func (c *Cloud) machineType(zone, name string) (MachineType, bool) {
	for _, t := range c.o.MachineTypes {
		if t.Name == name && (t.Zones == nil || slices.Contains(t.Zones, zone)) {
			return t, true
		}
	}
	return MachineType{}, false
}

func (t MachineType) json(project, zone string) object {
	arch := "X86_64"
	if t.Arm {
		arch = "ARM64"
	}
	out := is("machineType", "projects/"+project+"/zones/"+zone+"/machineTypes/"+t.Name, opened, object{
		"description": fmt.Sprintf("%d vCPUs, %.2f GB RAM", t.CPUs, float64(t.MemoryMB)/1024),
		"guestCpus":   t.CPUs, "memoryMb": t.MemoryMB, "imageSpaceGb": 0, "maximumPersistentDisks": 128,
		"maximumPersistentDisksSizeGb": "263168", "zone": zone, "isSharedCpu": strings.HasPrefix(t.Name, "e2-m"), "architecture": arch,
	})
	if t.GPU {
		out["accelerators"] = []object{{"guestAcceleratorType": "nvidia-tesla-a100", "guestAcceleratorCount": 1}}
	}
	return out
}

// diskTypes are the kinds of disk of every zone, with their bounds in GB.
var diskTypes = []struct {
	name        string
	least, most int64
}{
	{"pd-standard", 10, 65536},
	{"pd-balanced", 10, 65536},
	{"pd-ssd", 10, 65536},
	{"hyperdisk-balanced", 4, 65536},
	{"local-ssd", 375, 375},
}

func diskTypeJSON(project, zone, name string) object {
	for _, t := range diskTypes {
		if t.name == name {
			return is("diskType", "projects/"+project+"/zones/"+zone+"/diskTypes/"+name, opened, object{
				"zone": link("projects/" + project + "/zones/" + zone), "validDiskSize": fmt.Sprintf("%dGB-%dGB", t.least, t.most), "defaultDiskSizeGb": "500",
			})
		}
	}
	return nil
}

func (i Image) path() string { return "projects/" + i.Project + "/global/images/" + i.Name }

func (i Image) json() object {
	arch, features := "X86_64", []any{object{"type": "VIRTIO_SCSI_MULTIQUEUE"}, object{"type": "GVNIC"}}
	if i.Arm {
		arch = "ARM64"
	}
	if !i.BIOS {
		features = append(features, object{"type": "UEFI_COMPATIBLE"})
	}
	o := is("image", i.path(), i.Created, object{
		"status": "READY", "sourceType": "RAW", "diskSizeGb": decimal(i.SizeGB), "archiveSizeBytes": decimal(i.SizeGB << 26),
		"architecture": arch, "guestOsFeatures": features, "storageLocations": []any{"us"}, "labelFingerprint": fingerprint(),
	})
	if i.Family != "" {
		o["family"] = i.Family
	}
	if i.Deprecated {
		o["deprecated"] = object{"state": "DEPRECATED"}
	}
	return o
}

// image finds one by a name or "family/f".
func (c *Cloud) image(project, name string) (Image, error) {
	path := "projects/" + project + "/global/images/" + name
	family, ofFamily := strings.CutPrefix(name, "family/")
	var found *Image
	for i := range c.o.Images {
		img := &c.o.Images[i]
		switch {
		case img.Project != project:
		case !ofFamily && img.Name == name:
			found = img
		case ofFamily && img.Family == family && !img.Deprecated && (found == nil || img.Created.After(found.Created)):
			found = img
		}
	}
	switch {
	case found == nil:
		return Image{}, notFound(path)
	case found.Private && ofFamily:
		return Image{}, PermissionDenied("compute.images.getFromFamily", path)
	case found.Private:
		return Image{}, PermissionDenied("compute.images.useReadOnly", path)
	}
	return *found, nil
}

// subnetworks are those of a network in a region.
func (c *Cloud) subnetworks(n Network, region string) []Subnetwork {
	var all []Subnetwork
	for _, s := range n.Subnetworks {
		if s.Region == region {
			all = append(all, s)
		}
	}
	if n.Auto {
		i := slices.Index(slices.Sorted(mapKeys(c.o.Regions)), region)
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(128 + i/16), byte(i % 16 * 16), 0}), 20)
		all = append(all, Subnetwork{Name: n.Name, Region: region, Range: prefix})
	}
	return all
}

func (c *Cloud) network(project, name string) (Network, bool) {
	for _, n := range c.o.Networks {
		if n.Project == project && n.Name == name {
			return n, true
		}
	}
	return Network{}, false
}

func (c *Cloud) networkJSON(n Network) object {
	var subs []any
	for _, region := range slices.Sorted(mapKeys(c.o.Regions)) {
		for _, s := range c.subnetworks(n, region) {
			subs = append(subs, link("projects/"+n.Project+"/regions/"+region+"/subnetworks/"+s.Name))
		}
	}
	return is("network", "projects/"+n.Project+"/global/networks/"+n.Name, opened, object{
		"autoCreateSubnetworks": n.Auto, "subnetworks": subs, "routingConfig": object{"routingMode": "REGIONAL"},
	})
}

func (c *Cloud) subnetworkJSON(n Network, s Subnetwork) object {
	return is("subnetwork", "projects/"+n.Project+"/regions/"+s.Region+"/subnetworks/"+s.Name, opened, object{
		"network": link("projects/" + n.Project + "/global/networks/" + n.Name), "ipCidrRange": s.Range.String(),
		"gatewayAddress": s.Range.Addr().Next().String(), "region": link("projects/" + n.Project + "/regions/" + s.Region),
		"privateIpGoogleAccess": false, "purpose": "PRIVATE", "stackType": "IPV4_ONLY", "fingerprint": fingerprint(s.Name),
	})
}

func (c *Cloud) zoneJSON(project, zone string) object {
	return is("zone", "projects/"+project+"/zones/"+zone, opened, object{
		"status": "UP", "region": link("projects/" + project + "/regions/" + c.regionOf(zone)), "description": zone,
	})
}

func (c *Cloud) regionJSON(project, region string) object {
	var zones []any
	for _, z := range c.o.Regions[region] {
		zones = append(zones, link("projects/"+project+"/zones/"+z))
	}
	var quotas []any
	used := c.usage(project, region)
	for _, metric := range metrics {
		quotas = append(quotas, object{"metric": metric, "limit": c.limit(region, metric), "usage": used[metric]})
	}
	return is("region", "projects/"+project+"/regions/"+region, opened, object{
		"status": "UP", "description": region, "zones": zones, "quotas": quotas,
	})
}

func (c *Cloud) getProject(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	name := r.path["project"]
	return is("project", "projects/"+name, opened, object{
		"defaultServiceAccount": defaultAccount, "commonInstanceMetadata": writeMetadata(nil, fingerprint(name)),
		"defaultNetworkTier": "PREMIUM", "xpnProjectStatus": "UNSPECIFIED_XPN_PROJECT_STATUS",
	}), nil
}

// defaultAccount is the e-mail address that "default" stands for.
const defaultAccount = projectNumber + "-compute@developer.gserviceaccount.com"

func (c *Cloud) getZone(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	return c.zoneJSON(r.path["project"], r.path["zone"]), nil
}

func (c *Cloud) listZones(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	var all []object
	for _, region := range slices.Sorted(mapKeys(c.o.Regions)) {
		for _, z := range c.o.Regions[region] {
			all = append(all, c.zoneJSON(r.path["project"], z))
		}
	}
	return c.page(r, "compute#zoneList", all)
}

func (c *Cloud) getRegion(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	return c.regionJSON(r.path["project"], r.path["region"]), nil
}

func (c *Cloud) listRegions(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	var all []object
	for _, region := range slices.Sorted(mapKeys(c.o.Regions)) {
		all = append(all, c.regionJSON(r.path["project"], region))
	}
	return c.page(r, "compute#regionList", all)
}

func (c *Cloud) getMachineType(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	project, zone, name := r.path["project"], r.path["zone"], r.path["machineType"]
	t, ok := c.machineType(zone, name)
	if !ok {
		return nil, notFound("projects/" + project + "/zones/" + zone + "/machineTypes/" + name)
	}
	return t.json(project, zone), nil
}

func (c *Cloud) listMachineTypes(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	var all []object
	for _, t := range c.o.MachineTypes {
		if _, ok := c.machineType(r.path["zone"], t.Name); ok {
			all = append(all, t.json(r.path["project"], r.path["zone"]))
		}
	}
	return c.page(r, "compute#machineTypeList", all)
}

func (c *Cloud) getDiskType(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	project, zone, name := r.path["project"], r.path["zone"], r.path["diskType"]
	if o := diskTypeJSON(project, zone, name); o != nil {
		return o, nil
	}
	return nil, notFound("projects/" + project + "/zones/" + zone + "/diskTypes/" + name)
}

func (c *Cloud) listDiskTypes(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	var all []object
	for _, t := range diskTypes {
		all = append(all, diskTypeJSON(r.path["project"], r.path["zone"], t.name))
	}
	return c.page(r, "compute#diskTypeList", all)
}

func (c *Cloud) getImage(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	img, err := c.image(r.path["project"], r.path["image"])
	if err != nil {
		return nil, err
	}
	return img.json(), nil
}

func (c *Cloud) getFromFamily(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	img, err := c.image(r.path["project"], "family/"+r.path["family"])
	if err != nil {
		return nil, err
	}
	return img.json(), nil
}

func (c *Cloud) listImages(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	var all []object
	for _, img := range c.o.Images {
		if img.Project == r.path["project"] && !img.Private {
			all = append(all, img.json())
		}
	}
	return c.page(r, "compute#imageList", all)
}

func (c *Cloud) getNetwork(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	n, ok := c.network(r.path["project"], r.path["network"])
	if !ok {
		return nil, notFound("projects/" + r.path["project"] + "/global/networks/" + r.path["network"])
	}
	return c.networkJSON(n), nil
}

func (c *Cloud) listNetworks(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	var all []object
	for _, n := range c.o.Networks {
		if n.Project == r.path["project"] {
			all = append(all, c.networkJSON(n))
		}
	}
	return c.page(r, "compute#networkList", all)
}

// subnetwork finds one by its name, and the network it is of.
func (c *Cloud) subnetwork(project, region, name string) (Network, Subnetwork, bool) {
	for _, n := range c.o.Networks {
		if n.Project != project {
			continue
		}
		for _, s := range c.subnetworks(n, region) {
			if s.Name == name {
				return n, s, true
			}
		}
	}
	return Network{}, Subnetwork{}, false
}

func (c *Cloud) getSubnetwork(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	project, region, name := r.path["project"], r.path["region"], r.path["subnetwork"]
	n, s, ok := c.subnetwork(project, region, name)
	if !ok {
		return nil, notFound("projects/" + project + "/regions/" + region + "/subnetworks/" + name)
	}
	return c.subnetworkJSON(n, s), nil
}

func (c *Cloud) listSubnetworks(r *request, _ fakecloud.Call, _ time.Time) (object, error) {
	var all []object
	for _, n := range c.o.Networks {
		if n.Project != r.path["project"] {
			continue
		}
		for _, s := range c.subnetworks(n, r.path["region"]) {
			all = append(all, c.subnetworkJSON(n, s))
		}
	}
	return c.page(r, "compute#subnetworkList", all)
}

// byPath sorts resources as lists do.
func byPath(a, b object) int {
	return cmp.Or(strings.Compare(text(a, "name"), text(b, "name")), strings.Compare(text(a, "selfLink"), text(b, "selfLink")))
}
