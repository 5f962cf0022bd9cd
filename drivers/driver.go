package drivers

import (
	"context"
	"io"
	"time"
)

// Driver makes and destroys one kind of machine in one account of one cloud,
// configured for one pool. Methods are safe for concurrent use, return soon
// after ctx is done, and retry nothing themselves beyond what an SDK does.
//
// Every error wraps one of the sentinels of this package when it is of that
// kind ([ErrCapacity], [ErrQuota], [ErrAuth], [ErrInvalid], [ErrRateLimited],
// [ErrNotFound]); every other error is transient and may be retried later by
// the caller.
type Driver interface {
	// Scope names account and project, for example "qemu:<data directory>":
	// one sweep serves every pool of a scope. Two drivers with equal scopes
	// list the same machines.
	Scope() string
	// Ping is the cheapest call that proves credentials and reachability, or
	// for a local driver that its programs are there and recent enough. Its
	// error says what to install or to configure.
	Ping(ctx context.Context) error
	// Create returns once the cloud has accepted the machine, not when it has
	// booted. Called again with the same spec.Name it returns the existing
	// machine, also when the first call's answer was lost. A Create that fails
	// leaves nothing behind, or only what List shows under spec.Name.
	Create(ctx context.Context, spec Spec) (Ref, error)
	// Destroy ends the machines and answers per ref, in order, nil meaning the
	// cloud has confirmed that the machine is gone. A machine that does not
	// exist is no error. A ref with only a Name is found by that name. One
	// failing ref never keeps the others from being destroyed.
	Destroy(ctx context.Context, refs []Ref, o DestroyOptions) []error
	// List returns the instances and disks tagged as ours in the driver's
	// scope, of every controller or, if q.Controller is set, of that one. It
	// reads all pages, or sets Complete to false; At is when the listing began.
	List(ctx context.Context, q Query) (Listing, error)
}

// Hibernator is implemented by drivers that can put a machine to sleep on disk.
type Hibernator interface {
	// Suspend saves the machine and frees its memory. It is idempotent:
	// suspending a suspended machine is no error. It returns when the machine
	// is suspended.
	Suspend(ctx context.Context, ref Ref) error
	// Resume brings a machine back to running from every status a cloud can
	// report (suspended, stopped, crashed, running) and returns where it is
	// now, since the address may have changed. It never destroys: a machine
	// that cannot be resumed is left as it was, with an error.
	Resume(ctx context.Context, ref Ref) (Instance, error)
}

// Pauser is implemented by drivers that can stop a machine's CPUs while it
// stays in memory, so that waiting costs no CPU. A paused machine is warm.
type Pauser interface {
	// Pause stops the CPUs. Pausing a paused machine is no error.
	Pause(ctx context.Context, ref Ref) error
	// Unpause lets the machine run again and, before it returns, puts its
	// clock right and gives it fresh entropy. Unpausing a running machine
	// does the latter two only.
	Unpause(ctx context.Context, ref Ref) error
}

// Identifier is implemented by drivers that reach a booting machine over a
// private channel of the host rather than by boot data and polling.
type Identifier interface {
	// Identify hands the machine its identity, entropy and clock and returns
	// when the machine has confirmed that its agent listens, or with an error
	// when ctx ends. Calling it again, also from another process, is harmless
	// and returns at once if the machine already has this identity.
	Identify(ctx context.Context, ref Ref, id Identity) error
}

// Finder is implemented by drivers that can look at one machine for less than
// a listing costs: local ones. Others are looked at by listings that serve
// many machines at once.
type Finder interface {
	// Find reports one machine as List would, found by its Name; ErrNotFound
	// if there is none.
	Find(ctx context.Context, ref Ref) (Instance, error)
}

// DiskKeeper is implemented by drivers with disks that outlive a machine.
type DiskKeeper interface {
	// DestroyDisks deletes disks and answers per ref, in order, nil meaning the
	// cloud has confirmed that the disk is gone. One that does not exist is no
	// error; one that a machine still has is. A ref without a Zone is looked for
	// in all of them; ID is not used.
	DestroyDisks(ctx context.Context, disks []Ref) []error
}

// ConsoleReader is implemented by drivers that can read a machine's console.
type ConsoleReader interface {
	// Console copies at most the last max bytes of the serial console to w.
	// It works for a machine that is dead but not yet destroyed.
	Console(ctx context.Context, ref Ref, w io.Writer, max int64) error
}

// Adviser is implemented by drivers some of whose abilities need more than Ping
// asks for.
type Adviser interface {
	// Advice says what does not work as things are; nil if all does.
	Advice(ctx context.Context) []Advice
}

// Advice is one ability a driver lacks where it runs.
type Advice struct {
	// Part is what is lacking, in a word ("disks"), Detail what that means, Fix
	// what to do about it.
	Part, Detail, Fix string
}

// Registration is what cmd knows of a type of driver. It is data, so that
// generic code can ask about a type without an instance of it.
type Registration struct {
	// Name is the `type` in pool.yml, Aliases other spellings of it.
	Name    string
	Aliases []string
	// NewConfig returns a pointer to the driver's spec struct with its
	// defaults set; its field tags describe the keys (see Decode).
	NewConfig func() any
	// Check validates a decoded spec for a platform without touching a cloud.
	// It may fill in defaults that depend on the platform. Nil means no rule.
	Check func(cfg any, p *Platform) []Problem
	// CheckVariant validates what a variant of a pool changes against the
	// checked spec it changes, with paths in the words of Variant. Nil means no
	// rule.
	CheckVariant func(cfg any, p Platform, v Variant) []Problem
	// Tenants is set for types whose pools can have tenants. Such a spec has no
	// required key outside lists, since a tenant's gives only what differs.
	Tenants bool
	// New makes the driver. It must not do I/O beyond the local host. Nil: only
	// the type's keys are known so far.
	New func(o Options) (Driver, error)
	// Local is set for machines that live on the runner's own host: listings
	// are cheap, so they are swept every few seconds, and the machines end
	// with the host.
	Local bool
	// Dies is set for machines that end with the runner's process.
	Dies bool
}

// Options is what New needs.
type Options struct {
	Pool     string
	Platform Platform
	// Config is what NewConfig returned, decoded and checked.
	Config any
	// DataDir is the runner's data directory, an absolute path.
	DataDir string
	// Limit is the pool's limit, for drivers that reserve something per machine.
	Limit int
	// Log is never nil.
	Log Logger
}

// Platform is what a machine is, in the words of pool.yml.
type Platform struct {
	OS      string `json:"os,omitempty"`
	Arch    string `json:"arch,omitempty"`
	Variant string `json:"variant,omitempty"`
	Version string `json:"version,omitempty"`
	OSName  string `json:"os_name,omitempty"`
}

// Variant is what a variant of a pool changes about its machines, in the words
// of pool.yml. Zero values change nothing.
type Variant struct {
	// Image, MachineType, DiskGiB and DiskType are image_name, machine_type,
	// disk_size and disk_type.
	Image       string
	MachineType string
	DiskGiB     int
	DiskType    string
	// Zones, Nested and GPU are zones, enable_nested_virtualization and gpu.
	Zones  []string
	Nested bool
	GPU    bool
}

// Problem is one finding about a configuration. Path is relative to what was
// checked ("disk.size"), Message says what is wrong and what to do.
type Problem struct {
	Path    string
	Message string
	// Warning marks findings that do not keep a server from starting.
	Warning bool
}

// Ref names one machine to the driver that made it.
type Ref struct {
	// Name is the unique cloud name of the row. Always set.
	Name string `json:"name"`
	// ID is the cloud's own id, empty until the cloud has answered.
	ID string `json:"id,omitempty"`
	// Zone is where it is, empty where there are no zones or it is unknown.
	Zone string `json:"zone,omitempty"`
}

// Spec is one machine to make.
type Spec struct {
	// Name is unique for ever, at most 63 characters of [a-z0-9-], starts with
	// a letter: it is both the machine's name and the idempotency token.
	Name string
	// Tags are written to the machine in the same call that creates it.
	Tags Tags
	// Platform of the pool.
	Platform Platform
	// Image, MachineType, Zone and DiskGiB override the pool's spec where the
	// request asks for something else; empty or zero: the pool's.
	Image       string
	MachineType string
	Zone        string
	DiskGiB     int
	// Zones are where the machine may be instead of the pool's zones, the
	// preferred first; Zone, if set, is where it must be.
	Zones []string
	// DiskType is the boot disk's, empty: the pool's. Nested asks for nested
	// virtualisation, GPU for a graphics card: a driver that cannot give them
	// answers ErrInvalid.
	DiskType    string
	Nested, GPU bool
	// Hibernate says that the machine will be put to disk while it is free,
	// for clouds that must know from the start.
	Hibernate bool
	// Identity is delivered to the machine by the driver: by boot data, or
	// later by Identify if the driver is an Identifier.
	Identity Identity
	// Boot is the rendered boot script, nil for drivers that need none.
	Boot []byte
	// Disks are the persistent disks the machine gets beside its own, in this
	// order; only drivers that are a DiskKeeper take any. See DiskSpec.
	Disks []DiskSpec
	// Facts are what people find and bill a machine by (account, pipeline,
	// gitspace), as they are: the driver puts them where its cloud takes them,
	// made to fit or left out where they cannot. Never secrets.
	Facts map[string]string
}

// DiskSpec is a persistent disk of a machine that is to be made. It is found by
// its name, in the zone the machine is made in or, if it is in another, there:
// the disk decides. Where there is none it is made, once and empty, with the
// machine's tags. Create neither formats it nor deletes it, whatever fails. One
// that another machine has is an ErrInvalid that names that machine.
type DiskSpec struct {
	// Name is the disk's own, unique in the driver's scope.
	Name string
	// SizeGiB is for a disk that has to be made; one that exists is taken as it
	// is. 0 is the driver's default.
	SizeGiB int
	// Type is the kind of disk in the cloud's words, "" the driver's default.
	Type string
	// MayExist says that an earlier machine was to have it, so that it may be
	// there although a listing does not show it yet.
	MayExist bool
}

// Tags are what a machine carries in the cloud from the moment it exists.
type Tags struct {
	// Controller is the controller id of the store that owns the machine.
	Controller string `json:"controller"`
	Pool       string `json:"pool"`
	Instance   string `json:"instance"`
	// Kind is "build" or "gitspace".
	Kind string `json:"kind"`
	// Created is when the row was written, Deadline when the machine may end
	// itself; both UTC. A zero Deadline means never.
	Created  time.Time `json:"created"`
	Deadline time.Time `json:"deadline,omitzero"`
	// Labels are the user's.
	Labels map[string]string `json:"labels,omitempty"`
}

// Identity is what a machine's agent needs to be talked to, and what the
// runner needs to talk to it: one CA and one leaf, made for this machine.
// PEM throughout. It is a secret: it has no String method and must not be
// logged; see LogValue.
type Identity struct {
	// Machine is the instance id, Hostname a valid host name.
	Machine  string
	Hostname string
	// ServerName is the DNS name in the leaf.
	ServerName string
	CAKey      []byte
	CACert     []byte
	Key        []byte
	Cert       []byte
}

// Status is what a cloud says of a machine, in our words.
type Status string

// The statuses of a machine. Unknown is for what the driver cannot map.
const (
	StatusPending   Status = "pending"
	StatusRunning   Status = "running"
	StatusPaused    Status = "paused"
	StatusSuspended Status = "suspended"
	StatusStopping  Status = "stopping"
	// StatusDead is a machine that has ended by itself (crashed, killed,
	// pre-empted, stopped from inside) but still exists to the cloud.
	StatusDead    Status = "dead"
	StatusUnknown Status = "unknown"
)

// Instance is one machine as a cloud reports it.
type Instance struct {
	Ref
	Tags   Tags
	Status Status
	// Address is where the agent is reached, host without port; Port its
	// port. Empty until known.
	Address string
	Port    int
	// Reason is the cloud's own word on a dead machine, "" if it has none.
	Reason string
	// Err is the kind of what a dead machine ended of, where that is not its own
	// doing: [ErrCapacity] of one that was accepted and then found no room, for
	// one. Nil if nothing is known.
	Err error
}

// Disk is a persistent disk as a cloud reports it.
type Disk struct {
	Name       string
	Zone       string
	Tags       Tags
	AttachedTo string
	SizeGiB    int
}

// Query narrows a listing.
type Query struct {
	// Controller, if set, keeps only what that controller made.
	Controller string
	// NoDisks says that nobody wants to know of disks: a driver for which they
	// are a call of their own leaves them out. Complete is of the rest then.
	NoDisks bool
}

// Listing is one reading of a scope.
type Listing struct {
	Instances []Instance
	Disks     []Disk
	// Complete says that nothing can be missing that existed at At. Absence is
	// evidence only in a complete listing.
	Complete bool
	// At is when the listing began.
	At time.Time
}

// DestroyOptions says what becomes of persistent disks.
type DestroyOptions struct {
	Disks DiskPolicy
}

// DiskPolicy is what a destroy does with persistent disks.
type DiskPolicy int

// Keep is the zero value, so that forgetting to choose loses no data. Delete is
// for the persistent disks the machine has when it is destroyed: they go after
// it. Those of a machine that is gone already are for DestroyDisks.
const (
	Keep DiskPolicy = iota
	Delete
)
