//go:build !no_google

package google

import (
	"context"
	"errors"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
)

// life makes two machines, one with a disk, lists them, puts one to sleep and
// wakes it, reads its console, and ends all. What fails is tried again, as the
// engine does, each time with a deadline.
func life(t *testing.T, c *gce.Cloud, d *Driver) {
	t.Helper()
	again := func(what string, do func(ctx context.Context) error) {
		t.Helper()
		var err error
		for range 8 {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			err = do(ctx)
			cancel()
			if err == nil {
				return
			}
			pass(10 * time.Second)
		}
		t.Fatalf("%s: %v", what, err)
	}
	build, space := machine(in(zoneA, zoneB)), machine(forGood, withDisk("data"))
	var refs [2]drivers.Ref
	for n, spec := range []drivers.Spec{build, space} {
		again("create", func(ctx context.Context) (err error) { refs[n], err = d.Create(ctx, spec); return err })
	}
	again("list", func(ctx context.Context) error {
		l, err := d.List(ctx, drivers.Query{Controller: build.Tags.Controller})
		if err == nil && (len(l.Instances) != 2 || len(l.Disks) != 1 || !l.Complete) {
			t.Errorf("listed: %+v", l)
		}
		return err
	})
	again("suspend", func(ctx context.Context) error { return d.Suspend(ctx, refs[1]) })
	again("resume", func(ctx context.Context) error { _, err := d.Resume(ctx, refs[1]); return err })
	again("console", func(ctx context.Context) error { return d.Console(ctx, refs[1], t.Output(), 100) })
	again("ping", d.Ping)
	for _, ref := range refs {
		again("destroy", func(ctx context.Context) error {
			return d.Destroy(ctx, []drivers.Ref{{Name: ref.Name}}, drivers.DestroyOptions{})[0]
		})
	}
	if living := c.Living(); len(living) != 1+len(everMade(c, "firewall")) {
		t.Errorf("beside the disk there are %v", living)
	}
	again("destroy disk", func(ctx context.Context) error { return d.DestroyDisks(ctx, []drivers.Ref{{Name: "data"}})[0] })
	for _, kind := range []string{"instance", "disk"} {
		for name, n := range everMade(c, kind) {
			if n != 1 {
				t.Errorf("%s %s was made %d times", kind, name, n)
			}
		}
	}
	empty(t, c, d)
}

func lifeOf(t *testing.T, fault *fakecloud.Fault) (calls map[string]int) {
	t.Helper()
	bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
		d := openWith(t, Setup{HTTP: c.Client(), Endpoint: gce.Endpoint, Ingress: []string{"10.0.0.0/8"}}, small)
		if fault != nil {
			c.Faults.Add(*fault)
		}
		life(t, c, d)
		calls = c.Books.Calls()
	})
	return calls
}

// Whatever happens to whatever call, once or three times in a row: nothing is
// lost and nothing is made twice.
func TestFaultsAtEveryCall(t *testing.T) {
	t.Parallel()
	calm := lifeOf(t, nil)
	if n := len(calm); n < 12 {
		t.Fatalf("only %d methods are called: %v", n, calm)
	}
	effects := map[string]fakecloud.Fault{
		"fails before":        {Effect: fakecloud.Refuse, Err: gce.Internal500()},
		"answers 503":         {Effect: fakecloud.Refuse, Err: gce.Backend503()},
		"answers 429":         {Effect: fakecloud.Refuse, Err: gce.TooManyRequests()},
		"is rate limited":     {Effect: fakecloud.Refuse, Err: gce.RateLimited(gce.Mutations)},
		"loses its answer":    {Effect: fakecloud.Lose},
		"is dropped":          {Effect: fakecloud.Drop},
		"hangs":               {Effect: fakecloud.Hang},
		"hangs when done":     {Effect: fakecloud.HangAfter},
		"is not permitted":    {Effect: fakecloud.Refuse, Err: gce.PermissionDenied("compute.x", "projects/p")},
		"is answered slowly":  {Effect: fakecloud.Slow, For: 20 * time.Second},
		"has a token expired": {Effect: fakecloud.Refuse, Err: gce.TokenExpired()},
	}
	for _, method := range slices.Sorted(maps.Keys(calm)) {
		for _, name := range slices.Sorted(maps.Keys(effects)) {
			for _, times := range []int{1, 3} {
				t.Run(strings.TrimPrefix(method, "compute.")+" "+name+strings.Repeat("!", times-1), func(t *testing.T) {
					t.Parallel()
					fault := effects[name]
					fault.Method, fault.Times = method, times
					calls, most := 0, 0
					for m, n := range lifeOf(t, &fault) {
						calls += n
						most += calm[m]
					}
					if calls > most+12*times {
						t.Errorf("%d calls, %d without the fault", calls, most)
					}
				})
			}
		}
	}
}

// What an operation comes to after it was accepted.
func TestOperationsThatFail(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"instances.insert", "instances.delete", "instances.suspend", "instances.resume", "disks.insert", "disks.delete"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
				d := open(t, c, small)
				c.Spoil(gce.Spoil{Method: "compute." + method, Times: 1, Err: gce.Internal500()})
				spec := machine(forGood, withDisk("data"))
				first := machine(forGood, withDisk("data"))
				ref, err := d.Create(t.Context(), first)
				if err != nil {
					ref = mustCreate(t, d, spec)
				}
				if err := d.Suspend(t.Context(), ref); err != nil {
					if err := d.Suspend(t.Context(), ref); err != nil {
						t.Error(err)
					}
				}
				if _, err := d.Resume(t.Context(), ref); err != nil {
					if _, err := d.Resume(t.Context(), ref); err != nil {
						t.Error(err)
					}
				}
				for range 2 {
					_ = d.Destroy(t.Context(), []drivers.Ref{ref}, drivers.DestroyOptions{}) // the first may fail
				}
				for range 2 {
					_ = d.DestroyDisks(t.Context(), []drivers.Ref{{Name: "data"}})
				}
				if living := c.Living(); len(living) > 0 {
					t.Errorf("left behind: %v", living)
				}
			})
		})
	}
}

// An operation that never ends keeps nobody longer than they want to wait.
func TestAnOperationThatNeverEnds(t *testing.T) {
	t.Parallel()
	bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
		d := open(t, c, small)
		c.Spoil(gce.Spoil{Method: "compute.instances.insert", Times: 1, Never: true})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		spec, begun := machine(), time.Now()
		if _, err := d.Create(ctx, spec); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("create: %v", err)
		}
		if took := time.Since(begun); took > 5*time.Minute+time.Second {
			t.Errorf("it took %s", took)
		}
		if n := c.Books.Total(); n > 20 {
			t.Errorf("%d calls to wait for five minutes", n)
		}
		empty(t, c, d)
	})
}

// A machine that cannot be seen yet is not taken for one that is gone.
func TestWhatIsNotShownYetIsNotGone(t *testing.T) {
	t.Parallel()
	o := large()
	o.Appears = gce.Exactly(30 * time.Second)
	bubble(t, o, func(t *testing.T, c *gce.Cloud) {
		d := open(t, c, small)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		spec := machine()
		if _, err := d.Create(ctx, spec); err == nil {
			t.Fatal("create has not waited")
		}
		destroy := func() error {
			return d.Destroy(t.Context(), []drivers.Ref{{Name: spec.Name}}, drivers.DestroyOptions{})[0]
		}
		if err := destroy(); !errors.Is(err, errUnseen) {
			t.Errorf("destroy: %v", err)
		}
		pass(time.Minute)
		if err := destroy(); err != nil {
			t.Error(err)
		}
		if living := c.Living(); len(living) > 0 {
			t.Errorf("left behind: %v", living)
		}
	})
}

// What is wrong with an account is said with the fix, and nothing is believed
// to be gone.
func TestWhatIsWrongIsSaid(t *testing.T) {
	t.Parallel()
	private := []gce.Image{{Project: "secret", Name: "i", Private: true, SizeGB: 10}}
	for _, tt := range []struct {
		name, spec string
		fault      error
		kind       error
		words      []string
	}{
		{"the project", "{account: {project_id: nosuch}, image: i}", nil, drivers.ErrInvalid, []string{"account.project_id"}},
		{"the zone", ofProject + "zone: us-central1-x}", nil, drivers.ErrInvalid, []string{"us-central1-x"}},
		{"credentials", small, gce.TokenExpired(), drivers.ErrAuth, []string{"account.json_path"}},
		{"a permission", small, gce.PermissionDenied("compute.zones.get", "projects/p"), drivers.ErrAuth, []string{"roles/compute.instanceAdmin.v1"}},
		{"the API", small, gce.APIDisabled(testProject), drivers.ErrAuth, []string{"Enable it"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, gce.Options{}, func(t *testing.T, c *gce.Cloud) {
				d := open(t, c, tt.spec)
				if tt.fault != nil {
					c.Faults.Add(fakecloud.Fault{Err: tt.fault})
				}
				err := d.Ping(t.Context())
				if !errors.Is(err, tt.kind) {
					t.Errorf("ping: %v, want %v", err, tt.kind)
				}
				contains(t, err, tt.words...)
				if err := d.Destroy(t.Context(), []drivers.Ref{{Name: "pool-x", Zone: zoneA}}, drivers.DestroyOptions{})[0]; (tt.fault != nil || tt.name == "the project") && err == nil {
					t.Error("a machine in an account that cannot be used was confirmed gone")
				}
			})
		})
	}
	bubble(t, gce.Options{Images: private}, func(t *testing.T, c *gce.Cloud) {
		_, err := open(t, c, small).Create(t.Context(), machine(func(s *drivers.Spec) { s.Image = "projects/secret/global/images/i" }))
		if !errors.Is(err, drivers.ErrAuth) {
			t.Errorf("an image that may not be used: %v", err)
		}
		contains(t, err, "roles/compute.imageUser")
		_, err = open(t, c, small).Create(t.Context(), machine(func(s *drivers.Spec) { s.Image = "nosuch" }))
		if !errors.Is(err, drivers.ErrInvalid) {
			t.Errorf("an image that is not there: %v", err)
		}
		contains(t, err, "gcloud compute images list")
	})
	// Nothing was asked for, so there is nothing to wait for.
	bubble(t, gce.Options{}, func(t *testing.T, c *gce.Cloud) {
		d, spec := open(t, c, small), machine(func(s *drivers.Spec) { s.Image = "nosuch" })
		if _, err := d.Create(t.Context(), spec); err == nil {
			t.Error("made")
		}
		begun := time.Now()
		if err := d.Destroy(t.Context(), []drivers.Ref{{Name: spec.Name}}, drivers.DestroyOptions{})[0]; err != nil || time.Since(begun) > time.Second {
			t.Errorf("the end of a machine that was never asked for: %v after %s", err, time.Since(begun))
		}
	})
}

// Credentials that are none are said at the first call, which asks nobody.
func TestAKeyFileThatIsNoneIsSaid(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(key, []byte(`{"type":"service_account"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	d := openWith(t, Setup{}, "{account: {project_id: p, json_path: '"+key+"'}, image: i}")
	begun := time.Now()
	err := d.Ping(t.Context())
	if !errors.Is(err, drivers.ErrAuth) || time.Since(begun) > 5*time.Second {
		t.Errorf("ping: %v after %s", err, time.Since(begun))
	}
	contains(t, err, "account.json_path")
}

// A rehearsal reaches a fake over a socket, without credentials.
func TestAnotherEndpoint(t *testing.T) {
	t.Parallel()
	c := gce.New(gce.Options{Durations: moments()})
	srv := httptest.NewServer(c)
	defer srv.Close()
	d := openWith(t, Setup{Endpoint: srv.URL + "/"}, small)
	if err := d.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	mustCreate(t, d, machine())
	empty(t, c, d)
}
