package pool

import (
	"strconv"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Kind is what a machine is used for.
type Kind string

// The kinds of work.
const (
	// Build is one CI stage: its machine is destroyed afterwards.
	Build Kind = "build"
	// Gitspace is a development environment: never reaped by age or absence.
	Gitspace Kind = "gitspace"
)

// Instance is one machine, from the row written before it exists until the
// row is purged. Times are UTC, cut to milliseconds; a zero time is "never".
type Instance struct {
	// ID is ours: random, never reused. Name is the machine's name in the
	// cloud, unique for ever.
	ID   string
	Name string
	Pool string
	// Driver and Scope say who made it and where a sweep finds it.
	Driver string
	Scope  string
	State  InstanceState
	// Kind is Build until a gitspace lease takes it.
	Kind Kind
	// Variant and Tenant are "default" until a pool has others.
	Variant string
	Tenant  string
	// Shape is what a request must ask for, exactly, to be given this machine
	// warm: see ShapeOf. Recipe is a hash of everything it was made from.
	Shape  string
	Recipe string
	// OS, Arch, Image, MachineType, Zone and DiskGiB describe the machine.
	OS          string
	Arch        string
	Image       string
	MachineType string
	Zone        string
	DiskGiB     int
	// CloudID is the cloud's id, empty until it answered.
	CloudID string
	// Address and Port are where the agent is reached, empty until known.
	Address string
	Port    int
	// Identity is sealed in the store.
	Identity drivers.Identity
	// NextIdentity is set while the machine is being given new certificates: it has
	// either. It is kept as Identity is.
	NextIdentity drivers.Identity `json:"-"`
	// InitScript is a gitspace's, for drivers with boot scripts: a secret, sealed
	// with the identity and gone with it.
	InitScript string `json:"-"`
	// Proxy is the address of the proxy that is the machine's way out, "" if it
	// has its own. It is kept with the identity and gone with it.
	Proxy string `json:"-"`
	// ProxyCA says that the machine was made to trust the proxy's authority, whose
	// certificate it has. It is kept likewise.
	ProxyCA bool `json:"-"`
	// AgentVersion is what the agent said of itself when proven.
	AgentVersion string
	// StorageID is the gitspace's disks as the caller named them.
	StorageID string
	// LeaseID and LeaseGeneration are set while, and after, a lease holds it.
	LeaseID         string
	LeaseGeneration int64
	// Cold is set for a machine made for the lease that waited for it.
	Cold bool
	// Created is when the intent was written, Since when State was entered,
	// Due when the worker looks at it again at the latest, Deadline when the
	// machine may end itself (zero: never), Warmed when it was proven.
	Created  time.Time
	Since    time.Time
	Due      time.Time
	Deadline time.Time
	Warmed   time.Time
	// Attempts counts failures of the present state's work.
	Attempts int
	// Reason says why it is failed or destroying: a stable code, and a text.
	Reason string
	Detail string
	// Held keeps an operator's machine from being destroyed.
	Held bool
	// Disks is what its destroy does with persistent disks.
	Disks drivers.DiskPolicy
}

// Ref is how its driver knows the instance.
func (i Instance) Ref() drivers.Ref {
	return drivers.Ref{Name: i.Name, ID: i.CloudID, Zone: i.Zone}
}

// Target is how the agent client reaches the instance.
func (i Instance) Target() Target {
	t := Target{Instance: i.ID, Address: i.Address, Port: i.Port, Identity: i.Identity, OS: i.OS}
	if i.LeaseID != "" {
		t.Use = strconv.FormatInt(i.LeaseGeneration, 10) + "/" + i.LeaseID
	}
	return t
}

// ExternalID is what callers know the machine by: the cloud's id, or before
// there is one, the name.
func (i Instance) ExternalID() string {
	if i.CloudID != "" {
		return i.CloudID
	}
	return i.Name
}
