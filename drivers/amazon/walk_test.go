//go:build !no_amazon

package amazon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
)

// inZones has machines in zones a and b of the default network.
func inZones(s *Spec) {
	s.Network.ZoneDetails = []Zone{{AvailabilityZone: "us-east-1a"}, {AvailabilityZone: "us-east-1b"}}
}

// tried are the places of the launches that were asked for.
func tried(r *requests) (all []string) {
	for _, form := range r.of("RunInstances") {
		p := place{zone: form.Get("Placement.AvailabilityZone"), size: form.Get("InstanceType"), spot: form.Get("InstanceMarketOptions.MarketType") == "spot"}
		all = append(all, p.String())
	}
	return all
}

func TestTheWalkGoesByZoneThenSizeThenMarket(t *testing.T) {
	t.Parallel()
	all := func(s *Spec) {
		inZones(s)
		s.SizeAlt, s.MarketType = "m7i.large", "spot"
	}
	inOrder := []string{
		"m5.large in us-east-1b (spot)", "m5.large in us-east-1a (spot)", "m7i.large in us-east-1b (spot)", "m7i.large in us-east-1a (spot)",
		"m5.large in us-east-1b", "m5.large in us-east-1a", "m7i.large in us-east-1b", "m7i.large in us-east-1a",
	}
	for name, tc := range map[string]struct {
		key  func(*Spec)
		full func(*fake.Cloud)
		want []string
		kind string
	}{
		"room everywhere": {all, func(*fake.Cloud) {}, inOrder[:1], ""},
		"one zone full":   {all, func(c *fake.Cloud) { c.Capacity("us-east-1b", "", 0) }, inOrder[:2], ""},
		"a size gone": {all, func(c *fake.Cloud) {
			c.Capacity("us-east-1a", "m5.large", 0)
			c.Capacity("us-east-1b", "m5.large", 0)
		}, inOrder[:3], ""},
		"no spot machines": {all, func(c *fake.Cloud) {
			c.SpotCapacity("us-east-1a", "", 0)
			c.SpotCapacity("us-east-1b", "", 0)
		}, inOrder[:5], ""},
		"no room at all": {all, func(c *fake.Cloud) {
			c.Capacity("us-east-1a", "", 0)
			c.Capacity("us-east-1b", "", 0)
		}, inOrder, "capacity"},
		"a quota, which no other zone helps against": {all, func(c *fake.Cloud) { c.Quota(0, 1) }, inOrder[:1], "quota"},
		"a type that is not in the zone": {func(s *Spec) {
			inZones(s)
			s.Size = "p5.48xlarge"
			s.Network.ZoneDetails[0].AvailabilityZone = "us-east-1c"
		}, func(*fake.Cloud) {}, []string{"p5.48xlarge in us-east-1b"}, ""},
		"a failure that is EC2's own": {all, func(c *fake.Cloud) {
			c.Faults.Add(fakecloud.Fault{Method: "RunInstances", Err: fake.ErrInternal()})
		}, inOrder[:1], "transient"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
				var asked requests
				tc.full(c)
				d := open(t, c, setup{http: asked.client(c)}, pooled(t, tc.key, func(s *Spec) { s.Account.Retries = 1 }))
				// This name begins with the second zone.
				ref, err := d.Create(t.Context(), machine(func(s *drivers.Spec) { s.Name = "walker" }))
				if kind := drivers.Kind(err); kind != tc.kind {
					t.Errorf("kind %q of %v, want %q", kind, err, tc.kind)
				}
				if diff := cmp.Diff(tc.want, tried(&asked)); diff != "" {
					t.Errorf("tried (-want +got):\n%s", diff)
				}
				if err == nil {
					destroy(t, d, ref)
				}
				if left := existing(c); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

func TestAPlaceWithoutRoomIsLeftOutForAWhile(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		var asked requests
		c.Capacity("us-east-1b", "", 0)
		d := open(t, c, setup{http: asked.client(c)}, pooled(t, inZones))
		for i := range 6 {
			create(t, d, machine(func(s *drivers.Spec) { s.Name = fmt.Sprintf("m-%d", i) }))
		}
		inB := 0
		for _, at := range tried(&asked) {
			if strings.HasSuffix(at, "us-east-1b") {
				inB++
			}
		}
		if inB != 1 {
			t.Errorf("the full zone was tried %d times, want once: %v", inB, tried(&asked))
		}
		c.Capacity("us-east-1b", "", -1)
		pass(stockoutLasts)
		create(t, d, machine(func(s *drivers.Spec) { s.Name = "walker" }))
		if all := tried(&asked); all[len(all)-1] != "m5.large in us-east-1b" {
			t.Errorf("after %v it was tried in %s", stockoutLasts, all[len(all)-1])
		}
	})
}

// EC2 may accept a launch and find out afterwards that it has no room.
func TestAPlaceThatHadNoRoomAfterAllIsLeftOutForAWhile(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		var asked requests
		d := open(t, c, setup{http: asked.client(c)}, pooled(t, inZones))
		c.FailLaunches(1, "Server.InsufficientInstanceCapacity")
		ref := create(t, d, machine(func(s *drivers.Spec) { s.Name = "walker" }))
		if inst := look(t, d, ref.Name, is(drivers.StatusDead)); !errors.Is(inst.Err, drivers.ErrCapacity) {
			t.Errorf("it ended of %v", inst.Err)
		}
		destroy(t, d, ref)
		for i := range 6 {
			create(t, d, machine(func(s *drivers.Spec) { s.Name = fmt.Sprintf("m-%d", i) }))
		}
		if after := tried(&asked)[1:]; slices.Contains(after, "m5.large in us-east-1b") {
			t.Errorf("the zone without room was tried again: %v", after)
		}
	})
}

func TestWhereAllIsFullOnePlaceIsTriedAgain(t *testing.T) {
	t.Parallel()
	a, b := place{zone: "a", size: "s"}, place{zone: "b", size: "s"}
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	var s stockouts
	if got := s.worth([]place{a, b}, now); len(got) != 2 {
		t.Errorf("got %v of two with room", got)
	}
	s.add(b, now)
	s.add(a, now.Add(time.Minute))
	if diff := cmp.Diff([]place{b}, s.worth([]place{a, b}, now.Add(2*time.Minute)), cmp.AllowUnexported(place{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i := range 2 * mostStockouts {
		s.add(place{zone: fmt.Sprint(i)}, now)
	}
	if len(s.out) > mostStockouts {
		t.Errorf("%d are remembered, at most %d", len(s.out), mostStockouts)
	}
}

func TestAMachineOfALostAnswerIsFoundWhereverItIs(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		once := func(s *Spec) { s.Account.Retries = 1 }
		spec := machine(func(s *drivers.Spec) { s.Name = "walker" })
		c.Capacity("us-east-1b", "", 0)
		c.Faults.Add(fakecloud.Fault{Method: "RunInstances", Skip: 1, Times: 1, Effect: fakecloud.Lose})
		if _, err := open(t, c, setup{}, pooled(t, inZones, once)).Create(t.Context(), spec); err == nil {
			t.Fatal("the answer was not lost")
		}
		pass(10 * time.Second)
		c.Capacity("us-east-1b", "", -1) // so that the first place has room now
		d := open(t, c, setup{}, pooled(t, inZones, once))
		ref := create(t, d, spec)
		if ref.Zone != "us-east-1a" {
			t.Errorf("found in %s", ref.Zone)
		}
		if n := len(existing(c)); n != 3 {
			t.Errorf("there are %v, want one machine with volume and interface", existing(c))
		}
		destroy(t, d, ref)
	})
}

func TestAnImageThatHasMovedOnMakesNoSecondMachine(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		spec := machine()
		ref := create(t, open(t, c, setup{}, pooled(t)), spec)
		pass(10 * time.Second)
		d := open(t, c, setup{}, pooled(t, func(s *Spec) { s.AMI = al2023 }))
		if again := create(t, d, spec); again != ref {
			t.Errorf("got %+v, want %+v", again, ref)
		}
		destroy(t, d, ref)
		if _, err := d.Create(t.Context(), spec); !errors.Is(err, drivers.ErrInvalid) {
			t.Errorf("a name that is used up: %v", err)
		}
	})
}

func TestACreateThatIsCancelledAnywhereLeavesNothingUnlisted(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"DescribeImages", "DescribeVpcs", "DescribeSecurityGroups", "CreateSecurityGroup", "RunInstances", "DescribeVolumes", "CreateVolume", "AttachVolume", "DescribeInstances"} {
		for name, fault := range map[string]fakecloud.Fault{
			"hangs":             {Effect: fakecloud.Hang},
			"hangs after it":    {Effect: fakecloud.HangAfter},
			"is lost for ever":  {Effect: fakecloud.Lose},
			"is dropped":        {Effect: fakecloud.Drop},
			"is refused":        {Err: fake.ErrInternal()},
			"is refused for ms": {Err: fake.ErrUnavailable(), Times: 2},
			"is throttled":      {Err: fake.ErrThrottled(), Times: 3},
		} {
			t.Run(method+" "+name, func(t *testing.T) {
				t.Parallel()
				bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
					fault.Method = method
					remove := c.Faults.Add(fault)
					d := open(t, c, setup{}, pooled(t, inZones))
					spec := machine(func(s *drivers.Spec) {
						s.Tags.Kind = "gitspace"
						s.Disks = []drivers.DiskSpec{{Name: "Home of AbC", SizeGiB: 10}}
					})
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
					_, err := d.Create(ctx, spec)
					cancel()
					if fault.Times > 0 && err != nil {
						t.Errorf("a passing failure: %v", err)
					}
					remove()
					pass(5 * time.Second)
					again := open(t, c, setup{}, pooled(t, inZones))
					l, err := again.List(t.Context(), drivers.Query{})
					if err != nil || !l.Complete {
						t.Fatal(l.Complete, err)
					}
					machines := 0
					for _, thing := range existing(c) {
						if strings.HasPrefix(thing, "instance ") {
							machines++
						}
					}
					if machines != len(l.Instances) || machines > 1 {
						t.Errorf("%d machines are listed of %v", len(l.Instances), existing(c))
					}
					ref := create(t, again, spec)
					if err := errors.Join(again.Destroy(t.Context(), []drivers.Ref{ref}, drivers.DestroyOptions{Disks: drivers.Delete})...); err != nil {
						t.Fatal(err)
					}
					if left := existing(c); len(left) > 0 {
						t.Errorf("left behind: %v", left)
					}
				})
			})
		}
	}
}
