package poolfile_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// A variant with the id of one of the pool's replaces it whole, others follow;
// what neither says comes from the spec they change.
func TestVariantsAndTenantsAreMerged(t *testing.T) {
	t.Parallel()
	p := parse(t, `
instances:
  - name: p
    type: box
    pool: 2
    limit: 50
    spec: {image: big, memory_mb: 256, hibernate: true, zone: [a, b], labels: {team: ci, cost: low}, disk: {size: 20, iops: 200}}
    variants:
      - {variant_id: large, resource_class: large, machine_type: 8x8192, pool: 1, limit: 5, disk_size: 200, zones: a}
      - {variant_id: nested, enable_nested_virtualization: true, hibernate: false, limit: 0}
    tenants:
      - group_id: acme
        ids: [acct-1, 2]
        pool: 4
        limit: 10
        spec: {hibernate: no, zone: c, labels: {cost: high}, disk: {iops: 300}, cpus: 2}
        variants:
          - {variant_id: large, image_name: huge}
          - {variant_id: wide, pool: 3}
      - {ids: [acct-3]}
      - {ids: [acct-4], limit: 0, spec: {share: 0, zone: []}}
`).Pools[0]
	shared := []pool.VariantConfig{
		{ID: "large", ResourceClass: "large", MachineType: "8x8192", Min: 1, Max: 5, DiskGiB: 200, Zones: []string{"a"}, Hibernate: true},
		{ID: "nested", Nested: true, Max: -1},
	}
	if diff := cmp.Diff(shared, p.Variants); diff != "" {
		t.Errorf("the pool's variants, -want +got:\n%s", diff)
	}
	const head, tail = `{"boot":"5s","cpus":`, `,"image":"big","labels":{"cost":`
	want := []pool.TenantConfig{
		{
			ID: "acme", Accounts: []string{"acct-1", "2"}, Min: 4, Max: 10,
			Spec: &box{
				Image: "big", MemoryMB: 256, CPUs: 2, Boot: 5 * time.Second, Share: 0.5, Mode: "auto", Zone: []string{"c"},
				Labels: map[string]string{"team": "ci", "cost": "high"}, Disk: boxDisk{Size: 20, IOPS: 300},
			},
			SpecJSON: json.RawMessage(head + `2,"disk":{"iops":300,"size":20}` + tail + `"high","team":"ci"},"memory_mb":256,"mode":"auto","share":0.5,"zone":["c"]}`),
			Image:    "big", MachineType: "2x256", DiskGiB: 20,
			Variants: []pool.VariantConfig{
				{ID: "large", Image: "huge", Max: -1},
				{ID: "nested", Nested: true, Max: -1},
				{ID: "wide", Min: 3, Max: -1},
			},
		},
		{
			ID: "acct-3", Accounts: []string{"acct-3"}, Min: 2, Max: -1,
			Spec: p.Spec, SpecJSON: p.SpecJSON, Image: "big", MachineType: "1x256", DiskGiB: 20, Hibernate: true, Variants: shared,
		},
		{
			ID: "acct-4", Accounts: []string{"acct-4"}, Min: 0, Max: 0,
			Spec: &box{
				Image: "big", MemoryMB: 256, CPUs: 1, Boot: 5 * time.Second, Mode: "auto", Sleepy: true, Zone: []string{},
				Labels: map[string]string{"team": "ci", "cost": "low"}, Disk: boxDisk{Size: 20, IOPS: 200},
			},
			SpecJSON: json.RawMessage(head + `1,"disk":{"iops":200,"size":20},"hibernate":true` + tail + `"low","team":"ci"},"memory_mb":256,"mode":"auto","share":0,"zone":[]}`),
			Image:    "big", MachineType: "1x256", DiskGiB: 20, Hibernate: true, Variants: shared,
		},
	}
	if diff := cmp.Diff(want, p.Tenants); diff != "" {
		t.Errorf("tenants, -want +got:\n%s", diff)
	}
}

// What a check fills in for the pool is worked out again for a tenant.
func TestTenantsDefaultsFollowTheirOwnKeys(t *testing.T) {
	t.Parallel()
	config, found := poolfile.Parse("pool.yml", []byte(`
instances:
  - name: p
    type: google
    spec: {image: i, size: e2-small}
    tenants:
      - {ids: [a], spec: {machine_type: n2-standard-2, disk: {size: 0}, no_such: 1}}
      - {ids: [b], spec: {network: ""}}
`), builtIn(), poolfile.Options{CheckOnly: true})
	if found.Errors() > 0 {
		t.Fatal(found)
	}
	p := config.Pools[0]
	got := []string{p.MachineType, p.Tenants[0].MachineType, p.Tenants[1].MachineType}
	if want := []string{"e2-small", "n2-standard-2", "e2-small"}; !slices.Equal(got, want) {
		t.Errorf("machine types %q, want %q", got, want)
	}
	if p.Tenants[0].DiskGiB != 50 {
		t.Errorf("a disk of %d GB, want the default 50", p.Tenants[0].DiskGiB)
	}
}

// Schema and merge rule rest on it: a tenant's spec gives only what differs.
func TestTypesWithTenantsRequireNoKeyOfASpec(t *testing.T) {
	t.Parallel()
	var with []string
	for _, reg := range builtIn() {
		if !reg.Tenants {
			continue
		}
		with = append(with, reg.Name)
		if _, found := poolfile.Parse("pool.yml", []byte(`
instances:
  - name: p
    type: `+reg.Name+`
    spec: {}
    tenants: [{ids: [a], spec: {account: {}, disk: {}}}]
`), builtIn(), poolfile.Options{CheckOnly: true}); found.Errors() > 0 {
			t.Errorf("%s: %v", reg.Name, found)
		}
	}
	slices.Sort(with)
	if want := []string{"amazon", "google", "noop"}; !slices.Equal(with, want) {
		t.Errorf("types with tenants are %q, want %q", with, want)
	}
}

func TestSchedulesAreResolved(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	all := []time.Weekday{time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday}
	tests := []struct {
		name, text string
		want       pool.Schedule
	}{
		{"the whole week", "pool: 1", pool.Schedule{Zone: time.UTC, Min: 1}},
		{"office hours", `days: mon-fri, from: "08:00", to: "18:30", timezone: Europe/Berlin, pool: 10`, pool.Schedule{
			Days: all, From: 8 * time.Hour, To: 18*time.Hour + 30*time.Minute, Zone: berlin, Min: 10,
		}},
		{"a list of days and ranges, in any order and capitals", "days: [Fri, wednesday - THU, mon, mon-tue], pool: 0", pool.Schedule{Days: all, Zone: time.UTC}},
		{"a range over the end of the week", "days: [sat-mon], pool: 0", pool.Schedule{
			Days: []time.Weekday{time.Monday, time.Saturday, time.Sunday}, Zone: time.UTC,
		}},
		{"a range of one day", "days: [sat-sat], pool: 0", pool.Schedule{Days: []time.Weekday{time.Saturday}, Zone: time.UTC}},
		{"every day by name", "days: [mon-sun], pool: 0", pool.Schedule{Zone: time.UTC}},
		{"a night", `from: "22:00", to: "06:00", pool: 0`, pool.Schedule{From: 22 * time.Hour, To: 6 * time.Hour, Zone: time.UTC}},
		{"until midnight", `from: "12:00", to: "24:00", pool: 0`, pool.Schedule{From: 12 * time.Hour, Zone: time.UTC}},
		{"times without quotes", `from: 8:05, to: 17:45, pool: 0`, pool.Schedule{From: 8*time.Hour + 5*time.Minute, To: 17*time.Hour + 45*time.Minute, Zone: time.UTC}},
		{"a variant of the pool", "variant_id: large, pool: 2", pool.Schedule{Zone: time.UTC, Min: 2, Variant: "large"}},
		{"a variant of a tenant", "variant_id: small, tenant: acme, pool: 2", pool.Schedule{Zone: time.UTC, Min: 2, Variant: "small", Tenant: "acme"}},
		{"the pool itself by name", "variant_id: default, tenant: default, pool: 2", pool.Schedule{Zone: time.UTC, Min: 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := parse(t, `
instances:
  - name: p
    type: box
    spec: {}
    variants: [{variant_id: large}]
    tenants: [{group_id: acme, ids: [a], variants: [{variant_id: small}]}]
    schedules: [{`+tt.text+`}]
`).Pools[0].Schedules
			if diff := cmp.Diff([]pool.Schedule{tt.want}, got, sameZone); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestGuardsAndAgesAreResolved(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text string
		want       pool.PoolConfig
	}{
		{
			"all are given", "free_max_age: 2h, busy_max_age: 90m, running: 1, pool: 2, guards: {failures: 3, pause: 2m, max_pause: 10m, creates_per_minute: 60, machine_hours_per_day: 200.5, keep_failed: 5m}",
			pool.PoolConfig{
				FreeAge: 2 * time.Hour, BusyAge: 90 * time.Minute, Running: 1,
				Guards: pool.Guards{Failures: 3, Pause: 2 * time.Minute, MaxPause: 10 * time.Minute, PerMinute: 60, HoursPerDay: 200.5, KeepFailed: 5 * time.Minute},
			},
		},
		{
			"zeros that mean never", "guards: {failures: 0, keep_failed: 0}",
			pool.PoolConfig{Guards: pool.Guards{Failures: -1, Pause: time.Minute, MaxPause: 30 * time.Minute, KeepFailed: -1}},
		},
		{
			"a first pause above the longest by default", "guards: {pause: 1h}",
			pool.PoolConfig{Guards: pool.Guards{Failures: 5, Pause: time.Hour, MaxPause: time.Hour, KeepFailed: time.Hour}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := parse(t, "instances: [{name: p, type: box, spec: {hibernate: true}, "+tt.text+"}]").Pools[0]
			got := pool.PoolConfig{FreeAge: p.FreeAge, BusyAge: p.BusyAge, Running: p.Running, Guards: p.Guards}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// The ages a pool does not name are the program's.
func TestAgesAreCheckedAgainstTheProgramsOwn(t *testing.T) {
	t.Parallel()
	text := []byte("instances: [{name: p, type: box, spec: {}, free_max_age: 2h}]")
	for _, tt := range []struct {
		name string
		busy time.Duration
		want int
	}{
		{"the program's busy age by default is a day", 0, 1},
		{"the program's busy age is shorter", time.Hour, 0},
		{"it is equal", 2 * time.Hour, 0},
	} {
		_, found := poolfile.Parse("pool.yml", text, registrations(), poolfile.Options{BusyAge: tt.busy})
		if found.Errors() != tt.want {
			t.Errorf("%s: %v, want %d errors", tt.name, found, tt.want)
		}
	}
}
