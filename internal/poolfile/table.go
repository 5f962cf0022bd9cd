package poolfile

import (
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// file is the top level of a pool file.
type file struct {
	Version   string     `spec:"version" doc:"Format of the file: \"1\"."`
	Timestamp *yaml.Node `spec:"timestamp" ignored:"written by generators" doc:"When a generator wrote the file."`
	Instances []instance `spec:"instances" required:"true" doc:"The pools, in order."`
}

// instance is one pool, in the words of the file.
type instance struct {
	Name       string        `spec:"name" required:"true" doc:"Name of the pool, which callers ask for. Unique in the file."`
	Default    bool          `spec:"default" default:"false" doc:"Whether requests that may omit a pool get this one. The first pool that says so counts."`
	Type       string        `spec:"type" required:"true" doc:"Kind of machine: one of the types below."`
	Pool       int           `spec:"pool" default:"0" doc:"How many machines are kept warm."`
	Limit      int           `spec:"limit" default:"100" doc:"How many machines exist at most, in any state that costs money. Enforced: at the limit a request waits. 0 and no value mean 100; a limit below pool is raised to it."`
	Wait       time.Duration `spec:"wait" default:"10m" min:"1ms" doc:"How long a request waits when the pool is at its limit, never past its own deadline."`
	Running    int           `spec:"running" default:"0" min:"0" doc:"How many of the warm machines stay in memory where the spec says hibernate: true; the others wait on disk."`
	FreeMaxAge time.Duration `spec:"free_max_age" min:"5m" doc:"Age at which a warm machine is replaced; by default DRONE_SETTINGS_FREE_MAX_AGE."`
	BusyMaxAge time.Duration `spec:"busy_max_age" min:"5m" doc:"Age at which a build's machine is destroyed, provided that no step runs on it and no call came for an hour; by default DRONE_SETTINGS_BUSY_MAX_AGE. At most free_max_age."`
	Platform   platform      `spec:"platform" doc:"What the machines are. Checked by the type."`
	Spec       *yaml.Node    `spec:"spec" doc:"The machines' settings; which keys there are depends on type. Must be there; without a value all settings have their defaults."`
	Variants   []variant     `spec:"variants" doc:"Alternative machines of the pool."`
	Tenants    []tenant      `spec:"tenants" doc:"Machines apart for some accounts."`
	Schedules  []schedule    `spec:"schedules" doc:"Other warm targets for parts of the week."`
	Guards     guards        `spec:"guards" doc:"What the pool may spend, and how it fails."`
	VariantID  *yaml.Node    `spec:"variant_id" ignored:"known for compatibility" doc:"Written by some generators."`
}

// variant is an alternative of a pool or of a tenant.
type variant struct {
	ID            string   `spec:"variant_id" required:"true" doc:"Name of the variant, unique in its list and not default."`
	ResourceClass string   `spec:"resource_class" doc:"Resource class of the requests it is for; must be equal."`
	Nested        bool     `spec:"enable_nested_virtualization" default:"false" doc:"Whether it is for requests that run machines in the machine; must be equal."`
	Image         string   `spec:"image_name" doc:"Image. Requests that name one get a variant that has it, others one without."`
	MachineType   string   `spec:"machine_type" doc:"Size of the machines."`
	DiskSize      int      `spec:"disk_size" min:"0" max:"65536" doc:"Disk in GB; 0 is the pool's."`
	DiskType      string   `spec:"disk_type" doc:"Kind of disk."`
	Zones         []string `spec:"zones" single:"true" doc:"Where the machines are made."`
	GPU           bool     `spec:"gpu" default:"false" doc:"Whether machines have a GPU."`
	Hibernate     *bool    `spec:"hibernate" doc:"Whether warm machines wait on disk; by default as the spec says."`
	Pool          int      `spec:"pool" default:"0" doc:"How many machines of it are kept warm, beside those of the pool."`
	Limit         int      `spec:"limit" default:"0" doc:"How many machines of it exist at most; 0 and no value mean no limit but the pool's, which counts all."`

	Source      *yaml.Node `spec:"source" unused:"written by generators" doc:"Internal."`
	TenantID    *yaml.Node `spec:"tenant_id" unused:"written by generators" doc:"Internal."`
	SkipCleanup *yaml.Node `spec:"skip_cloud_vm_cleanup" unused:"written by generators" doc:"Internal."`
	AccountID   *yaml.Node `spec:"account_id" unused:"written by generators" doc:"Internal."`
	StageID     *yaml.Node `spec:"stage_runtime_id" unused:"written by generators" doc:"Internal."`
	PipelineID  *yaml.Node `spec:"pipeline_execution_id" unused:"written by generators" doc:"Internal."`
	LongRunning *yaml.Node `spec:"long_running" unused:"written by generators" doc:"Internal."`
	CreatedAt   *yaml.Node `spec:"created_at" unused:"written by generators" doc:"Internal."`
	Reservation *yaml.Node `spec:"reservation_per_pool_timeout" unused:"written by generators" doc:"Internal."`
}

// tenant is a group of accounts with machines of its own.
type tenant struct {
	GroupID  string     `spec:"group_id" doc:"Name of the tenant; by default the first of ids."`
	IDs      []string   `spec:"ids" required:"true" single:"true" doc:"Accounts whose requests it serves."`
	Pool     int        `spec:"pool" doc:"How many machines are kept warm for it; by default as many as for the pool."`
	Limit    int        `spec:"limit" doc:"How many machines it has at most; 0 is none, no value no limit but the pool's, which counts all."`
	Spec     *yaml.Node `spec:"spec" doc:"What differs from the pool's spec: mappings are merged, lists and values replaced, also by false and 0."`
	Variants []variant  `spec:"variants" doc:"Variants beside the pool's; one with the same variant_id replaces it whole."`
}

// schedule is another warm target for part of the week.
type schedule struct {
	Days      []string `spec:"days" single:"true" doc:"Days it begins on: mon, tue or a range such as mon-fri; by default all."`
	From      string   `spec:"from" default:"00:00" doc:"When it begins."`
	To        string   `spec:"to" default:"24:00" doc:"When it ends, on the next day if that is not after from."`
	Timezone  string   `spec:"timezone" default:"UTC" doc:"Zone of from and to, such as Europe/Berlin."`
	Pool      int      `spec:"pool" required:"true" min:"0" doc:"How many machines are kept warm meanwhile."`
	VariantID string   `spec:"variant_id" doc:"Variant it is for; by default the pool's own machines."`
	Tenant    string   `spec:"tenant" doc:"Tenant it is for, by its group_id; by default all other accounts."`
}

// guards bound what a pool may spend and how it fails.
type guards struct {
	Failures   int           `spec:"failures" default:"5" min:"0" max:"1000" doc:"Creations or boots that fail in a row and make the pool pause; 0 is never."`
	Pause      time.Duration `spec:"pause" default:"1m" min:"1s" max:"24h" doc:"First pause, doubled each time. After it one machine is tried."`
	MaxPause   time.Duration `spec:"max_pause" default:"30m" min:"1s" max:"24h" doc:"Longest pause."`
	PerMinute  int           `spec:"creates_per_minute" default:"0" min:"0" max:"100000" doc:"Machines that may be begun in a minute; 0 is no bound."`
	PerDay     float64       `spec:"machine_hours_per_day" default:"0" min:"0" max:"1000000" doc:"Hours of machines that may be spent in a day (UTC); 0 is no bound."`
	KeepFailed time.Duration `spec:"keep_failed" default:"1h" min:"0s" max:"168h" doc:"How long the machine whose failure began a pause is kept for inspection; 0 is not at all."`
}

// platform is what the machines of a pool are.
type platform struct {
	OS      string `spec:"os" doc:"linux, windows or darwin."`
	Arch    string `spec:"arch" doc:"amd64 or arm64."`
	Variant string `spec:"variant" doc:"For information only."`
	Version string `spec:"version" doc:"For information only."`
	OSName  string `spec:"os_name" doc:"Distribution, for example ubuntu."`
}

// defaultLimit is the limit of a pool that names none.
const defaultLimit = 100

// types finds registrations by the word in a file.
type types struct {
	byName map[string]*drivers.Registration
	// names are the registered names, built those of which machines can be
	// made; words are all that a file may say. All sorted.
	names, built, words []string
	// pool are the keys of a pool.
	pool []drivers.Field
}

func newTypes(regs []drivers.Registration) types {
	t := types{byName: make(map[string]*drivers.Registration, len(regs)), pool: drivers.Fields(instance{})}
	for i := range regs {
		r := &regs[i]
		t.names = append(t.names, r.Name)
		if r.New != nil {
			t.built = append(t.built, r.Name)
		}
		for _, word := range append([]string{r.Name}, r.Aliases...) {
			t.byName[word] = r
			t.words = append(t.words, word)
		}
	}
	slices.Sort(t.names)
	slices.Sort(t.built)
	slices.Sort(t.words)
	return t
}

// choose ends a message by naming what can be used.
func (t *types) choose() string {
	if len(t.built) == 1 {
		return "use " + t.built[0]
	}
	return "use one of " + strings.Join(t.built, ", ")
}

// Fields describes the keys of a pool file; those of spec are the types' own,
// see [drivers.Fields].
func Fields() []drivers.Field { return drivers.Fields(file{}) }
