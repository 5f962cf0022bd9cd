//go:build !no_amazon

package amazon

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
)

func TestWhatIsWrongWithTheAccountIsSaidWithTheFix(t *testing.T) {
	t.Parallel()
	mayNot := func(action string) bool { return action != "DescribeInstances" }
	for name, tc := range map[string]struct {
		o    fake.Options
		key  func(*Spec)
		want []string
	}{
		"no credentials": {
			fake.Options{},
			func(s *Spec) { s.Account.AccessKeyID, s.Account.AccessKeySecret = "", "" },
			[]string{"no credentials", "account.access_key_id", "AMAZON_ACCESS_KEY_ID"},
		},
		"an unknown key": {
			fake.Options{Keys: []fake.Key{{ID: "OTHER"}}},
			func(*Spec) {},
			[]string{"AuthFailure", "check the access key"},
		},
		"a token that has expired": {
			fake.Options{Keys: []fake.Key{{ID: "AKID", Token: "tok", Until: time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)}}},
			func(s *Spec) { s.Account.SessionToken = "tok" },
			[]string{"RequestExpired", "renew the credentials"},
		},
		"another region": {fake.Options{Region: "eu-central-1"}, func(*Spec) {}, []string{"SignatureDoesNotMatch", "account.region"}},
		"a missing right": {
			fake.Options{Keys: []fake.Key{{ID: "AKID", May: mayNot}}},
			func(*Spec) {},
			[]string{"UnauthorizedOperation", "ec2:DescribeInstances", "docs/drivers.md"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, tc.o, func(t *testing.T, c *fake.Cloud) {
				err := open(t, c, setup{}, pooled(t, tc.key)).Ping(t.Context())
				if drivers.Kind(err) != "auth" {
					t.Errorf("kind %q of %v", drivers.Kind(err), err)
				}
				for _, want := range tc.want {
					if !strings.Contains(fmt.Sprint(err), want) {
						t.Errorf("%v does not say %q", err, want)
					}
				}
			})
		})
	}
	bubble(t, fake.Options{Keys: []fake.Key{{ID: "AKID", Token: "tok"}}}, func(t *testing.T, c *fake.Cloud) {
		if err := open(t, c, setup{}, pooled(t, func(s *Spec) { s.Account.SessionToken = "tok" })).Ping(t.Context()); err != nil {
			t.Errorf("with everything right: %v", err)
		}
	})
}

func TestWhatIsWrongWithASpecIsSaidWithItsKey(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		o    fake.Options
		key  func(*Spec)
		spec func(*drivers.Spec)
		kind string
		want []string
	}{
		"an image of another region": {key: func(s *Spec) { s.AMI = "ami-0123456789abcdef0" }, kind: "invalid", want: []string{"InvalidAMIID.NotFound", "account.region"}},
		"a name without an image":    {key: func(s *Spec) { s.AMI = "nosuch" }, kind: "invalid", want: []string{`image "nosuch"`, "us-east-1", "check ami"}},
		"a parameter that is not":    {key: func(s *Spec) { s.AMI = "/aws/nosuch" }, kind: "invalid", want: []string{"/aws/nosuch", "ParameterNotFound"}},
		"no image at all":            {key: func(s *Spec) { s.AMI = "" }, kind: "invalid", want: []string{"set ami"}},
		"an unknown key pair":        {key: func(s *Spec) { s.Account.KeyPairName = "nosuch" }, kind: "invalid", want: []string{"InvalidKeyPair.NotFound", "account.key_pair_name"}},
		"an unknown subnet":          {key: func(s *Spec) { s.Network.SubnetID = "subnet-0123456789abcdef0" }, kind: "invalid", want: []string{"InvalidSubnetID.NotFound", "network.subnet_id"}},
		"an unknown group":           {key: func(s *Spec) { s.Network.SecurityGroups = []string{"sg-0123456789abcdef0"} }, kind: "invalid", want: []string{"InvalidGroup.NotFound", "network.security_groups"}},
		"an unknown zone":            {key: func(s *Spec) { s.Account.AvailabilityZone = "us-east-1x" }, kind: "invalid", want: []string{"us-east-1x"}},
		"an unknown type":            {key: func(s *Spec) { s.Size = "m9.huge" }, kind: "invalid", want: []string{"m9.huge"}},
		"no default network":         {o: fake.Options{NoDefaultVPC: true}, kind: "invalid", want: []string{"no default VPC", "network.subnet_id", "zone_details"}},
		"a group and no default network": {
			o: fake.Options{NoDefaultVPC: true}, key: func(s *Spec) { s.Network.SecurityGroups = []string{"sg-0123456789abcdef0"} },
			kind: "invalid", want: []string{"VPCIdNotSpecified", "network.subnet_id"},
		},
		"a type that cannot hibernate": {
			key: func(s *Spec) { s.Size = "m5.metal" }, spec: func(s *drivers.Spec) { s.Hibernate = true },
			kind: "invalid", want: []string{"m5.metal cannot hibernate"},
		},
		"more memory than hibernates": {key: func(s *Spec) { s.Size = "r5.8xlarge" }, spec: func(s *drivers.Spec) { s.Hibernate = true }, kind: "invalid", want: []string{"256 GiB", "less than 150"}},
		"a disk too small to hibernate": {
			key: func(s *Spec) { s.Size = "r7i.2xlarge" }, spec: func(s *drivers.Spec) { s.Hibernate = true },
			kind: "invalid", want: []string{"65536 MiB", "32 GiB", "disk.size"},
		},
		"an image that cannot hibernate": {
			key: func(s *Spec) { s.AMI = windows }, spec: func(s *drivers.Spec) { s.Hibernate = true },
			kind: "invalid", want: []string{"UnsupportedHibernationConfiguration"},
		},
		"machines within machines": {spec: func(s *drivers.Spec) { s.Nested = true }, kind: "invalid", want: []string{"bare-metal"}},
		"a GPU":                    {spec: func(s *drivers.Spec) { s.GPU = true }, kind: "invalid", want: []string{"has no GPU"}},
		"a quota of machines":      {o: fake.Options{MaxVCPUs: 1}, kind: "quota", want: []string{"VcpuLimitExceeded", "raise the account's quota"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, tc.o, func(t *testing.T, c *fake.Cloud) {
				change := tc.key
				if change == nil {
					change = func(*Spec) {}
				}
				spec := machine()
				if tc.spec != nil {
					tc.spec(&spec)
				}
				_, err := open(t, c, setup{}, pooled(t, change)).Create(t.Context(), spec)
				if drivers.Kind(err) != tc.kind {
					t.Errorf("kind %q of %v, want %q", drivers.Kind(err), err, tc.kind)
				}
				for _, want := range tc.want {
					if !strings.Contains(fmt.Sprint(err), want) {
						t.Errorf("%v does not say %q", err, want)
					}
				}
				if left := existing(c); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

func TestAMachineThatEndsAtOnceIsDeadWithTheCloudsReason(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		c.FailLaunches(1, "Client.VolumeLimitExceeded")
		d := open(t, c, setup{}, pooled(t))
		ref := create(t, d, machine())
		inst := look(t, d, ref.Name, is(drivers.StatusDead))
		if !strings.Contains(inst.Reason, "Client.VolumeLimitExceeded") || !errors.Is(inst.Err, drivers.ErrQuota) {
			t.Errorf("reason %q, %v", inst.Reason, inst.Err)
		}
		destroy(t, d, ref)
		if l, err := d.List(t.Context(), drivers.Query{}); err != nil || len(l.Instances) > 0 {
			t.Errorf("listed after its end was confirmed: %v, %v", l.Instances, err)
		}
	})
}
