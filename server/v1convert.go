package server

import (
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// convert maps a list; the result is never nil, so that it reads [] and not
// null.
func convert[From, To any](all []From, one func(From) To) []To {
	out := make([]To, len(all))
	for i, v := range all {
		out[i] = one(v)
	}
	return out
}

// at leaves out times that never were.
func at(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func apiPool(p pool.PoolStatus) api.Pool {
	counts := api.Counts{}
	for state, n := range p.Counts {
		if n > 0 {
			counts[string(state)] = n
		}
	}
	return api.Pool{
		Name: p.Name, Driver: p.Driver, OS: p.Platform.OS, Arch: p.Platform.Arch, Variant: p.Platform.Variant,
		Default: p.Default, Min: p.Min, Max: p.Max, Retired: p.Retired, Counted: p.Counted, Waiting: p.Waiting,
		Machines: counts, Failing: p.Failing, FailingSince: at(p.FailingSince), Override: apiOverride(p.Override), Problem: p.Problem,
		Holder: p.Hold.Replica, Generation: p.Hold.Generation,
	}
}

// apiInstance leaves out the identity: no key ever leaves through /v1.
func apiInstance(i pool.Instance) api.Instance {
	return api.Instance{
		ID: i.ID, Name: i.Name, Pool: i.Pool, Driver: i.Driver, State: string(i.State), Kind: string(i.Kind),
		Variant: i.Variant, Tenant: i.Tenant, OS: i.OS, Arch: i.Arch, Image: i.Image, MachineType: i.MachineType,
		Zone: i.Zone, DiskGiB: i.DiskGiB, CloudID: i.CloudID, Address: i.Address, Port: i.Port,
		AgentVersion: i.AgentVersion, StorageID: i.StorageID, LeaseID: i.LeaseID, Generation: i.LeaseGeneration,
		Cold: i.Cold, Held: i.Held, Created: i.Created, Since: i.Since, Due: at(i.Due), Deadline: at(i.Deadline),
		Warmed: at(i.Warmed), Attempts: i.Attempts, Reason: i.Reason, Detail: i.Detail,
	}
}

func apiLease(l pool.Lease) api.Lease {
	return api.Lease{
		ID: l.ID, Generation: l.Generation, Kind: string(l.Kind), State: string(l.State),
		Pools: convert(l.Choices, func(c pool.Choice) string { return c.Pool }),
		Pool:  l.Pool, InstanceID: l.InstanceID, Arrived: l.Arrived, Claimed: at(l.Claimed), Active: at(l.Active),
		Ended: at(l.Ended), LastCall: at(l.LastCall), WaitUntil: at(l.WaitUntil), Due: at(l.Due),
		Reason: l.Reason, Detail: l.Detail,
		Causes: convert(l.Causes, func(c pool.Cause) api.Cause { return api.Cause(c) }),
	}
}

func apiEvent(e pool.Event) api.Event {
	return api.Event(e)
}
