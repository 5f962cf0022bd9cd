package gce_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/compute/apiv1/computepb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/iterator"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
)

// names are those of a list, page by page as the client asks for them.
func (u *user) names(filter string) []string {
	u.t.Helper()
	var all []string
	r := &computepb.ListInstancesRequest{Project: project, Zone: zone}
	if filter != "" {
		r.Filter = proto.String(filter)
	}
	for i, err := range u.instances.List(u.t.Context(), r).All() {
		if err != nil {
			u.t.Fatal(err)
		}
		all = append(all, i.GetName())
	}
	return all
}

// inZone puts an instance into another zone.
func inZone(z string) func(*computepb.Instance) {
	return func(i *computepb.Instance) {
		i.MachineType = proto.String(strings.Replace(i.GetMachineType(), zone, z, 1))
		for _, d := range i.GetDisks() {
			d.InitializeParams.DiskType = proto.String(strings.Replace(d.GetInitializeParams().GetDiskType(), zone, z, 1))
		}
	}
}

func TestListsPage(t *testing.T) {
	t.Parallel()
	o := quick()
	o.PageSize = 2
	bubble(t, o, func(t *testing.T, u *user) {
		for n := range 5 {
			u.insert(fmt.Sprintf("vm-%d", n))
		}
		for _, z := range []string{"us-east1-b", "us-east1-c"} {
			r := vm("far", inZone(z))
			r.Zone = z
			if _, err := u.instances.Insert(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff([]string{"vm-0", "vm-1", "vm-2", "vm-3", "vm-4"}, u.names("")); diff != "" {
			t.Errorf("list (-want +got):\n%s", diff)
		}
		if n := u.cloud.Books.Calls()["compute.instances.list"]; n != 3 {
			t.Errorf("%d pages", n)
		}
		var all []string
		scopes := map[string]bool{}
		for pair, err := range u.instances.AggregatedList(t.Context(), &computepb.AggregatedListInstancesRequest{Project: project}).All() {
			if err != nil {
				t.Fatal(err)
			}
			scopes[pair.Key] = true
			for _, i := range pair.Value.GetInstances() {
				all = append(all, last(i.GetZone())+"/"+i.GetName())
			}
			if len(pair.Value.GetInstances()) == 0 && pair.Value.GetWarning().GetCode() != "NO_RESULTS_ON_PAGE" {
				t.Errorf("%s has neither instances nor a warning", pair.Key)
			}
		}
		want := []string{
			"us-central1-a/vm-0", "us-central1-a/vm-1", "us-central1-a/vm-2", "us-central1-a/vm-3", "us-central1-a/vm-4",
			"us-east1-b/far", "us-east1-c/far",
		}
		if diff := cmp.Diff(want, all); diff != "" || len(scopes) != 7 {
			t.Errorf("aggregated list over %d scopes (-want +got):\n%s", len(scopes), diff)
		}
		// A page is smaller when the caller wants it to be, and a list goes on
		// though the entry it stood at is gone.
		it := u.instances.List(t.Context(), &computepb.ListInstancesRequest{Project: project, Zone: zone, MaxResults: proto.Uint32(1)})
		var got []string
		for {
			i, err := it.Next()
			if errors.Is(err, iterator.Done) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, i.GetName()); i.GetName() == "vm-1" {
				u.done(u.instances.Delete(t.Context(), &computepb.DeleteInstanceRequest{Project: project, Zone: zone, Instance: "vm-1"}))
			}
		}
		if diff := cmp.Diff([]string{"vm-0", "vm-1", "vm-2", "vm-3", "vm-4"}, got); diff != "" {
			t.Errorf("list with a deletion in between (-want +got):\n%s", diff)
		}
	})
}

func TestTheNewestComeFirstWhenAsked(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		for _, n := range []string{"b", "c", "a", "d"} {
			u.insert(n)
			pass(time.Second)
		}
		var got []string
		for i, err := range u.instances.List(t.Context(), &computepb.ListInstancesRequest{
			Project: project, Zone: zone, OrderBy: proto.String("creationTimestamp desc"),
		}).All() {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, i.GetName())
		}
		if diff := cmp.Diff([]string{"d", "a", "c", "b"}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestFilters(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.insert("a-1", func(i *computepb.Instance) { i.Labels = map[string]string{"pool": "x", "kind": "build", "n": "1"} })
		u.insert("a-2", func(i *computepb.Instance) { i.Labels = map[string]string{"pool": "x", "kind": "gitspace", "n": "12"} })
		u.insert("b-1", func(i *computepb.Instance) { i.Labels = map[string]string{"pool": "y"}; i.Tags = nil })
		for _, c := range []struct {
			filter string
			want   []string
		}{
			{`labels.pool=x`, []string{"a-1", "a-2"}},
			{`labels.pool = "x" AND labels.kind = build`, []string{"a-1"}},
			{`labels.pool=x labels.kind=build`, []string{"a-1"}},
			{`(labels.pool=y) OR (labels.kind=gitspace)`, []string{"a-2", "b-1"}},
			{`labels.pool=x AND labels.kind=build OR labels.kind=gitspace`, []string{"a-1", "a-2"}},
			{`labels.kind:*`, []string{"a-1", "a-2"}},
			{`-labels.kind:*`, []string{"b-1"}},
			{`NOT labels.kind:*`, []string{"b-1"}},
			{`NOT (labels.pool=x)`, []string{"b-1"}},
			{`labels.pool!=x`, []string{"b-1"}},
			{`labels.n>2`, []string{"a-2"}},
			{`labels.n<=1`, []string{"a-1"}},
			{`name=a-1`, []string{"a-1"}},
			{`name:1`, []string{"a-1", "b-1"}},
			{`name = "a-*"`, []string{"a-1", "a-2"}},
			{`status=PROVISIONING`, []string{"a-1", "a-2", "b-1"}},
			{`tags.items=allow-docker`, []string{"a-1", "a-2"}},
			{`scheduling.automaticRestart=true AND name='b-1'`, []string{"b-1"}},
			{`disks.autoDelete=false`, nil},
			{`creationTimestamp < "2000-01-01T00:00:01Z"`, []string{"a-1", "a-2", "b-1"}},
			{`creationTimestamp>="2020-01-01T00:00:00+00:00"`, nil},
			{`name eq a-.*`, []string{"a-1", "a-2"}},
			{`name ne a-.*`, []string{"b-1"}},
			{`name eq "a-1|b-1"`, []string{"a-1", "b-1"}},
			{`(name eq .*-1) (name ne a.*)`, []string{"b-1"}},
			{`name eq a`, nil},
		} {
			if diff := cmp.Diff(c.want, u.names(c.filter)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", c.filter, diff)
			}
		}
		for _, bad := range []string{
			`labels.pool`, `labels.pool=`, `=x`, `(labels.pool=x`, `labels.pool=x)`, `labels.pool="x`, `colour=red`, `labels.pool=x AND`,
			`name eq a-1 AND labels.pool=x`, `labels.pool=x AND name eq a-1`, `(name eq a) (status eq RUNNING)`, `name eq [`, `name=x"y"`,
			`labels.pool.deep=x`, strings.Repeat("(", 100) + "name=a" + strings.Repeat(")", 100), `name == x y`,
		} {
			_, err := u.instances.List(t.Context(), &computepb.ListInstancesRequest{Project: project, Zone: zone, Filter: &bad}).Next()
			if reason(err) != "Bad Request invalid" || !strings.Contains(err.Error(), "Invalid list filter expression") {
				t.Errorf("%s: %v", bad, err)
			}
		}
	})
}

// TestDisksThatNobodyUsesAreFound is the search for what a machine left behind.
func TestDisksThatNobodyUsesAreFound(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.disk("left", 10)
		u.disk("used", 10)
		u.run("vm-1", func(i *computepb.Instance) {
			i.Disks = append(i.Disks, &computepb.AttachedDisk{Source: proto.String("zones/us-central1-a/disks/used"), DeviceName: proto.String("data")})
		})
		find := func(filter string) (names []string) {
			t.Helper()
			for pair, err := range u.disks.AggregatedList(t.Context(), &computepb.AggregatedListDisksRequest{Project: project, Filter: &filter}).All() {
				if err != nil {
					t.Fatal(err)
				}
				for _, d := range pair.Value.GetDisks() {
					names = append(names, d.GetName())
				}
			}
			return names
		}
		if diff := cmp.Diff([]string{"left"}, find("-users:*")); diff != "" {
			t.Errorf("unattached (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"left", "used"}, find("labels.kind=gitspace")); diff != "" {
			t.Errorf("of gitspaces (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"vm-1"}, find("labels.controller=c1")); diff != "" {
			t.Errorf("labelled when the machine was made (-want +got):\n%s", diff)
		}
	})
}

func TestAZoneThatDoesNotAnswerMakesListsPartial(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.run("near")
		r := vm("far", inZone("us-east1-b"))
		r.Zone = "us-east1-b"
		u.done(u.instances.Insert(t.Context(), r))
		u.cloud.Unreachable("us-east1-b", time.Now().Add(time.Hour))
		look := func() (names, away []string) {
			it := u.instances.AggregatedList(t.Context(), &computepb.AggregatedListInstancesRequest{Project: project})
			for pair, err := range it.All() {
				if err != nil {
					t.Fatal(err)
				}
				for _, i := range pair.Value.GetInstances() {
					names = append(names, i.GetName())
				}
				if pair.Value.GetWarning().GetCode() == "UNREACHABLE" {
					away = append(away, pair.Key)
				}
			}
			if got := it.Response.(*computepb.InstanceAggregatedList).GetUnreachables(); !slices.Equal(got, away) {
				t.Errorf("unreachables %v, warnings of %v", got, away)
			}
			return names, away
		}
		if names, away := look(); !slices.Equal(names, []string{"near"}) || !slices.Equal(away, []string{"zones/us-east1-b"}) {
			t.Errorf("while it is away: %v, unreachable %v", names, away)
		}
		if status, says := u.raw("GET", "/compute/v1/projects/"+project+"/zones/us-east1-b/instances/far", ""); status != 503 {
			t.Errorf("its machine: %d %s", status, says)
		}
		pass(time.Hour)
		if names, away := look(); len(names) != 2 || away != nil {
			t.Errorf("afterwards: %v, unreachable %v", names, away)
		}
	})
}

// TestRatesAreOfAFixedMinute: what a minute has not is refused with 403, until
// the next begins.
func TestRatesAreOfAFixedMinute(t *testing.T) {
	t.Parallel()
	o := quick()
	o.Rates = map[gce.Group]int{gce.Gets: 2, gce.Mutations: 1, gce.OperationGets: 1, gce.Lists: -1, gce.Filtered: 1}
	bubble(t, o, func(t *testing.T, u *user) {
		pass(50 * time.Second)
		op := u.insert("vm-1")
		if _, err := u.instances.Insert(t.Context(), vm("vm-2")); reason(err) != "Forbidden rateLimitExceeded" {
			t.Errorf("the second change: %v", err)
		}
		if err := op.Poll(t.Context()); err != nil {
			t.Error(err)
		}
		if err := op.Poll(t.Context()); reason(err) != "Forbidden rateLimitExceeded" {
			t.Errorf("the second look at an operation: %v", err)
		}
		u.get("vm-1")
		u.get("vm-1")
		_, err := u.instances.Get(t.Context(), &computepb.GetInstanceRequest{Project: project, Zone: zone, Instance: "vm-1"})
		if reason(err) != "Forbidden rateLimitExceeded" {
			t.Errorf("the third look: %v", err)
		}
		for range 10 {
			u.names("")
		}
		u.names("name=vm-1")
		filter := "name=vm-1"
		if _, err := u.instances.List(t.Context(), &computepb.ListInstancesRequest{Project: project, Zone: zone, Filter: &filter}).Next(); reason(err) != "Forbidden rateLimitExceeded" {
			t.Errorf("the second list with a filter: %v", err)
		}
		pass(10 * time.Second)
		u.get("vm-1")
		u.insert("vm-2")
		if n := u.cloud.Books.Calls()["compute.instances.insert"]; n != 3 {
			t.Errorf("%d inserts counted, want also those that were refused", n)
		}
	})
}

// FuzzFilter: no filter brings the parser down, and one it reads can be asked.
func FuzzFilter(f *testing.F) {
	for _, s := range []string{`labels.a=b AND -name:*`, `(name eq .*)`, `name="\"" OR NOT (status!=x)`, `disks.boot=true`, `labels.a>3 labels.b<=2`, `((`, `-`, `name eq '`} {
		f.Add(s)
	}
	const instance = `{"name":"vm","labels":{"a":"5"},"disks":[{"boot":true}],"tags":{"items":["t"]},"status":"RUNNING"}`
	f.Fuzz(func(t *testing.T, filter string) {
		fits, err := gce.Fits(filter, instance)
		if err != nil || strings.ContainsAny(filter, "'\"\\") || strings.Contains(filter, " eq ") || strings.Contains(filter, " ne ") {
			return
		}
		if negated, err := gce.Fits("NOT ("+filter+")", instance); err != nil || negated == fits {
			t.Errorf("%q fits: %t; its negation: %t, %v", filter, fits, negated, err)
		}
	})
}
