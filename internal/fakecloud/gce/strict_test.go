package gce_test

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	compute "cloud.google.com/go/compute/apiv1"
	"cloud.google.com/go/compute/apiv1/computepb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
)

// raw sends a request as it is and gives the status with the reason and message
// of its answer.
func (u *user) raw(method, path, body string, header ...string) (status int, answer string) {
	u.t.Helper()
	r, err := http.NewRequestWithContext(u.t.Context(), method, gce.Endpoint+path, strings.NewReader(body))
	if err != nil {
		u.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := u.http.Do(r)
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	var e struct {
		Error struct {
			Code    int
			Message string
			Errors  []struct{ Reason, Domain, Message string }
		}
	}
	if resp.StatusCode < 300 || json.Unmarshal(b, &e) != nil {
		return resp.StatusCode, string(b)
	}
	if e.Error.Code != resp.StatusCode || len(e.Error.Errors) != 1 || e.Error.Errors[0].Message != e.Error.Message || e.Error.Errors[0].Domain == "" {
		u.t.Errorf("an error not of the API's shape: %s", b)
		return resp.StatusCode, string(b)
	}
	return resp.StatusCode, e.Error.Errors[0].Reason + ": " + e.Error.Message
}

const (
	here  = "/compute/v1/projects/" + project + "/zones/" + zone
	plain = `{"name":"x","machineType":"zones/us-central1-a/machineTypes/e2-micro","networkInterfaces":[{"network":"global/networks/default"}],
		"disks":[{"boot":true,"initializeParams":{"sourceImage":"projects/debian-cloud/global/images/family/debian-12"}}]}`
)

func TestWhatTheDescriptionDoesNotHaveIsRefused(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		u.run("vm-1")
		for _, c := range []struct {
			name, method, path, body string
			status                   int
			says                     string
		}{
			{"a plain list", "GET", here + "/instances", "", 200, ""},
			{"a path that is none", "GET", here + "/machines", "", 404, "Error 404"},
			{"a path of another version", "GET", strings.Replace(here, "v1", "beta", 1) + "/instances", "", 404, "Error 404"},
			{"a method that is none", "PUT", here + "/instances/vm-1", "{}", 404, "Error 404"},
			{"a method of the API that the fake does not have", "POST", here + "/instances/vm-1/addAccessConfig", "{}", 404, "Error 404"},
			{"an unknown parameter", "GET", here + "/instances?maxresults=3", "", 400, `Unknown name "maxresults"`},
			{"a parameter of another method", "POST", here + "/instances/vm-1/start?discardLocalSsd=true", "", 400, "Cannot bind query parameter"},
			{"a parameter the fake does not model", "GET", here + "/instances?fields=items", "", 501, "does not model the query parameter fields"},
			{"a number that is none", "GET", here + "/instances?maxResults=ten", "", 400, "TYPE_UINT32"},
			{"a negative number of results", "GET", here + "/instances?maxResults=-1", "", 400, "TYPE_UINT32"},
			{"too many results", "GET", here + "/instances?maxResults=501", "", 400, "0 to 500"},
			{"a parameter that older versions had", "GET", here + "/instances?returnPartialSuccess=true", "", 400, "Cannot bind query parameter"},
			{"a boolean that is none", "GET", "/compute/v1/projects/" + project + "/aggregated/instances?includeAllScopes=yes", "", 400, "TYPE_BOOL"},
			{"a parameter given twice", "GET", here + "/instances?maxResults=1&maxResults=2", "", 400, "is given 2 times"},
			{"a port beyond the last", "GET", here + "/instances/vm-1/serialPort?port=5", "", 400, "less than or equal to 4"},
			{"an offset that is no number", "GET", here + "/instances/vm-1/serialPort?start=end", "", 400, "TYPE_INT64"},
			{"a name against the pattern", "GET", here + "/instances/VM_1", "", 400, "Must be a match of regex"},
			{"a project against the pattern", "GET", "/compute/v1/projects/Test/zones/" + zone + "/instances", "", 400, "Must be a match of regex"},
			{"a project that is none", "GET", "/compute/v1/projects/other/zones/" + zone + "/instances", "", 404, "Failed to find project other"},
			{"a zone that is none", "GET", "/compute/v1/projects/" + project + "/zones/us-central1-q/instances", "", 400, "Unknown zone"},
			{"a region that is none", "GET", "/compute/v1/projects/" + project + "/regions/mars/subnetworks", "", 400, "Unknown region"},
			{"a missing parameter", "POST", here + "/instances/vm-1/detachDisk", "", 400, "Required parameter: deviceName"},
			{"a request id that is no UUID", "POST", here + "/instances/vm-1/start?requestId=1", "", 400, "valid UUID"},
			{"the request id zero", "POST", here + "/instances/vm-1/start?requestId=00000000-0000-0000-0000-000000000000", "", 400, "valid UUID"},
			{"a page of another list", "GET", here + "/instances?pageToken=YQ==", "", 400, "not of this list"},
			{"an order that is none", "GET", here + "/instances?orderBy=status", "", 400, "Sorting by this"},
			{"a body where there is none", "POST", here + "/instances/vm-1/start", `{"a":1}`, 400, "has no body"},
			{"no body", "POST", here + "/instances", "", 400, "Invalid JSON payload"},
			{"half a body", "POST", here + "/instances", `{"name":"x"`, 400, "Invalid JSON payload"},
			{"two bodies", "POST", here + "/instances", `{} {}`, 400, "Expected end of input"},
			{"a body that is a list", "POST", here + "/instances", `[]`, 400, "not an object"},
			{"an empty body", "POST", here + "/instances", `{}`, 400, "Required field 'resource.name'"},
			{"an unknown property", "POST", here + "/instances", edit(plain, `"name"`, `"machine_type":"e2-micro","name"`), 400, `Unknown name "machine_type" at 'resource'`},
			{"an unknown property deep inside", "POST", here + "/instances", edit(plain, `"boot"`, `"bootable":true,"boot"`), 400, `Unknown name "bootable" at 'resource.disks[0]'`},
			{"text where a boolean is", "POST", here + "/instances", edit(plain, `"boot":true`, `"boot":"true"`), 400, "TYPE_BOOL"},
			{"a long number that is no text", "POST", here + "/instances", edit(plain, `"initializeParams":{`, `"initializeParams":{"diskSizeGb":50,`), 400, "TYPE_INT64"},
			{"a long number with a unit", "POST", here + "/instances", edit(plain, `"initializeParams":{`, `"initializeParams":{"diskSizeGb":"50GB",`), 400, "TYPE_INT64"},
			{"a value that is no choice", "POST", here + "/instances", edit(plain, `"name"`, `"scheduling":{"provisioningModel":"CHEAP"},"name"`), 400, "TYPE_ENUM"},
			{"an object where a list is", "POST", here + "/instances", edit(plain, `"networkInterfaces":[{"network":"global/networks/default"}]`, `"networkInterfaces":{}`), 400, "TYPE_ARRAY"},
			{"a list where an object is", "POST", here + "/instances", edit(plain, `"name"`, `"labels":[],"name"`), 400, "TYPE_OBJECT"},
			{"a label that is a number", "POST", here + "/instances", edit(plain, `"name"`, `"labels":{"a":1},"name"`), 400, "TYPE_STRING"},
			{"metadata without a value", "POST", here + "/instances", edit(plain, `"name"`, `"metadata":{"items":[{"key":"a"}]},"name"`), 400, "Required field 'resource.metadata.items[0].value'"},
			{"a fingerprint that is no base64", "POST", here + "/instances/vm-1/setLabels", `{"labels":{},"labelFingerprint":"?"}`, 400, "TYPE_BYTES"},
			{"a property the fake does not model", "POST", here + "/instances", edit(plain, `"name"`, `"hostname":"a.b.c","name"`), 501, "does not model resource.hostname"},
			{"what only answers have is ignored", "POST", here + "/instances", edit(plain, `"name"`, `"status":"RUNNING","id":"7","kind":"compute#instance","name"`), 200, ""},
		} {
			if status, says := u.raw(c.method, c.path, c.body); status != c.status || !strings.Contains(says, c.says) {
				t.Errorf("%s: %d %s, want %d with %q", c.name, status, says, c.status, c.says)
			}
		}
		if status, says := u.raw("POST", here+"/instances", plain, "Content-Type", "text/plain"); status != 400 || !strings.Contains(says, "content type") {
			t.Errorf("a body that is no JSON by its type: %d %s", status, says)
		}
		if _, err := u.cloud.Machine("x"); err != nil || len(u.cloud.Machines()) != 2 {
			t.Errorf("of all these one was made: %v, %v", u.cloud.Machines(), err)
		}
		if n := u.cloud.Books.Calls()["unknown"]; n != 4 {
			t.Errorf("%d unknown calls are counted", n)
		}
	})
}

func edit(body, old, repl string) string { return strings.Replace(body, old, repl, 1) }

// TestAnUnknownParameterInARealClientsRequestFails: it is the client's own
// request that is changed on its way.
func TestAnUnknownParameterInARealClientsRequestFails(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		next := u.http.Transport
		u.http.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			r = r.Clone(r.Context())
			q := r.URL.Query()
			q.Set("dryRun", "true")
			r.URL.RawQuery = q.Encode()
			return next.RoundTrip(r)
		})
		_, err := u.instances.Insert(t.Context(), vm("vm-1"))
		if reason(err) != "Bad Request invalid" || !strings.Contains(err.Error(), `Unknown name "dryRun"`) {
			t.Errorf("error %v", err)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestWhatAMachineMayNotBe(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 80)
	type edits = func(*computepb.Instance)
	disk := func(i *computepb.Instance) *computepb.AttachedDiskInitializeParams {
		return i.GetDisks()[0].GetInitializeParams()
	}
	for _, c := range []struct {
		name   string
		edit   edits
		reason string
		says   string
	}{
		{"a name in capitals", func(i *computepb.Instance) { i.Name = proto.String("VM") }, "Bad Request invalid", "resource.name"},
		{"a name of 80 characters", func(i *computepb.Instance) { i.Name = proto.String(long) }, "Bad Request invalid", "resource.name"},
		{"no name", func(i *computepb.Instance) { i.Name = nil }, "Bad Request required", "resource.name"},
		{"a label's key in capitals", func(i *computepb.Instance) { i.Labels = map[string]string{"Pool": "p"} }, "Bad Request invalid", "Label key 'Pool'"},
		{"a label's value in capitals", func(i *computepb.Instance) { i.Labels = map[string]string{"pool": "P"} }, "Bad Request invalid", "Label value 'P'"},
		{"a label's key that begins with a digit", func(i *computepb.Instance) { i.Labels = map[string]string{"1": ""} }, "Bad Request invalid", "Label key"},
		{"a label of 80 characters", func(i *computepb.Instance) { i.Labels = map[string]string{"a": long} }, "Bad Request invalid", "Label value"},
		{"65 labels", func(i *computepb.Instance) {
			i.Labels = map[string]string{}
			for n := range 65 {
				i.Labels["l"+strings.Repeat("x", n%60)+string(rune('a'+n/60))] = ""
			}
		}, "Bad Request invalid", "exceeds the limit of 64"},
		{"metadata with a bad key", func(i *computepb.Instance) { i.Metadata.Items[0].Key = proto.String("a.b") }, "Bad Request invalid", "items[0].key"},
		{"metadata with one key twice", func(i *computepb.Instance) { i.Metadata.Items = append(i.Metadata.Items, i.Metadata.Items[0]) }, "Bad Request invalid", "duplicate keys"},
		{"user data above 256 KiB", func(i *computepb.Instance) {
			i.Metadata.Items[0].Value = proto.String(strings.Repeat("x", 256<<10+1))
		}, "Bad Request invalid", "too large"},
		{"metadata above 512 KB", func(i *computepb.Instance) {
			for _, k := range []string{"a", "b", "c"} {
				i.Metadata.Items = append(i.Metadata.Items, &computepb.Items{Key: proto.String(k), Value: proto.String(strings.Repeat("x", 200<<10))})
			}
		}, "Bad Request invalid", "maximum total size"},
		{"a tag in capitals", func(i *computepb.Instance) { i.Tags.Items = []string{"Web"} }, "Bad Request invalid", "tags.items[0]"},
		{"no machine type", func(i *computepb.Instance) { i.MachineType = nil }, "Bad Request required", "machineType"},
		{"a machine type that is no URL", func(i *computepb.Instance) { i.MachineType = proto.String("e2-micro") }, "Bad Request invalid", "URL is malformed"},
		{"a machine type of another zone", func(i *computepb.Instance) {
			i.MachineType = proto.String("zones/us-central1-b/machineTypes/e2-micro")
		}, "Bad Request invalid", "same zone"},
		{"a machine type that is none", func(i *computepb.Instance) {
			i.MachineType = proto.String("zones/us-central1-a/machineTypes/m9-huge")
		}, "Bad Request invalid", "does not exist"},
		{"no disks", func(i *computepb.Instance) { i.Disks = nil }, "Bad Request required", "resource.disks"},
		{"no boot disk", func(i *computepb.Instance) { i.Disks[0].Boot = nil }, "Bad Request invalid", "Boot disk must be specified"},
		{"an image that is none", func(i *computepb.Instance) {
			disk(i).SourceImage = proto.String("projects/debian-cloud/global/images/debian-1")
		}, "Not Found notFound", "images/debian-1"},
		{"an image family that is none", func(i *computepb.Instance) {
			disk(i).SourceImage = proto.String("projects/debian-cloud/global/images/family/debian-1")
		}, "Not Found notFound", "family/debian-1"},
		{"an image family that is over", func(i *computepb.Instance) {
			disk(i).SourceImage = proto.String("projects/ubuntu-os-cloud/global/images/family/ubuntu-1604-lts")
		}, "Not Found notFound", "ubuntu-1604-lts"},
		{"an image that may not be read", func(i *computepb.Instance) {
			disk(i).SourceImage = proto.String("projects/secret/global/images/golden")
		}, "Forbidden forbidden", "compute.images.useReadOnly"},
		{"an image that is no URL", func(i *computepb.Instance) { disk(i).SourceImage = proto.String("ubuntu") }, "Bad Request invalid", "URL is malformed"},
		{"an image of another architecture", func(i *computepb.Instance) {
			disk(i).SourceImage = proto.String("projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-arm64")
		}, "Bad Request invalid", "not compatible"},
		{"a disk smaller than its image", func(i *computepb.Instance) { disk(i).DiskSizeGb = proto.Int64(5) }, "Bad Request invalid", "smaller than the image size"},
		{"a disk type that is none", func(i *computepb.Instance) {
			disk(i).DiskType = proto.String("zones/us-central1-a/diskTypes/floppy")
		}, "Bad Request invalid", "does not exist"},
		{"a disk type of another zone", func(i *computepb.Instance) {
			disk(i).DiskType = proto.String("zones/us-east1-b/diskTypes/pd-ssd")
		}, "Bad Request invalid", "in the zone of the disk"},
		{"a disk type that the machine type does not take", func(i *computepb.Instance) {
			i.MachineType = proto.String("zones/us-central1-a/machineTypes/c4d-standard-4")
		}, "Bad Request invalid", "pd-balanced disk type cannot be used"},
		{"a disk's label in capitals", func(i *computepb.Instance) { disk(i).Labels = map[string]string{"A": ""} }, "Bad Request invalid", "initializeParams.labels"},
		{"a disk that exists", func(i *computepb.Instance) { disk(i).DiskName = proto.String("data") }, "Conflict alreadyExists", "disks/data"},
		{"a disk that does not", func(i *computepb.Instance) {
			i.Disks = append(i.Disks, &computepb.AttachedDisk{Source: proto.String("zones/us-central1-a/disks/none")})
		}, "Not Found notFound", "disks/none"},
		{"a disk of another zone", func(i *computepb.Instance) {
			i.Disks = append(i.Disks, &computepb.AttachedDisk{Source: proto.String("projects/test-project/zones/us-central1-b/disks/data")})
		}, "Bad Request invalid", "same zone as the instance"},
		{"one device name twice", func(i *computepb.Instance) {
			i.Disks[0].DeviceName = proto.String("d")
			i.Disks = append(i.Disks, &computepb.AttachedDisk{Source: proto.String("zones/us-central1-a/disks/data"), DeviceName: proto.String("d")})
		}, "Bad Request invalid", "deviceName"},
		{"no network", func(i *computepb.Instance) { i.NetworkInterfaces = nil }, "Bad Request invalid", "At least one network interface"},
		{"a network that is none", func(i *computepb.Instance) {
			i.NetworkInterfaces[0].Network = proto.String("global/networks/nowhere")
		}, "Bad Request invalid", "network resource cannot be found"},
		{"a network without a subnetwork of its own", func(i *computepb.Instance) {
			i.NetworkInterfaces[0].Network = proto.String("global/networks/custom")
		}, "Bad Request invalid", "subnetwork must be specified"},
		{"a subnetwork of another region", func(i *computepb.Instance) {
			i.NetworkInterfaces[0].Subnetwork = proto.String("regions/us-east1/subnetworks/default")
		}, "Bad Request invalid", "in the region of the instance"},
		{"a subnetwork that is none", func(i *computepb.Instance) {
			i.NetworkInterfaces[0].Subnetwork = proto.String("regions/us-central1/subnetworks/nowhere")
		}, "Bad Request invalid", "subnetwork resource cannot be found"},
		{"a limited run time without an end", func(i *computepb.Instance) {
			i.Scheduling = &computepb.Scheduling{MaxRunDuration: &computepb.Duration{Seconds: proto.Int64(3600)}}
		}, "Bad Request invalid", "instance termination action"},
		{"a run time of 5 s", func(i *computepb.Instance) {
			i.Scheduling = &computepb.Scheduling{MaxRunDuration: &computepb.Duration{Seconds: proto.Int64(5)}, InstanceTerminationAction: proto.String("DELETE")}
		}, "Bad Request invalid", "between 30 seconds and 120 days"},
		{"an end without a limited run time", func(i *computepb.Instance) {
			i.Scheduling = &computepb.Scheduling{InstanceTerminationAction: proto.String("DELETE")}
		}, "Bad Request invalid", "needs provisioning model SPOT"},
		{"a spot machine that restarts", func(i *computepb.Instance) {
			i.Scheduling = &computepb.Scheduling{ProvisioningModel: proto.String("SPOT"), AutomaticRestart: proto.Bool(true)}
		}, "Bad Request invalid", "automaticRestart be false"},
		{"a spot machine that migrates", func(i *computepb.Instance) {
			i.Scheduling = &computepb.Scheduling{ProvisioningModel: proto.String("SPOT"), OnHostMaintenance: proto.String("MIGRATE")}
		}, "Bad Request invalid", "onHostMaintenance be TERMINATE"},
		{"an accelerator with migration", func(i *computepb.Instance) {
			i.MachineType = proto.String("zones/us-central1-a/machineTypes/n1-standard-4")
			i.GuestAccelerators = []*computepb.AcceleratorConfig{{AcceleratorType: proto.String("zones/us-central1-a/acceleratorTypes/nvidia-tesla-t4"), AcceleratorCount: proto.Int32(1)}}
			i.Scheduling = &computepb.Scheduling{OnHostMaintenance: proto.String("MIGRATE")}
		}, "Bad Request invalid", "do not support live migration"},
		{"an accelerator that is none", func(i *computepb.Instance) {
			i.GuestAccelerators = []*computepb.AcceleratorConfig{{AcceleratorType: proto.String("zones/us-central1-a/acceleratorTypes/abacus"), AcceleratorCount: proto.Int32(1)}}
		}, "Bad Request invalid", "acceleratorType"},
		{"nested virtualisation where there is none", func(i *computepb.Instance) {
			i.AdvancedMachineFeatures = &computepb.AdvancedMachineFeatures{EnableNestedVirtualization: proto.Bool(true)}
		}, "Bad Request invalid", "Nested virtualization"},
		{"a shielded machine of an old image", func(i *computepb.Instance) {
			disk(i).SourceImage = proto.String("projects/ubuntu-os-cloud/global/images/ubuntu-1604-xenial-v20170721")
			i.ShieldedInstanceConfig = &computepb.ShieldedInstanceConfig{EnableVtpm: proto.Bool(true)}
		}, "Bad Request invalid", "UEFI-compatible"},
		{"integrity monitoring without a TPM", func(i *computepb.Instance) {
			i.ShieldedInstanceConfig = &computepb.ShieldedInstanceConfig{EnableVtpm: proto.Bool(false), EnableIntegrityMonitoring: proto.Bool(true)}
		}, "Bad Request invalid", "virtual TPM"},
		{"a service account without scopes", func(i *computepb.Instance) {
			i.ServiceAccounts = []*computepb.ServiceAccount{{Email: proto.String("default")}}
		}, "Bad Request required", "scopes"},
		{"a scope that is no URL", func(i *computepb.Instance) {
			i.ServiceAccounts = []*computepb.ServiceAccount{{Email: proto.String("default"), Scopes: []string{"cloud-platform"}}}
		}, "Bad Request invalid", "scopes[0]"},
		{"a service account that is none", func(i *computepb.Instance) {
			i.ServiceAccounts = []*computepb.ServiceAccount{{Email: proto.String("me@example.com"), Scopes: []string{"https://www.googleapis.com/auth/cloud-platform"}}}
		}, "Bad Request invalid", "was not found"},
		{"a reservation that is none", func(i *computepb.Instance) {
			i.ReservationAffinity = &computepb.ReservationAffinity{
				ConsumeReservationType: proto.String("SPECIFIC_RESERVATION"), Key: proto.String("compute.googleapis.com/reservation-name"), Values: []string{"r"},
			}
		}, "Not Found notFound", "reservations/r"},
		{"a name that is taken", func(i *computepb.Instance) { i.Name = proto.String("taken") }, "Conflict alreadyExists", "instances/taken"},
		{"a name that a disk has", func(i *computepb.Instance) { i.Name = proto.String("data") }, "Conflict alreadyExists", "disks/data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := quick()
			o.Networks = []gce.Network{{Project: project, Name: "default", Auto: true}, {Project: project, Name: "custom"}}
			o.Images = append(slices.Clone(gce.UsualImages()), gce.Image{Project: "secret", Name: "golden", Private: true})
			bubble(t, o, func(t *testing.T, u *user) {
				u.run("taken")
				u.disk("data", 20)
				ever := len(u.cloud.Books.Ever())
				_, err := u.instances.Insert(t.Context(), vm("vm-1", c.edit))
				if reason(err) != c.reason || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want %s with %q", err, c.reason, c.says)
				}
				if n := len(u.cloud.Books.Ever()); n != ever {
					t.Errorf("%d things were made for it", n-ever)
				}
				if len(u.cloud.Machines()) != 1 {
					t.Errorf("machines: %v", u.cloud.Machines())
				}
			})
		})
	}
}

// disk makes one of so many GB.
func (u *user) disk(name string, size int64) {
	u.t.Helper()
	u.done(u.disks.Insert(u.t.Context(), &computepb.InsertDiskRequest{Project: project, Zone: zone, DiskResource: &computepb.Disk{
		Name: proto.String(name), SizeGb: proto.Int64(size), Labels: map[string]string{"kind": "gitspace"},
	}}))
}

// FuzzBody: no body brings the checks down, and one that passes them is passed
// again when it comes back as the client writes it.
func FuzzBody(f *testing.F) {
	f.Add(plain)
	b, err := protojson.Marshal(vm("vm-1").GetInstanceResource())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(b))
	for _, s := range []string{`{}`, `null`, `{"name":null}`, `{"disks":[null]}`, `{"labels":{"":""}}`, `{"scheduling":{"maxRunDuration":{"seconds":"1e3"}}}`, `{"name":"a","name":"b"}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		check := func(body string) error {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, gce.Endpoint, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			return gce.ReadBody("compute.instances.insert", r)
		}
		if check(body) != nil {
			return
		}
		i := &computepb.Instance{}
		if err := (protojson.UnmarshalOptions{}).Unmarshal([]byte(body), i); err != nil {
			return // two spellings of one name, which only the client minds
		}
		again, err := protojson.Marshal(i)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(string(again)); err != nil && !strings.Contains(err.Error(), "Required field") {
			t.Errorf("%s passes, %s does not: %v", body, again, err)
		}
	})
}

// TestTheClientReadsEveryCatalogue: what the fake always has, as the client reads
// it.
func TestTheClientReadsEveryCatalogue(t *testing.T) {
	t.Parallel()
	bubble(t, quick(), func(t *testing.T, u *user) {
		ctx, with := t.Context(), options(u.http)
		regions, err := compute.NewRegionsRESTClient(ctx, with...)
		if err != nil {
			t.Fatal(err)
		}
		r, err := regions.Get(ctx, &computepb.GetRegionRequest{Project: project, Region: "us-central1"})
		if err != nil || len(r.GetZones()) != 4 || len(r.GetQuotas()) == 0 {
			t.Errorf("region %v, %v", r, err)
		}
		zones, err := compute.NewZonesRESTClient(ctx, with...)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for z, err := range zones.List(ctx, &computepb.ListZonesRequest{Project: project}).All() {
			if err != nil {
				t.Fatal(err)
			}
			seen[z.GetName()] = true
		}
		if len(seen) != 7 {
			t.Errorf("zones %v", slices.Sorted(maps.Keys(seen)))
		}
		types, err := compute.NewMachineTypesRESTClient(ctx, with...)
		if err != nil {
			t.Fatal(err)
		}
		if mt, err := types.Get(ctx, &computepb.GetMachineTypeRequest{Project: project, Zone: zone, MachineType: "e2-standard-4"}); err != nil || mt.GetGuestCpus() != 4 || mt.GetMemoryMb() != 16384 {
			t.Errorf("machine type %v, %v", mt, err)
		}
		if _, err := types.Get(ctx, &computepb.GetMachineTypeRequest{Project: project, Zone: zone, MachineType: "none"}); reason(err) != "Not Found notFound" {
			t.Errorf("no machine type: %v", err)
		}
		if img, err := u.images.GetFromFamily(ctx, &computepb.GetFromFamilyImageRequest{Project: "ubuntu-os-cloud", Family: "ubuntu-2404-lts-amd64"}); err != nil || img.GetName() != "ubuntu-2404-noble-amd64-v20260801" {
			t.Errorf("the newest of a family: %v, %v", img.GetName(), err)
		}
		networks, err := compute.NewNetworksRESTClient(ctx, with...)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := networks.Get(ctx, &computepb.GetNetworkRequest{Project: project, Network: "default"}); err != nil || len(n.GetSubnetworks()) != 2 {
			t.Errorf("network %v, %v", n, err)
		}
		subs, err := compute.NewSubnetworksRESTClient(ctx, with...)
		if err != nil {
			t.Fatal(err)
		}
		for s, err := range subs.List(ctx, &computepb.ListSubnetworksRequest{Project: project, Region: "us-east1"}).All() {
			if err != nil || s.GetIpCidrRange() == "" {
				t.Errorf("subnetwork %v, %v", s, err)
			}
		}
		projects, err := compute.NewProjectsRESTClient(ctx, with...)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := projects.Get(ctx, &computepb.GetProjectRequest{Project: project}); err != nil || p.GetDefaultServiceAccount() == "" {
			t.Errorf("project %v, %v", p, err)
		}
		for _, path := range []string{"/global/images", "/global/networks", "/regions", "/zones/" + zone, "/zones/" + zone + "/machineTypes", "/zones/" + zone + "/diskTypes", "/zones/" + zone + "/diskTypes/pd-ssd", "/global/firewalls", "/regions/us-east1/operations", "/global/operations", "/regions/us-east1/subnetworks/default"} {
			if status, says := u.raw("GET", "/compute/v1/projects/"+project+path, ""); status != 200 {
				t.Errorf("%s: %d %s", path, status, says)
			}
		}
	})
}
