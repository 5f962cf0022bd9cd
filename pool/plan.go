package pool

// planConfig is what the planner wants of a pool.
type planConfig struct {
	Min, Max int
	Retired  bool
	// Recipe is the pool's present one.
	Recipe string
	// KeepDrifted replaces drifted machines a few at a time; without it all
	// of them go at once.
	KeepDrifted bool
	// Paused says that creations have failed lately: no refill for now.
	Paused bool
}

// action is one thing a plan wants done. Exactly one field is set.
type action struct {
	// Cold is a lease to make a machine for.
	Cold *Lease
	// Refill machines are to be made warm.
	Refill int
	// Replace is a warm machine of an older recipe to destroy.
	Replace *Instance
	// Surplus warm machines are to be destroyed, the oldest first.
	Surplus int
}

// driftBudget is the share of the pool that may be replaced at a time.
const driftBudget = 10

// plan decides what a pool needs next. It is pure: what it returns depends
// only on its arguments, and a plan for a world that is as wanted is empty.
//
// Requests come before refill: the free places go to waiting leases in order
// of arrival, and refill gets only what is left over by them.
func plan(want planConfig, have Snapshot) []action {
	if want.Retired || have.Retired {
		return planRetired(have)
	}
	var out []action
	free := max(0, want.Max-have.Counted)
	for i := range have.Waiting {
		if free == 0 {
			break
		}
		out = append(out, action{Cold: &have.Waiting[i]})
		free--
	}
	prospective, warm := 0, 0
	for _, g := range have.Groups {
		if g.State.Prospective() {
			prospective += g.Count
		}
		if g.State == Warm {
			warm += g.Count
		}
	}
	if have.WaitingMore {
		free = 0
	}
	missing := want.Min - prospective
	if missing > 0 && !want.Paused {
		if n := min(missing, free); n > 0 {
			out = append(out, action{Refill: n})
		}
	}
	return append(out, planDrift(want, have, prospective, warm)...)
}

// planRetired gives up the warm machines of a pool that left the file: nobody
// can ask for them. Everything a lease holds stays.
func planRetired(have Snapshot) []action {
	warm := 0
	for _, g := range have.Groups {
		if g.State == Warm {
			warm += g.Count
		}
	}
	if warm == 0 {
		return nil
	}
	return []action{{Surplus: warm}}
}

// planDrift replaces machines of older recipes and drains what is too much.
func planDrift(want planConfig, have Snapshot, prospective, warm int) []action {
	var out []action
	budget := len(have.Drifted)
	if want.KeepDrifted {
		// Only from a full pool, and at most a tenth of it, so that warm
		// machines never run out because of a replacement.
		budget = min(budget, max(1, want.Min/driftBudget))
		if prospective < want.Min || warm < prospective {
			budget = 0
		}
	}
	for i := range have.Drifted[:budget] {
		out = append(out, action{Replace: &have.Drifted[i]})
	}
	if surplus := min(prospective-budget-want.Min, warm-budget); surplus > 0 && len(have.Waiting) == 0 {
		out = append(out, action{Surplus: surplus})
	}
	return out
}
