//go:build !no_amazon

package amazon

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
)

func TestADiskDecidesTheZone(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		d := open(t, c, setup{}, pooled(t, inZones))
		home := []drivers.DiskSpec{{Name: "Home of " + strings.Repeat("AbC", 24), SizeGiB: 10}}
		withHome := func(zone string) drivers.Spec {
			return machine(gitspace, func(s *drivers.Spec) { s.Disks, s.Zone = home, zone })
		}
		first := create(t, d, withHome("us-east-1a"))
		destroy(t, d, first)
		second := create(t, d, withHome("us-east-1b"))
		if second.Zone != "us-east-1a" {
			t.Errorf("the machine is in %s, its disk in us-east-1a", second.Zone)
		}
		for _, m := range described(t, c, second.ID).BlockDeviceMappings {
			if *m.DeviceName == "/dev/sdf" && *m.Ebs.DeleteOnTermination {
				t.Error("the disk would go with the machine")
			}
		}
		l, err := d.List(t.Context(), drivers.Query{})
		if err != nil || len(l.Disks) != 1 || l.Disks[0].Name != home[0].Name || l.Disks[0].AttachedTo != second.Name {
			t.Errorf("disks %+v, %v", l.Disks, err)
		}
		if l, err := d.List(t.Context(), drivers.Query{NoDisks: true}); err != nil || len(l.Disks) > 0 || !l.Complete {
			t.Errorf("disks that nobody asks for: %+v, %v, %v", l.Disks, l.Complete, err)
		}
		destroy(t, d, second)
		// Where there is no room beside the disk, no other zone helps.
		c.Capacity("us-east-1a", "", 0)
		if _, err := d.Create(t.Context(), withHome("")); !errors.Is(err, drivers.ErrCapacity) || !strings.Contains(err.Error(), "us-east-1a") || strings.Contains(err.Error(), "us-east-1b") {
			t.Errorf("no room beside the disk: %v", err)
		}
		if err := errors.Join(d.DestroyDisks(t.Context(), []drivers.Ref{{Name: home[0].Name}})...); err != nil {
			t.Error(err)
		}
		if left := existing(c); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// TestADiskThatIsNotListedYetIsNotMadeAgain: the machine it was made for ended
// before anybody saw the disk.
func TestADiskThatIsNotListedYetIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{Times: fake.Times{Seen: fake.Range{Least: 2 * time.Second, Most: 2 * time.Second}}}, func(t *testing.T, c *fake.Cloud) {
		d := open(t, c, setup{}, pooled(t, inZones))
		home := drivers.DiskSpec{Name: "home", SizeGiB: 10}
		earlier := machine(gitspace, func(s *drivers.Spec) { s.Disks = []drivers.DiskSpec{home} })
		if _, err := d.makeDisk(t.Context(), &earlier, home, "us-east-1a"); err != nil {
			t.Fatal(err)
		}
		home.MayExist = true
		next := create(t, d, machine(gitspace, func(s *drivers.Spec) { s.Disks, s.Zone = []drivers.DiskSpec{home}, "us-east-1b" }))
		if next.Zone != "us-east-1a" {
			t.Errorf("the machine is in %s, its disk in us-east-1a", next.Zone)
		}
		l, err := d.List(t.Context(), drivers.Query{})
		if err != nil || len(l.Disks) != 1 || l.Disks[0].AttachedTo != next.Name {
			t.Errorf("disks %+v, %v", l.Disks, err)
		}
		destroy(t, d, next)
		if err := errors.Join(d.DestroyDisks(t.Context(), []drivers.Ref{{Name: home.Name}})...); err != nil {
			t.Error(err)
		}
	})
}

func TestTagsOfAnyShapeComeBack(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("Größe/", 13) + "AB" // 80 characters
	many := map[string]string{}
	for i := range 60 {
		many[fmt.Sprintf("Key %02d", i)] = strings.Repeat("v", 300)
	}
	for name, tc := range map[string]struct {
		labels, facts map[string]string
		exact         bool
	}{
		"capitals, blanks and 80 characters": {map[string]string{long: long, "A B": " x ", "50%": "+"}, map[string]string{"harness-account-id": "AbC_-1"}, true},
		"names of our own and of Amazon":     {map[string]string{"team": "ci"}, map[string]string{tagController: "other", "aws:x": "y", "Name": "z", "": "e"}, true},
		"more than EC2 takes":                {many, many, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
				d := open(t, c, setup{}, pooled(t))
				spec := machine()
				spec.Tags.Labels, spec.Facts = tc.labels, tc.facts
				ref := create(t, d, spec)
				inst := look(t, d, ref.Name, func(drivers.Instance) bool { return true })
				want := spec.Tags
				if !tc.exact {
					want.Labels, inst.Tags.Labels = nil, nil
				}
				if diff := cmp.Diff(want, inst.Tags); diff != "" {
					t.Errorf("(-given +listed):\n%s", diff)
				}
				destroy(t, d, ref)
			})
		})
	}
}

func TestAListingReadsAllPages(t *testing.T) {
	t.Parallel()
	// Small pages, some of them empty.
	bubble(t, fake.Options{Page: 5, Sparse: true, Unlimited: true}, func(t *testing.T, c *fake.Cloud) {
		d := open(t, c, setup{}, pooled(t))
		var refs []drivers.Ref
		for range 23 {
			refs = append(refs, create(t, d, machine()))
		}
		pass(ordinary.lag)
		if l, err := d.List(t.Context(), drivers.Query{}); err != nil || !l.Complete || len(l.Instances) != len(refs) {
			t.Errorf("%d machines of %d, complete %v, %v", len(l.Instances), len(refs), l.Complete, err)
		}
		destroy(t, d, refs...)
	})
}

func TestASecurityGroupIsMadeOnceForANetworkAndOpenedOnlyToWhomItIsTo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		env  string
		want []string
	}{
		"nobody is named": {"", nil},
		"two networks":    {"10.0.0.0/8, 192.0.2.7/32", []string{"10.0.0.0/8", "192.0.2.7/32"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
				vpc, subnet := subnets(t, c)
				getenv := func(name string) string { return map[string]string{drivers.IngressVariable: tc.env}[name] }
				for range 3 { // of different runners
					d := open(t, c, setup{getenv: getenv}, pooled(t, func(s *Spec) { s.Network.SubnetID = subnet["us-east-1a"] }))
					destroy(t, d, create(t, d, machine()))
				}
				out, err := raw(c).DescribeSecurityGroups(t.Context(), &ec2.DescribeSecurityGroupsInput{Filters: []filter{by("group-name", groupName)}})
				if err != nil || len(out.SecurityGroups) != 1 || *out.SecurityGroups[0].VpcId != vpc {
					t.Fatalf("groups %+v, %v; want one in %s", out.SecurityGroups, err, vpc)
				}
				var got []string
				for _, p := range out.SecurityGroups[0].IpPermissions {
					if *p.FromPort != agentPort || *p.ToPort != agentPort || *p.IpProtocol != "tcp" {
						t.Errorf("rule %+v", p)
					}
					for _, r := range p.IpRanges {
						got = append(got, *r.CidrIp)
					}
				}
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("open to (-want +got):\n%s", diff)
				}
			})
		})
	}
	if _, err := drivers.ParseIngress([]string{"10.0.0.0/8", "everybody"}); !errors.Is(err, drivers.ErrInvalid) || !strings.Contains(err.Error(), drivers.IngressVariable) {
		t.Errorf("a list that is none: %v", err)
	}
}
