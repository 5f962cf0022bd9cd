package poolfile_test

import (
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
)

func TestPoolsFromTheEnvironment(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		env  map[string]string
		// local says that QEMU is there.
		local  bool
		kind   string
		source string
		// shown are what the printed pool has, hidden what it must not have.
		shown  []string
		hidden string
	}{
		{
			name: "nothing but this host", local: true, kind: "qemu", source: "on this host",
			shown: []string{"name: testpool", "pool: 1", "limit: 2", "image: tiny"},
		},
		{
			name: "a project of Google", kind: "google", source: "GOOGLE_PROJECT_ID is set", local: true,
			env:   map[string]string{"GOOGLE_PROJECT_ID": "p-1", "GOOGLE_ZONE": "us-east1-b"},
			shown: []string{"project_id: p-1", "- us-east1-b", "ubuntu-2404-lts-amd64", "machine_type: e2-small", "no_service_account: true"},
		},
		{
			name: "Google without a zone", kind: "google", source: "GOOGLE_PROJECT_ID is set",
			env: map[string]string{"GOOGLE_PROJECT_ID": "p-1"}, shown: []string{"- northamerica-northeast1-a"},
		},
		{
			name: "keys of AWS under their usual names are left to its library", kind: "amazon", source: "AWS_ACCESS_KEY_ID is set",
			env:    map[string]string{"AWS_ACCESS_KEY_ID": "key-id", "AWS_SECRET_ACCESS_KEY": "hidden-1", "AWS_DEFAULT_REGION": "eu-west-1"},
			shown:  []string{"region: eu-west-1", "/aws/service/canonical/ubuntu"},
			hidden: "key-id",
		},
		{
			name: "the secret of AWS under its other name", kind: "amazon", source: "AWS_ACCESS_KEY_ID is set",
			env:   map[string]string{"AWS_ACCESS_KEY_ID": "key-id", "AWS_ACCESS_KEY_SECRET": "hidden-1"},
			shown: []string{"region: us-east-2"}, hidden: "hidden-1",
		},
		{
			name: "AWS comes before Google", kind: "amazon", source: "AWS_SECRET_ACCESS_KEY is set",
			env: map[string]string{"GOOGLE_PROJECT_ID": "p-1", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-west-2"}, shown: []string{"region: us-west-2"},
		},
		{
			name: "one machine of Anka", kind: "anka", source: "ANKA_VM_NAME is set",
			env: map[string]string{"ANKA_VM_NAME": "xcode", "AWS_ACCESS_KEY_ID": "k"}, shown: []string{"vm_id: xcode", "os: darwin"},
		},
		{
			name: "Anka's build cloud needs both", kind: "google", source: "GOOGLE_PROJECT_ID is set",
			env: map[string]string{"ANKA_BUILD_VM_NAME": "xcode", "GOOGLE_PROJECT_ID": "p-1"},
		},
		{
			name: "Anka's build cloud", kind: "ankabuild", source: "ANKA_BUILD_VM_NAME and ANKA_BUILD_URL is set",
			env:   map[string]string{"ANKA_BUILD_VM_NAME": "xcode", "ANKA_BUILD_URL": "https://anka.example:8090", "ANKA_BUILD_TOKEN": "hidden-1"},
			shown: []string{"registry_url: https://anka.example:8090"}, hidden: "hidden-1",
		},
		{
			name: "Azure gets a password nobody knows", kind: "azure", source: "AZURE_CLIENT_ID is set",
			env:   map[string]string{"AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "hidden-1", "AZURE_SUBSCRIPTION_ID": "s", "AZURE_TENANT_ID": "t"},
			shown: []string{"username: ubuntu"}, hidden: "password",
		},
		{
			name: "DigitalOcean", kind: "digitalocean", source: "DIGITAL_OCEAN_PAT is set",
			env: map[string]string{"DIGITAL_OCEAN_PAT": "hidden-1"}, shown: []string{"region: nyc1"}, hidden: "hidden-1",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			auto := poolfile.Auto{Getenv: func(name string) string { return c.env[name] }, Min: 1, Max: 2, Local: c.local}
			// Also the types without a driver yet: their spec must be right.
			cfg, source, found, err := auto.Pools(builtIn(), poolfile.Options{CheckOnly: true})
			if err != nil || found.Errors() > 0 {
				t.Fatalf("error %v, findings %v", err, found)
			}
			if len(cfg.Pools) != 1 {
				t.Fatalf("%d pools", len(cfg.Pools))
			}
			p := cfg.Pools[0]
			if p.Name != poolfile.AutoPool || p.Driver != c.kind || p.Min != 1 || p.Max != 2 || !p.Default || !strings.Contains(source, c.source) {
				t.Errorf("pool %s of type %s, %d of %d, default %t, since %q", p.Name, p.Driver, p.Min, p.Max, p.Default, source)
			}
			text, err := poolfile.FormatPublic(cfg)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range c.shown {
				if !strings.Contains(string(text), want) {
					t.Errorf("shown without %q:\n%s", want, text)
				}
			}
			if c.hidden != "" && strings.Contains(string(text), c.hidden) {
				t.Errorf("shown with %q:\n%s", c.hidden, text)
			}
		})
	}
}

func TestNothingToMakeAPoolFromNamesWhatWould(t *testing.T) {
	t.Parallel()
	_, _, _, err := poolfile.Auto{Getenv: func(string) string { return "" }, Min: 1, Max: 2}.Pools(builtIn(), poolfile.Options{})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"--pool", "examples/pool.yml", "GOOGLE_PROJECT_ID (google)", "ANKA_BUILD_VM_NAME, ANKA_BUILD_URL (ankabuild)", "QEMU"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("without %q: %v", want, err)
		}
	}
}
