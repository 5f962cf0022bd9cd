package gce_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	compute "cloud.google.com/go/compute/apiv1"
	"cloud.google.com/go/compute/apiv1/computepb"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

const (
	project = "test-project"
	zone    = "us-central1-a"
	ubuntu  = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"
)

// quick makes every transition take a known time.
func quick() gce.Options {
	return gce.Options{Durations: gce.Durations{
		Provisioning: gce.Exactly(2 * time.Second), Staging: gce.Exactly(3 * time.Second),
		Stopping: gce.Exactly(10 * time.Second), Deleting: gce.Exactly(2 * time.Second),
		Suspending: gce.Exactly(30 * time.Second), Resuming: gce.Exactly(10 * time.Second),
		Repairing: gce.Exactly(time.Minute), Preempting: gce.Exactly(30 * time.Second),
		Disk: gce.Exactly(2 * time.Second), Other: gce.Exactly(time.Second), Accepting: gce.Exactly(500 * time.Millisecond),
	}}
}

// checked reaches a cloud, and fails the test when an answer is not one that
// the API's description allows.
type checked struct {
	t  *testing.T
	to http.RoundTripper
}

func (c checked) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.to.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if err := gce.CheckAnswer(r, resp.StatusCode, body); err != nil {
		c.t.Error(err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// user is the vendor's own client of a cloud.
type user struct {
	t     *testing.T
	cloud *gce.Cloud
	http  *http.Client

	instances    *compute.InstancesClient
	disks        *compute.DisksClient
	operations   *compute.ZoneOperationsClient
	reservations *compute.ReservationsClient
	firewalls    *compute.FirewallsClient
	images       *compute.ImagesClient
}

func options(c *http.Client) []option.ClientOption {
	return []option.ClientOption{option.WithHTTPClient(c), option.WithEndpoint(gce.Endpoint), option.WithoutAuthentication()}
}

func newUser(t *testing.T, o gce.Options) *user {
	t.Helper()
	cloud := gce.New(o)
	u := &user{t: t, cloud: cloud, http: &http.Client{Transport: checked{t, fakecloud.Transport{Handler: cloud}}}}
	var err [6]error
	ctx, with := t.Context(), options(u.http)
	u.instances, err[0] = compute.NewInstancesRESTClient(ctx, with...)
	u.disks, err[1] = compute.NewDisksRESTClient(ctx, with...)
	u.operations, err[2] = compute.NewZoneOperationsRESTClient(ctx, with...)
	u.reservations, err[3] = compute.NewReservationsRESTClient(ctx, with...)
	u.firewalls, err[4] = compute.NewFirewallsRESTClient(ctx, with...)
	u.images, err[5] = compute.NewImagesRESTClient(ctx, with...)
	if err := errors.Join(err[:]...); err != nil {
		t.Fatal(err)
	}
	return u
}

// bubble runs a test against a cloud in a bubble of its own.
func bubble(t *testing.T, o gce.Options, test func(t *testing.T, u *user)) {
	t.Helper()
	testbubble.Run(t, func(t *testing.T) { test(t, newUser(t, o)) })
}

// vm is an ordinary request for an instance.
func vm(name string, edits ...func(*computepb.Instance)) *computepb.InsertInstanceRequest {
	i := &computepb.Instance{
		Name: proto.String(name), MachineType: proto.String("zones/" + zone + "/machineTypes/e2-standard-2"),
		Labels: map[string]string{"controller": "c1", "pool": "p"},
		Disks: []*computepb.AttachedDisk{{
			Boot: proto.Bool(true), AutoDelete: proto.Bool(true),
			InitializeParams: &computepb.AttachedDiskInitializeParams{
				SourceImage: proto.String(ubuntu), DiskSizeGb: proto.Int64(50),
				DiskType: proto.String("zones/" + zone + "/diskTypes/pd-balanced"), Labels: map[string]string{"controller": "c1"},
			},
		}},
		NetworkInterfaces: []*computepb.NetworkInterface{{
			Network:       proto.String("global/networks/default"),
			AccessConfigs: []*computepb.AccessConfig{{Name: proto.String("External NAT"), Type: proto.String("ONE_TO_ONE_NAT")}},
		}},
		Metadata: &computepb.Metadata{Items: []*computepb.Items{{Key: proto.String("user-data"), Value: proto.String("#cloud-config\n")}}},
		Tags:     &computepb.Tags{Items: []string{"allow-docker"}},
	}
	for _, edit := range edits {
		edit(i)
	}
	return &computepb.InsertInstanceRequest{Project: project, Zone: zone, InstanceResource: i}
}

// insert begins a machine.
func (u *user) insert(name string, edits ...func(*computepb.Instance)) *compute.Operation {
	u.t.Helper()
	op, err := u.instances.Insert(u.t.Context(), vm(name, edits...))
	if err != nil {
		u.t.Fatal(err)
	}
	return op
}

// run makes a machine and waits until it runs.
func (u *user) run(name string, edits ...func(*computepb.Instance)) *computepb.Instance {
	u.t.Helper()
	u.done(u.insert(name, edits...), nil)
	return u.get(name)
}

func (u *user) get(name string) *computepb.Instance {
	u.t.Helper()
	i, err := u.instances.Get(u.t.Context(), &computepb.GetInstanceRequest{Project: project, Zone: zone, Instance: name})
	if err != nil {
		u.t.Fatal(err)
	}
	return i
}

// status is a machine's, "" where there is none.
func (u *user) status(name string) string {
	u.t.Helper()
	i, err := u.instances.Get(u.t.Context(), &computepb.GetInstanceRequest{Project: project, Zone: zone, Instance: name})
	if reason(err) == "Not Found notFound" {
		return ""
	}
	if err != nil {
		u.t.Fatal(err)
	}
	return i.GetStatus()
}

// done waits for an operation, as long as it takes, and gives it.
func (u *user) done(op *compute.Operation, err error) *computepb.Operation {
	u.t.Helper()
	if err != nil {
		u.t.Fatal(err)
	}
	o := u.ended(op, nil)
	if o.GetError() != nil {
		u.t.Fatalf("%s: %v", o.GetOperationType(), o.GetError())
	}
	return o
}

// ended is an operation when it is done, whatever it has come to.
func (u *user) ended(op *compute.Operation, err error) *computepb.Operation {
	u.t.Helper()
	if err != nil {
		u.t.Fatal(err)
	}
	for {
		o, err := u.operations.Wait(u.t.Context(), &computepb.WaitZoneOperationRequest{Project: project, Zone: last(op.Proto().GetZone()), Operation: op.Name()})
		if err != nil {
			u.t.Fatal(err)
		}
		if o.GetStatus() == computepb.Operation_DONE {
			return o
		}
	}
}

func last(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

// reason is what an error says in the API's shape: "Not Found notFound".
func reason(err error) string {
	var e *googleapi.Error
	if err == nil {
		return ""
	}
	if !errors.As(err, &e) {
		return err.Error()
	}
	if len(e.Errors) == 0 {
		return http.StatusText(e.Code)
	}
	return http.StatusText(e.Code) + " " + e.Errors[0].Reason
}

// codes are those of an operation's errors.
func codes(o *computepb.Operation) (all []string) {
	for _, e := range o.GetError().GetErrors() {
		all = append(all, e.GetCode())
	}
	return all
}

func TestEveryMethodOfTheDescriptionHasCode(t *testing.T) {
	t.Parallel()
	methods, coded := gce.MethodsAndHandlers()
	slices.Sort(methods)
	slices.Sort(coded)
	if diff := cmp.Diff(methods, coded); diff != "" {
		t.Errorf("methods of discovery.json and of the fake (-described +coded):\n%s", diff)
	}
}

func TestTheLifeOfAMachine(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		begun := time.Now()
		op := u.insert("vm-1")
		if s := op.Proto().GetStatus(); s != computepb.Operation_PENDING {
			t.Errorf("operation at first %s", s)
		}
		if s := u.status("vm-1"); s != "PROVISIONING" {
			t.Errorf("at first %s", s)
		}
		pass(2 * time.Second)
		if s := u.status("vm-1"); s != "STAGING" {
			t.Errorf("after provisioning %s", s)
		}
		u.done(op, nil)
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("it ran after %s", took)
		}
		i := u.get("vm-1")
		if i.GetStatus() != "RUNNING" || i.GetNetworkInterfaces()[0].GetNetworkIP() == "" || i.GetNetworkInterfaces()[0].GetAccessConfigs()[0].GetNatIP() == "" {
			t.Errorf("running: %v", i)
		}
		if d := i.GetDisks()[0]; !strings.HasSuffix(d.GetSource(), "/disks/vm-1") || !d.GetAutoDelete() || d.GetDiskSizeGb() != 50 {
			t.Errorf("boot disk %v", d)
		}
		internal, external := i.GetNetworkInterfaces()[0].GetNetworkIP(), i.GetNetworkInterfaces()[0].GetAccessConfigs()[0].GetNatIP()

		ctx := t.Context()
		u.done(u.instances.Suspend(ctx, &computepb.SuspendInstanceRequest{Project: project, Zone: zone, Instance: "vm-1"}))
		if i = u.get("vm-1"); i.GetStatus() != "SUSPENDED" || i.GetNetworkInterfaces()[0].GetAccessConfigs()[0].GetNatIP() != "" {
			t.Errorf("suspended: %v", i)
		}
		u.done(u.instances.Resume(ctx, &computepb.ResumeInstanceRequest{Project: project, Zone: zone, Instance: "vm-1"}))
		i = u.get("vm-1")
		if n := i.GetNetworkInterfaces()[0]; i.GetStatus() != "RUNNING" || n.GetNetworkIP() != internal || n.GetAccessConfigs()[0].GetNatIP() == external {
			t.Errorf("resumed: %s, inside %s (was %s), outside %s (was %s)", i.GetStatus(), n.GetNetworkIP(), internal, n.GetAccessConfigs()[0].GetNatIP(), external)
		}
		u.done(u.instances.Stop(ctx, &computepb.StopInstanceRequest{Project: project, Zone: zone, Instance: "vm-1"}))
		if s := u.status("vm-1"); s != "TERMINATED" {
			t.Errorf("stopped: %s", s)
		}
		u.done(u.instances.Start(ctx, &computepb.StartInstanceRequest{Project: project, Zone: zone, Instance: "vm-1"}))
		u.done(u.instances.Reset(ctx, &computepb.ResetInstanceRequest{Project: project, Zone: zone, Instance: "vm-1"}))
		if m, err := u.cloud.Machine("vm-1"); err != nil || m.Boot != 3 || m.Metadata["user-data"] != "#cloud-config\n" {
			t.Errorf("machine %+v, %v", m, err)
		}
		begun = time.Now()
		op, err := u.instances.Delete(ctx, &computepb.DeleteInstanceRequest{Project: project, Zone: zone, Instance: "vm-1"})
		if s := u.status("vm-1"); err != nil || s != "STOPPING" {
			t.Errorf("being deleted: %s, %v", s, err)
		}
		u.done(op, err)
		if took := time.Since(begun); u.status("vm-1") != "" || took != 12*time.Second {
			t.Errorf("deleted after %s: %q", took, u.status("vm-1"))
		}
		if living := u.cloud.Books.Living(); len(living) != 0 || len(u.cloud.Books.Ever()) != 2 {
			t.Errorf("the books have %v of %v", living, u.cloud.Books.Ever())
		}
		if n := u.cloud.Books.Calls()["compute.instances.insert"]; n != 1 {
			t.Errorf("%d inserts counted", n)
		}
	})
}

// TestErrorsAreOfTheShapeTheClientReads: reasons and details, not only texts.
func TestErrorsAreOfTheShapeTheClientReads(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		for _, c := range []struct {
			name            string
			err             *gce.Error
			reason, details string
		}{
			{"a stockout", gce.Stockout(zone, "e2-standard-2", "us-central1-f", "us-central1-b"), "Service Unavailable backendError", "resource_availability us-central1-b,us-central1-f"},
			{"a stockout without details", gce.PlainStockout(zone), "Service Unavailable backendError", " "},
			{"a quota", gce.QuotaExceeded("us-central1", "CPUS", 24), "Forbidden quotaExceeded", " "},
			{"a rate", gce.RateLimited(gce.Mutations), "Forbidden rateLimitExceeded", "RATE_LIMIT_EXCEEDED "},
			{"too many requests", gce.TooManyRequests(), "Too Many Requests rateLimitExceeded", " "},
			{"a passing failure", gce.Backend503(), "Service Unavailable backendError", " "},
			{"an internal error", gce.Internal500(), "Internal Server Error internalError", " "},
			{"a missing permission", gce.PermissionDenied("compute.instances.create", "projects/p"), "Forbidden forbidden", " "},
			{"an API that is off", gce.APIDisabled(project), "Forbidden accessNotConfigured", "SERVICE_DISABLED "},
			{"a token that is over", gce.TokenExpired(), "Unauthorized authError", "ACCESS_TOKEN_EXPIRED "},
		} {
			u.cloud.Faults.Add(fakecloud.Fault{Method: "compute.instances.insert", Times: 1, Err: c.err})
			_, err := u.instances.Insert(t.Context(), vm("vm-1"))
			// The client's own APIError reads no details from an answer that has the
			// API's errors[] too: its parser refuses a field it does not know.
			var e *googleapi.Error
			if !errors.As(err, &e) {
				t.Errorf("%s: %T is no error of the API", c.name, err)
				continue
			}
			got := " "
			for _, d := range e.Details {
				info, _ := d.(map[string]any)
				metadata, _ := info["metadata"].(map[string]any)
				zones, _ := metadata["zonesAvailable"].(string)
				got = fmt.Sprint(info["reason"], " ", zones)
			}
			if reason(err) != c.reason || got != c.details {
				t.Errorf("%s: %q with %q, want %q with %q", c.name, reason(err), got, c.reason, c.details)
			}
		}
		if n := len(u.cloud.Books.Ever()); n != 0 {
			t.Errorf("%d things were made by calls that were refused", n)
		}
	})
}

// pass lets so much of the bubble's time go by. Nothing waits for it.
func pass(d time.Duration) { <-time.After(d) }
