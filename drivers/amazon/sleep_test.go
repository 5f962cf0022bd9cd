//go:build !no_amazon

package amazon

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
)

func hibernating(s *drivers.Spec) { s.Hibernate = true }

func gitspace(s *drivers.Spec) { s.Tags.Kind = "gitspace" }

// rested is a machine that is stopped or hibernated.
func rested(t *testing.T, c *fake.Cloud, d *Driver, change func(*drivers.Spec)) drivers.Ref {
	t.Helper()
	ref := running(t, d, machine(change))
	pass(5 * time.Minute) // until it can hibernate
	if err := d.Suspend(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if got := described(t, c, ref.ID).State.Name; got != "stopped" {
		t.Fatalf("suspended and %s", got)
	}
	return ref
}

func TestMachinesHibernateWhereTheyCanAndStopElsewhere(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*drivers.Spec)
		reason string
	}{
		"made to hibernate": {hibernating, userHibernate},
		"made without":      {gitspace, userShutdown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
				d := open(t, c, setup{}, pooled(t))
				ref := rested(t, c, d, tc.change)
				if got := *described(t, c, ref.ID).StateReason.Code; got != tc.reason {
					t.Errorf("at rest by %s, want %s", got, tc.reason)
				}
				if inst := look(t, d, ref.Name, is(drivers.StatusSuspended)); inst.Address != "" {
					t.Errorf("a machine at rest has the address %s", inst.Address)
				}
				inst, err := d.Resume(t.Context(), drivers.Ref{Name: ref.Name})
				if err != nil || inst.Status != drivers.StatusRunning || inst.Address == "" || inst.Port != agentPort {
					t.Errorf("resume: %+v, %v", inst, err)
				}
				destroy(t, d, ref)
			})
		})
	}
}

func TestAMachineThatCannotHibernateYetIsTriedAgainLater(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		d := open(t, c, setup{}, pooled(t))
		ref := running(t, d, machine(hibernating))
		err := d.Suspend(t.Context(), ref)
		if drivers.Kind(err) != "transient" || !strings.Contains(err.Error(), "not ready to hibernate") {
			t.Fatalf("right after boot: %v", err)
		}
		if got := described(t, c, ref.ID).State.Name; got != "running" {
			t.Errorf("it is %s", got)
		}
		pass(5 * time.Minute)
		if err := d.Suspend(t.Context(), ref); err != nil {
			t.Errorf("later: %v", err)
		}
		destroy(t, d, ref)
	})
}

func TestAHibernationThatBecameAShutdownIsStillARest(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		d := open(t, c, setup{}, pooled(t))
		c.FailHibernations(1)
		ref := rested(t, c, d, hibernating)
		if _, err := d.Resume(t.Context(), ref); err != nil {
			t.Error(err)
		}
		destroy(t, d, ref)
	})
}

func TestResumeFromEveryStatus(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		reach func(t *testing.T, c *fake.Cloud, d *Driver) drivers.Ref
		kind  string // of the error
	}{
		"pending": {func(t *testing.T, _ *fake.Cloud, d *Driver) drivers.Ref {
			ref := create(t, d, machine())
			pass(2 * time.Second) // until it is listed
			return ref
		}, ""},
		"running": {func(t *testing.T, _ *fake.Cloud, d *Driver) drivers.Ref { return running(t, d, machine()) }, ""},
		"stopping": {func(t *testing.T, c *fake.Cloud, d *Driver) drivers.Ref {
			ref := running(t, d, machine(gitspace))
			if _, err := raw(c).StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{ref.ID}}); err != nil {
				t.Fatal(err)
			}
			return ref
		}, ""},
		"stopped": {func(t *testing.T, c *fake.Cloud, d *Driver) drivers.Ref { return rested(t, c, d, gitspace) }, ""},
		"stopped from within": {func(t *testing.T, c *fake.Cloud, d *Driver) drivers.Ref {
			ref := running(t, d, machine(gitspace))
			if err := c.GuestShutdown(ref.ID); err != nil {
				t.Fatal(err)
			}
			inst := look(t, d, ref.Name, is(drivers.StatusDead))
			if !strings.Contains(inst.Reason, "InstanceInitiatedShutdown") {
				t.Errorf("dead for %q", inst.Reason)
			}
			return ref
		}, ""},
		"stopped by a broken host": {func(t *testing.T, c *fake.Cloud, d *Driver) drivers.Ref {
			ref := running(t, d, machine(gitspace))
			if err := c.HostFailure(ref.ID); err != nil {
				t.Fatal(err)
			}
			look(t, d, ref.Name, is(drivers.StatusDead))
			return ref
		}, ""},
		"stopped, and there is no room": {func(t *testing.T, c *fake.Cloud, d *Driver) drivers.Ref {
			ref := rested(t, c, d, gitspace)
			c.Capacity(ref.Zone, "", 0)
			return ref
		}, "capacity"},
		"shutting down": {func(t *testing.T, c *fake.Cloud, d *Driver) drivers.Ref {
			ref := running(t, d, machine())
			if err := c.GuestShutdown(ref.ID); err != nil {
				t.Fatal(err)
			}
			return ref
		}, "not_found"},
		"terminated": {func(t *testing.T, c *fake.Cloud, d *Driver) drivers.Ref {
			ref := running(t, d, machine())
			if err := c.GuestShutdown(ref.ID); err != nil {
				t.Fatal(err)
			}
			pass(time.Minute)
			return ref
		}, "not_found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
				d := open(t, c, setup{}, pooled(t))
				ref := tc.reach(t, c, d)
				before := c.Books.Calls()["TerminateInstances"]
				inst, err := d.Resume(t.Context(), ref)
				if drivers.Kind(err) != tc.kind {
					t.Fatalf("kind %q of %v, want %q", drivers.Kind(err), err, tc.kind)
				}
				if err == nil && (inst.Status != drivers.StatusRunning || inst.Address == "" || inst.Name != ref.Name) {
					t.Errorf("resumed as %+v", inst)
				}
				if n := c.Books.Calls()["TerminateInstances"] - before; n > 0 {
					t.Errorf("a resume ended the machine (%d calls)", n)
				}
				destroy(t, d, ref)
				if left := existing(c); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

func TestAResumeThatComesToNoEndLeavesTheMachine(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{Times: fake.Times{Pending: fake.Range{Least: time.Hour, Most: time.Hour}}}, func(t *testing.T, c *fake.Cloud) {
		d := open(t, c, setup{}, pooled(t))
		ref := create(t, d, machine(gitspace))
		pass(5 * time.Second) // until it is listed
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		if _, err := d.Resume(ctx, ref); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if got := described(t, c, ref.ID).State.Name; got != "pending" {
			t.Errorf("it is %s", got)
		}
		destroy(t, d, ref)
	})
}

func TestSpotMachinesEndWithTheirRequestAndCannotRest(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		d := open(t, c, setup{}, pooled(t, func(s *Spec) { s.MarketType = "spot" }))
		ref := running(t, d, machine())
		if err := d.Suspend(t.Context(), ref); !errors.Is(err, drivers.ErrUnsupported) || !strings.Contains(err.Error(), "market_type") {
			t.Errorf("suspend: %v", err)
		}
		destroy(t, d, ref)
		gone := running(t, d, machine())
		if err := c.Interrupt(gone.ID); err != nil {
			t.Fatal(err)
		}
		inst := look(t, d, gone.Name, is(drivers.StatusDead))
		if !strings.Contains(inst.Reason, "SpotInstanceTermination") {
			t.Errorf("interrupted for %q", inst.Reason)
		}
		destroy(t, d, gone)
		pass(10 * time.Minute)
		if left := existing(c); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if n := c.Books.Calls()["CancelSpotInstanceRequests"]; n == 0 {
			t.Error("no request was cancelled")
		}
	})
}

func TestTheConsoleOfOldTypesIsReadTheOldWay(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		d := open(t, c, setup{}, pooled(t, func(s *Spec) { s.Size = "m4.large" }))
		ref := running(t, d, machine())
		if err := c.Console(ref.ID, "login: "); err != nil {
			t.Fatal(err)
		}
		pass(time.Hour)
		var text strings.Builder
		if err := d.Console(t.Context(), ref, &text, 4); err != nil || text.String() != "in: " {
			t.Errorf("got %q, %v", text.String(), err)
		}
		destroy(t, d, ref)
	})
}

func TestADestroyIsConfirmedByTheCloudAlone(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakecloud.Fault{
		"the answer is lost":          {Method: "TerminateInstances", Times: 1, Effect: fakecloud.Lose},
		"the machine is not seen yet": {Method: "TerminateInstances", Times: 1, Err: &fake.Error{Status: 400, Code: "InvalidInstanceID.NotFound", Message: "does not exist"}},
		"calls are throttled":         {Method: "TerminateInstances", Times: 4, Err: fake.ErrThrottled()},
		"EC2 fails for a moment":      {Method: "DescribeInstances", Times: 3, Err: fake.ErrInternal()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
				d := open(t, c, setup{}, pooled(t))
				ref := create(t, d, machine()) // and at once, before it is listed
				c.Faults.Add(fault)
				destroy(t, d, ref)
				if left := existing(c); len(left) > 0 {
					t.Errorf("confirmed, and there is %v", left)
				}
				destroy(t, d, ref, drivers.Ref{Name: "nosuch"})
			})
		})
	}
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		d := open(t, c, setup{}, pooled(t))
		ref := create(t, d, machine())
		pass(5 * time.Second)
		if err := c.Hide(ref.ID, 3*time.Second); err != nil {
			t.Fatal(err)
		}
		destroy(t, d, drivers.Ref{Name: ref.Name}) // by name, while no list has it
		if left := existing(c); len(left) > 0 {
			t.Errorf("confirmed, and there is %v", left)
		}
		kept := create(t, d, machine())
		pass(5 * time.Second) // until it is listed
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if errs := d.Destroy(ctx, []drivers.Ref{kept}, drivers.DestroyOptions{}); errs[0] == nil {
			t.Error("confirmed while it is on its way")
		}
		destroy(t, d, kept)
	})
}
