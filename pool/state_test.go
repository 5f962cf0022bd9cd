package pool_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// allowedInstance is written out once more on purpose: a change of the table
// has to be made, and thought about, twice.
var allowedInstance = map[pool.InstanceState]string{
	pool.Creating:    "booting failed destroying",
	pool.Booting:     "warm failed destroying",
	pool.Warm:        "leased hibernating failed destroying",
	pool.Hibernating: "hibernated warm failed destroying",
	pool.Hibernated:  "resuming failed destroying",
	pool.Resuming:    "warm leased suspended failed destroying",
	pool.Leased:      "suspending failed destroying",
	pool.Suspending:  "suspended leased failed destroying",
	pool.Suspended:   "resuming failed destroying",
	pool.Failed:      "destroying resuming",
	pool.Destroying:  "gone",
	pool.Gone:        "",
}

var allowedLease = map[pool.LeaseState]string{
	pool.LeaseWaiting:   "starting ended",
	pool.LeaseStarting:  "waiting active suspended ended lost",
	pool.LeaseActive:    "suspended starting ended lost",
	pool.LeaseSuspended: "starting ended lost",
	pool.LeaseEnded:     "",
	pool.LeaseLost:      "",
}

func contains(list, word string) bool { return slices.Contains(strings.Fields(list), word) }

func TestInstanceTransitionsEveryPair(t *testing.T) {
	t.Parallel()
	for _, from := range pool.InstanceStates() {
		for _, to := range pool.InstanceStates() {
			if got, want := from.May(to), contains(allowedInstance[from], string(to)); got != want {
				t.Errorf("%s -> %s: got %t, want %t", from, to, got, want)
			}
		}
	}
}

func TestLeaseTransitionsEveryPair(t *testing.T) {
	t.Parallel()
	for _, from := range pool.LeaseStates() {
		for _, to := range pool.LeaseStates() {
			if got, want := from.May(to), contains(allowedLease[from], string(to)); got != want {
				t.Errorf("%s -> %s: got %t, want %t", from, to, got, want)
			}
		}
	}
}

func TestMachineThatRanStepsNeverBecomesWarmAgain(t *testing.T) {
	t.Parallel()
	// Everything that can be reached from leased, by any path.
	reached := map[pool.InstanceState]bool{}
	var walk func(pool.InstanceState)
	walk = func(s pool.InstanceState) {
		for _, next := range pool.InstanceStates() {
			if s.May(next) && !reached[next] {
				reached[next] = true
				walk(next)
			}
		}
	}
	walk(pool.Leased)
	// Resuming is shared by hibernated machines, which nobody has used, and
	// suspended ones; from there only the store's Proven makes a machine warm,
	// and it refuses one that belongs to a lease (storetest). No other edge
	// leads from a used machine to a warm one.
	for s := range reached {
		if s.May(pool.Warm) && s != pool.Resuming && s != pool.Hibernating {
			t.Errorf("%s -> warm is allowed", s)
		}
	}
	for _, s := range []pool.InstanceState{pool.Creating, pool.Booting} {
		if reached[s] {
			t.Errorf("a leased machine can get back to %s", s)
		}
	}
	for _, s := range []pool.InstanceState{pool.Leased, pool.Suspending, pool.Suspended, pool.Failed} {
		if s.May(pool.Warm) || s.May(pool.Hibernating) || s.May(pool.Hibernated) {
			t.Errorf("a used machine can go from %s straight back to the free ones", s)
		}
	}
}

func TestEveryStateHasAnExit(t *testing.T) {
	t.Parallel()
	for _, s := range pool.InstanceStates() {
		if s.Final() {
			continue
		}
		if s != pool.Destroying && !s.May(pool.Destroying) {
			t.Errorf("%s cannot be destroyed", s)
		}
	}
	for _, s := range pool.LeaseStates() {
		if !s.Final() && !s.May(pool.LeaseEnded) {
			t.Errorf("lease state %s cannot end", s)
		}
	}
}
