//go:build !no_amazon

package amazon

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

const (
	ubuntu  = "ami-0a1b2c3d4e5f60001"
	al2023  = "al2023-ami-2023.1.1999*"
	windows = "ami-0a1b2c3d4e5f60005"
)

// TestMain keeps this host's own configuration of AWS out.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "",
		"AWS_CA_BUNDLE": "", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_EC2": "", "AWS_ENDPOINT_URL_SSM": "",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// world reaches a cloud and its Systems Manager, and nothing else.
func world(c *fake.Cloud) *http.Client {
	return fakecloud.Client(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.Host, "ec2."):
			c.ServeHTTP(w, r)
		case strings.HasPrefix(r.Host, "ssm."):
			c.SSM().ServeHTTP(w, r)
		default:
			http.NotFound(w, r) // the host has no instance metadata
		}
	}))
}

// pooled is a checked spec with what a change makes of it.
func pooled(t testing.TB, changes ...func(*Spec)) *Spec {
	t.Helper()
	cfg := Registration.NewConfig().(*Spec)
	cfg.AMI, cfg.Size = ubuntu, "m5.large"
	cfg.Account.Region, cfg.Account.AccessKeyID, cfg.Account.AccessKeySecret = "us-east-1", "AKID", "secret"
	for _, change := range changes {
		change(cfg)
	}
	for _, p := range Registration.Check(cfg, &drivers.Platform{OS: "linux", Arch: "amd64"}) {
		if !p.Warning {
			t.Fatalf("%s: %s", p.Path, p.Message)
		}
	}
	return cfg
}

func open(t testing.TB, c *fake.Cloud, s setup, cfg *Spec) *Driver {
	t.Helper()
	if s.http == nil {
		s.http = world(c)
	}
	if s.timing == (timing{}) {
		s.timing = ordinary
	}
	if s.getenv == nil {
		s.getenv = func(string) string { return "" }
	}
	d, err := newDriver(drivers.Options{Pool: "pool", Config: cfg, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}, s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var made atomic.Int64

// machine is a spec of one more machine.
func machine(changes ...func(*drivers.Spec)) drivers.Spec {
	name := fmt.Sprintf("linux-%d", made.Add(1))
	now := time.Now().UTC().Truncate(time.Millisecond)
	spec := drivers.Spec{
		Name: name, Platform: drivers.Platform{OS: "linux", Arch: "amd64"}, Boot: []byte("#!/bin/sh\n"),
		Tags: drivers.Tags{Controller: "controller", Pool: "pool", Instance: "i" + name, Kind: "build", Created: now, Deadline: now.Add(24 * time.Hour)},
	}
	for _, change := range changes {
		change(&spec)
	}
	return spec
}

// raw is the SDK's client, past the driver.
func raw(c *fake.Cloud) *ec2.Client {
	return ec2.New(ec2.Options{
		Region: "us-east-1", BaseEndpoint: aws.String("https://ec2.us-east-1.amazonaws.com"), HTTPClient: fakecloud.Client(c), RetryMaxAttempts: 1,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKID", SecretAccessKey: "secret"}, nil
		}),
	})
}

// bubble runs a test in fake time.
func bubble(t *testing.T, o fake.Options, test func(t *testing.T, c *fake.Cloud)) {
	t.Helper()
	testbubble.Run(t, func(t *testing.T) {
		if o.Page == 0 {
			o.Page = 1000 // as EC2 has it
		}
		test(t, fake.New(o))
	})
}

// existing is what costs money; a security group does not.
func existing(c *fake.Cloud) (all []string) {
	c.Settle()
	for _, thing := range c.Books.Living() {
		if thing.Kind != "security-group" {
			all = append(all, thing.Kind+" "+thing.Name+" "+thing.ID)
		}
	}
	return all
}

func create(t *testing.T, d *Driver, spec drivers.Spec) drivers.Ref {
	t.Helper()
	ref, err := d.Create(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func destroy(t *testing.T, d *Driver, refs ...drivers.Ref) {
	t.Helper()
	for i, err := range d.Destroy(t.Context(), refs, drivers.DestroyOptions{}) {
		if err != nil {
			t.Fatalf("destroy %s: %v", refs[i].Name, err)
		}
	}
}

// look is the listed machine, as soon as ok says so.
func look(t *testing.T, d *Driver, name string, ok func(drivers.Instance) bool) drivers.Instance {
	t.Helper()
	var last drivers.Instance
	for range 300 {
		l, err := d.List(t.Context(), drivers.Query{})
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(l.Instances, func(i drivers.Instance) bool { return i.Name == name }); i >= 0 {
			if last = l.Instances[i]; ok(last) {
				return last
			}
		}
		pass(time.Second)
	}
	t.Fatalf("%s is %+v", name, last)
	return last
}

func is(s drivers.Status) func(drivers.Instance) bool {
	return func(i drivers.Instance) bool { return i.Status == s }
}

// running makes a machine and waits until it runs.
func running(t *testing.T, d *Driver, spec drivers.Spec) drivers.Ref {
	t.Helper()
	ref := create(t, d, spec)
	look(t, d, ref.Name, is(drivers.StatusRunning))
	return ref
}

// pass lets so much of a bubble's time go by.
func pass(d time.Duration) { <-time.After(d) }

// described is the machine as EC2 shows it.
func described(t *testing.T, c *fake.Cloud, id string) types.Instance {
	t.Helper()
	out, err := raw(c).DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Reservations[0].Instances[0]
}

// at once is a duration of the fake that takes no time.
var atOnce = fake.Range{Most: -1}

func TestConformance(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		c := fake.New(fake.Options{
			Unlimited: true,
			Times: fake.Times{
				Seen: atOnce, Pending: fake.Range{Least: time.Millisecond, Most: 20 * time.Millisecond}, Stopping: atOnce, Hibernating: atOnce,
				ShuttingDown: fake.Range{Least: time.Millisecond, Most: 20 * time.Millisecond}, HibernateReady: atOnce, Console: atOnce, Volume: atOnce,
			},
		})
		quick := timing{lag: 20 * time.Millisecond, poll: 10 * time.Millisecond, quick: 5 * time.Millisecond}
		once := func(s *Spec) { s.Account.Retries = 1 }
		var n atomic.Int64
		spec := func(testing.TB) drivers.Spec {
			return machine(func(s *drivers.Spec) {
				s.Name, s.Tags = fmt.Sprintf("conformance-%d", n.Add(1)), drivers.Tags{}
			})
		}
		id := func(ref drivers.Ref) string { return ref.ID }
		return drivertest.Harness{
			Open: func(t testing.TB) drivers.Driver { return open(t, c, setup{timing: quick}, pooled(t, once)) },
			Spec: spec,
			Existing: func(testing.TB) []string {
				// Volumes and interfaces go with their machine, whose end may be on its way.
				return existing(c)
			},
			FailDestroy: func(t testing.TB, ref drivers.Ref) func() {
				protect := func(on bool) {
					_, err := raw(c).ModifyInstanceAttribute(context.Background(), &ec2.ModifyInstanceAttributeInput{
						InstanceId: aws.String(id(ref)), DisableApiTermination: &types.AttributeBooleanValue{Value: aws.Bool(on)},
					})
					if err != nil {
						t.Fatal(err)
					}
				}
				protect(true)
				return func() { protect(false) }
			},
			FailCreate: func(_ testing.TB, err error) {
				c.Faults.Add(fakecloud.Fault{Method: "RunInstances", Times: 1, Err: &fake.Error{Status: 500, Code: "InternalError", Message: err.Error()}})
			},
			LoseAnswer: func(testing.TB) {
				c.Faults.Add(fakecloud.Fault{Method: "RunInstances", Times: 1, Effect: fakecloud.Lose})
			},
			HideFromList: func(testing.TB) {
				c.Faults.Add(fakecloud.Fault{Method: "DescribeInstances", Times: 1, Err: fake.ErrUnavailable()})
			},
			Kill: func(t testing.TB, ref drivers.Ref) {
				if err := c.Console(ref.ID, "kernel panic\n"); err != nil {
					t.Fatal(err)
				}
				if err := c.GuestShutdown(ref.ID); err != nil {
					t.Fatal(err)
				}
			},
			Full: func(t testing.TB) drivers.Driver {
				for _, zone := range []string{"us-east-1a", "us-east-1b", "us-east-1c"} {
					c.Capacity(zone, "", 0)
				}
				return open(t, c, setup{timing: quick}, pooled(t, once))
			},
			Every: func(t testing.TB) drivers.Spec {
				s := spec(t)
				s.Zones, s.DiskType, s.Hibernate = []string{"us-east-1b", "us-east-1a"}, "gp3", true
				s.Image, s.MachineType, s.DiskGiB = ubuntu, "m7i.large", 40
				return s
			},
			Invalid: func(t testing.TB) drivers.Spec {
				s := spec(t)
				s.Image = "ami-0123456789abcdef0"
				return s
			},
			Patience: 10 * time.Second,
		}
	})
}
