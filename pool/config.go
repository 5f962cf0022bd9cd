package pool

import (
	"encoding/json"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Config is the pools to run, as read from pool.yml or the environment.
type Config struct {
	Pools []PoolConfig
}

// PoolConfig is one pool. The zero value is not valid.
type PoolConfig struct {
	Name string
	// Default marks the pool for requests that may omit one.
	Default bool
	// Driver is the registered name of the type, never an alias.
	Driver   string
	Platform drivers.Platform
	// Min machines are kept warm; Max exist at most, in any state that costs
	// money.
	Min, Max int
	// Wait is how long a request waits at the limit. Zero: DefaultWait.
	Wait time.Duration
	// Spec is the driver's decoded and checked configuration, SpecJSON the
	// same as canonical JSON: kept in the store as the pool's last spec.
	Spec     any
	SpecJSON json.RawMessage
	// RecipeJSON is SpecJSON without its credentials; nil: it has none.
	RecipeJSON json.RawMessage
	// Image, MachineType and DiskGiB are the spec's, resolved by the driver,
	// so that a request that names them explicitly fits a warm machine.
	Image       string
	MachineType string
	DiskGiB     int
	// Hibernate puts warm machines to disk; Running of those of the pool's own
	// flavour stay in memory, or all if that is more than there are. Running is
	// 0 where Hibernate is false.
	Hibernate bool
	Running   int
	// Variants are alternatives of the default tenant's machine, in the file's
	// order, which is their priority. Tenants have machines of their own.
	Variants []VariantConfig
	Tenants  []TenantConfig
	// FreeAge and BusyAge are the pool's own maximum ages; zero: the program's.
	// BusyAge is never above FreeAge.
	FreeAge, BusyAge time.Duration
	// Schedules replace the Min of a flavour while they apply; of several that
	// apply the last counts.
	Schedules []Schedule
	Guards    Guards
}

// VariantConfig is one alternative of a pool or of a tenant. Empty texts and
// lists and a DiskGiB of 0 are the pool's or tenant's own.
type VariantConfig struct {
	// ID is unique within pool and tenant, and not "default".
	ID string
	// Min machines of it are kept warm beside the pool's; Max exist at most, -1
	// for no limit but the pool's. Min is never above a Max that is not -1.
	Min, Max int
	// ResourceClass and Nested must equal the request's for it to be chosen.
	ResourceClass string
	Nested        bool
	Image         string
	MachineType   string
	Zones         []string
	DiskGiB       int
	DiskType      string
	GPU           bool
	// Hibernate is resolved: what the file says of the variant, else what the
	// pool's or the tenant's spec says.
	Hibernate bool
}

// TenantConfig is one group of accounts with a spec of its own, merged over
// the pool's already.
type TenantConfig struct {
	// ID is the group's stable id, unique in the pool and not "default";
	// Accounts are whose requests it serves, each in one tenant only.
	ID       string
	Accounts []string
	// Min machines are kept warm for it, Max it has at most: 0 is none, -1 no
	// limit but the pool's, which counts all.
	Min, Max int
	// Spec to Hibernate are as in PoolConfig.
	Spec       any
	SpecJSON   json.RawMessage
	RecipeJSON json.RawMessage

	Image       string
	MachineType string
	DiskGiB     int
	Hibernate   bool
	// Variants are the pool's and its own, merged and resolved for it.
	Variants []VariantConfig
}

// Schedule is a warm target for part of the week.
type Schedule struct {
	// Days it begins on; empty means all.
	Days []time.Weekday
	// From and To are times since midnight in Zone, below 24 h; To before or
	// equal to From means the next day.
	From, To time.Duration
	// Zone is never nil.
	Zone *time.Location
	// Min replaces that of a flavour: of Variant and Tenant, each of which
	// exists or is empty, which means "default".
	Min             int
	Variant, Tenant string
}

// Guards bound what a pool may spend and how it fails. Zero values take the
// defaults named here.
type Guards struct {
	// Failures of creations or boots in a row open the breaker (5; -1 never).
	Failures int
	// Pause is the breaker's first (1 min), doubled each time up to MaxPause
	// (30 min).
	Pause, MaxPause time.Duration
	// PerMinute bounds the machines begun in a minute (0: no bound),
	// HoursPerDay the machine-hours spent in a UTC day (0: no bound).
	PerMinute   int
	HoursPerDay float64
	// KeepFailed keeps the machine whose failure opened the breaker for
	// inspection for so long (1 h; -1 not at all).
	KeepFailed time.Duration
}

// DefaultWait is how long a request waits at a pool's limit unless the pool
// says otherwise.
const DefaultWait = 10 * time.Minute
