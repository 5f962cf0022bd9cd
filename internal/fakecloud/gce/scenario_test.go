package gce_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	compute "cloud.google.com/go/compute/apiv1"
	"cloud.google.com/go/compute/apiv1/computepb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
)

const stockedOut = "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"

func spot(action string) func(*computepb.Instance) {
	return func(i *computepb.Instance) {
		i.Scheduling = &computepb.Scheduling{ProvisioningModel: proto.String("SPOT"), InstanceTerminationAction: &action}
	}
}

func limited(seconds int64) func(*computepb.Instance) {
	return func(i *computepb.Instance) {
		i.Scheduling = &computepb.Scheduling{
			MaxRunDuration: &computepb.Duration{Seconds: &seconds}, InstanceTerminationAction: proto.String("DELETE"), OnHostMaintenance: proto.String("MIGRATE"),
		}
	}
}

func (u *user) suspend(name string) (*compute.Operation, error) {
	return u.instances.Suspend(u.t.Context(), &computepb.SuspendInstanceRequest{Project: project, Zone: zone, Instance: name})
}

func (u *user) resume(name string) (*compute.Operation, error) {
	return u.instances.Resume(u.t.Context(), &computepb.ResumeInstanceRequest{Project: project, Zone: zone, Instance: name})
}

func (u *user) start(name string) (*compute.Operation, error) {
	return u.instances.Start(u.t.Context(), &computepb.StartInstanceRequest{Project: project, Zone: zone, Instance: name})
}

func (u *user) stop(name string) (*compute.Operation, error) {
	return u.instances.Stop(u.t.Context(), &computepb.StopInstanceRequest{Project: project, Zone: zone, Instance: name})
}

func (u *user) delete(name string) (*compute.Operation, error) {
	return u.instances.Delete(u.t.Context(), &computepb.DeleteInstanceRequest{Project: project, Zone: zone, Instance: name})
}

func TestAStockoutEndsTheOperation(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.run("asleep")
		u.done(u.suspend("asleep"))
		u.run("off")
		u.done(u.stop("off"))
		ever := len(u.cloud.Books.Ever())
		u.cloud.StopOut(zone, "e2-standard-2", time.Now().Add(15*time.Minute), "us-central1-f", "us-central1-b")
		o := u.ended(u.insert("vm-1"), nil)
		if !cmp.Equal(codes(o), []string{stockedOut}) || o.GetHttpErrorStatusCode() != 503 || o.GetHttpErrorMessage() != "SERVICE UNAVAILABLE" {
			t.Errorf("operation %v", o)
		}
		for _, d := range o.GetError().GetErrors()[0].GetErrorDetails() {
			if info := d.GetErrorInfo(); info != nil && (info.GetMetadatas()["zonesAvailable"] != "us-central1-b,us-central1-f" || info.GetReason() != "resource_availability" || info.GetMetadatas()["vmType"] != "e2-standard-2") {
				t.Errorf("error info %v", info)
			}
		}
		if s := u.status("vm-1"); s != "" || len(u.cloud.Books.Ever()) != ever+2 || len(u.cloud.Books.Living()) != ever {
			t.Errorf("the machine that could not be made is %q, books %v", s, u.cloud.Books.Living())
		}
		if o := u.ended(u.resume("asleep")); !cmp.Equal(codes(o), []string{stockedOut}) || u.status("asleep") != "SUSPENDED" {
			t.Errorf("the one that sleeps: %v, now %s", codes(o), u.status("asleep"))
		}
		if o := u.ended(u.start("off")); !cmp.Equal(codes(o), []string{stockedOut}) || u.status("off") != "TERMINATED" {
			t.Errorf("the one that is off: %v, now %s", codes(o), u.status("off"))
		}
		u.run("other", func(i *computepb.Instance) {
			i.MachineType = proto.String("zones/us-central1-a/machineTypes/e2-standard-4")
		})
		pass(15 * time.Minute)
		u.done(u.resume("asleep"))
		u.done(u.start("off"))
		u.cloud.StopOut("", "", time.Time{})
		if o := u.ended(u.insert("vm-1"), nil); !cmp.Equal(codes(o), []string{stockedOut}) {
			t.Errorf("everywhere and for ever: %v", codes(o))
		}
		u.cloud.Restock("", "")
		u.run("vm-1")
	})
}

func TestAQuotaEndsTheOperation(t *testing.T) {
	t.Parallel()
	o := quick()
	o.Quotas = map[string]float64{"CPUS": 4}
	bubble(t, o, func(t *testing.T, u *user) {
		u.run("vm-1")
		u.run("vm-2")
		op := u.ended(u.insert("vm-3"), nil)
		if !cmp.Equal(codes(op), []string{"QUOTA_EXCEEDED"}) || op.GetHttpErrorStatusCode() != 403 {
			t.Errorf("beyond it: %v", op)
		}
		info := op.GetError().GetErrors()[0].GetErrorDetails()[0].GetQuotaInfo()
		if info.GetLimit() != 4 || info.GetMetricName() != "compute.googleapis.com/cpus" || info.GetDimensions()["region"] != "us-central1" {
			t.Errorf("quota info %v", info)
		}
		u.run("cheap", spot("DELETE")) // of another quota
		u.done(u.suspend("vm-1"))
		u.run("vm-3")
		if op := u.ended(u.resume("vm-1")); !cmp.Equal(codes(op), []string{"QUOTA_EXCEEDED"}) {
			t.Errorf("a resume beyond it: %v", op)
		}
		u.cloud.SetQuota("us-central1", "SSD_TOTAL_GB", 100)
		if op := u.ended(u.disks.Insert(t.Context(), &computepb.InsertDiskRequest{Project: project, Zone: zone, DiskResource: &computepb.Disk{
			Name: proto.String("d"), SizeGb: proto.Int64(10), Type: proto.String("zones/us-central1-a/diskTypes/pd-ssd"),
		}})); !cmp.Equal(codes(op), []string{"QUOTA_EXCEEDED"}) {
			t.Errorf("a disk beyond it: %v", op)
		}
	})
}

func TestASpotMachineIsTakenAway(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ action, status string }{{"STOP", "TERMINATED"}, {"DELETE", ""}} {
		t.Run(c.action, func(t *testing.T) {
			t.Parallel()
			bubble(t, quick(), func(t *testing.T, u *user) {
				i := u.run("vm-1", spot(c.action))
				if s := i.GetScheduling(); !s.GetPreemptible() || s.GetAutomaticRestart() || s.GetOnHostMaintenance() != "TERMINATE" {
					t.Errorf("scheduling %v", s)
				}
				u.run("dear")
				if err := u.cloud.Preempt("dear"); err == nil {
					t.Error("a machine that is not spot is taken away")
				}
				if err := u.cloud.Preempt("vm-1"); err != nil {
					t.Fatal(err)
				}
				if m, err := u.cloud.Machine("vm-1"); err != nil || !m.Preempted || m.Status != "STOPPING" {
					t.Errorf("at once: %+v, %v", m, err)
				}
				if _, err := u.start("vm-1"); reason(err) != "Bad Request resourceNotReady" {
					t.Errorf("a start meanwhile: %v", err)
				}
				pass(30 * time.Second)
				if s := u.status("vm-1"); s != c.status {
					t.Errorf("then: %q", s)
				}
				filter := `operationType="compute.instances.preempted"`
				for o, err := range u.operations.List(t.Context(), &computepb.ListZoneOperationsRequest{Project: project, Zone: zone, Filter: &filter}).All() {
					if err != nil || last(o.GetTargetLink()) != "vm-1" || o.GetUser() != "system" {
						t.Errorf("operation %v, %v", o, err)
					}
				}
			})
		})
	}
}

func TestAHostBreaks(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		before := u.run("vm-1").GetNetworkInterfaces()[0]
		u.run("vm-2", func(i *computepb.Instance) { i.Scheduling = &computepb.Scheduling{AutomaticRestart: proto.Bool(false)} })
		for _, name := range []string{"vm-1", "vm-2"} {
			if err := u.cloud.HostError(name); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := u.status("vm-1"), u.status("vm-2"); a != "REPAIRING" || b != "TERMINATED" {
			t.Errorf("at once %s and %s", a, b)
		}
		pass(time.Minute)
		after := u.get("vm-1").GetNetworkInterfaces()[0]
		if m, err := u.cloud.Machine("vm-1"); err != nil || m.Status != "RUNNING" || m.Boot != 2 || after.GetNetworkIP() != before.GetNetworkIP() {
			t.Errorf("later %+v, %v", m, err)
		}
	})
}

func TestALimitedRunTimeEndsTheMachine(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		begun := time.Now()
		i := u.run("vm-1", limited(3600))
		ends, err := time.Parse(time.RFC3339Nano, i.GetResourceStatus().GetScheduling().GetTerminationTimestamp())
		if err != nil || !ends.Equal(begun.Add(time.Hour+5*time.Second)) {
			t.Errorf("it says it ends at %s, %v", ends, err)
		}
		pass(time.Until(ends) - time.Second)
		if s := u.status("vm-1"); s != "RUNNING" {
			t.Errorf("just before: %s", s)
		}
		pass(time.Minute)
		if living := u.cloud.Living(); u.status("vm-1") != "" || len(living) != 0 {
			t.Errorf("afterwards: %q, %v", u.status("vm-1"), living)
		}
		if gone := u.cloud.Books.Ever()[0].Gone; !gone.Equal(ends.Add(12 * time.Second)) {
			t.Errorf("the books have its end at %s", gone)
		}
	})
}

func TestSuspensionHasLimits(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.run("vm-1")
		u.done(u.suspend("vm-1"))
		if o := u.ended(u.suspend("vm-1")); !cmp.Equal(codes(o), []string{"UNSUPPORTED_OPERATION"}) {
			t.Errorf("a second suspension: %v", o)
		}
		if o := u.ended(u.start("vm-1")); !cmp.Equal(codes(o), []string{"UNSUPPORTED_OPERATION"}) || u.status("vm-1") != "SUSPENDED" {
			t.Errorf("a start instead of a resume: %v", o)
		}
		pass(60*24*time.Hour - time.Minute)
		if s := u.status("vm-1"); s != "SUSPENDED" {
			t.Errorf("before 60 days: %s", s)
		}
		pass(time.Minute)
		if s := u.status("vm-1"); s != "TERMINATED" {
			t.Errorf("after 60 days: %s", s)
		}
		if o := u.ended(u.resume("vm-1")); !cmp.Equal(codes(o), []string{"UNSUPPORTED_OPERATION"}) {
			t.Errorf("a resume then: %v", o)
		}
		u.done(u.start("vm-1"))
		for name, machineType := range map[string]string{"big": "n2-highmem-32", "arm": "t2a-standard-2"} {
			u.run(name, func(i *computepb.Instance) {
				i.MachineType = proto.String("zones/us-central1-a/machineTypes/" + machineType)
				if name == "arm" {
					i.Disks[0].InitializeParams.SourceImage = proto.String("projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-arm64")
				}
			})
			if o := u.ended(u.suspend(name)); !cmp.Equal(codes(o), []string{"UNSUPPORTED_OPERATION"}) || u.status(name) != "RUNNING" {
				t.Errorf("%s: %v, now %s", name, o, u.status(name))
			}
		}
		u.insert("young")
		if _, err := u.suspend("young"); reason(err) != "Bad Request resourceNotReady" {
			t.Errorf("one that does not run yet: %v", err)
		}
	})
}

// TestAResumeThatFailedDoesNotProlongTheSleep: the sixty days count from the
// suspension.
func TestAResumeThatFailedDoesNotProlongTheSleep(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.run("vm-1")
		u.done(u.suspend("vm-1"))
		pass(59 * 24 * time.Hour)
		u.cloud.StopOut(zone, "", time.Time{})
		u.ended(u.resume("vm-1"))
		pass(24 * time.Hour)
		if s := u.status("vm-1"); s != "TERMINATED" {
			t.Errorf("a day later: %s", s)
		}
	})
}

func TestNewThingsAppearLate(t *testing.T) {
	t.Parallel()
	o := quick()
	o.Appears = gce.Exactly(4 * time.Second)
	bubble(t, o, func(t *testing.T, u *user) {
		op := u.insert("vm-1")
		if s := u.status("vm-1"); s != "" || len(u.names("")) != 0 {
			t.Errorf("at first: %q, listed %v", s, u.names(""))
		}
		if _, err := u.delete("vm-1"); reason(err) != "Not Found notFound" {
			t.Errorf("its deletion: %v", err)
		}
		if _, err := u.instances.Insert(t.Context(), vm("vm-1")); reason(err) != "Conflict alreadyExists" {
			t.Errorf("another of its name: %v", err)
		}
		pass(4 * time.Second)
		if s := u.status("vm-1"); s != "STAGING" || len(u.names("")) != 1 {
			t.Errorf("later: %q, listed %v", s, u.names(""))
		}
		u.done(op, nil)
	})
}

func TestOperationsGoWrong(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.run("vm-1")
		u.cloud.Spoil(gce.Spoil{Skip: 1, Times: 1, Err: gce.Internal500()})
		u.done(u.suspend("vm-1")) // skipped
		if o := u.ended(u.delete("vm-1")); !cmp.Equal(codes(o), []string{"INTERNAL_ERROR"}) || u.status("vm-1") != "SUSPENDED" {
			t.Errorf("a deletion that fails: %v, then %s", o, u.status("vm-1"))
		}
		u.done(u.delete("vm-1"))
		remove := u.cloud.Spoil(gce.Spoil{
			Method: "compute.instances.insert", Match: func(c fakecloud.Call) bool { return c.Name == "bad" && c.Zone == zone && c.Type == "e2-standard-2" },
			Err: gce.PlainStockout(zone),
		})
		if o := u.ended(u.insert("bad"), nil); !cmp.Equal(codes(o), []string{"ZONE_RESOURCE_POOL_EXHAUSTED"}) || u.status("bad") != "" {
			t.Errorf("a creation that fails: %v, then %q", o, u.status("bad"))
		}
		u.run("good")
		remove()
		u.run("bad")
		u.cloud.Spoil(gce.Spoil{Method: "compute.instances.stop", Times: 1, Never: true, Nothing: true})
		if _, err := u.stop("bad"); err != nil {
			t.Fatal(err)
		}
		pass(24 * time.Hour)
		if s := u.status("bad"); s != "STOPPING" {
			t.Errorf("a stop that never happens: %s", s)
		}
		u.done(u.delete("bad"))
	})
}

func TestOperationsOnOneMachineFollowEachOther(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		made := u.insert("vm-1")
		for name, call := range map[string]func(string) (*compute.Operation, error){"start": u.start, "stop": u.stop, "suspend": u.suspend, "resume": u.resume} {
			if _, err := call("vm-1"); reason(err) != "Bad Request resourceNotReady" {
				t.Errorf("%s of one that is being made: %v", name, err)
			}
		}
		one, err := u.delete("vm-1")
		if err != nil {
			t.Fatal(err)
		}
		two, err := u.delete("vm-1")
		if err != nil {
			t.Fatal(err)
		}
		if o := u.ended(made, nil); !cmp.Equal(codes(o), []string{"OPERATION_CANCELED_BY_USER"}) {
			t.Errorf("the creation: %v", o)
		}
		u.done(one, nil)
		if o := u.ended(two, nil); !cmp.Equal(codes(o), []string{"RESOURCE_NOT_FOUND"}) || o.GetHttpErrorStatusCode() != 404 {
			t.Errorf("the second deletion: %v", o)
		}
		if _, err := u.delete("vm-1"); reason(err) != "Not Found notFound" {
			t.Errorf("a third: %v", err)
		}
		u.run("vm-1")
		u.done(u.start("vm-1")) // it runs: nothing to do
		u.done(u.stop("vm-1"))
		u.done(u.stop("vm-1"))
	})
}

func TestTheConsole(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		read := func(start *int64, port *int32) *computepb.SerialPortOutput {
			t.Helper()
			o, err := u.instances.GetSerialPortOutput(t.Context(), &computepb.GetSerialPortOutputInstanceRequest{Project: project, Zone: zone, Instance: "vm-1", Start: start, Port: port})
			if err != nil {
				t.Fatal(err)
			}
			return o
		}
		u.run("vm-1")
		for _, text := range []string{"booting\n", "cloud-init: ok\n"} {
			if err := u.cloud.Console("vm-1", text); err != nil {
				t.Fatal(err)
			}
		}
		if o := read(nil, nil); o.GetContents() != "booting\ncloud-init: ok\n" || o.GetNext() != 23 || o.GetStart() != 0 {
			t.Errorf("all of it: %v", o)
		}
		if o := read(proto.Int64(8), nil); o.GetContents() != "cloud-init: ok\n" || o.GetStart() != 8 {
			t.Errorf("from an offset: %v", o)
		}
		if o := read(proto.Int64(-4), nil); o.GetContents() != " ok\n" {
			t.Errorf("the end of it: %v", o)
		}
		if o := read(proto.Int64(1000), nil); o.GetContents() != "" || o.GetStart() != 23 {
			t.Errorf("beyond its end: %v", o)
		}
		if o := read(nil, proto.Int32(2)); o.GetContents() != "" {
			t.Errorf("another port: %v", o)
		}
		if err := u.cloud.Console("vm-1", strings.Repeat("x", 1<<20)); err != nil {
			t.Fatal(err)
		}
		if o := read(nil, nil); len(o.GetContents()) != 1<<20 || o.GetStart() != 23 || o.GetNext() != 23+1<<20 {
			t.Errorf("after a megabyte: %d bytes from %d, next %d", len(o.GetContents()), o.GetStart(), o.GetNext())
		}
	})
}

func TestGuestAttributes(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.run("mute")
		if err := u.cloud.GuestAttribute("mute", "runner/ready", "yes"); err == nil {
			t.Error("a machine without guest attributes has one")
		}
		u.run("vm-1", func(i *computepb.Instance) {
			i.Metadata.Items = append(i.Metadata.Items, &computepb.Items{Key: proto.String("enable-guest-attributes"), Value: proto.String("TRUE")})
		})
		ask := func(path string) (*computepb.GuestAttributes, error) {
			return u.instances.GetGuestAttributes(t.Context(), &computepb.GetGuestAttributesInstanceRequest{Project: project, Zone: zone, Instance: "vm-1", QueryPath: &path})
		}
		if _, err := ask("runner/"); reason(err) != "Not Found notFound" {
			t.Errorf("before there are any: %v", err)
		}
		if err := u.cloud.GuestAttribute("vm-1", "runner/ready", "yes"); err != nil {
			t.Fatal(err)
		}
		if a, err := ask("runner/"); err != nil || len(a.GetQueryValue().GetItems()) != 1 || a.GetQueryValue().GetItems()[0].GetValue() != "yes" {
			t.Errorf("attributes %v, %v", a, err)
		}
		for range 8 {
			_, _ = ask("runner/")
		}
		if _, err := ask("runner/"); reason(err) != "Too Many Requests rateLimitExceeded" {
			t.Errorf("the eleventh in a minute: %v", err)
		}
	})
}

// TestAHarnessHearsOfBoots: once of each, from whoever looks first.
func TestAHarnessHearsOfBoots(t *testing.T) {
	t.Parallel()
	var heard []string
	note := func(what string) func(gce.Machine) {
		return func(m gce.Machine) {
			heard = append(heard, fmt.Sprintf("%s %s %d %s %s", what, m.Name, m.Boot, m.Status, m.Metadata["user-data"]))
		}
	}
	o := quick()
	o.Boots, o.Wakes, o.Halts, o.Gone = note("boot"), note("wake"), note("halt"), note("gone")
	o.Address = func(m gce.Machine) (internal, external netip.Addr) {
		return netip.MustParseAddr("127.77.0.9"), netip.MustParseAddr("127.77.0.10")
	}
	bubble(t, o, func(t *testing.T, u *user) {
		script := func(i *computepb.Instance) { i.Metadata.Items[0].Value = proto.String("S") }
		u.insert("vm-1", script)
		for { // as a harness does that nobody calls
			next, ok := u.cloud.Next()
			if !ok {
				break
			}
			pass(time.Until(next))
			u.cloud.Look()
		}
		n := u.get("vm-1").GetNetworkInterfaces()[0]
		if n.GetNetworkIP() != "127.77.0.9" || n.GetAccessConfigs()[0].GetNatIP() != "127.77.0.10" {
			t.Errorf("addresses %v", n)
		}
		for _, ip := range []string{"127.77.0.9", "127.77.0.10"} {
			if m, ok := u.cloud.At(netip.MustParseAddr(ip)); !ok || m.Name != "vm-1" {
				t.Errorf("at %s: %+v, %t", ip, m, ok)
			}
		}
		u.done(u.suspend("vm-1"))
		if m, ok := u.cloud.At(netip.MustParseAddr("127.77.0.9")); ok {
			t.Errorf("a machine that sleeps answers: %+v", m)
		}
		u.done(u.resume("vm-1"))
		if err := u.cloud.Reboot("vm-1"); err != nil {
			t.Fatal(err)
		}
		if err := u.cloud.Shutdown("vm-1"); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		u.done(u.start("vm-1"))
		u.done(u.suspend("vm-1"))
		u.done(u.delete("vm-1")) // its memory is lost: it is switched off only now
		want := []string{
			"boot vm-1 1 RUNNING S", "halt vm-1 1 SUSPENDED S", "wake vm-1 1 RUNNING S", "boot vm-1 2 RUNNING S", "halt vm-1 2 TERMINATED S",
			"boot vm-1 3 RUNNING S", "halt vm-1 3 SUSPENDED S", "halt vm-1 3 STOPPING S", "gone vm-1 3 STOPPING S",
		}
		if diff := cmp.Diff(want, heard); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// TestEqualSeedsTakeEqualTimes whatever is called in between.
func TestEqualSeedsTakeEqualTimes(t *testing.T) {
	t.Parallel()
	measure := func(seed uint64, more bool) (took time.Duration) {
		bubble(t, gce.Options{Seed: seed}, func(t *testing.T, u *user) {
			begun := time.Now()
			op := u.insert("vm-1")
			if more {
				u.insert("vm-2")
				u.names("")
			}
			u.done(op, nil)
			took = time.Since(begun)
		})
		return took
	}
	if a, b := measure(7, false), measure(7, true); a != b {
		t.Errorf("with seed 7: %s and %s", a, b)
	}
	if a, b := measure(7, false), measure(8, false); a == b {
		t.Errorf("with seeds 7 and 8: %s twice", a)
	}
}

// TestTheClockMayBeAnother: the fake has no other than the one it is given.
func TestTheClockMayBeAnother(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	o := quick()
	o.Now = func() time.Time { return now }
	u := newUser(t, o)
	u.insert("vm-1")
	now = now.Add(5 * time.Second)
	if s := u.status("vm-1"); s != "RUNNING" {
		t.Errorf("five seconds later: %s", s)
	}
	if made := u.cloud.Books.Ever()[0].Made; made.Year() != 2026 {
		t.Errorf("made at %s", made)
	}
}

// TestFiveHundredMachinesComeAndGo: many callers at once, at default rates.
func TestFiveHundredMachinesComeAndGo(t *testing.T) {
	t.Parallel()
	o := gce.Options{Seed: 3, PageSize: 500}
	bubble(t, o, func(t *testing.T, u *user) {
		const machines = 500
		var group sync.WaitGroup
		for n := range machines {
			group.Go(func() {
				ctx, name := t.Context(), fmt.Sprintf("vm-%d", n)
				wait := func(op *compute.Operation, err error) {
					if err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					o, err := u.operations.Wait(ctx, &computepb.WaitZoneOperationRequest{Project: project, Zone: zone, Operation: op.Name()})
					if err != nil || o.GetStatus() != computepb.Operation_DONE || o.GetError() != nil {
						t.Errorf("%s: %v, %v", name, o, err)
					}
				}
				wait(u.instances.Insert(ctx, vm(name)))
				wait(u.instances.Delete(ctx, &computepb.DeleteInstanceRequest{Project: project, Zone: zone, Instance: name}))
			})
		}
		group.Wait()
		if ever, living := u.cloud.Books.Ever(), u.cloud.Living(); len(ever) != 2*machines || len(living) != 0 {
			t.Errorf("%d things were made, %d are left", len(ever), len(living))
		}
		if calls := u.cloud.Books.Calls(); calls["compute.instances.insert"] != machines || calls["compute.zoneOperations.wait"] != 2*machines {
			t.Errorf("calls %v", calls)
		}
	})
}

func TestADeletionCanBeForbidden(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.run("vm-1", func(i *computepb.Instance) { i.DeletionProtection = proto.Bool(true) })
		if _, err := u.delete("vm-1"); reason(err) != http.StatusText(http.StatusBadRequest)+" invalid" {
			t.Errorf("error %v", err)
		}
	})
}
