package gce

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// The states of an instance that the fake gives it.
const (
	provisioning = "PROVISIONING"
	staging      = "STAGING"
	running      = "RUNNING"
	stopping     = "STOPPING"
	terminated   = "TERMINATED"
	suspending   = "SUSPENDING"
	suspended    = "SUSPENDED"
	repairing    = "REPAIRING"
)

// instance is a virtual machine.
type instance struct {
	id                  uint64
	project, zone, name string
	description         string
	machine             MachineType
	created, appears    time.Time

	status, message string
	// epoch grows with each change that makes an earlier one's future void.
	epoch int
	// op is the operation that brings it to its next state.
	op *operation
	// granted: it has been given capacity, and holds it; made: it once had.
	granted, made, gone bool
	alive               bool // it has booted and was not switched off since: it runs or sleeps
	boots               int
	preempted           bool
	lastStart, lastStop time.Time
	lastSuspend, ends   time.Time

	labels, metadata map[string]string
	tags             []string
	disks            []*attachment
	nics             []*nic
	scheduling       scheduling
	account          string
	scopes           []any
	shielded         object
	features         object
	accelerators     []any
	canForward       bool
	protected        bool
	affinity         object
	reservation      *reservation

	serial     []byte
	serialBase int64 // bytes that were dropped from the front
	attributes map[string]string
	asked      fakecloud.Minute // calls for guest attributes
}

// attachment is a disk on an instance. A local SSD has no disk.
type attachment struct {
	disk       *disk
	device     string
	mode       string
	boot       bool
	autoDelete bool
	local      bool
}

// nic is a network interface.
type nic struct {
	network, subnetwork string // paths
	internal, external  netip.Addr
	outside             bool // it has an access configuration
	access              string
	tier                string
	kind                string
}

// scheduling is what an instance was told about its end.
type scheduling struct {
	spot, preemptible bool
	restarts          bool
	maintenance       string
	action            string // instanceTerminationAction
	most              time.Duration
}

func (i *instance) path() string {
	return "projects/" + i.project + "/zones/" + i.zone + "/instances/" + i.name
}

func (i *instance) key() string { return i.project + "/" + i.zone + "/" + i.name }

func (i *instance) labelPrint() string    { return fingerprint("labels", i.id, i.labels) }
func (i *instance) metadataPrint() string { return fingerprint("metadata", i.id, i.metadata) }
func (i *instance) tagPrint() string      { return fingerprint("tags", i.id, i.tags) }

// json is the instance as the API shows it.
func (i *instance) json() object {
	here := "projects/" + i.project + "/zones/" + i.zone
	o := object{
		"kind": "compute#instance", "id": number(i.id), "name": i.name, "selfLink": link(i.path()), "zone": link(here),
		"machineType": link(here + "/machineTypes/" + i.machine.Name), "status": i.status, "creationTimestamp": stamp(i.created),
		"labelFingerprint": i.labelPrint(), "fingerprint": fingerprint(i.id, i.status, i.labels, i.metadata, i.tags, len(i.disks)),
		"metadata": writeMetadata(i.metadata, i.metadataPrint()), "canIpForward": i.canForward, "deletionProtection": i.protected,
		"startRestricted": false, "scheduling": i.scheduling.json(), "cpuPlatform": "Unknown CPU Platform",
	}
	if i.description != "" {
		o["description"] = i.description
	}
	if i.message != "" {
		o["statusMessage"] = i.message
	}
	if len(i.labels) > 0 {
		o["labels"] = anyOf(i.labels)
	}
	tags := object{"fingerprint": i.tagPrint()}
	if len(i.tags) > 0 {
		tags["items"] = list(i.tags)
	}
	o["tags"] = tags
	var disks []any
	for n, a := range i.disks {
		disks = append(disks, a.json(n))
	}
	o["disks"] = disks
	var nics []any
	for n, e := range i.nics {
		nics = append(nics, e.json(n))
	}
	o["networkInterfaces"] = nics
	if i.account != "" {
		o["serviceAccounts"] = []any{object{"email": i.account, "scopes": i.scopes}}
	}
	for key, v := range map[string]object{"shieldedInstanceConfig": i.shielded, "advancedMachineFeatures": i.features, "reservationAffinity": i.affinity} {
		if v != nil {
			o[key] = v
		}
	}
	if len(i.accelerators) > 0 {
		o["guestAccelerators"] = i.accelerators
	}
	for key, at := range map[string]time.Time{"lastStartTimestamp": i.lastStart, "lastStopTimestamp": i.lastStop, "lastSuspendedTimestamp": i.lastSuspend} {
		if !at.IsZero() {
			o[key] = stamp(at)
		}
	}
	if !i.ends.IsZero() {
		o["resourceStatus"] = object{"scheduling": object{"terminationTimestamp": stamp(i.ends)}}
	}
	return o
}

func (s scheduling) json() object {
	model := "STANDARD"
	if s.spot {
		model = "SPOT"
	}
	o := object{"automaticRestart": s.restarts, "onHostMaintenance": s.maintenance, "preemptible": s.preemptible, "provisioningModel": model}
	if s.action != "" {
		o["instanceTerminationAction"] = s.action
	}
	if s.most > 0 {
		o["maxRunDuration"] = object{"seconds": decimal(int64(s.most / time.Second))}
	}
	return o
}

func (a *attachment) json(index int) object {
	o := object{
		"kind": "compute#attachedDisk", "index": index, "boot": a.boot, "autoDelete": a.autoDelete, "deviceName": a.device,
		"mode": a.mode, "interface": "SCSI", "type": "PERSISTENT",
	}
	if a.local {
		o["type"], o["diskSizeGb"] = "SCRATCH", "375"
		return o
	}
	o["source"], o["diskSizeGb"] = link(a.disk.path()), decimal(a.disk.size)
	if a.disk.image != nil {
		o["architecture"] = text(a.disk.image.json(), "architecture")
	}
	return o
}

func (n *nic) json(index int) object {
	o := object{
		"kind": "compute#networkInterface", "name": fmt.Sprintf("nic%d", index), "network": link(n.network),
		"subnetwork": link(n.subnetwork), "networkIP": n.internal.String(), "stackType": "IPV4_ONLY",
		"fingerprint": fingerprint(n.internal, n.external),
	}
	if n.kind != "" {
		o["nicType"] = n.kind
	}
	if n.outside {
		access := object{"kind": "compute#accessConfig", "type": "ONE_TO_ONE_NAT", "name": n.access, "networkTier": n.tier}
		if n.external.IsValid() {
			access["natIP"] = n.external.String()
		}
		o["accessConfigs"] = []any{access}
	}
	return o
}

// on says whether it runs, also while it is being stopped.
func (i *instance) on() bool {
	return i.status == running || i.status == stopping && i.boots > 0 && i.granted
}

// report is the instance as a harness sees it.
func (i *instance) report() Machine {
	m := Machine{
		Project: i.project, Zone: i.zone, Name: i.name, ID: number(i.id), MachineType: i.machine.Name, Status: i.status, Boot: i.boots,
		Metadata: maps.Clone(i.metadata), Labels: maps.Clone(i.labels), Tags: slices.Clone(i.tags),
		Spot: i.scheduling.preemptible, Preempted: i.preempted, ServiceAccount: i.account,
	}
	if len(i.nics) > 0 {
		m.Internal, m.External = i.nics[0].internal, i.nics[0].external
	}
	for _, a := range i.disks {
		if !a.local {
			m.Disks = append(m.Disks, AttachedDisk{number(a.disk.id), a.disk.name, a.device, a.boot, a.autoDelete, a.disk.size})
		}
	}
	return m
}
