//go:build !no_google

package google

import (
	"cmp"
	"crypto/sha1" //nolint:gosec // version 5 of a UUID is made of it
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/compute/apiv1/computepb"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// requestID is a UUID (version 5) made of parts: who asks for the same asks with
// the same one.
func requestID(parts ...string) *string {
	h := sha1.New() //nolint:gosec // see the import
	h.Write([]byte("drone-runner-aws"))
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	u := h.Sum(nil)[:16]
	u[6], u[8] = u[6]&0x0f|0x50, u[8]&0x3f|0x80
	x := hex.EncodeToString(u)
	return proto.String(x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:])
}

// gpuFamilies are the machine types that bring a GPU.
var gpuFamilies = []string{"a2-", "a3-", "a4-", "a4x-", "g2-", "g4-"}

// refuse says what can never be made.
func refuse(s *Spec, spec drivers.Spec) error {
	size := 0
	for _, item := range metadataOf(spec, s.UserDataKey).GetItems() {
		size += len(item.GetKey()) + len(item.GetValue())
	}
	machineType := cmp.Or(spec.MachineType, s.MachineType)
	switch {
	case len(spec.Boot) > largestValue:
		return fmt.Errorf("%w: boot data of %d bytes; Compute Engine takes %d: shorten user_data, or have it fetch the rest", drivers.ErrInvalid, len(spec.Boot), largestValue)
	case size > largestData:
		return fmt.Errorf("%w: metadata of %d bytes; Compute Engine takes %d", drivers.ErrInvalid, size, largestData)
	case spec.Nested && !nests(platform(spec)):
		return fmt.Errorf("%w: nested virtualisation on %s/%s; only linux on amd64 can", drivers.ErrInvalid, spec.Platform.OS, spec.Platform.Arch)
	case spec.GPU && !slices.ContainsFunc(gpuFamilies, func(f string) bool { return strings.HasPrefix(machineType, f) }):
		return fmt.Errorf("%w: machine type %s has no GPU; take one of %s", drivers.ErrInvalid, machineType, strings.Join(gpuFamilies, ", "))
	}
	return nil
}

// platform is the spec's, with the defaults of this type.
func platform(spec drivers.Spec) drivers.Platform {
	p := spec.Platform
	p.OS, p.Arch = cmp.Or(p.OS, "linux"), cmp.Or(p.Arch, "amd64")
	return p
}

// longestRun bounds maxRunDuration.
const longestRun = 120 * 24 * time.Hour

// resource is what the cloud is asked to make.
func (d *Driver) resource(spec drivers.Spec, at attempt, n Network, f features) *computepb.Instance {
	s := d.spec
	zone := "projects/" + d.a.project + "/zones/" + at.zone
	labels := labelsOf(spec, s.Labels)
	gpu := s.GPU || spec.GPU
	build := spec.Tags.Kind != kindGitspace
	i := &computepb.Instance{
		Name:        proto.String(spec.Name),
		MachineType: proto.String(zone + "/machineTypes/" + cmp.Or(spec.MachineType, s.MachineType)),
		Labels:      labels,
		Metadata:    metadataOf(spec, s.UserDataKey),
		Tags:        &computepb.Tags{Items: networkTags(n.Tags, spec.Name)},
		Scheduling: &computepb.Scheduling{
			AutomaticRestart: proto.Bool(!at.spot), OnHostMaintenance: proto.String("MIGRATE"), ProvisioningModel: proto.String("STANDARD"),
		},
		NetworkInterfaces: []*computepb.NetworkInterface{d.networkInterface(n, at.zone)},
		Disks: []*computepb.AttachedDisk{{
			Boot: proto.Bool(true), AutoDelete: proto.Bool(true), DeviceName: proto.String(deviceName(spec.Tags.Pool)),
			InitializeParams: &computepb.AttachedDiskInitializeParams{
				SourceImage: proto.String(imagePath(cmp.Or(spec.Image, s.Image), d.a.project)),
				DiskSizeGb:  proto.Int64(int64(cmp.Or(spec.DiskGiB, s.Disk.Size))),
				DiskType:    proto.String(zone + "/diskTypes/" + cmp.Or(spec.DiskType, s.Disk.Type)),
				Labels:      diskLabels(labels, diskBoot),
				Description: proto.String(description(spec.Tags)),
			},
		}},
	}
	for n, disk := range spec.Disks {
		i.Disks = append(i.Disks, &computepb.AttachedDisk{
			Source: proto.String(zone + "/disks/" + disk.Name), DeviceName: proto.String(fmt.Sprintf("disk-%d", n)),
			AutoDelete: proto.Bool(false), Boot: proto.Bool(false), Mode: proto.String("READ_WRITE"),
		})
	}
	if at.spot {
		i.Scheduling.ProvisioningModel = proto.String("SPOT")
		i.Scheduling.InstanceTerminationAction = proto.String("DELETE")
	}
	if gpu || at.spot {
		i.Scheduling.OnHostMaintenance = proto.String("TERMINATE")
	}
	// The cloud ends the machines of builds that nobody else ends. Their time
	// counts from when they run.
	if life := spec.Tags.Deadline.Sub(spec.Tags.Created).Round(time.Second); build && !spec.Tags.Deadline.IsZero() && life >= time.Minute && life <= longestRun {
		i.Scheduling.MaxRunDuration = &computepb.Duration{Seconds: proto.Int64(int64(life / time.Second))}
		i.Scheduling.InstanceTerminationAction = proto.String("DELETE")
	}
	if spec.Nested || s.Nested && nests(platform(spec)) {
		i.AdvancedMachineFeatures = &computepb.AdvancedMachineFeatures{EnableNestedVirtualization: proto.Bool(true)}
	}
	if f.shielded {
		// Modules that a user's own image or a GPU needs are not signed.
		i.ShieldedInstanceConfig = &computepb.ShieldedInstanceConfig{
			EnableSecureBoot: proto.Bool(f.signed && !gpu), EnableVtpm: proto.Bool(true), EnableIntegrityMonitoring: proto.Bool(true),
		}
	}
	if email := s.Account.ServiceAccountEmail; email != "" && !s.Account.NoServiceAccount {
		i.ServiceAccounts = []*computepb.ServiceAccount{{Email: proto.String(email), Scopes: s.Scopes}}
	}
	return i
}

// networkTags are those of a network and the machine's own name, each once.
func networkTags(tags []string, name string) []string {
	var out []string
	for _, tag := range append(slices.Clone(tags), name) {
		if !slices.Contains(out, tag) {
			out = append(out, tag)
		}
	}
	return out
}

// deviceName is the boot disk's: the pool's name as far as it may be one.
func deviceName(pool string) string {
	name := strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return '-'
	}, strings.ToLower(pool))
	name = strings.Trim(name[:min(len(name), longestLabel)], "-")
	if name == "" || name[0] < 'a' || strings.HasPrefix(name, "disk-") {
		return "boot"
	}
	return name
}

func (d *Driver) networkInterface(n Network, zone string) *computepb.NetworkInterface {
	i := &computepb.NetworkInterface{}
	// A subnetwork says which network it is of; the default one may be meant by
	// nobody.
	if n.Subnetwork == "" || n.Network != "default" && n.Network != "" {
		i.Network = proto.String(d.path(cmp.Or(n.Network, "default"), "global/networks/"))
	}
	if n.Subnetwork != "" {
		i.Subnetwork = proto.String(d.path(n.Subnetwork, "regions/"+regionOf(zone)+"/subnetworks/"))
	}
	if !d.spec.PrivateIP {
		i.AccessConfigs = []*computepb.AccessConfig{{Type: proto.String("ONE_TO_ONE_NAT"), Name: proto.String("External NAT")}}
	}
	return i
}

// path is the path of a resource that is named by its name or in full.
func (d *Driver) path(name, below string) string {
	if _, rest, ok := strings.Cut(name, "/compute/v1/"); ok {
		name = rest
	}
	switch {
	case strings.HasPrefix(name, "projects/"):
		return name
	case strings.Contains(name, "/"):
		return "projects/" + d.a.project + "/" + name
	default:
		return "projects/" + d.a.project + "/" + below + name
	}
}
