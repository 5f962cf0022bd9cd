package pool

import "slices"

// InstanceState is where a machine's row stands. The row exists before the
// machine does and stays until the cloud has confirmed that it is gone.
type InstanceState string

// The states of an instance. Each but Gone has a due time, so nothing can be
// stuck without being due.
const (
	// Creating: the intent is committed; the cloud may or may not know yet.
	Creating InstanceState = "creating"
	// Booting: accepted by the cloud, its agent not proven.
	Booting InstanceState = "booting"
	// Warm: its agent has answered over mutual TLS; free to be claimed.
	Warm InstanceState = "warm"
	// Hibernating: a warm machine on its way to disk.
	Hibernating InstanceState = "hibernating"
	// Hibernated: a warm machine on disk.
	Hibernated InstanceState = "hibernated"
	// Resuming: on its way back from disk, hibernated or suspended.
	Resuming InstanceState = "resuming"
	// Leased: belongs to a lease. Never becomes warm again.
	Leased InstanceState = "leased"
	// Suspending: a leased gitspace on its way to disk.
	Suspending InstanceState = "suspending"
	// Suspended: a leased gitspace that sleeps. Its lease stays.
	Suspended InstanceState = "suspended"
	// Failed: broken; kept for inspection by policy, counted all the same.
	Failed InstanceState = "failed"
	// Destroying: to be destroyed, retried for ever until confirmed.
	Destroying InstanceState = "destroying"
	// Gone: the cloud has confirmed its end. Final.
	Gone InstanceState = "gone"
)

// LeaseState is where a caller's right to one instance stands.
type LeaseState string

// The states of a lease. Ended and Lost are final: the same id set up again
// is a new generation.
const (
	// LeaseWaiting: arrived, no machine yet. Has its place in the queue.
	LeaseWaiting LeaseState = "waiting"
	// LeaseStarting: has a machine that is created, woken or set up for it.
	LeaseStarting LeaseState = "starting"
	// LeaseActive: the caller has been, or can be, answered.
	LeaseActive LeaseState = "active"
	// LeaseSuspended: a gitspace that sleeps.
	LeaseSuspended LeaseState = "suspended"
	// LeaseEnded: destroyed on request, or its setup failed.
	LeaseEnded LeaseState = "ended"
	// LeaseLost: its machine died under it.
	LeaseLost LeaseState = "lost"
)

// instanceTransitions is the one table of what may follow what.
var instanceTransitions = map[InstanceState][]InstanceState{
	Creating:    {Booting, Failed, Destroying},
	Booting:     {Warm, Failed, Destroying},
	Warm:        {Leased, Hibernating, Failed, Destroying},
	Hibernating: {Hibernated, Warm, Failed, Destroying},
	Hibernated:  {Resuming, Failed, Destroying},
	Resuming:    {Warm, Leased, Suspended, Failed, Destroying},
	Leased:      {Suspending, Failed, Destroying},
	Suspending:  {Suspended, Leased, Failed, Destroying},
	Suspended:   {Resuming, Failed, Destroying},
	Failed:      {Destroying, Resuming},
	Destroying:  {Gone},
	Gone:        nil,
}

// leaseTransitions is the same for leases. Starting goes back to waiting when
// the machine fails before the caller was answered: the lease keeps its place.
var leaseTransitions = map[LeaseState][]LeaseState{
	LeaseWaiting:   {LeaseStarting, LeaseEnded},
	LeaseStarting:  {LeaseWaiting, LeaseActive, LeaseSuspended, LeaseEnded, LeaseLost},
	LeaseActive:    {LeaseSuspended, LeaseStarting, LeaseEnded, LeaseLost},
	LeaseSuspended: {LeaseStarting, LeaseEnded, LeaseLost},
	LeaseEnded:     nil,
	LeaseLost:      nil,
}

// InstanceStates lists every state in the order of a machine's life.
func InstanceStates() []InstanceState {
	return []InstanceState{
		Creating, Booting, Warm, Hibernating, Hibernated, Resuming,
		Leased, Suspending, Suspended, Failed, Destroying, Gone,
	}
}

// LeaseStates lists every state in the order of a lease's life.
func LeaseStates() []LeaseState {
	return []LeaseState{LeaseWaiting, LeaseStarting, LeaseActive, LeaseSuspended, LeaseEnded, LeaseLost}
}

// May says whether an instance may go from s to next. Staying is no transition.
func (s InstanceState) May(next InstanceState) bool {
	return slices.Contains(instanceTransitions[s], next)
}

// Final says whether s is the end of the row's life.
func (s InstanceState) Final() bool { return s == Gone }

// Costs says whether a machine in s counts toward the pool's limit: all but gone.
func (s InstanceState) Costs() bool { return s != Gone }

// Prospective says whether a machine in s that no lease holds counts toward
// the warm target: it is warm, or will be if nothing fails.
func (s InstanceState) Prospective() bool {
	switch s {
	case Creating, Booting, Warm, Hibernating, Hibernated, Resuming:
		return true
	default:
		return false
	}
}

// May says whether a lease may go from s to next.
func (s LeaseState) May(next LeaseState) bool {
	return slices.Contains(leaseTransitions[s], next)
}

// Final says whether s is the end of this generation of the lease.
func (s LeaseState) Final() bool { return s == LeaseEnded || s == LeaseLost }
