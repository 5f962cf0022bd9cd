package pool

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Each cause of waiting has its own code and says what it is about.
func TestWhyALeaseIsGivenNothingInAPool(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	own := ShapeOf("default", "default", "tiny", "", 0, false, false)
	free := func(shape string, n int) []Group { return []Group{{State: Warm, Shape: shape, Count: n}} }
	gate := func(reason string) Gate {
		return Gate{Reason: reason, Detail: "create: quota CPUS exceeded", Until: now.Add(time.Minute)}
	}
	for _, c := range []struct {
		name     string
		snap     Snapshot
		variant  string
		position int
		codes    []string
		message  string
		until    bool
	}{
		{"the pool is full", Snapshot{Counted: 5, Max: 5}, "", 2, []string{WhyLimit}, "pool p is at its limit (5 of 5 machines), 1 request waits ahead", false},
		{
			"the variant is full",
			Snapshot{Counted: 2, Max: 5, Flavours: []FlavourRow{{Tenant: "default", Variant: "large", Max: 2, Counted: 2}}},
			"large", 1,
			[]string{WhyLimit},
			(&LimitError{Pool: "p", Tenant: "default", Variant: "large", Counted: 2, Max: 2}).Error(), false,
		},
		{
			"another variant is full",
			Snapshot{Counted: 2, Max: 5, Flavours: []FlavourRow{{Tenant: "default", Variant: "large", Max: 2, Counted: 2}}},
			"", 1,
			[]string{WhyMaking},
			"there is a place: a machine is begun at the planner's next pass", false,
		},
		{"the cloud's quota", Snapshot{Max: 5, Gate: gate("quota")}, "", 1, []string{"quota"}, "pool p makes no machines now (quota) until 2026-03-01T12:01:00Z: create: quota CPUS exceeded", true},
		{"throttled", Snapshot{Max: 5, Gate: gate("throttled")}, "", 1, []string{"throttled"}, "pool p makes no machines now (throttled) until 2026-03-01T12:01:00Z: create: quota CPUS exceeded", true},
		{"the breaker", Snapshot{Max: 5, Gate: gate("breaker_open")}, "", 1, []string{"breaker_open"}, "pool p makes no machines now (breaker_open) until 2026-03-01T12:01:00Z: create: quota CPUS exceeded", true},
		{"the breaker's pause is over", Snapshot{Max: 5, Gate: Gate{Reason: "breaker_open", Until: now}}, "", 1, []string{WhyMaking}, "there is a place: a machine is begun at the planner's next pass", false},
		{
			"stopped by an operator",
			Snapshot{Max: 5, Override: Override{Stopped: true, By: "ann", Why: "bill"}},
			"", 1,
			[]string{WhyStopped},
			"an operator has stopped the pool, by ann: bill", false,
		},
		{"the pool has left the file", Snapshot{Max: 5, Retired: true}, "", 1, []string{WhyRetired}, "the pool has left the pool file and makes no new machines", false},
		{"others wait longer", Snapshot{Counted: 4, Max: 5}, "", 3, []string{WhyPosition}, "2 requests wait before it: it is number 3 in the queue", false},
		{
			"what there is of its kind is held",
			Snapshot{Counted: 5, Max: 5, Groups: []Group{
				{State: Warm, Shape: own, Held: true, Count: 2}, {State: Warm, Shape: "other", Held: true, Count: 3}, {State: Booting, Shape: own, Held: true, Count: 1},
			}},
			"", 1,
			[]string{WhyLimit, WhyHeld},
			"pool p is at its limit (5 of 5 machines)", false,
		},
		{
			"no variant fits",
			Snapshot{Counted: 5, Max: 5, Groups: free(ShapeOf("default", "large", "tiny", "4x4096", 0, false, false), 2)},
			"", 1,
			[]string{WhyLimit, WhyNoFit},
			"pool p is at its limit (5 of 5 machines)", false,
		},
		{
			"what fits has no life left",
			Snapshot{Counted: 5, Max: 5, Groups: free(own, 1)},
			"", 1,
			[]string{WhyLimit, WhyDeadline},
			"pool p is at its limit (5 of 5 machines)", false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.snap.Pool = "p"
			var codes []string
			why := whyNot(c.snap, Choice{Pool: "p", Shape: own, Variant: c.variant}, c.position, now)
			for _, w := range why {
				codes = append(codes, w.Code)
			}
			if diff := cmp.Diff(c.codes, codes); diff != "" {
				t.Errorf("codes (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.message, why[0].Message); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if why[0].Position != c.position || why[0].Until.IsZero() == c.until {
				t.Errorf("position %d, until %v", why[0].Position, why[0].Until)
			}
		})
	}
}

func TestAShapeIsReadable(t *testing.T) {
	t.Parallel()
	for shape, want := range map[string]string{
		ShapeOf("default", "default", "", "", 0, false, false):          "the pool's own kind",
		ShapeOf("acme", "large", "img", "4x4096", 20, true, false):      "tenant acme, variant large, image img, machine type 4x4096, disk GiB 20, nested true",
		ShapeOf("default", "default", "tiny", "2x512", 0, false, false): "image tiny, machine type 2x512",
	} {
		if got := shapeText(shape); got != want {
			t.Errorf("%s: got %q, want %q", shape, got, want)
		}
	}
}

// What keeps a pool from being as it is wanted: each cause by its own code.
func TestWhyAPoolIsNotAsItIsWanted(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	zero := 0
	closed := func(reason string) PoolStatus {
		return PoolStatus{PoolRow: PoolRow{Gate: Gate{Reason: reason, Detail: "create: CPUS exceeded", Until: now.Add(time.Minute)}}}
	}
	for _, c := range []struct {
		name string
		p    PoolStatus
		snap Snapshot
		want []string
		says string
	}{
		{"nothing", PoolStatus{}, Snapshot{Max: 5}, nil, ""},
		{"its limit", PoolStatus{}, Snapshot{Counted: 5, Max: 5}, []string{WhyLimit}, "(5 of 5 machines)"},
		{"a variant's limit", PoolStatus{}, Snapshot{Max: 5, Flavours: []FlavourRow{{Tenant: "default", Variant: "large", Max: 2, Counted: 2}}}, []string{WhyLimit}, "large"},
		{"quota", closed(GateQuota), Snapshot{Max: 5}, []string{GateQuota}, "until 2026-03-01T12:01:00Z: create: CPUS exceeded"},
		{"throttled", closed(GateThrottled), Snapshot{Max: 5}, []string{GateThrottled}, "until 2026-03-01T12:01:00Z"},
		{"the breaker", closed(GateBreaker), Snapshot{Max: 5}, []string{GateBreaker}, "until 2026-03-01T12:01:00Z"},
		{"no capacity", closed(GateCapacity), Snapshot{Max: 5}, []string{GateCapacity}, "until 2026-03-01T12:01:00Z"},
		{"the cost cap", closed(GateCost), Snapshot{Max: 5}, []string{GateCost}, "until 2026-03-01T12:01:00Z"},
		{"machines of an older recipe", PoolStatus{}, Snapshot{Max: 5, Drifted: make([]Instance, 2)}, []string{WhyDrift}, "2 machines of an older recipe"},
		{"held machines", PoolStatus{}, Snapshot{Max: 5, Groups: []Group{{State: Warm, Held: true, Count: 3}}}, []string{WhyHeld}, "3 machines held"},
		{
			"requests that wait",
			PoolStatus{},
			Snapshot{Max: 5, Waiting: []Lease{{ID: "a", Arrived: now.Add(-time.Minute)}, {ID: "b", Arrived: now}}},
			[]string{WhyPosition},
			"2 requests wait, the first for 1m",
		},
		{"stopped", PoolStatus{PoolRow: PoolRow{Override: Override{Stopped: true, By: "ann", Why: "bill"}}}, Snapshot{Max: 5}, []string{WhyStopped}, "by ann: bill"},
		{"scaled to zero", PoolStatus{PoolRow: PoolRow{Override: Override{Min: &zero}}}, Snapshot{Max: 5}, []string{"scaled"}, "wants 0 machines warm"},
		{"it has left the file", PoolStatus{PoolRow: PoolRow{Retired: true}}, Snapshot{}, []string{WhyRetired}, "makes no new machines"},
		{"a driver that does not answer", PoolStatus{Problem: "key is revoked"}, Snapshot{Max: 5}, []string{"problem"}, "key is revoked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.p.Name = "p"
			var codes, messages []string
			for _, w := range whyPool(c.p, c.snap, now) {
				codes, messages = append(codes, w.Code), append(messages, w.Message)
			}
			if diff := cmp.Diff(c.want, codes); diff != "" {
				t.Errorf("codes (-want +got):\n%s", diff)
			}
			if text := strings.Join(messages, "\n"); !strings.Contains(text, c.says) {
				t.Errorf("it says %q, which lacks %q", text, c.says)
			}
		})
	}
}
