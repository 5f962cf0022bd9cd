//go:build !no_google

package google

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

const (
	testProject = "test-project"
	ubuntu      = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"
	zoneA       = "us-central1-a"
	zoneB       = "us-central1-b"
	zoneC       = "us-central1-c"
)

// small is a pool of small machines in one zone.
const small = "{account: {project_id: test-project}, image: " + ubuntu + ", machine_type: e2-standard-2, disk: {size: 20, type: pd-balanced}}"

// open makes a driver over a fake, of a spec in YAML.
func open(tb testing.TB, c *gce.Cloud, text string) *Driver {
	tb.Helper()
	return openWith(tb, Setup{HTTP: c.Client(), Endpoint: gce.Endpoint}, text)
}

func openWith(tb testing.TB, setup Setup, text string) *Driver {
	tb.Helper()
	reg := Register(setup)
	spec, problems := drivertest.ReadSpec[Spec](tb, reg, text, &drivers.Platform{OS: "linux", Arch: "amd64"})
	for _, p := range problems {
		if !p.Warning {
			tb.Fatalf("spec %s: %s: %s", text, p.Path, p.Message)
		}
	}
	d, err := reg.New(drivers.Options{Pool: "pool", Config: spec, Log: slog.New(slog.NewTextHandler(tb.Output(), nil))})
	if err != nil {
		tb.Fatal(err)
	}
	return d.(*Driver) //nolint:forcetypeassert // it is this package's
}

var names atomic.Int64

// machine is a spec with tags, and a name never given before.
func machine(edits ...func(*drivers.Spec)) drivers.Spec {
	name := fmt.Sprintf("pool-%06d", names.Add(1))
	created := time.Now().UTC().Truncate(time.Millisecond)
	s := drivers.Spec{
		Name: name, Boot: []byte("#cloud-config\n"), Platform: drivers.Platform{OS: "linux", Arch: "amd64"},
		Tags: drivers.Tags{
			Controller: "c0ffee", Pool: "pool", Instance: "i-" + name, Kind: "build",
			Created: created, Deadline: created.Add(97 * time.Hour),
		},
	}
	for _, edit := range edits {
		edit(&s)
	}
	return s
}

// forGood makes a spec one of a machine that lives long.
func forGood(s *drivers.Spec) { s.Tags.Kind, s.Tags.Deadline = kindGitspace, time.Time{} }

// in has a machine be made in a zone.
func in(zones ...string) func(*drivers.Spec) { return func(s *drivers.Spec) { s.Zones = zones } }

// withDisk gives a machine a persistent disk.
func withDisk(name string) func(*drivers.Spec) {
	return func(s *drivers.Spec) { s.Disks = append(s.Disks, drivers.DiskSpec{Name: name, SizeGiB: 10}) }
}

// pass lets so much of a bubble's time go by.
func pass(d time.Duration) { <-time.After(d) }

// bubble runs a test against a cloud in a bubble of its own.
func bubble(t *testing.T, o gce.Options, test func(t *testing.T, c *gce.Cloud)) {
	t.Helper()
	testbubble.Run(t, func(t *testing.T) { test(t, gce.New(o)) })
}

// large gives whole pages, as the real cloud does.
func large() gce.Options { return gce.Options{PageSize: 500} }

// mustCreate makes a machine.
func mustCreate(t *testing.T, d *Driver, spec drivers.Spec) drivers.Ref {
	t.Helper()
	ref, err := d.Create(t.Context(), spec)
	if err != nil {
		t.Fatalf("create %s: %v", spec.Name, err)
	}
	return ref
}

// empty checks that nothing is left that costs money, once all that is listed is
// destroyed.
func empty(t *testing.T, c *gce.Cloud, d *Driver) {
	t.Helper()
	l, err := d.List(t.Context(), drivers.Query{})
	if err != nil || !l.Complete {
		t.Fatalf("list: complete %t, %v", l.Complete, err)
	}
	for _, i := range l.Instances {
		if err := d.Destroy(t.Context(), []drivers.Ref{i.Ref}, drivers.DestroyOptions{Disks: drivers.Delete})[0]; err != nil {
			t.Errorf("destroy %s: %v", i.Name, err)
		}
	}
	for _, disk := range l.Disks {
		if err := d.DestroyDisks(t.Context(), []drivers.Ref{{Name: disk.Name, Zone: disk.Zone}})[0]; err != nil {
			t.Errorf("destroy disk %s: %v", disk.Name, err)
		}
	}
	for _, thing := range c.Living() {
		if thing.Kind != "firewall" {
			t.Errorf("left behind: %s %s in %s", thing.Kind, thing.Name, thing.Zone)
		}
	}
}

// everMade counts what was ever made of a kind, by name.
func everMade(c *gce.Cloud, kind string) map[string]int {
	n := map[string]int{}
	for _, thing := range c.Books.Ever() {
		if thing.Kind == kind {
			n[thing.Name]++
		}
	}
	return n
}

func contains(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
}
