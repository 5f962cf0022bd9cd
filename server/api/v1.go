package api

import "time"

// V1 is the prefix of our own API. It is strict (unknown query parameters are
// refused), and never shows keys or request bodies. Changes are POSTs, taken on
// the admin socket only.
const V1 = "/v1"

// DefaultLimit and MaxLimit bound lists of /v1.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// NextOffsetTrailer is the trailer of a step's log that says at which byte
// offset to go on reading. It is missing if the log broke off.
const NextOffsetTrailer = "X-Next-Offset"

// ErrorBody is the body of every failure under /v1.
type ErrorBody struct {
	Error ErrorDetail `json:"error"`
}

// ErrorDetail is a code for programs and a message for people.
type ErrorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	// RetryAfterMS says when asking again may help; 0 means that it will not.
	RetryAfterMS int64 `json:"retry_after_ms,omitempty"`
}

// Pool is one pool and its machines by state.
type Pool struct {
	Name     string `json:"name"`
	Driver   string `json:"driver"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	Variant  string `json:"variant,omitempty"`
	Default  bool   `json:"default"`
	Min      int    `json:"min"`
	Max      int    `json:"max"`
	Retired  bool   `json:"retired"`
	Counted  int    `json:"counted"`
	Waiting  int    `json:"waiting"`
	Machines Counts `json:"instances"`
	// Failing is how many machines could not be destroyed yet, FailingSince
	// since when the one that has waited longest is to go.
	Failing      int        `json:"failing_destroys,omitempty"`
	FailingSince *time.Time `json:"failing_since,omitempty"`
	// Override is what an operator wants of it, absent if nothing.
	Override *Override `json:"override,omitempty"`
	Problem  string    `json:"problem,omitempty"`
	// Holder is the replica that runs the pool's loops, by the name of its run;
	// empty where one runner works alone, and while the pool changes hands.
	// Generation counts the changes.
	Holder     string `json:"holder,omitempty"`
	Generation int64  `json:"generation,omitempty"`
}

// Counts is how many live machines are in each state; states without any are
// left out.
type Counts map[string]int

// Instance is one machine, without its keys.
type Instance struct {
	ID           string     `json:"id"`
	Name         string     `json:"name"`
	Pool         string     `json:"pool"`
	Driver       string     `json:"driver"`
	State        string     `json:"state"`
	Kind         string     `json:"kind"`
	Variant      string     `json:"variant"`
	Tenant       string     `json:"tenant"`
	OS           string     `json:"os"`
	Arch         string     `json:"arch"`
	Image        string     `json:"image,omitempty"`
	MachineType  string     `json:"machine_type,omitempty"`
	Zone         string     `json:"zone,omitempty"`
	DiskGiB      int        `json:"disk_gib,omitempty"`
	CloudID      string     `json:"cloud_id,omitempty"`
	Address      string     `json:"address,omitempty"`
	Port         int        `json:"port,omitempty"`
	AgentVersion string     `json:"agent_version,omitempty"`
	StorageID    string     `json:"storage_id,omitempty"`
	LeaseID      string     `json:"lease_id,omitempty"`
	Generation   int64      `json:"lease_generation,omitempty"`
	Cold         bool       `json:"cold"`
	Held         bool       `json:"held"`
	Created      time.Time  `json:"created"`
	Since        time.Time  `json:"since"`
	Due          *time.Time `json:"due,omitempty"`
	Deadline     *time.Time `json:"deadline,omitempty"`
	Warmed       *time.Time `json:"warmed,omitempty"`
	Attempts     int        `json:"attempts,omitempty"`
	Reason       string     `json:"reason,omitempty"`
	Detail       string     `json:"detail,omitempty"`
}

// Lease is a caller's right to one machine.
type Lease struct {
	ID         string     `json:"id"`
	Generation int64      `json:"generation"`
	Kind       string     `json:"kind"`
	State      string     `json:"state"`
	Pools      []string   `json:"pools"`
	Pool       string     `json:"pool,omitempty"`
	InstanceID string     `json:"instance_id,omitempty"`
	Arrived    time.Time  `json:"arrived"`
	Claimed    *time.Time `json:"claimed,omitempty"`
	Active     *time.Time `json:"active,omitempty"`
	Ended      *time.Time `json:"ended,omitempty"`
	LastCall   *time.Time `json:"last_call,omitempty"`
	WaitUntil  *time.Time `json:"wait_until,omitempty"`
	Due        *time.Time `json:"due,omitempty"`
	Reason     string     `json:"reason,omitempty"`
	Detail     string     `json:"detail,omitempty"`
	Causes     []Cause    `json:"causes,omitempty"`
}

// Cause is one failure on the way to a machine.
type Cause struct {
	Pool     string `json:"pool"`
	Instance string `json:"instance,omitempty"`
	Phase    string `json:"phase"`
	Kind     string `json:"kind,omitempty"`
	Message  string `json:"message"`
	// Step is where the machine's boot script was at last.
	Step    string `json:"step,omitempty"`
	Console string `json:"console,omitempty"`
}

// Event is one line of the story of a pool, instance or lease.
type Event struct {
	ID         int64     `json:"id"`
	At         time.Time `json:"at"`
	Pool       string    `json:"pool,omitempty"`
	Instance   string    `json:"instance,omitempty"`
	Lease      string    `json:"lease,omitempty"`
	Generation int64     `json:"lease_generation,omitempty"`
	Reason     string    `json:"reason"`
	Message    string    `json:"message"`
}

// Step is a step started under a lease.
type Step struct {
	ID string `json:"id"`
}

// PoolList is every pool, retired ones included, by name.
type PoolList struct {
	Pools []Pool `json:"pools"`
}

// InstanceList is machines, newest first. More says that the limit cut it.
type InstanceList struct {
	Instances []Instance `json:"instances"`
	More      bool       `json:"more"`
}

// LeaseList is leases, newest first. More says that the limit cut it.
type LeaseList struct {
	Leases []Lease `json:"leases"`
	More   bool    `json:"more"`
}

// EventList is events, oldest first. Next is what to give as after to read on:
// the id of the last event here, or the given after if there is none.
type EventList struct {
	Events []Event `json:"events"`
	Next   int64   `json:"next"`
	More   bool    `json:"more"`
}

// Story explains one lease, instance or pool: how it stands, what keeps it
// from going on, and how it came to that.
type Story struct {
	// Subject is "lease", "instance" or "pool".
	Subject    string `json:"subject"`
	ID         string `json:"id"`
	Name       string `json:"name,omitempty"`
	Generation int64  `json:"generation,omitempty"`
	State      string `json:"state"`
	Summary    string `json:"summary"`
	Why        []Why  `json:"why"`
	// Lines are oldest first.
	Lines []StoryLine `json:"lines"`
}

// Why is one reason with a stable code.
type Why struct {
	Code    string `json:"code"`
	Pool    string `json:"pool,omitempty"`
	Message string `json:"message"`
	// Position is the place in the pool's queue, 1 being the next.
	Position int `json:"position,omitempty"`
	// Until is when it ends by itself, if that is known.
	Until *time.Time `json:"until,omitempty"`
}

// StoryLine is one thing that happened.
type StoryLine struct {
	At       time.Time `json:"at"`
	Code     string    `json:"code"`
	Message  string    `json:"message"`
	Instance string    `json:"instance,omitempty"`
}

// StepList is the steps of a lease in the order of their start.
type StepList struct {
	Steps []Step `json:"steps"`
}

// Version is what runs.
type Version struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	// Started is when this process began to serve.
	Started time.Time `json:"started"`
	// Pending lists what is missing before the runner is ready.
	Pending []string `json:"pending"`
}
