package pool

import (
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Reason is a stable code for why something is, or is not, destroyed.
type Reason string

// Why a machine is to be destroyed.
const (
	// ReasonReleased: its lease has ended, by a caller or by the engine.
	ReasonReleased Reason = "released"
	// ReasonBroken: it could not be made, booted, set up, or it died.
	ReasonBroken Reason = "broken"
	// ReasonExpired: older than the free age or its deadline.
	ReasonExpired Reason = "expired"
	// ReasonDrifted: of an older recipe than its pool's.
	ReasonDrifted Reason = "drifted"
	// ReasonSurplus: more than the pool wants warm.
	ReasonSurplus Reason = "surplus"
	// ReasonBusyAge: a build lease past the busy age in which nothing happens.
	ReasonBusyAge Reason = "busy_age"
	// ReasonOrphan: no row describes it.
	ReasonOrphan Reason = "orphan"
	// ReasonOperator: somebody with the right to has ordered it.
	ReasonOperator Reason = "operator"
)

// Why a machine must not be destroyed (yet).
const (
	KeepHeld       Reason = "held_by_operator"
	KeepLeased     Reason = "lease_is_live"
	KeepGitspace   Reason = "gitspace_is_only_reported"
	KeepState      Reason = "state_is_not_free"
	KeepClock      Reason = "clock_jumped"
	KeepYoung      Reason = "not_old_enough"
	KeepBusy       Reason = "work_is_running"
	KeepForeign    Reason = "made_by_another_controller"
	KeepIncomplete Reason = "listing_incomplete_or_old"
	KeepSightings  Reason = "not_seen_often_enough"
	KeepUnwatched  Reason = "made_while_this_store_was_not_alive"
	KeepUnknown    Reason = "no_reason_given"
	KeepRow        Reason = "a_row_describes_it"
	KeepDisk       Reason = "disks_are_kept"
)

// evidence is what is known when something is about to be destroyed.
type evidence struct {
	// Why is the reason it should be.
	Why Reason
	// Lease is the row of the instance's lease, nil if it has none or is not
	// found. LeaseInstance says whether that lease's present instance is this.
	Lease *Lease
	// RunningSteps is how many steps are known to run; -1 if nobody can say.
	RunningSteps int
	// ClockSuspicious forbids every destroy that rests on an age.
	ClockSuspicious bool
	// FreeAge, BusyAge and Idle are the configured ages.
	FreeAge, BusyAge, Idle time.Duration

	// For machines and disks without a row; one of the first two is set. A disk
	// goes by an operator's order, or its owner's.
	Machine *drivers.Instance
	Disk    *drivers.Disk
	// DiskRow is the row of a disk that its owner wants deleted.
	DiskRow    *Disk
	Controller string
	Lifetimes  []Lifetime
	Complete   bool
	ListedAt   time.Time
	Sightings  int
	FirstSeen  time.Time
	Grace      time.Duration
	// HadRow says that the store remembers this machine's row as gone: the
	// cloud made it after its end was confirmed.
	HadRow bool
	// HasRow says that a live row describes it after all, or, for a disk, that
	// a live row uses it.
	HasRow bool
	// Order is what an operator has explicitly allowed, for ReasonOperator.
	Order OrphanOrder
}

// maxListingAge is how old a listing may be to count as evidence.
const maxListingAge = 5 * time.Minute

// listingSkew is how far in the future a listing may seem to have begun.
const listingSkew = time.Minute

// mayDestroy is the one gate: every destroy, from whatever reason, goes
// through it right before it is decided and again right before the cloud is
// called. row is nil for a machine no row describes. It is pure. When it says
// no, the Reason is why not; when it says yes, it is e.Why.
func mayDestroy(row *Instance, e evidence, now time.Time) (bool, Reason) {
	if row == nil {
		return mayDestroyOrphan(e, now)
	}
	if row.Held {
		return false, KeepHeld
	}
	live := e.Lease != nil && !e.Lease.State.Final() &&
		e.Lease.ID == row.LeaseID && e.Lease.Generation == row.LeaseGeneration &&
		e.Lease.InstanceID == row.ID
	switch e.Why {
	case ReasonReleased, ReasonBroken:
		// A live lease's machine is only ever taken by ending the lease or
		// taking it off the machine first.
		if live {
			return false, KeepLeased
		}
		// A gitspace's data is not thrown away because its machine broke.
		if e.Why == ReasonBroken && row.Kind == Gitspace && e.Lease != nil && !e.Lease.State.Final() && row.State != Creating && row.State != Booting && row.State != Destroying {
			return false, KeepGitspace
		}
		return true, e.Why
	case ReasonOperator:
		// An order ends the lease first; then nothing but a hold is above it.
		if live {
			return false, KeepLeased
		}
		return true, e.Why
	case ReasonExpired, ReasonDrifted, ReasonSurplus:
		switch {
		case live:
			return false, KeepLeased
		case row.Kind == Gitspace:
			return false, KeepGitspace
		case !freeState(row.State) && row.State != Destroying:
			return false, KeepState
		case e.Why == ReasonExpired && row.State != Destroying && e.ClockSuspicious:
			return false, KeepClock
		case e.Why == ReasonExpired && row.State != Destroying && !expired(*row, e.FreeAge, now):
			return false, KeepYoung
		}
		return true, e.Why
	case ReasonBusyAge:
		return mayEndByAge(row, e, now)
	default:
		return false, KeepUnknown
	}
}

func freeState(s InstanceState) bool { return s == Warm || s == Hibernated }

// expired says whether a free machine is older than it may be, or has too
// little left of its own deadline to be of use.
func expired(row Instance, freeAge time.Duration, now time.Time) bool {
	since := row.Created
	if !row.Warmed.IsZero() {
		since = row.Warmed
	}
	if freeAge > 0 && !now.Before(since.Add(freeAge)) {
		return true
	}
	return !row.Deadline.IsZero() && !now.Before(row.Deadline)
}

// mayEndByAge guards the end of a build lease whose caller never came back.
func mayEndByAge(row *Instance, e evidence, now time.Time) (bool, Reason) {
	l := e.Lease
	switch {
	case l == nil || l.State.Final():
		return true, e.Why
	case row.Kind == Gitspace || l.Kind == Gitspace:
		return false, KeepGitspace
	case e.ClockSuspicious:
		return false, KeepClock
	case e.RunningSteps != 0:
		return false, KeepBusy
	case now.Before(l.Arrived.Add(e.BusyAge)):
		return false, KeepYoung
	case now.Before(lastCall(*l).Add(e.Idle)):
		return false, KeepBusy
	}
	return true, e.Why
}

func lastCall(l Lease) time.Time {
	last := l.Arrived
	for _, t := range []time.Time{l.Claimed, l.Active, l.LastCall} {
		if t.After(last) {
			last = t
		}
	}
	return last
}

// mayDestroyOrphan guards machines and disks no row describes.
func mayDestroyOrphan(e evidence, now time.Time) (bool, Reason) {
	switch {
	case e.HasRow:
		return false, KeepRow
	case e.Why == ReasonOperator:
		return mayOrderOrphan(e, now)
	case e.Why == ReasonReleased && e.Disk != nil && e.DiskRow != nil:
		return mayDeleteDisk(e, now)
	case e.Why != ReasonOrphan || e.Machine == nil:
		return false, KeepUnknown
	}
	mach := e.Machine
	switch {
	case mach.Tags.Kind != string(Build):
		return false, KeepGitspace
	case mach.Tags.Controller == "" || mach.Tags.Controller != e.Controller:
		return false, KeepForeign
	case e.ClockSuspicious:
		return false, KeepClock
	case !e.Complete || !fresh(e.ListedAt, now):
		return false, KeepIncomplete
	case e.Sightings < 2 || now.Sub(e.FirstSeen) < e.Grace:
		return false, KeepSightings
	case !e.HadRow && !watched(e.Lifetimes, mach.Tags.Created):
		return false, KeepUnwatched
	}
	return true, e.Why
}

// mayDeleteDisk guards a disk whose owner has asked for its end. Its row must
// say so, no machine may have it, and its tags must be ours, or those it was
// taken over with from a store that was lost.
func mayDeleteDisk(e evidence, now time.Time) (bool, Reason) {
	disk, row := e.Disk, e.DiskRow
	switch {
	case row.Name != disk.Name || row.Instance != "" || row.Doomed.IsZero():
		return false, KeepDisk
	case disk.Tags.Kind != string(Gitspace) || disk.Tags.Controller == "":
		return false, KeepForeign
	case disk.Tags.Controller != e.Controller && disk.Tags.Controller != row.Controller:
		return false, KeepForeign
	case !fresh(e.ListedAt, now):
		return false, KeepIncomplete
	}
	return true, e.Why
}

// mayOrderOrphan guards what an operator names. Sightings, grace and the
// store's life are what the operator's own eyes stand for; whose machine it is
// and what data hangs on it needs a word of its own.
func mayOrderOrphan(e evidence, now time.Time) (bool, Reason) {
	var tags drivers.Tags
	switch {
	case e.Machine != nil:
		tags = e.Machine.Tags
	case e.Disk != nil:
		tags = e.Disk.Tags
	default:
		return false, KeepUnknown
	}
	switch {
	case (tags.Controller == "" || tags.Controller != e.Controller) && !e.Order.Foreign:
		return false, KeepForeign
	case e.Machine != nil && tags.Kind != string(Build) && !e.Order.Gitspace:
		return false, KeepGitspace
	case e.Machine == nil && !e.Order.Disks:
		return false, KeepDisk
	case !fresh(e.ListedAt, now):
		return false, KeepIncomplete
	}
	return true, e.Why
}

// fresh says whether a listing is young enough to be evidence.
func fresh(at, now time.Time) bool {
	return !at.IsZero() && now.Sub(at) <= maxListingAge && !at.After(now.Add(listingSkew))
}

// watched says whether t lies within a time in which this store was alive: a
// machine made then had a row first, so that no row means it is over. In a
// store that is new, empty or an old copy, t lies outside.
func watched(lifetimes []Lifetime, t time.Time) bool {
	if t.IsZero() {
		return false
	}
	for _, l := range lifetimes {
		if !t.Before(l.From) && !t.After(l.To) {
			return true
		}
	}
	return false
}
