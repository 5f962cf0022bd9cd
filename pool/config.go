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
	// Image, MachineType and DiskGiB are the spec's, resolved by the driver,
	// so that a request that names them explicitly fits a warm machine.
	Image       string
	MachineType string
	DiskGiB     int
}

// DefaultWait is how long a request waits at a pool's limit unless the pool
// says otherwise.
const DefaultWait = 10 * time.Minute
