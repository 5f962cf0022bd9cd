package sim

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/amazon"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
	"github.com/vm-runner/drone-runner-aws/drivers/google"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// badInput is a mistake in a pool's spec, its account or a request, or a cloud
// that has not what they name.
type badInput struct {
	name  string
	cloud func(t *testing.T, spec string) (*realCloud, any)
	// spec is the pool's, as in its file.
	spec string
	boot bootOf
	// first are setups that succeed before, request the one that is refused.
	first, request []func(*pool.SetupRequest)
	// want is what the caller is told beside the pool: the place, and what to do.
	want []string
	// mute has no agent answer.
	mute bool
}

// bootOf is boot data of that many bytes.
type bootOf int

func (n bootOf) Render(pool.BootRequest) ([]byte, error) { return make([]byte, n), nil }

func googleWith(o gce.Options, change ...func(*gce.Cloud)) func(*testing.T, string) (*realCloud, any) {
	return func(t *testing.T, text string) (*realCloud, any) {
		o.PageSize = 50
		var made *gce.Cloud
		if o.Boots == nil {
			o.Boots = func(m gce.Machine) { _ = made.Console(m.Name, consoleText) } // it is there: it boots
		}
		c := gce.New(o)
		made = c
		for _, f := range change {
			f(c)
		}
		spec, problems := drivertest.ReadSpec[google.Spec](t, google.Registration, text, &drivers.Platform{OS: "linux", Arch: "amd64"})
		noErrors(t, problems)
		rc := googleOn(c)
		rc.open = func(t *testing.T, h *http.Client) drivers.Driver {
			return opened(t, google.Register(google.Setup{HTTP: h, Endpoint: gce.Endpoint}), spec)
		}
		return rc, spec
	}
}

func amazonWith(o ec2.Options, change ...func(*ec2.Cloud)) func(*testing.T, string) (*realCloud, any) {
	return func(t *testing.T, text string) (*realCloud, any) {
		o.Page = 50
		var made *ec2.Cloud
		o.Boots = func(m ec2.Machine) { _ = made.Console(m.ID, consoleText) } // it is there: it boots
		c, rc := amazonOn(o)
		made = c
		for _, f := range change {
			f(c)
		}
		spec, problems := drivertest.ReadSpec[amazon.Spec](t, amazon.Registration, text, &drivers.Platform{OS: "linux", Arch: "amd64"})
		noErrors(t, problems)
		rc.open = func(t *testing.T, h *http.Client) drivers.Driver { return opened(t, amazon.RegisterOver(h), spec) }
		return rc, spec
	}
}

// noErrors fails the test if a pool file with this spec would be refused: the
// mistake is to be one that only the cloud can find.
func noErrors(t *testing.T, problems []drivers.Problem) {
	t.Helper()
	for _, p := range problems {
		if !p.Warning {
			t.Errorf("the pool file would be refused: %s: %s", p.Path, p.Message)
		}
	}
}

// consoleText is the console of a machine that has not found its agent.
const consoleText = "[    1.2] systemd[1]: Started.\nrunner-boot: step 1/4 check the machine\nrunner-boot: step 2/4 download agent\n" +
	"runner-boot: step 2/4 download agent: failed: no answer from https://mirror.example.com/agent\n"

func wanting(change func(*pool.Want)) []func(*pool.SetupRequest) {
	return []func(*pool.SetupRequest){func(r *pool.SetupRequest) { change(&r.Want) }}
}

func home(zone string) func(*pool.SetupRequest) {
	return func(r *pool.SetupRequest) {
		r.Kind, r.Want.Storage, r.Want.StorageGiB, r.Want.Zone = pool.Gitspace, "home", 10, zone
	}
}

const (
	gceImage = "image: projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64, "
	gceSpec  = "{account: {project_id: test-project}, " + gceImage + "machine_type: e2-standard-2, zone: [us-central1-a, us-central1-b], private_ip: true, networks: [{network: default}]"
	ec2Keys  = "account: {region: us-east-1, access_key_id: AKID, access_key_secret: secret"
	ec2Spec  = "{" + ec2Keys + "}, size: t3.large, network: {private_ip: true}"
	ec2Image = ", ami: ami-0a1b2c3d4e5f60001"
)

func refusing(err error) func(*gce.Cloud) {
	return func(c *gce.Cloud) { c.Faults.Add(fakecloud.Fault{Err: err}) }
}

// TestBadInputOfACloudIsAnsweredWithItsPlaceAndRemedy: what a delegate is told
// when a setup fails for something a person can put right, through engine,
// driver and the vendor's client.
func TestBadInputOfACloudIsAnsweredWithItsPlaceAndRemedy(t *testing.T) {
	withoutOwnAWS(t)
	mayNot := ec2.Key{ID: "AKID", May: func(action string) bool { return action != "RunInstances" }}
	past := time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []badInput{
		{name: "google, a wrong project", cloud: googleWith(gce.Options{}), spec: strings.Replace(gceSpec, "test-project", "nosuch", 1) + "}", want: []string{"account.project_id", "nosuch"}},
		{name: "google, a wrong zone", cloud: googleWith(gce.Options{}), spec: strings.Replace(gceSpec, "us-central1-a, us-central1-b", "us-central1-x", 1) + "}", want: []string{"us-central1-x", "check zone"}},
		{name: "google, a wrong image", cloud: googleWith(gce.Options{}), spec: strings.Replace(gceSpec, gceImage, "image: nosuch, ", 1) + "}", want: []string{"nosuch", "gcloud compute images list"}},
		{name: "google, a wrong type", cloud: googleWith(gce.Options{}), spec: strings.Replace(gceSpec, "e2-standard-2", "e2-huge", 1) + "}", want: []string{"e2-huge", "machine_type"}},
		{name: "google, a wrong network", cloud: googleWith(gce.Options{}), spec: strings.Replace(gceSpec, "network: default", "network: nosuch", 1) + "}", want: []string{"nosuch", "check network"}},
		{name: "google, a missing permission", cloud: googleWith(gce.Options{}, refusing(gce.PermissionDenied("compute.instances.create", "projects/test-project"))), spec: gceSpec + "}", want: []string{"compute.instances.create", "roles/compute.instanceAdmin.v1"}},
		{name: "google, an expired token", cloud: googleWith(gce.Options{}, refusing(gce.TokenExpired())), spec: gceSpec + "}", want: []string{"account.json_path", "gcloud auth application-default login"}},
		{name: "google, a quota of 0", cloud: googleWith(gce.Options{Quotas: map[string]float64{"CPUS": 0}}), spec: gceSpec + "}", want: []string{"CPUS", "us-central1", "ask for more quota", "limit"}},
		{name: "google, boot data that is too long", cloud: googleWith(gce.Options{}), spec: gceSpec + "}", boot: 256<<10 + 1, want: []string{"user_data", "262145"}},
		{
			name: "google, a disk in another zone", cloud: googleWith(gce.Options{}), spec: gceSpec + "}",
			first: []func(*pool.SetupRequest){home("us-central1-a")}, request: []func(*pool.SetupRequest){home("us-central1-b")},
			want: []string{"disk home is in zone us-central1-a", "us-central1-b", "ask for its zone, or for none"},
		},
		{name: "google, an image without cloud-init", cloud: googleWith(gce.Options{Boots: func(gce.Machine) {}}), spec: gceSpec + "}", mute: true, want: []string{"p: boot", "agent not healthy", "see that the image has cloud-init"}},
		{name: "google, a boot that fails", cloud: googleWith(gce.Options{}), spec: gceSpec + "}", mute: true, want: []string{"2/4 download agent: failed: no answer from https://mirror.example.com/agent", "console tail", "systemd[1]: Started"}},

		{name: "amazon, a wrong region", cloud: amazonWith(ec2.Options{}), spec: strings.Replace(ec2Spec, "us-east-1", "eu-central-1", 1) + ec2Image + "}", want: []string{"account.region"}},
		{name: "amazon, a wrong zone", cloud: amazonWith(ec2.Options{}), spec: ec2Spec + ec2Image + "}", request: wanting(func(w *pool.Want) { w.Zone = "us-east-1x" }), want: []string{"us-east-1x", "account.availability_zone"}},
		{name: "amazon, a wrong image", cloud: amazonWith(ec2.Options{}), spec: ec2Spec + ", ami: ami-0123456789abcdef0}", want: []string{"ami-0123456789abcdef0", "check ami and account.region"}},
		{name: "amazon, a wrong type", cloud: amazonWith(ec2.Options{}), spec: strings.Replace(ec2Spec, "t3.large", "m9.huge", 1) + ec2Image + "}", want: []string{"m9.huge", "check size"}},
		{name: "amazon, no default network", cloud: amazonWith(ec2.Options{NoDefaultVPC: true}), spec: ec2Spec + ec2Image + "}", want: []string{"no default VPC", "network.subnet_id", "zone_details"}},
		{name: "amazon, an unknown key", cloud: amazonWith(ec2.Options{Keys: []ec2.Key{{ID: "OTHER"}}}), spec: ec2Spec + ec2Image + "}", want: []string{"AuthFailure", "check the access key"}},
		{name: "amazon, a missing permission", cloud: amazonWith(ec2.Options{Keys: []ec2.Key{mayNot}}), spec: ec2Spec + ec2Image + "}", want: []string{"ec2:RunInstances", "docs/drivers.md"}},
		{
			name: "amazon, an expired token", cloud: amazonWith(ec2.Options{Keys: []ec2.Key{{ID: "AKID", Token: "tok", Until: past}}}),
			spec: strings.Replace(ec2Spec, ": secret", ": secret, aws_session_token: tok", 1) + ec2Image + "}", want: []string{"expired", "renew the credentials"},
		},
		{name: "amazon, a quota of 0", cloud: amazonWith(ec2.Options{}, func(c *ec2.Cloud) { c.Quota(0, 1) }), spec: ec2Spec + ec2Image + "}", want: []string{"VcpuLimitExceeded", "raise the account's quota", "limit"}},
		{name: "amazon, boot data that is too long", cloud: amazonWith(ec2.Options{}), spec: ec2Spec + ec2Image + "}", boot: 64 << 20, want: []string{"user_data"}},
		{
			name: "amazon, a disk in another zone", cloud: amazonWith(ec2.Options{}), spec: ec2Spec + ec2Image + "}",
			first: []func(*pool.SetupRequest){home("us-east-1a")}, request: []func(*pool.SetupRequest){home("us-east-1b")},
			want: []string{"disk home is in zone us-east-1a", "us-east-1b", "ask for its zone, or for none"},
		},
		{name: "amazon, a boot that fails", cloud: amazonWith(ec2.Options{}), spec: ec2Spec + ec2Image + "}", mute: true, want: []string{"2/4 download agent: failed: no answer from https://mirror.example.com/agent", "console tail", "systemd[1]: Started"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			testbubble.Run(t, func(t *testing.T) { tt.try(t, dir) })
		})
	}
}

func (b badInput) try(t *testing.T, dir string) {
	c, spec := b.cloud(t, b.spec)
	withEngine(t, c, spec, dir, b, func(m *pool.Manager) {
		if b.first != nil {
			r := pool.SetupRequest{ID: "first", Kind: pool.Build, Pools: []string{"p"}, Body: bodyOf("first")}
			for _, change := range b.first {
				change(&r)
			}
			if _, err := m.Setup(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if err := m.Destroy(t.Context(), pool.DestroyRequest{Lease: "first"}); err != nil {
				t.Fatal(err)
			}
		}
		r := pool.SetupRequest{ID: "refused", Kind: pool.Build, Pools: []string{"p"}, Body: bodyOf("refused")}
		for _, change := range b.request {
			change(&r)
		}
		begun := time.Now()
		_, err := m.Setup(t.Context(), r)
		if err == nil {
			t.Fatal("the setup succeeded")
		}
		t.Logf("after %s: %v", time.Since(begun), err)
		for _, want := range append([]string{"p: "}, b.want...) {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not said: %v", want, err)
			}
		}
		left := machinesAndDisks(c.living())
		for end := time.Now().Add(time.Hour); b.first == nil && len(left) > 0 && time.Now().Before(end); left = machinesAndDisks(c.living()) {
			if nap(t.Context(), time.Second) != nil {
				break
			}
		}
		if b.first == nil && len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// withEngine runs an engine with one pool on a cloud.
func withEngine(t *testing.T, c *realCloud, spec any, dir string, b badInput, f func(*pool.Manager)) {
	st, db, err := storeSQLite(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := db.Close(); err != nil { // nobody looks past the store here
		t.Fatal(err)
	}
	client := &http.Client{Transport: fakecloud.Transport{Handler: c.handler}}
	agent := agentclient.NewMock(agentclient.MockConfig{Hook: func(_ context.Context, _ string, target pool.Target, _ string) error {
		if b.mute || !c.answers(target.Address) {
			return errUnreachable
		}
		return nil
	}})
	running, stop := context.WithCancel(t.Context())
	m, err := pool.New(running, pool.ManagerConfig{
		Store: st, Agent: agent, Boot: b.boot, Solo: true, Log: slog.New(slog.DiscardHandler),
		Pools: []pool.PoolConfig{{Name: "p", Driver: "cloud", Max: 4, Spec: spec, SpecJSON: json.RawMessage(`{}`), Platform: drivers.Platform{OS: "linux", Arch: "amd64"}}},
		Open: func(pool.PoolConfig) (pool.Opened, error) {
			return pool.Opened{Client: drivers.NewClient(c.open(t, client), drivers.ClientOptions{Pool: "p", Type: "cloud"}), Zones: true}, nil
		},
	})
	if err != nil {
		stop()
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.Run(running) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	f(m)
}
