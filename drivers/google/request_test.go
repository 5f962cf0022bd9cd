//go:build !no_google

package google

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
)

// account is how the specs of these tests begin.
const ofProject = "{account: {project_id: test-project}, image: " + ubuntu + ", "

// What each key of a spec does to a machine, as the cloud shows it.
func TestKeysReachTheCloud(t *testing.T) {
	t.Parallel()
	networks := []gce.Network{{Project: testProject, Name: "default", Auto: true}, {Project: testProject, Name: "own", Subnetworks: []gce.Subnetwork{
		{Name: "sub", Region: "us-central1", Range: netip.MustParsePrefix("10.9.0.0/24")},
	}}}
	for _, tt := range []struct {
		name, spec string
		edit       func(*drivers.Spec)
		got        func(i *instance) any
		want       any
	}{
		{"machine_type", ofProject + "machine_type: e2-micro}", nil, func(i *instance) any { return last(i.GetMachineType()) }, "e2-micro"},
		{"size stands for machine_type", ofProject + "size: e2-micro}", nil, func(i *instance) any { return last(i.GetMachineType()) }, "e2-micro"},
		{"a request's machine type", small, func(s *drivers.Spec) { s.MachineType = "n2-standard-2" }, func(i *instance) any { return last(i.GetMachineType()) }, "n2-standard-2"},
		{"labels", ofProject + "labels: {team: ci}}", nil, func(i *instance) any { return i.GetLabels()["team"] }, "ci"},
		{"tags, and the machine's name", ofProject + "tags: [a, b]}", func(s *drivers.Spec) { s.Name = "pool-tags" }, func(i *instance) any { return i.GetTags().GetItems() }, []string{"a", "b", "pool-tags"}},
		{"user_data_key", ofProject + "user_data_key: startup-script}", nil, func(i *instance) any { return metadata(i, "startup-script") }, "#cloud-config\n"},
		{"disk.size", ofProject + "disk: {size: 33}}", nil, func(i *instance) any { return i.GetDisks()[0].GetDiskSizeGb() }, int64(33)},
		{"a request's disk", small, func(s *drivers.Spec) { s.DiskGiB = 44 }, func(i *instance) any { return i.GetDisks()[0].GetDiskSizeGb() }, int64(44)},
		{"the boot disk goes with the machine", small, nil, func(i *instance) any { return i.GetDisks()[0].GetAutoDelete() && i.GetDisks()[0].GetBoot() }, true},
		{"the boot disk is named after its pool", small, nil, func(i *instance) any { return i.GetDisks()[0].GetDeviceName() }, "pool"},
		{"network by default", small, nil, func(i *instance) any { return last(i.GetNetworkInterfaces()[0].GetNetwork()) }, "default"},
		{"network and subnetwork", ofProject + "network: own, subnetwork: sub}", nil, func(i *instance) any { return last(i.GetNetworkInterfaces()[0].GetSubnetwork()) }, "sub"},
		{"subnetwork alone", ofProject + "subnetwork: regions/us-central1/subnetworks/sub}", nil, func(i *instance) any { return last(i.GetNetworkInterfaces()[0].GetNetwork()) }, "own"},
		{"networks, their tags and zones", ofProject + "networks: [{network: own, subnetwork: sub, tags: [t], zones: [" + zoneC + "]}]}", nil, func(i *instance) any {
			return []string{last(i.GetNetworkInterfaces()[0].GetNetwork()), i.GetTags().GetItems()[0], last(i.GetZone())}
		}, []string{"own", "t", zoneC}},
		{"an address outside", small, nil, func(i *instance) any { return len(i.GetNetworkInterfaces()[0].GetAccessConfigs()) }, 1},
		{"private_ip", ofProject + "private_ip: true}", nil, func(i *instance) any { return len(i.GetNetworkInterfaces()[0].GetAccessConfigs()) }, 0},
		{"zone", ofProject + "zone: [" + zoneB + "]}", nil, func(i *instance) any { return last(i.GetZone()) }, zoneB},
		{"a request's zone", small, func(s *drivers.Spec) { s.Zone, s.Zones = zoneC, []string{zoneB} }, func(i *instance) any { return last(i.GetZone()) }, zoneC},
		{"a variant's zones", small, in(zoneB), func(i *instance) any { return last(i.GetZone()) }, zoneB},
		{"the default service account, and scopes", ofProject + "scopes: https://www.googleapis.com/auth/devstorage.read_only}", nil, func(i *instance) any {
			return i.GetServiceAccounts()[0].GetScopes()
		}, []string{"https://www.googleapis.com/auth/devstorage.read_only"}},
		{"a service account", "{account: {project_id: test-project, service_account_email: r@p.iam.gserviceaccount.com}, image: " + ubuntu + "}", nil, func(i *instance) any {
			return i.GetServiceAccounts()[0].GetEmail()
		}, "r@p.iam.gserviceaccount.com"},
		{"no service account", "{account: {project_id: test-project, no_service_account: true}, image: " + ubuntu + "}", nil, func(i *instance) any { return len(i.GetServiceAccounts()) }, 0},
		{"nested virtualisation", ofProject + "enable_nested_virtualization: true}", nil, func(i *instance) any { return i.GetAdvancedMachineFeatures().GetEnableNestedVirtualization() }, true},
		{"gpu is not moved while its host is serviced", ofProject + "machine_type: g2-standard-4, gpu: true}", nil, func(i *instance) any { return i.GetScheduling().GetOnHostMaintenance() }, "TERMINATE"},
		{"others are", small, nil, func(i *instance) any { return i.GetScheduling().GetOnHostMaintenance() }, "MIGRATE"},
		{"market_type", ofProject + "market_type: spot}", nil, func(i *instance) any { return i.GetScheduling().GetProvisioningModel() }, "SPOT"},
		{"never spot for who lives long", ofProject + "market_type: spot}", forGood, func(i *instance) any { return i.GetScheduling().GetProvisioningModel() }, "STANDARD"},
		{"a build ends itself at its deadline", small, nil, func(i *instance) any {
			return []any{i.GetScheduling().GetMaxRunDuration().GetSeconds(), i.GetScheduling().GetInstanceTerminationAction()}
		}, []any{int64(97 * 3600), "DELETE"}},
		{"who lives long does not", small, forGood, func(i *instance) any { return i.GetScheduling().GetMaxRunDuration().GetSeconds() }, int64(0)},
		{"a machine restarts after its host has failed", small, nil, func(i *instance) any { return i.GetScheduling().GetAutomaticRestart() }, true},
		{"a vendor's image boots securely", small, nil, func(i *instance) any { return i.GetShieldedInstanceConfig().GetEnableSecureBoot() }, true},
		{"an old image cannot", "{account: {project_id: test-project}}", nil, func(i *instance) any { return i.GetShieldedInstanceConfig() == nil }, true},
		{"keys of the project do not open it", small, nil, func(i *instance) any { return metadata(i, "block-project-ssh-keys") }, "TRUE"},
		{"facts that machines would act on, as labels only", small, func(s *drivers.Spec) {
			s.Facts = map[string]string{"startup-script": "rm -rf /", "ssh-keys": "me", "enable-oslogin": "FALSE"}
		}, func(i *instance) any {
			return metadata(i, "startup-script") + metadata(i, "ssh-keys") + metadata(i, "enable-oslogin") + i.GetLabels()["ssh-keys"]
		}, "me"},
		{"facts as they are, and as labels", small, func(s *drivers.Spec) { s.Facts = map[string]string{"harness-account-id": "A_b C"} }, func(i *instance) any {
			return []string{metadata(i, "harness-account-id"), i.GetLabels()["harness-account-id"], i.GetLabels()["pool"]}
		}, []string{"A_b C", "a_b-c", "pool"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, gce.Options{Networks: networks}, func(t *testing.T, c *gce.Cloud) {
				d := open(t, c, tt.spec)
				spec := machine()
				if tt.edit != nil {
					tt.edit(&spec)
				}
				i, err := d.get(t.Context(), mustCreate(t, d, spec))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, tt.got(i)); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
				empty(t, c, d)
			})
		})
	}
}

func TestAMachinesProxyIsThatOfTheNetworkItIsIn(t *testing.T) {
	t.Parallel()
	networks := []gce.Network{
		{Project: testProject, Name: "east", Auto: true}, {Project: testProject, Name: "west", Auto: true}, {Project: testProject, Name: "far", Auto: true},
	}
	bubble(t, gce.Options{Networks: networks}, func(t *testing.T, c *gce.Cloud) {
		d := open(t, c, ofProject+`private_ip: true, egress_control: true, networks: [
			{network: east, zones: [`+zoneA+`, `+zoneB+`], proxy_url: "http://east:3128"},
			{network: west, zones: [`+zoneA+`], proxy_url: "http://west:3128"},
			{network: far, zones: [`+zoneC+`], proxy_url: "http://far:3128"}]}`)
		seen := map[string]bool{}
		for n := range 12 {
			zones := [][]string{nil, {zoneA}, {zoneB}, {zoneC}}[n%4]
			spec := machine(in(zones...))
			i, err := d.get(t.Context(), mustCreate(t, d, spec))
			if err != nil {
				t.Fatal(err)
			}
			network := last(i.GetNetworkInterfaces()[0].GetNetwork())
			if got := d.spec.Proxy(spec.Name, zones); got != "http://"+network+":3128" {
				t.Errorf("in network %s its proxy is %s", network, got)
			}
			seen[network] = true
		}
		if len(seen) != len(networks) {
			t.Errorf("only %v were used", seen)
		}
		empty(t, c, d)
	})
}

func TestKindOfDisk(t *testing.T) {
	t.Parallel()
	bubble(t, gce.Options{}, func(t *testing.T, c *gce.Cloud) {
		d := open(t, c, ofProject+"disk: {type: pd-ssd}}")
		mustCreate(t, d, machine())
		disks, _, err := d.a.allDisks(t.Context(), filterOurs)
		if err != nil || len(disks) != 1 || last(disks[0].GetType()) != "pd-ssd" || disks[0].GetLabels()[labelDisk] != diskBoot {
			t.Errorf("disks %v, %v", disks, err)
		}
		empty(t, c, d)
	})
}

func TestNetworksAreUsedInTurn(t *testing.T) {
	t.Parallel()
	s := &Spec{Networks: []Network{{Network: "a", Zones: []string{"z1"}}, {Network: "b"}, {Network: "c", Zones: []string{"z2"}}}}
	count := map[string]int{}
	for range 300 {
		count[networkOf(s, machine()).Network]++
	}
	for _, n := range []string{"a", "b", "c"} {
		if count[n] < 60 {
			t.Errorf("network %s is used %d times of 300", n, count[n])
		}
	}
	for range 20 {
		if n := networkOf(s, machine(in("z2"))); n.Network == "a" {
			t.Error("a network that is not in the machine's zone")
		}
	}
}

func TestImagesMayBeNamedInManyWays(t *testing.T) {
	t.Parallel()
	const want = "projects/p/global/images/i"
	for name, want := range map[string]string{
		"i": want, want: want, "p/global/images/i": want, "global/images/i": want, "x:i": want, "x:p/global/images/i": want,
		"https://www.googleapis.com/compute/v1/projects/p/global/images/i": want,
		"family/f": "projects/p/global/images/family/f", "projects/q/global/images/family/f": "projects/q/global/images/family/f",
	} {
		if got := imagePath(name, "p"); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

// Names and labels of any kind are made to fit, and read back as they were.
func TestWhatDoesNotFitALabelIsKeptAsItIs(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("Ä long NAME ", 7)
	bubble(t, gce.Options{}, func(t *testing.T, c *gce.Cloud) {
		d := open(t, c, small)
		spec := machine(func(s *drivers.Spec) {
			s.Tags.Controller, s.Tags.Pool, s.Tags.Instance = "C "+long, "P "+long, "I "+long
			s.Tags.Labels = map[string]string{"Team": "Ci/Cd", "1": "x", long: long}
			s.Facts = map[string]string{"name": "My Gitspace", "user-data": "not the script"}
		})
		spec.Disks = []drivers.DiskSpec{{Name: "data"}}
		mustCreate(t, d, spec)
		l, err := d.List(t.Context(), drivers.Query{Controller: spec.Tags.Controller})
		if err != nil || len(l.Instances) != 1 || len(l.Disks) != 1 {
			t.Fatalf("list: %+v, %v", l, err)
		}
		if diff := cmp.Diff(spec.Tags, l.Instances[0].Tags); diff != "" {
			t.Errorf("a machine's tags, -want +got:\n%s", diff)
		}
		if diff := cmp.Diff(spec.Tags.Controller, l.Disks[0].Tags.Controller); diff != "" {
			t.Errorf("a disk's tags, -want +got:\n%s", diff)
		}
		if other, err := d.List(t.Context(), drivers.Query{Controller: strings.ToLower(spec.Tags.Controller)}); err != nil || len(other.Instances) > 0 {
			t.Errorf("a controller of another name has %d machines, %v", len(other.Instances), err)
		}
		i, err := d.get(t.Context(), l.Instances[0].Ref)
		if err != nil || metadata(i, "user-data") != string(spec.Boot) || i.GetLabels()["team"] != "ci-cd" || i.GetLabels()["name"] != "my-gitspace" {
			t.Errorf("machine %v, %v", i, err)
		}
		empty(t, c, d)
	})
}

func TestLabelsAreNeverTooMany(t *testing.T) {
	t.Parallel()
	spec := machine(func(s *drivers.Spec) { s.Tags.Labels = map[string]string{} })
	for r := range 80 {
		spec.Tags.Labels["l"+strings.Repeat("x", r)] = "v"
	}
	if n := len(diskLabels(labelsOf(spec, nil), diskBoot)); n != mostOfAll {
		t.Errorf("%d labels", n)
	}
}

func TestRequestIDsAreUUIDs(t *testing.T) {
	t.Parallel()
	a, b, c := *requestID("a", "b"), *requestID("a", "b"), *requestID("ab", "")
	if a != b || a == c || len(a) != 36 || a[14] != '5' || !strings.ContainsRune("89ab", rune(a[19])) {
		t.Errorf("%s, %s, %s", a, b, c)
	}
}

// What can never be made is refused before the cloud is asked.
func TestWhatCanNeverBeMadeIsRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		edit func(*drivers.Spec)
		want string
	}{
		"boot data": {func(s *drivers.Spec) { s.Boot = make([]byte, 256<<10+1) }, "shorten user_data"},
		"metadata": {func(s *drivers.Spec) {
			s.Boot = make([]byte, 256<<10)
			s.Facts = map[string]string{"a": strings.Repeat("x", 200<<10), "b": strings.Repeat("x", 200<<10)}
		}, "metadata of"},
		"nested on arm": {func(s *drivers.Spec) { s.Platform.Arch, s.Nested = "arm64", true }, "only linux on amd64"},
		"no GPU":        {func(s *drivers.Spec) { s.GPU = true }, "has no GPU"},
	} {
		c := gce.New(gce.Options{})
		_, err := open(t, c, small).Create(t.Context(), machine(tt.edit))
		if !errors.Is(err, drivers.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
		contains(t, err, tt.want)
		if n := c.Books.Total(); n > 0 {
			t.Errorf("%s: %d calls", name, n)
		}
	}
}

func TestTheProjectIsFound(t *testing.T) {
	t.Setenv("GOOGLE_CLOUD_PROJECT", "from-environment")
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	key := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(key, []byte(`{"type":"service_account","project_id":"from-key"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, account := range map[string]Account{
		"given": {ProjectID: "given", JSONPath: key}, "from-key": {JSONPath: key}, "from-environment": {},
	} {
		if got, err := projectOf(&Spec{Account: account}); err != nil || got != want {
			t.Errorf("project %q, %v; want %s", got, err, want)
		}
	}
	t.Setenv("GOOGLE_CLOUD_PROJECT", "")
	if _, err := projectOf(&Spec{}); !errors.Is(err, drivers.ErrInvalid) {
		t.Errorf("no project: %v", err)
	}
	if err := os.WriteFile(key, []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := projectOf(&Spec{Account: Account{JSONPath: key}}); !errors.Is(err, drivers.ErrAuth) {
		t.Errorf("no key: %v", err)
	}
}

// The rule opens one port to those who are named, and is made once.
func TestFirewall(t *testing.T) {
	t.Parallel()
	office := []string{"10.1.2.3/16", " 192.0.2.7"}
	for _, tt := range []struct {
		name, spec string
		ranges     []string
		want       int
	}{
		{"for those who are named", small, office, 1},
		{"not unless somebody is named", small, nil, 0},
		{"not with tags", ofProject + "tags: [mine]}", office, 0},
		{"not with networks", ofProject + "networks: [{network: default}]}", office, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, gce.Options{}, func(t *testing.T, c *gce.Cloud) {
				d := openWith(t, Setup{HTTP: c.Client(), Endpoint: gce.Endpoint, Ingress: tt.ranges}, tt.spec)
				for range 2 {
					mustCreate(t, d, machine())
				}
				mustCreate(t, openWith(t, Setup{HTTP: c.Client(), Endpoint: gce.Endpoint, Ingress: tt.ranges}, tt.spec), machine())
				if n := len(everMade(c, "firewall")); n != tt.want {
					t.Errorf("%d rules, want %d", n, tt.want)
				}
				empty(t, c, d)
			})
		})
	}
	networks := []string{"10.0.0.0/8"}
	if a, b := ruleName("n", networks), ruleName("m", networks); a == b {
		t.Errorf("rules of two networks are both called %s", a)
	}
}
