package gce_test

import (
	"strings"
	"testing"
	"time"

	compute "cloud.google.com/go/compute/apiv1"
	"cloud.google.com/go/compute/apiv1/computepb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
)

const uuid = "4f1c2d3e-0000-4000-8000-00000000000"

func TestARequestIdMakesOneMachine(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		insert := func(id, name string) (*compute.Operation, error) {
			r := vm(name)
			r.RequestId = proto.String(uuid + id)
			return u.instances.Insert(t.Context(), r)
		}
		first, err := insert("1", "vm-1")
		if err != nil {
			t.Fatal(err)
		}
		again, err := insert("1", "vm-1")
		if err != nil || again.Name() != first.Name() {
			t.Errorf("the same again: %v, %v, want %s", again, err, first.Name())
		}
		if _, err := insert("1", "vm-2"); reason(err) != "Bad Request invalid" || !strings.Contains(err.Error(), "requestId") {
			t.Errorf("the same id with another body: %v", err)
		}
		if _, err := insert("2", "vm-1"); reason(err) != "Conflict alreadyExists" {
			t.Errorf("another id with the same name: %v", err)
		}
		u.done(first, nil)
		if again, err := insert("1", "vm-1"); err != nil || !again.Done() || again.Proto().GetClientOperationId() != uuid+"1" {
			t.Errorf("the same when it is done: %v, %v", again, err)
		}
		// The id outlives the machine: its operation is what it began.
		u.done(u.instances.Delete(t.Context(), &computepb.DeleteInstanceRequest{Project: project, Zone: zone, Instance: "vm-1"}))
		if again, err := insert("1", "vm-1"); err != nil || again.Name() != first.Name() || len(u.cloud.Machines()) != 0 {
			t.Errorf("the same when the machine is gone: %v, %v", again, err)
		}
		r := &computepb.DeleteInstanceRequest{Project: project, Zone: zone, Instance: "vm-1", RequestId: proto.String(uuid + "1")}
		if _, err := u.instances.Delete(t.Context(), r); reason(err) != "Bad Request invalid" {
			t.Errorf("the same id for another method: %v", err)
		}
		u.run("vm-3")
		r.Instance, r.RequestId = "vm-3", proto.String(strings.ToUpper(uuid)+"A")
		op, err := u.instances.Delete(t.Context(), r)
		u.done(op, err)
		r.RequestId = proto.String(uuid + "a")
		if again, err := u.instances.Delete(t.Context(), r); err != nil || again.Name() != op.Name() {
			t.Errorf("a deletion again after it is done: %v, %v", again, err)
		}
	})
}

// TestARequestWhoseAnswerWasLostIsRepeatedSafely is what requestIds are for.
func TestARequestWhoseAnswerWasLostIsRepeatedSafely(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.cloud.Faults.Add(fakecloud.Fault{Method: "compute.instances.insert", Times: 1, Effect: fakecloud.Lose})
		r := vm("vm-1")
		r.RequestId = proto.String(uuid + "1")
		if _, err := u.instances.Insert(t.Context(), r); err == nil {
			t.Fatal("the answer was not lost")
		}
		u.done(u.instances.Insert(t.Context(), r))
		if n := len(u.cloud.Machines()); n != 1 || len(u.cloud.Books.Ever()) != 2 {
			t.Errorf("%d machines, books %v", n, u.cloud.Books.Ever())
		}
	})
}

func TestFingerprintsGuardLabelsMetadataAndTags(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		i := u.run("vm-1")
		ctx := t.Context()
		labels := func(print *string, m map[string]string) (*compute.Operation, error) {
			return u.instances.SetLabels(ctx, &computepb.SetLabelsInstanceRequest{Project: project, Zone: zone, Instance: "vm-1", InstancesSetLabelsRequestResource: &computepb.InstancesSetLabelsRequest{LabelFingerprint: print, Labels: m}})
		}
		metadata := func(print *string, value string) (*compute.Operation, error) {
			return u.instances.SetMetadata(ctx, &computepb.SetMetadataInstanceRequest{Project: project, Zone: zone, Instance: "vm-1", MetadataResource: &computepb.Metadata{
				Fingerprint: print, Items: []*computepb.Items{{Key: proto.String("k"), Value: &value}},
			}})
		}
		tags := func(print *string, tag string) (*compute.Operation, error) {
			return u.instances.SetTags(ctx, &computepb.SetTagsInstanceRequest{Project: project, Zone: zone, Instance: "vm-1", TagsResource: &computepb.Tags{Fingerprint: print, Items: []string{tag}}})
		}
		for name, try := range map[string]func(print *string) (*compute.Operation, error){
			"labels":   func(p *string) (*compute.Operation, error) { return labels(p, map[string]string{"a": "b"}) },
			"metadata": func(p *string) (*compute.Operation, error) { return metadata(p, "v") },
			"tags":     func(p *string) (*compute.Operation, error) { return tags(p, "t") },
		} {
			for _, print := range []*string{nil, proto.String("AAAA")} {
				if _, err := try(print); reason(err) != "Precondition Failed conditionNotMet" {
					t.Errorf("%s with a stale fingerprint: %v", name, err)
				}
			}
		}
		if _, err := labels(i.LabelFingerprint, map[string]string{"A": ""}); reason(err) != "Bad Request invalid" {
			t.Errorf("a label in capitals: %v", err)
		}
		u.done(labels(i.LabelFingerprint, map[string]string{"stage": "s1"}))
		u.done(metadata(i.GetMetadata().Fingerprint, "v"))
		u.done(tags(i.GetTags().Fingerprint, "web"))
		after := u.get("vm-1")
		if diff := cmp.Diff(map[string]string{"stage": "s1"}, after.GetLabels()); diff != "" {
			t.Errorf("labels are replaced (-want +got):\n%s", diff)
		}
		if m, _ := u.cloud.Machine("vm-1"); m.Metadata["k"] != "v" || len(m.Metadata) != 1 || !cmp.Equal(m.Tags, []string{"web"}) {
			t.Errorf("machine %+v", m)
		}
		if after.GetLabelFingerprint() == i.GetLabelFingerprint() || after.GetMetadata().GetFingerprint() == i.GetMetadata().GetFingerprint() || after.GetTags().GetFingerprint() == i.GetTags().GetFingerprint() {
			t.Error("a fingerprint did not change")
		}
		// Two at once with one fingerprint: the later one fails.
		one, err := labels(after.LabelFingerprint, map[string]string{"n": "1"})
		if err != nil {
			t.Fatal(err)
		}
		two, err := labels(after.LabelFingerprint, map[string]string{"n": "2"})
		u.done(one, nil)
		if o := u.ended(two, err); !cmp.Equal(codes(o), []string{"CONDITION_NOT_MET"}) || o.GetHttpErrorStatusCode() != 412 {
			t.Errorf("the second of two changes: %v", o)
		}
	})
}

func TestDisksOutliveMachines(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		ctx := t.Context()
		u.disk("home", 100)
		attach := func(name string) (*compute.Operation, error) {
			return u.instances.AttachDisk(ctx, &computepb.AttachDiskInstanceRequest{Project: project, Zone: zone, Instance: name, AttachedDiskResource: &computepb.AttachedDisk{
				Source: proto.String("projects/test-project/zones/us-central1-a/disks/home"), DeviceName: proto.String("home"),
			}})
		}
		u.run("vm-1")
		u.run("vm-2")
		u.done(attach("vm-1"))
		if _, err := attach("vm-2"); reason(err) != "Bad Request resourceInUseByAnotherResource" {
			t.Errorf("a disk on two machines: %v", err)
		}
		drop := &computepb.DeleteDiskRequest{Project: project, Zone: zone, Disk: "home"}
		if _, err := u.disks.Delete(ctx, drop); reason(err) != "Bad Request resourceInUseByAnotherResource" {
			t.Errorf("the deletion of a disk in use: %v", err)
		}
		if m, _ := u.cloud.Machine("vm-1"); len(m.Disks) != 2 || m.Disks[1].Name != "home" || m.Disks[1].AutoDelete || m.Disks[1].SizeGB != 100 {
			t.Errorf("disks %+v", m.Disks)
		}
		// The machine goes with its boot disk; the other one stays.
		u.done(u.instances.Delete(ctx, &computepb.DeleteInstanceRequest{Project: project, Zone: zone, Instance: "vm-1"}))
		d, err := u.disks.Get(ctx, &computepb.GetDiskRequest{Project: project, Zone: zone, Disk: "home"})
		if err != nil || len(d.GetUsers()) != 0 || d.GetStatus() != "READY" {
			t.Fatalf("disk %v, %v", d, err)
		}
		if _, err := u.disks.Get(ctx, &computepb.GetDiskRequest{Project: project, Zone: zone, Disk: "vm-1"}); reason(err) != "Not Found notFound" {
			t.Errorf("the boot disk: %v", err)
		}
		u.done(attach("vm-2"))
		detach := &computepb.DetachDiskInstanceRequest{Project: project, Zone: zone, Instance: "vm-2", DeviceName: "home"}
		u.done(u.instances.DetachDisk(ctx, detach))
		if _, err := u.instances.DetachDisk(ctx, detach); reason(err) != "Bad Request invalid" {
			t.Errorf("a second detachment: %v", err)
		}
		resize := func(gb int64) (*compute.Operation, error) {
			return u.disks.Resize(ctx, &computepb.ResizeDiskRequest{Project: project, Zone: zone, Disk: "home", DisksResizeRequestResource: &computepb.DisksResizeRequest{SizeGb: &gb}})
		}
		if _, err := resize(50); reason(err) != "Bad Request invalid" {
			t.Errorf("a disk that shrinks: %v", err)
		}
		u.done(resize(200))
		u.done(u.disks.SetLabels(ctx, &computepb.SetLabelsDiskRequest{Project: project, Zone: zone, Resource: "home", ZoneSetLabelsRequestResource: &computepb.ZoneSetLabelsRequest{
			LabelFingerprint: d.LabelFingerprint, Labels: map[string]string{"a": "b"},
		}}))
		d, err = u.disks.Get(ctx, &computepb.GetDiskRequest{Project: project, Zone: zone, Disk: "home"})
		if err != nil || d.GetSizeGb() != 200 || d.GetLabels()["a"] != "b" {
			t.Errorf("disk %v, %v", d, err)
		}
		u.done(u.disks.Delete(ctx, drop))
		if _, err := u.disks.Delete(ctx, drop); reason(err) != "Not Found notFound" {
			t.Errorf("a second deletion: %v", err)
		}
		// A boot disk that is told to stay stays.
		u.done(u.instances.SetDiskAutoDelete(ctx, &computepb.SetDiskAutoDeleteInstanceRequest{Project: project, Zone: zone, Instance: "vm-2", DeviceName: "persistent-disk-0", AutoDelete: false}))
		u.done(u.instances.Delete(ctx, &computepb.DeleteInstanceRequest{Project: project, Zone: zone, Instance: "vm-2"}))
		if living := u.cloud.Books.Living(); len(living) != 1 || living[0].Kind != "disk" || living[0].Name != "vm-2" {
			t.Errorf("left: %v", living)
		}
	})
}

func TestOperationsAreListedAndForgotten(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		ctx := t.Context()
		op := u.insert("vm-1")
		if status, says := u.raw("DELETE", here+"/operations/"+op.Name(), ""); status != 400 || !strings.Contains(says, "resourceNotReady") {
			t.Errorf("the deletion of one under way: %d %s", status, says)
		}
		o := u.done(op, nil)
		if o.GetEndTime() == "" || o.GetProgress() != 100 || o.GetTargetId() != u.get("vm-1").GetId() || o.GetOperationType() != "insert" {
			t.Errorf("operation %v", o)
		}
		filter := "operationType=insert AND status=DONE"
		found := 0
		for o, err := range u.operations.List(ctx, &computepb.ListZoneOperationsRequest{Project: project, Zone: zone, Filter: &filter}).All() {
			if err != nil || o.GetName() != op.Name() {
				t.Errorf("listed %v, %v", o, err)
			}
			found++
		}
		if found != 1 {
			t.Errorf("%d operations", found)
		}
		if status, _ := u.raw("DELETE", here+"/operations/"+op.Name(), ""); status != 204 {
			t.Errorf("its deletion: %d", status)
		}
		_, err := u.operations.Get(ctx, &computepb.GetZoneOperationRequest{Project: project, Zone: zone, Operation: op.Name()})
		if reason(err) != "Not Found notFound" {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// TestAWaitEndsAfterTwoMinutes, with the operation as it is then.
func TestAWaitEndsAfterTwoMinutes(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.cloud.Spoil(gce.Spoil{Method: "compute.instances.insert", Never: true})
		op := u.insert("vm-1")
		for range 2 {
			begun := time.Now()
			o, err := u.operations.Wait(t.Context(), &computepb.WaitZoneOperationRequest{Project: project, Zone: zone, Operation: op.Name()})
			if took := time.Since(begun); err != nil || o.GetStatus() != computepb.Operation_RUNNING || took != 2*time.Minute {
				t.Errorf("%v, %v after %s", o.GetStatus(), err, took)
			}
		}
		if s := u.status("vm-1"); s != "RUNNING" {
			t.Errorf("the machine meanwhile is %s", s)
		}
	})
}

func TestReservationsHoldRoom(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		ctx := t.Context()
		reserve := &computepb.InsertReservationRequest{Project: project, Zone: zone, ReservationResource: &computepb.Reservation{
			Name: proto.String("r"), SpecificReservationRequired: proto.Bool(true), SpecificReservation: &computepb.AllocationSpecificSKUReservation{
				Count: proto.Int64(1), InstanceProperties: &computepb.AllocationSpecificSKUAllocationReservedInstanceProperties{MachineType: proto.String("e2-standard-2")},
			},
		}}
		u.done(u.reservations.Insert(ctx, reserve))
		if _, err := u.reservations.Insert(ctx, reserve); reason(err) != "Conflict alreadyExists" {
			t.Errorf("again: %v", err)
		}
		u.cloud.StopOut("", "", time.Time{})
		use := func(i *computepb.Instance) {
			i.ReservationAffinity = &computepb.ReservationAffinity{
				ConsumeReservationType: proto.String("SPECIFIC_RESERVATION"), Key: proto.String("compute.googleapis.com/reservation-name"), Values: []string{"r"},
			}
		}
		u.run("vm-1", use)
		get := &computepb.GetReservationRequest{Project: project, Zone: zone, Reservation: "r"}
		if r, err := u.reservations.Get(ctx, get); err != nil || r.GetSpecificReservation().GetInUseCount() != 1 || r.GetStatus() != "READY" {
			t.Errorf("reservation %v, %v", r, err)
		}
		if o := u.ended(u.insert("vm-2", use), nil); !cmp.Equal(codes(o), []string{"INVALID_USAGE"}) {
			t.Errorf("one more than it has: %v", o)
		}
		if o := u.ended(u.insert("vm-3"), nil); !cmp.Equal(codes(o), []string{"ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"}) {
			t.Errorf("one without: %v", o)
		}
		u.done(u.instances.Delete(ctx, &computepb.DeleteInstanceRequest{Project: project, Zone: zone, Instance: "vm-1"}))
		u.done(u.reservations.Delete(ctx, &computepb.DeleteReservationRequest{Project: project, Zone: zone, Reservation: "r"}))
		if _, err := u.reservations.Get(ctx, get); reason(err) != "Not Found notFound" || len(u.cloud.Books.Living()) != 0 {
			t.Errorf("afterwards: %v, books %v", err, u.cloud.Books.Living())
		}
	})
}

func TestFirewalls(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		ctx := t.Context()
		rule := func(edit func(*computepb.Firewall)) (*compute.Operation, error) {
			f := &computepb.Firewall{
				Name: proto.String("agents"), Network: proto.String("global/networks/default"), TargetTags: []string{"runner"},
				SourceRanges: []string{"10.0.0.0/8"}, Allowed: []*computepb.Allowed{{IPProtocol: proto.String("tcp"), Ports: []string{"9079"}}},
			}
			edit(f)
			return u.firewalls.Insert(ctx, &computepb.InsertFirewallRequest{Project: project, FirewallResource: f})
		}
		for _, c := range []struct {
			name, says string
			edit       func(*computepb.Firewall)
		}{
			{"no name", "resource.name", func(f *computepb.Firewall) { f.Name = nil }},
			{"another network", "cannot be found", func(f *computepb.Firewall) { f.Network = proto.String("global/networks/x") }},
			{"neither allowed nor denied", "Exactly one", func(f *computepb.Firewall) { f.Allowed = nil }},
			{"a port that is none", "ports", func(f *computepb.Firewall) { f.Allowed[0].Ports = []string{"http"} }},
			{"a protocol that is none", "IPProtocol", func(f *computepb.Firewall) { f.Allowed[0].IPProtocol = proto.String("TCPIP") }},
			{"a range that is none", "CIDR", func(f *computepb.Firewall) { f.SourceRanges = []string{"10.0.0.0/99"} }},
			{"a tag in capitals", "targetTags", func(f *computepb.Firewall) { f.TargetTags = []string{"A"} }},
		} {
			if _, err := rule(c.edit); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		op, err := rule(func(*computepb.Firewall) {})
		if err != nil {
			t.Fatal(err)
		}
		if err := op.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		get := &computepb.GetFirewallRequest{Project: project, Firewall: "agents"}
		if f, err := u.firewalls.Get(ctx, get); err != nil || f.GetPriority() != 1000 || f.GetDirection() != "INGRESS" || !cmp.Equal(f.GetSourceRanges(), []string{"10.0.0.0/8"}) {
			t.Errorf("firewall %v, %v", f, err)
		}
		if _, err := rule(func(*computepb.Firewall) {}); reason(err) != "Conflict alreadyExists" {
			t.Errorf("again: %v", err)
		}
		op, err = u.firewalls.Delete(ctx, &computepb.DeleteFirewallRequest{Project: project, Firewall: "agents"})
		if err != nil {
			t.Fatal(err)
		}
		if err := op.Wait(ctx); err != nil || len(u.cloud.Books.Living()) != 0 || len(u.cloud.Books.Ever()) != 1 {
			t.Errorf("deleted: %v, books %v", err, u.cloud.Books.Ever())
		}
	})
}
