package pool

import (
	"strconv"
	"strings"
	"time"
)

// Lease is a caller's right to one instance. Ids recur, so a lease is an id
// and a generation, and what is late and names an older generation touches
// only that one. Times are UTC, cut to milliseconds.
type Lease struct {
	ID         string
	Generation int64
	Kind       Kind
	State      LeaseState
	// Seq is the order of arrival in this store, over all pools.
	Seq int64
	// Waiter is the incarnation of the runner that waits for it, "" when its
	// process is gone: then nothing is given to it until somebody asks again.
	Waiter string
	// Want is what the request asked for.
	Want Want
	// Choices are the pools it may have, in the request's order, with the
	// shape wanted in each. The failed ones are taken out as they fail.
	Choices []Choice
	// Pool and InstanceID are set from LeaseStarting on.
	Pool       string
	InstanceID string
	// Arrived .. Ended are when the states were entered, zero if never.
	Arrived time.Time
	Claimed time.Time
	Active  time.Time
	Ended   time.Time
	// LastCall is the last call for it, to within half a minute.
	LastCall time.Time
	// WaitUntil is when waiting is given up, Due when the worker looks at it.
	WaitUntil time.Time
	Due       time.Time
	// Digest identifies the body of the setup, without keeping it.
	Digest string
	// Causes are the failures on the way, for the error of the last one.
	Causes []Cause
	// Reason says why it waits, ended or was lost: a stable code, and a text.
	Reason string
	Detail string
}

// Want is what a request asks of a machine. Zero values mean the pool's own.
type Want struct {
	// Account is whose request it is: each pool finds its tenant by it.
	Account       string `json:"account,omitempty"`
	ResourceClass string `json:"resource_class,omitempty"`
	Image         string `json:"image,omitempty"`
	ImageVersion  string `json:"image_version,omitempty"`
	MachineType   string `json:"machine_type,omitempty"`
	Zone          string `json:"zone,omitempty"`
	DiskGiB       int    `json:"disk_gib,omitempty"`
	Nested        bool   `json:"nested,omitempty"`
	GPU           bool   `json:"gpu,omitempty"`
	// Life is how much of the machine's deadline the request needs.
	Life time.Duration `json:"life,omitempty"`
	// Ports, Storage and Labels are a gitspace's. Storage names its disks,
	// separated by commas; StorageGiB and StorageType are for those that have to
	// be made, 0 and "" being the driver's default.
	Ports       []int             `json:"ports,omitempty"`
	Storage     string            `json:"storage,omitempty"`
	StorageGiB  int               `json:"storage_gib,omitempty"`
	StorageType string            `json:"storage_type,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
}

// Choice is one pool a lease may have, and what it must be there.
type Choice struct {
	Pool  string `json:"pool"`
	Shape string `json:"shape"`
	// Zone, if set, must be the instance's.
	Zone string `json:"zone,omitempty"`
	// Tenant and Variant name the flavour a machine of its own is made from;
	// empty means "default".
	Tenant  string `json:"tenant,omitempty"`
	Variant string `json:"variant,omitempty"`
}

// ShapeOf is the text that must be equal for a warm machine to fit a request:
// everything that is chosen when a machine is made and cannot be changed
// afterwards. Both sides are resolved against the pool first.
func ShapeOf(tenant, variant, image, machineType string, diskGiB int, nested, gpu bool) string {
	return strings.Join([]string{
		tenant, variant, image, machineType,
		strconv.Itoa(diskGiB), strconv.FormatBool(nested), strconv.FormatBool(gpu),
	}, "|")
}

// Cause is one failure on the way to a machine.
type Cause struct {
	Pool     string `json:"pool"`
	Instance string `json:"instance,omitempty"`
	// Phase is "claim", "create", "boot", "health" or "setup".
	Phase string `json:"phase"`
	// Kind is drivers.Kind of the error, or a reason code of ours.
	Kind    string `json:"kind,omitempty"`
	Message string `json:"message"`
	// Step is where the boot script was at last, see [LastBootStep].
	Step string `json:"step,omitempty"`
	// Console is the tail of the machine's console, if it helps.
	Console string `json:"console,omitempty"`
}

// String gives "pool: phase: message", with the boot step and the console tail
// in brackets.
func (c Cause) String() string {
	var b strings.Builder
	b.WriteString(c.Pool + ": ")
	if c.Phase != "" {
		b.WriteString(c.Phase + ": ")
	}
	b.WriteString(c.Message)
	if c.Step != "" {
		b.WriteString(" (boot script at step " + c.Step + ")")
	}
	if c.Console != "" {
		b.WriteString(" (console tail: " + strconv.Quote(c.Console) + ")")
	}
	return b.String()
}

// Event is one line of the story of an instance, lease or pool. Ordinary
// claims are no events; their times stand in the lease's row.
type Event struct {
	// ID is given by the store, ascending.
	ID int64
	At time.Time
	// Pool, Instance and Lease say whose story it is; each may be empty.
	Pool       string
	Instance   string
	Lease      string
	Generation int64
	// Reason is a stable lower-case code ("limit_reached", "agent_dead"),
	// Message one line for people. Neither holds a secret.
	Reason  string
	Message string
}
