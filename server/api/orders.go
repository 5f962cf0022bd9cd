package api

import "time"

// Order is the body of every change ordered under /v1: who wants it, and why.
// Both are for people and may be empty. Unknown fields are refused.
type Order struct {
	By  string `json:"by,omitempty"`
	Why string `json:"why,omitempty"`
}

// DestroyOrder asks for the end of an instance or a lease.
type DestroyOrder struct {
	By  string `json:"by,omitempty"`
	Why string `json:"why,omitempty"`
	// Force ends the instance's lease, whatever runs in it. Ending a lease needs
	// no force.
	Force bool `json:"force,omitempty"`
	// Disks deletes persistent disks too.
	Disks bool `json:"disks,omitempty"`
}

// ScaleOrder asks for another number of warm machines than configured.
type ScaleOrder struct {
	By  string `json:"by,omitempty"`
	Why string `json:"why,omitempty"`
	// Min is required, and at least 0.
	Min *int `json:"min"`
}

// RemovalOrder asks for the end of something that has no row.
type RemovalOrder struct {
	By       string `json:"by,omitempty"`
	Why      string `json:"why,omitempty"`
	Foreign  bool   `json:"foreign,omitempty"`
	Gitspace bool   `json:"gitspace,omitempty"`
	Disks    bool   `json:"disks,omitempty"`
}

// Ordered is the answer to an order that has no other: what was done to what.
type Ordered struct {
	Name string `json:"name"`
	Done string `json:"done"`
	// Count is how many machines it was done to, where that is asked for.
	Count int `json:"count,omitempty"`
}

// Override is what an operator wants of a pool instead of its configuration.
type Override struct {
	Stopped bool      `json:"stopped,omitempty"`
	Min     *int      `json:"min,omitempty"`
	By      string    `json:"by,omitempty"`
	Why     string    `json:"why,omitempty"`
	Since   time.Time `json:"since"`
}

// Orphan is a machine or disk in a cloud that no row describes.
type Orphan struct {
	Name       string `json:"name"`
	CloudID    string `json:"cloud_id,omitempty"`
	Zone       string `json:"zone,omitempty"`
	Scope      string `json:"scope"`
	Pool       string `json:"pool,omitempty"`
	Kind       string `json:"kind,omitempty"`
	InstanceID string `json:"instance_id,omitempty"`
	Controller string `json:"controller,omitempty"`
	// Foreign: another controller made it, or nobody says who.
	Foreign    bool       `json:"foreign"`
	SizeGiB    int        `json:"size_gib,omitempty"`
	AttachedTo string     `json:"attached_to,omitempty"`
	Created    *time.Time `json:"created,omitempty"`
	Deadline   *time.Time `json:"deadline,omitempty"`
	FirstSeen  *time.Time `json:"first_seen,omitempty"`
	Sightings  int        `json:"sightings,omitempty"`
	// Reason is why it is left alone, Explanation what would make it go.
	Reason      string `json:"reason"`
	Explanation string `json:"explanation"`
}

// Missing is a row whose machine the cloud does not list.
type Missing struct {
	Instance Instance  `json:"instance"`
	Since    time.Time `json:"since"`
	// Times is in how many complete listings it was not.
	Times int `json:"times"`
}

// Scope is how the last look at one account went.
type Scope struct {
	Scope    string     `json:"scope"`
	Pools    []string   `json:"pools"`
	Listed   *time.Time `json:"listed,omitempty"`
	Complete bool       `json:"complete"`
	Problem  string     `json:"problem,omitempty"`
}

// Orphans is everything in which clouds and store differ, as of the last
// sweeps.
type Orphans struct {
	Machines []Orphan  `json:"machines"`
	Disks    []Orphan  `json:"disks"`
	Missing  []Missing `json:"missing"`
	// Failing are destroys that are tried again, Held what is kept by an
	// operator or because the store is an old copy, Unreachable the rows of
	// accounts no driver is open for.
	Failing     []Instance `json:"failing"`
	Held        []Instance `json:"held"`
	Unreachable []Instance `json:"unreachable"`
	// Scopes were looked at, or cannot be opened.
	Scopes []Scope `json:"scopes"`
}
