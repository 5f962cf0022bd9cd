package google

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
)

// What a pool is made of when the file names as little as possible.
func TestDefaultsFollowPlatformAndOtherKeys(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text  string
		os          string
		machineType string
		dataKey     string
		disk        int
	}{
		{"nothing is said", "{image: i}", "", "n1-standard-1", "user-data", 50},
		{"size stands for machine_type", "{image: i, size: e2-small, disk: {size: 0}}", "", "e2-small", "user-data", 50},
		{"on windows", "{image: i, machine_type: e2-small, disk: {size: 80}}", "windows", "e2-small", "windows-startup-script-ps1", 80},
		{"a key for the boot script is kept", "{image: i, user_data_key: k}", "windows", "n1-standard-1", "k", 50},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec, problems := drivertest.ReadSpec[Spec](t, Registration, tt.text, &drivers.Platform{OS: tt.os})
			if len(problems) > 0 {
				t.Error(problems)
			}
			if image, machineType, disk := spec.Resolved(); image != "i" || machineType != tt.machineType || disk != tt.disk {
				t.Errorf("resolved to %s, %s, %d; want i, %s, %d", image, machineType, disk, tt.machineType, tt.disk)
			}
			if spec.UserDataKey != tt.dataKey || spec.Size != "" {
				t.Errorf("key %s and size %q left over; want %s and none", spec.UserDataKey, spec.Size, tt.dataKey)
			}
		})
	}
}

func TestListsByDefault(t *testing.T) {
	t.Parallel()
	spec, _ := drivertest.ReadSpec[Spec](t, Registration, "{image: i, networks: [{network: n}]}", &drivers.Platform{})
	const auth = "https://www.googleapis.com/auth/"
	got := [][]string{spec.Zone, spec.Tags, spec.Networks[0].Tags, spec.Scopes}
	want := [][]string{
		{"us-central1-a"},
		{"allow-docker"},
		{"allow-docker"},
		{auth + "devstorage.read_only", auth + "logging.write", auth + "monitoring.write", auth + "trace.append"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("zones, tags, a network's tags, scopes, -want +got:\n%s", diff)
	}
	spec, _ = drivertest.ReadSpec[Spec](t, Registration, "{image: i, zones: z, tags: [], scopes: s}", &drivers.Platform{})
	if diff := cmp.Diff([][]string{{"z"}, {}, {"s"}}, [][]string{spec.Zone, spec.Tags, spec.Scopes}); diff != "" {
		t.Errorf("given ones, -want +got:\n%s", diff)
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		labels map[string]string
		want   string
	}{
		"as they are":        {map[string]string{"team": "ci-1", "größe": ""}, ""},
		"a capital in a key": {map[string]string{"Team": "ci"}, "no key of a label"},
		"a digit first":      {map[string]string{"1": "ci"}, "no key of a label"},
		"no key":             {map[string]string{"": "ci"}, "no key of a label"},
		"a long key":         {map[string]string{strings.Repeat("k", 64): "ci"}, "no key of a label"},
		"a space in a value": {map[string]string{"team": "c i"}, "no value of a label"},
	} {
		var out drivers.Problems
		checkLabels(tt.labels, &out)
		if (len(out) == 0) != (tt.want == "") || len(out) > 0 && !strings.Contains(out[0].Message, tt.want) {
			t.Errorf("%s: %v, want %q", name, out, tt.want)
		}
	}
}

// What cannot be had together is said when the file is read.
func TestWhatGoogleCannotDo(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{image: i, hibernate: true, gpu: true}":                                                 "cannot be suspended",
		"{image: i, egress_control: true}":                                                       "give networks, each with network, subnetwork and proxy_url",
		"{image: i, private_ip: true, egress_control: true, networks: [{network: n}]}":           "with egress_control each network has a proxy",
		"{image: i, egress_control: true, networks: [{network: n, proxy_url: 'http://p:3128'}]}": "set private_ip",
		"{image: i, networks: [{network: n, proxy_url: 'http://p:3128'}]}":                       "no effect without egress_control",
		"{image: i, size: a, machine_type: b}":                                                   "not used beside machine_type",
		"{image: i, account: {json_path: nosuch.json}}":                                          "no such file",
		"{}": "past its end of support",
		"{image: i, enable_nested_virtualization: true}": "only linux on amd64",
	} {
		_, problems := drivertest.ReadSpec[Spec](t, Registration, text, &drivers.Platform{Arch: "arm64"})
		if len(problems) != 1 || !strings.Contains(problems[0].Message, want) {
			t.Errorf("%s: %v, want %q", text, problems, want)
		}
	}
	for arch, want := range map[string]int{"amd64": 0, "arm64": 1} {
		if got := Registration.CheckVariant(nil, drivers.Platform{OS: "linux", Arch: arch}, drivers.Variant{Nested: true}); len(got) != want {
			t.Errorf("a variant with machines in machines on %s: %v", arch, got)
		}
	}
}

func TestAddressesOfProxies(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"http://proxy.example.com:3128": "", "https://10.0.0.9:8443/": "", "http://[fd00::1]:3128": "",
		"proxy.example.com:3128": "is no address", "ftp://proxy": "no address of an http", "http://": "is no address",
		"http://u:hunter2@proxy:3128": "belong to each stage", "http://proxy/x": "has a path", "http://proxy?x": "has a path",
		"http://$(id):3128": "other characters", "http://pro'xy": "other characters", "http://u:hunter2@p:x": "is no address",
	} {
		text := "{image: i, private_ip: true, egress_control: true, networks: [{network: n, proxy_url: \"" + address + "\"}]}"
		spec, problems := drivertest.ReadSpec[Spec](t, Registration, text, &drivers.Platform{})
		switch {
		case want == "" && (len(problems) > 0 || spec.Proxy("m", nil) != strings.TrimSuffix(address, "/") || len(spec.Proxies()) != 1):
			t.Errorf("%s: %v, %q, %q", address, problems, spec.Proxy("m", nil), spec.Proxies())
		case want != "" && (len(problems) != 1 || problems[0].Path != "networks[0].proxy_url" || !strings.Contains(problems[0].Message, want)):
			t.Errorf("%s: %v, want %q", address, problems, want)
		case len(problems) > 0 && strings.Contains(problems[0].Message, "hunter2"):
			t.Errorf("a password is shown: %v", problems)
		}
	}
}

func TestNamesBeginAsTheSpecSays(t *testing.T) {
	t.Parallel()
	spec, _ := drivertest.ReadSpec[Spec](t, Registration, "{image: i, name: ci}", &drivers.Platform{})
	var n drivers.Namer = spec
	if n.NamePrefix() != "ci" {
		t.Errorf("prefix %q", n.NamePrefix())
	}
}

// What the boot script is made of.
func TestBootOptionsAreTheSpecs(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "boot.tmpl")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"{image: i, user_data: inline}":              "inline",
		"{image: i, user_data_path: '" + file + "'}": "from a file",
		"{image: i, user_data: a, enable_c4d: true}": "a",
	} {
		spec, problems := drivertest.ReadSpec[Spec](t, Registration, text, &drivers.Platform{})
		o, err := spec.BootOptions()
		if err != nil || o.Template != want || len(o.Disks(1)) != 1 || len(o.Scratch) > 0 != spec.EnableC4D {
			t.Errorf("%s: %+v, %v, %v", text, o, err, problems)
		}
	}
}
