package gce

import (
	"net/netip"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// Options say what the cloud has. The zero value is one project with two
// regions, the usual machine types and images, and default rates.
type Options struct {
	// Now is the cloud's clock, time.Now by default.
	Now func() time.Time
	// Seed decides what is left to chance: how long each transition takes.
	Seed uint64
	// Projects are those of the caller, "test-project" by default.
	Projects []string
	// Regions have zones, all named as GCE names them; us-central1 (a, b, c, f) and
	// us-east1 (b, c, d) by default.
	Regions map[string][]string
	// Networks, MachineTypes and Images replace the default ones.
	Networks     []Network
	MachineTypes []MachineType
	Images       []Image
	// ServiceAccounts are the e-mail addresses a machine may have besides
	// "default"; nil allows every well-formed one.
	ServiceAccounts []string
	// Durations of transitions; those that are zero take the default.
	Durations Durations
	// Appears is how long a new instance or disk answers 404 and is missing from
	// lists although its operation is known; not at all by default.
	Appears Range
	// PageSize is the most entries of a page whatever maxResults says; 3 by
	// default, so that everything pages. At most 500.
	PageSize int
	// Rates are calls a minute by quota group; those missing have the default
	// of 1,500, negative ones no bound.
	Rates map[Group]int
	// Quotas are a region's limits by metric ("CPUS"), for every region. Those
	// missing are ample.
	Quotas map[string]float64
	// Boots is told of every boot of a machine, once: at creation, start, reset
	// and restart. Halts is told when it is switched off, whatever the reason, and
	// when it falls asleep: Status is SUSPENDED then, and its memory is kept.
	// Wakes is told when it wakes from that, Gone when there is no such machine any
	// more. They are called by whoever looks at the cloud first afterwards, in
	// order, before that call is answered; they may call back. See [Cloud.Look]
	// and [Cloud.Next].
	Boots, Wakes, Halts, Gone func(Machine)
	// Address says where a machine's agent answers, for machines that run
	// somewhere: the addresses a machine shows. One that is not valid is left to
	// the fake. It is asked whenever a machine begins to run, by whom looks, and
	// must not call back.
	Address func(Machine) (internal, external netip.Addr)
}

// Range is a duration between two bounds, drawn by the seed.
type Range struct{ Least, Most time.Duration }

// Exactly is a range of one duration.
func Exactly(d time.Duration) Range { return Range{d, d} }

// Durations say how long transitions take. What is zero takes the default; a
// negative one takes no time.
type Durations struct {
	// Provisioning and Staging come before RUNNING.
	Provisioning, Staging Range
	// Stopping ends in TERMINATED, and begins a deletion; Deleting follows it.
	Stopping, Deleting Range
	// Suspending and Resuming; a suspended machine is stopped after Suspended.
	Suspending, Resuming Range
	// Suspended is 60 days.
	Suspended time.Duration
	// Repairing is how long a machine is away after a host error, Preempting how
	// long one that is taken away may still run.
	Repairing, Preempting Range
	// Disk is the creation, deletion and change of a disk, Other that of anything
	// else.
	Disk, Other Range
	// Accepting is how long an operation is PENDING.
	Accepting Range
}

// normal is what the documentation and people report.
var normal = Durations{
	Provisioning: Range{2 * time.Second, 6 * time.Second},
	Staging:      Range{3 * time.Second, 10 * time.Second},
	Stopping:     Range{5 * time.Second, 30 * time.Second},
	Deleting:     Range{2 * time.Second, 10 * time.Second},
	Suspending:   Range{20 * time.Second, time.Minute},
	Resuming:     Range{10 * time.Second, 30 * time.Second},
	Suspended:    60 * 24 * time.Hour,
	Repairing:    Range{time.Minute, 4 * time.Minute},
	Preempting:   Exactly(30 * time.Second),
	Disk:         Range{time.Second, 4 * time.Second},
	Other:        Range{500 * time.Millisecond, 2 * time.Second},
	Accepting:    Range{100 * time.Millisecond, time.Second},
}

func (d Durations) orNormal() Durations {
	for _, p := range []struct {
		have *Range
		want Range
	}{
		{&d.Provisioning, normal.Provisioning},
		{&d.Staging, normal.Staging},
		{&d.Stopping, normal.Stopping},
		{&d.Deleting, normal.Deleting},
		{&d.Suspending, normal.Suspending},
		{&d.Resuming, normal.Resuming},
		{&d.Repairing, normal.Repairing},
		{&d.Preempting, normal.Preempting},
		{&d.Disk, normal.Disk},
		{&d.Other, normal.Other},
		{&d.Accepting, normal.Accepting},
	} {
		switch {
		case *p.have == Range{}:
			*p.have = p.want
		case p.have.Least < 0:
			*p.have = Range{}
		}
	}
	if d.Suspended == 0 {
		d.Suspended = normal.Suspended
	}
	return d
}

// Group is a quota group of calls.
type Group string

// The quota groups.
const (
	Mutations Group = "mutate_requests"
	Gets      Group = "get_requests"
	Lists     Group = "list_requests"
	// OperationGets are also waits.
	OperationGets Group = "operation_get_requests"
	// Filtered is what a list with a filter costs besides: a unit for each
	// resource it looks at.
	Filtered Group = "filtered_list_resources"
)

// normalRates are the defaults of the documentation.
var normalRates = map[Group]int{Mutations: 1500, Gets: 1500, Lists: 1500, OperationGets: 1500, Filtered: 750_000}

// MachineType is one that a zone offers.
type MachineType struct {
	Name     string
	CPUs     int
	MemoryMB int
	// Arm is for ARM64 images only.
	Arm bool
	// Hyperdisk machines take no persistent disks of the older kinds.
	Hyperdisk bool
	// Nested allows nested virtualisation, Suspends suspension.
	Nested, Suspends bool
	// GPU machines have accelerators of their own, and cannot migrate.
	GPU bool
	// Zones offer it; nil for all.
	Zones []string
}

// Image is one that disks may be made of.
type Image struct {
	Project, Name, Family string
	SizeGB                int64
	Arm                   bool
	// BIOS images cannot have a shielded VM.
	BIOS bool
	// Deprecated ones are not their family's, Private ones may not be read.
	Deprecated, Private bool
	// Created orders a family: the newest counts.
	Created time.Time
}

// Network has subnetworks, which belong to one region each.
type Network struct {
	Project, Name string
	// Auto has a subnetwork of its own name in each region, besides Subnetworks.
	Auto        bool
	Subnetworks []Subnetwork
}

// Subnetwork is a range of addresses in a region.
type Subnetwork struct {
	Name, Region string
	Range        netip.Prefix
}

// Machine is what the fake tells a harness about an instance.
type Machine struct {
	Project, Zone, Name string
	// ID is the instance's number.
	ID          string
	MachineType string
	Status      string
	// Boot counts the boots of this instance, from 1.
	Boot int
	// Metadata are its values by key ("user-data", "startup-script"), Labels its
	// labels, Tags its network tags.
	Metadata, Labels map[string]string
	Tags             []string
	// Internal and External are its addresses; External is not valid where there
	// is none.
	Internal, External netip.Addr
	// Disks are attached, the boot disk first.
	Disks []AttachedDisk
	// Spot and Preempted: metadata instance/preempted is TRUE.
	Spot, Preempted bool
	// ServiceAccount is empty where there is none.
	ServiceAccount string
}

// AttachedDisk is a disk of a machine. What a disk holds is kept by who runs the
// machine, under the disk's ID.
type AttachedDisk struct {
	ID, Name, Device string
	Boot, AutoDelete bool
	SizeGB           int64
}

// Dice draw the seed's durations.
func (o *Options) dice() fakecloud.Dice { return fakecloud.Dice(o.Seed) }

// withDefaults fills in what is missing.
func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Projects == nil {
		o.Projects = []string{"test-project"}
	}
	if o.Regions == nil {
		o.Regions = map[string][]string{
			"us-central1": {"us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f"},
			"us-east1":    {"us-east1-b", "us-east1-c", "us-east1-d"},
		}
	}
	if o.Networks == nil {
		for _, p := range o.Projects {
			o.Networks = append(o.Networks, Network{Project: p, Name: "default", Auto: true})
		}
	}
	if o.MachineTypes == nil {
		o.MachineTypes = usualTypes
	}
	if o.Images == nil {
		o.Images = usualImages
	}
	if o.PageSize <= 0 {
		o.PageSize = 3
	}
	o.PageSize = min(o.PageSize, maxPage)
	o.Durations = o.Durations.orNormal()
	return o
}

var usualTypes = []MachineType{
	{Name: "e2-micro", CPUs: 2, MemoryMB: 1024, Suspends: true},
	{Name: "e2-small", CPUs: 2, MemoryMB: 2048, Suspends: true},
	{Name: "e2-medium", CPUs: 2, MemoryMB: 4096, Suspends: true},
	{Name: "e2-standard-2", CPUs: 2, MemoryMB: 8192, Suspends: true},
	{Name: "e2-standard-4", CPUs: 4, MemoryMB: 16384, Suspends: true},
	{Name: "e2-standard-8", CPUs: 8, MemoryMB: 32768, Suspends: true},
	{Name: "n1-standard-1", CPUs: 1, MemoryMB: 3840, Nested: true, Suspends: true},
	{Name: "n1-standard-4", CPUs: 4, MemoryMB: 15360, Nested: true, Suspends: true},
	{Name: "n2-standard-2", CPUs: 2, MemoryMB: 8192, Nested: true, Suspends: true},
	{Name: "n2-standard-4", CPUs: 4, MemoryMB: 16384, Nested: true, Suspends: true},
	{Name: "n2-standard-8", CPUs: 8, MemoryMB: 32768, Nested: true, Suspends: true},
	{Name: "n2-highmem-32", CPUs: 32, MemoryMB: 262144, Nested: true, Suspends: true},
	{Name: "n2d-standard-4", CPUs: 4, MemoryMB: 16384, Suspends: true},
	{Name: "t2a-standard-2", CPUs: 2, MemoryMB: 8192, Arm: true},
	{Name: "c4d-standard-4", CPUs: 4, MemoryMB: 15872, Hyperdisk: true, Nested: false},
	{Name: "g2-standard-4", CPUs: 4, MemoryMB: 16384, GPU: true},
}

var usualImages = []Image{
	{Project: "ubuntu-os-cloud", Name: "ubuntu-2204-jammy-v20260801", Family: "ubuntu-2204-lts", SizeGB: 10, Created: day(2026, 8)},
	{Project: "ubuntu-os-cloud", Name: "ubuntu-2404-noble-amd64-v20260701", Family: "ubuntu-2404-lts-amd64", SizeGB: 10, Created: day(2026, 7)},
	{Project: "ubuntu-os-cloud", Name: "ubuntu-2404-noble-amd64-v20260801", Family: "ubuntu-2404-lts-amd64", SizeGB: 10, Created: day(2026, 8)},
	{Project: "ubuntu-os-cloud", Name: "ubuntu-2404-noble-arm64-v20260801", Family: "ubuntu-2404-lts-arm64", SizeGB: 10, Arm: true, Created: day(2026, 8)},
	{Project: "ubuntu-os-cloud", Name: "ubuntu-1604-xenial-v20170721", Family: "ubuntu-1604-lts", SizeGB: 10, BIOS: true, Deprecated: true, Created: day(2017, 7)},
	{Project: "debian-cloud", Name: "debian-12-bookworm-v20260801", Family: "debian-12", SizeGB: 10, Created: day(2026, 8)},
	{Project: "windows-cloud", Name: "windows-server-2022-dc-v20260801", Family: "windows-2022", SizeGB: 50, Created: day(2026, 8)},
}

func day(year, month int) time.Time {
	return time.Date(year, time.Month(month), 1, 0, 0, 0, 0, time.UTC)
}
