package pool

import (
	"fmt"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Disk is a persistent disk as the store knows it. It outlives the machines it
// is attached to, and is found again by its scope and name. Times are UTC, cut
// to milliseconds.
type Disk struct {
	Scope, Name string
	// Zone is where it is, "" until the cloud has accepted its first machine.
	Zone string
	Pool string
	// LeaseID is the gitspace that asked for it last.
	LeaseID string
	// Instance is the machine that has it, by our id, from the intent until the
	// cloud has confirmed that the machine is gone; "" for a detached disk.
	Instance string
	// SizeGiB and Type are what it is made as; 0 and "" are the driver's default.
	SizeGiB int
	Type    string
	// Controller is whose tags it may carry beside this store's: a disk that was
	// taken over after a store was lost. "" for none.
	Controller string
	// Created is when the row was written, Seen when a listing last had it.
	Created, Seen time.Time
	// Used is since when something may be on it: since a machine with it was
	// proven, or a listing had it that nobody here had made. Zero: it is empty, and
	// its gitspace may as well have another elsewhere.
	Used time.Time
	// Doomed is since when its owner wants it deleted; zero: it is to be kept. A
	// machine on its way out may have it still.
	Doomed time.Time
}

// Ref is how its driver knows the disk.
func (d Disk) Ref() drivers.Ref { return drivers.Ref{Name: d.Name, Zone: d.Zone} }

// DiskQuery narrows Disks. Zero fields do not narrow.
type DiskQuery struct {
	Scope    string
	Name     string
	Lease    string
	Instance string
	// Doomed keeps only detached disks that are to be deleted.
	Doomed bool
	Limit  int
}

// Doom is an owner's wish to have detached disks deleted: those of a lease, or
// with Names set those of these names in Scope that no other lease has.
type Doom struct {
	Lease string
	Scope string
	Names []string
	Now   time.Time
}

// Readmission is a machine that exists and has no row: a gitspace of a store
// that was lost.
type Readmission struct {
	// Instance has every field of the row but State, Since and the lease's. It
	// is entered as Suspended, whatever its cloud says: a resume finds out.
	Instance Instance
	Lease    string
	Want     Want
	Choices  []Choice
	Disks    []Disk
	// Running enters it as active instead: it runs, and is not to be woken.
	Running  bool
	Due, Now time.Time
	Events   []Event
}

// StorageNames are the disks of a storage identifier: names separated by
// commas, in order, each once.
func StorageNames(identifier string) []string {
	var names []string
	for name := range strings.SplitSeq(identifier, ",") {
		name = strings.TrimSpace(name)
		seen := name == ""
		for _, n := range names {
			seen = seen || n == name
		}
		if !seen {
			names = append(names, name)
		}
	}
	return names
}

// DiskError is an ErrDisk: a disk that a machine cannot be given now.
type DiskError struct {
	Disk string
	// Lease and Instance have it; both are empty for one that is being deleted.
	Lease, Instance string
}

// Error names the disk and who has it.
func (e *DiskError) Error() string {
	if e.Instance == "" {
		return fmt.Sprintf("disk %s is being deleted; wait until it is gone, or ask for another name", e.Disk)
	}
	return fmt.Sprintf("disk %s is in use by machine %s of gitspace %s; suspend it or destroy it with DETACH first", e.Disk, e.Instance, e.Lease)
}

// Is makes errors.Is(err, ErrDisk) true.
func (e *DiskError) Is(target error) bool { return target == ErrDisk }
