package ec2

import (
	"cmp"
	"time"
)

// Options say what account and region a fake is. The zero value is an ordinary
// one: see [Options.withDefaults].
type Options struct {
	// Now is the cloud's clock, by default time.Now.
	Now func() time.Time
	// Seed decides what is left to chance: durations, zones, ids.
	Seed uint64
	// Region is by default us-east-1, Account 123456789012.
	Region, Account string
	// Zones are the region's, by default a, b and c.
	Zones []Zone
	// NoDefaultVPC leaves out the default network. One that is not the default,
	// with a subnet in each zone and no public addresses, is always there.
	NoDefaultVPC bool
	// Times are how long things take.
	Times Times
	// Page is the most a list answers at once, by default 5, whatever more a
	// caller asks for.
	Page int
	// Sparse counts what a filter leaves out towards a page, so that pages may
	// be short, or empty, and have others behind them.
	Sparse bool
	// Rates are the buckets of calls by operation, Resources those of machines
	// that calls name, both beside the defaults of [defaultRates] and
	// [defaultResources]. A zero Rate is no bound. Unlimited takes all away.
	Rates, Resources map[string]Rate
	Unlimited        bool
	// Images and Types are what there is to run; by default [DefaultImages] and
	// [DefaultTypes].
	Images []Image
	Types  []Type
	// KeyPairs, Profiles (names of instance profiles) and KMSKeys are the
	// account's; others are refused, a KMS key only by a machine that ends
	// instead of booting.
	KeyPairs, Profiles, KMSKeys []string
	// Keys are who may call; none allows everybody.
	Keys []Key
	// Parameters are SSM's, by name.
	Parameters map[string]string
	// MaxInstances, MaxVCPUs and MaxVolumeGB are the account's quotas, 0 for no
	// bound.
	MaxInstances, MaxVCPUs, MaxVolumeGB int
	// Boots is told of every start of a guest, Halts of every end of one, once
	// and before the call is answered in which it came to light, by whoever
	// called: perhaps several at once. They may call the Cloud.
	Boots, Halts func(Machine)
	// Gone is told likewise of every machine that is terminated, after Halts.
	Gone func(Machine)
	// Attaches is told likewise of every volume that a machine has been given
	// after its launch, which a guest that runs sees at once. Boots brings those
	// of before.
	Attaches func(Machine, Volume)
	// Addresses says where a machine's agent answers, asked at every start; an
	// empty one is made up, or stays. It must not call the Cloud.
	Addresses func(Machine) (public, private string)
}

// Zone is an availability zone.
type Zone struct{ Name, ID string }

// Range is a duration left to chance, from Least up to Most.
type Range struct{ Least, Most time.Duration }

// Rate is a token bucket: so many at once, so many a second in the long run.
type Rate struct{ Size, PerSecond float64 }

// Times are how long things take. Zero values are replaced by defaults; a
// negative Most makes a thing immediate.
type Times struct {
	// Seen is how long something new is in no list and not found: 0 to 2 s.
	Seen Range
	// Pending is from launch to running: 3 to 20 s.
	Pending Range
	// Stopping and Hibernating are to stopped: 10 to 60 s, 20 s to 2 min.
	Stopping, Hibernating Range
	// ShuttingDown is to terminated: 5 to 40 s.
	ShuttingDown Range
	// Listed is how long a terminated machine is listed yet: 1 h.
	Listed Range
	// HibernateReady is from boot until a machine can hibernate: 1 to 3 min.
	HibernateReady Range
	// Console is from boot until there is console output to be had by Latest; it
	// takes ten times as long without: 5 to 20 s.
	Console Range
	// Volume is to make, attach, detach or delete a volume: 1 to 4 s.
	Volume Range
	// Respawn is until a persistent spot request launches anew: 30 s to 2 min.
	Respawn Range
}

// limits of the real cloud
const (
	interruptionNotice = 2 * time.Minute
	longestHibernation = 60 * 24 * time.Hour
	tokenLife          = 24 * time.Hour
	maxUserData        = 16 << 10
	hibernateMemoryGiB = 150
)

func (r *Range) or(least, most time.Duration) {
	if r.Most == 0 {
		*r = Range{least, most}
	}
}

// withDefaults fills in what is not said.
func (o Options) withDefaults() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Region = cmp.Or(o.Region, "us-east-1")
	o.Account = cmp.Or(o.Account, "123456789012")
	o.Page = cmp.Or(o.Page, 5)
	if o.Zones == nil {
		for i, letter := range []string{"a", "b", "c"} {
			// The ids are another order of the same zones, as in real accounts.
			o.Zones = append(o.Zones, Zone{o.Region + letter, "use1-az" + string(rune('1'+(i+1)%3))})
		}
	}
	if o.Images == nil {
		o.Images = DefaultImages()
	}
	if o.Types == nil {
		o.Types = DefaultTypes()
	}
	t := &o.Times
	t.Seen.or(0, 2*time.Second)
	t.Pending.or(3*time.Second, 20*time.Second)
	t.Stopping.or(10*time.Second, time.Minute)
	t.Hibernating.or(20*time.Second, 2*time.Minute)
	t.ShuttingDown.or(5*time.Second, 40*time.Second)
	t.Listed.or(time.Hour, time.Hour)
	t.HibernateReady.or(time.Minute, 3*time.Minute)
	t.Console.or(5*time.Second, 20*time.Second)
	t.Volume.or(time.Second, 4*time.Second)
	t.Respawn.or(30*time.Second, 2*time.Minute)
	return o
}

// defaultRates are the published buckets of calls; operations that are not
// listed have that of "Describe" or, if they change something, "".
var defaultRates = map[string]Rate{
	"Describe":           {100, 20},
	"":                   {50, 5},
	"RunInstances":       {5, 2},
	"StartInstances":     {5, 2},
	"TerminateInstances": {100, 5},
	"CreateTags":         {100, 10},
	"DeleteTags":         {100, 10},
	"CreateVolume":       {100, 5},
	"DeleteVolume":       {100, 5},
}

// defaultResources are the published buckets of machines.
var defaultResources = map[string]Rate{
	"RunInstances":       {1000, 2},
	"TerminateInstances": {1000, 20},
	"StartInstances":     {1000, 2},
	"StopInstances":      {1000, 20},
}

// Machine is what a hook is told of a machine.
type Machine struct {
	ID, Type, Zone, Image string
	PublicIP, PrivateIP   string
	// Boot counts starts from 1; Resumed says that this one goes on from
	// hibernation, with all that was in memory.
	Boot    int
	Resumed bool
	// Asleep says at an end that what is in its memory is kept, for a start that
	// goes on from there.
	Asleep bool
	// Volumes are those that are attached beside the root.
	Volumes []Volume
	// UserData is as the guest reads it.
	UserData []byte
	Tags     map[string]string
	// At is when it happened, by the cloud's clock.
	At time.Time
}

// Volume is a disk of a machine as its guest is given it. What it holds is kept
// by who runs the guest, under the volume's ID.
type Volume struct{ ID, Device string }

// Image is a machine image.
type Image struct {
	ID, Name string
	// Owner is an account; Alias as "amazon" or "".
	Owner, Alias string
	// Architecture is x86_64 or arm64, Platform "windows" or "".
	Architecture, Platform string
	// RootDevice is as /dev/sda1, Snapshot and GB what is behind it.
	RootDevice, Snapshot string
	GB                   int
	Created              time.Time
	// Hibernates says that its guest can.
	Hibernates bool
}

// Type is an instance type.
type Type struct {
	Name, Architecture string
	VCPUs              int
	MemoryMiB          int
	Hibernates         bool
	Burstable          bool
	Metal              bool
	// Xen types have no console output by Latest.
	Xen bool
	// NVMeGB is the size of its instance store, 0 for none.
	NVMeGB int
	// NotIn are names of zones without it.
	NotIn []string
}

// DefaultImages are a few of today's, with made-up ids.
func DefaultImages() []Image {
	day := func(month time.Month, d int) time.Time { return time.Date(1999, month, d, 0, 0, 0, 0, time.UTC) }
	return []Image{
		{ID: "ami-0a1b2c3d4e5f60001", Name: "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-19990601", Owner: "099720109477", Architecture: "x86_64", RootDevice: "/dev/sda1", Snapshot: "snap-0a1b2c3d4e5f60001", GB: 8, Created: day(6, 1), Hibernates: true},
		{ID: "ami-0a1b2c3d4e5f60002", Name: "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-arm64-server-19990601", Owner: "099720109477", Architecture: "arm64", RootDevice: "/dev/sda1", Snapshot: "snap-0a1b2c3d4e5f60002", GB: 8, Created: day(6, 1), Hibernates: true},
		{ID: "ami-0a1b2c3d4e5f60003", Name: "al2023-ami-2023.1.19990501.0-kernel-6.1-x86_64", Owner: "137112412989", Alias: "amazon", Architecture: "x86_64", RootDevice: "/dev/xvda", Snapshot: "snap-0a1b2c3d4e5f60003", GB: 8, Created: day(5, 1), Hibernates: true},
		{ID: "ami-0a1b2c3d4e5f60004", Name: "al2023-ami-2023.1.19990701.0-kernel-6.1-x86_64", Owner: "137112412989", Alias: "amazon", Architecture: "x86_64", RootDevice: "/dev/xvda", Snapshot: "snap-0a1b2c3d4e5f60004", GB: 8, Created: day(7, 1), Hibernates: true},
		{ID: "ami-0a1b2c3d4e5f60005", Name: "Windows_Server-2022-English-Full-Base-1999.07.01", Owner: "801119661308", Alias: "amazon", Architecture: "x86_64", Platform: "windows", RootDevice: "/dev/sda1", Snapshot: "snap-0a1b2c3d4e5f60005", GB: 30, Created: day(7, 1)},
	}
}

// DefaultTypes are a few with different abilities.
func DefaultTypes() []Type {
	return []Type{
		{Name: "t3.nano", Architecture: "x86_64", VCPUs: 2, MemoryMiB: 512, Burstable: true, Hibernates: true},
		{Name: "t3.micro", Architecture: "x86_64", VCPUs: 2, MemoryMiB: 1024, Burstable: true, Hibernates: true},
		{Name: "t3.large", Architecture: "x86_64", VCPUs: 2, MemoryMiB: 8192, Burstable: true, Hibernates: true},
		{Name: "t4g.nano", Architecture: "arm64", VCPUs: 2, MemoryMiB: 512, Burstable: true, Hibernates: true},
		{Name: "m5.large", Architecture: "x86_64", VCPUs: 2, MemoryMiB: 8192, Hibernates: true},
		{Name: "m7i.large", Architecture: "x86_64", VCPUs: 2, MemoryMiB: 8192, Hibernates: true},
		{Name: "m7g.large", Architecture: "arm64", VCPUs: 2, MemoryMiB: 8192},
		{Name: "r7i.2xlarge", Architecture: "x86_64", VCPUs: 8, MemoryMiB: 65536, Hibernates: true},
		{Name: "r5.8xlarge", Architecture: "x86_64", VCPUs: 32, MemoryMiB: 262144, Hibernates: true},
		{Name: "c5d.xlarge", Architecture: "x86_64", VCPUs: 4, MemoryMiB: 8192, NVMeGB: 100, Hibernates: true},
		{Name: "m5.metal", Architecture: "x86_64", VCPUs: 96, MemoryMiB: 393216, Metal: true},
		{Name: "m4.large", Architecture: "x86_64", VCPUs: 2, MemoryMiB: 8192, Xen: true, Hibernates: true},
		{Name: "p5.48xlarge", Architecture: "x86_64", VCPUs: 192, MemoryMiB: 2097152, NotIn: []string{"us-east-1a", "us-east-1c"}},
	}
}
