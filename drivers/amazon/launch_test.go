//go:build !no_amazon

package amazon

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
)

// requests keeps the calls that were made.
type requests struct {
	mu  sync.Mutex
	all []url.Values
}

// client reaches a cloud and keeps what it is asked.
func (r *requests) client(c *fake.Cloud) *http.Client {
	to := world(c).Transport
	return &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.Body != nil {
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return nil, err
			}
			req.Body = io.NopCloser(bytes.NewReader(body))
			if form, err := url.ParseQuery(string(body)); err == nil {
				r.mu.Lock()
				r.all = append(r.all, form)
				r.mu.Unlock()
			}
		}
		return to.RoundTrip(req)
	})}
}

// of are the calls of one operation.
func (r *requests) of(action string) (all []url.Values) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, form := range r.all {
		if form.Get("Action") == action {
			all = append(all, form)
		}
	}
	return all
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// tagOf is a tag of a kind in a request, "" if it has none.
func tagOf(form url.Values, kind, key string) string {
	for i := 1; form.Get(fmt.Sprintf("TagSpecification.%d.ResourceType", i)) != ""; i++ {
		at := fmt.Sprintf("TagSpecification.%d.", i)
		if form.Get(at+"ResourceType") != kind {
			continue
		}
		for j := 1; form.Has(fmt.Sprintf("%sTag.%d.Key", at, j)); j++ {
			if form.Get(fmt.Sprintf("%sTag.%d.Key", at, j)) == key {
				return form.Get(fmt.Sprintf("%sTag.%d.Value", at, j))
			}
		}
	}
	return ""
}

// subnets are those of the network that is not the default one, by zone.
func subnets(t *testing.T, c *fake.Cloud) (vpc string, byZone map[string]string) {
	t.Helper()
	byZone = map[string]string{}
	out, err := raw(c).DescribeSubnets(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range out.Subnets {
		if !*s.DefaultForAz {
			vpc, byZone[*s.AvailabilityZone] = *s.VpcId, *s.SubnetId
		}
	}
	return vpc, byZone
}

func TestEveryKeyOfTheSpecReachesTheLaunch(t *testing.T) {
	t.Parallel()
	const profile = "arn:aws:iam::123456789012:instance-profile/builder"
	for name, tc := range map[string]struct {
		key  func(*Spec)
		spec func(*drivers.Spec)
		want map[string]string // of the request
		tags map[string]string // "kind key" to value
	}{
		"the least": {want: map[string]string{
			"ImageId": ubuntu, "InstanceType": "m5.large", "MinCount": "1", "MaxCount": "1", "InstanceInitiatedShutdownBehavior": "terminate",
			"MetadataOptions.HttpTokens": "required", "MetadataOptions.HttpPutResponseHopLimit": "1", "IamInstanceProfile.Arn": "", "KeyName": "",
			"NetworkInterface.1.AssociatePublicIpAddress": "true", "BlockDeviceMapping.1.DeviceName": "/dev/sda1",
			"BlockDeviceMapping.1.Ebs.VolumeSize": "32", "BlockDeviceMapping.1.Ebs.VolumeType": "gp2", "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "true",
			"InstanceMarketOptions.MarketType": "", "HibernationOptions.Configured": "", "Placement.AvailabilityZone": "",
		}},
		"size":                {key: func(s *Spec) { s.Size = "m7i.large" }, want: map[string]string{"InstanceType": "m7i.large"}},
		"ami by name":         {key: func(s *Spec) { s.AMI = al2023 }, want: map[string]string{"ImageId": "ami-0a1b2c3d4e5f60004", "BlockDeviceMapping.1.DeviceName": "/dev/xvda"}},
		"ami by parameter":    {key: func(s *Spec) { s.AMI = "/aws/service/canonical/noble" }, want: map[string]string{"ImageId": ubuntu}},
		"ami by resolve:ssm:": {key: func(s *Spec) { s.AMI = "resolve:ssm:/aws/service/canonical/noble" }, want: map[string]string{"ImageId": ubuntu}},
		"name":                {key: func(s *Spec) { s.Name = "Builds" }, tags: map[string]string{"instance Name": "Builds-NAME", "instance runner:name": "NAME"}},
		"tags": {key: func(s *Spec) { s.Tags = map[string]string{"Team": "Größe"} }, tags: map[string]string{
			"instance Team": "Größe", "volume Team": "Größe", "network-interface Team": "Größe",
		}},
		"disk":        {key: func(s *Spec) { s.Disk = Disk{Size: 50, Type: "gp3", IOPS: 4000} }, want: map[string]string{"BlockDeviceMapping.1.Ebs.VolumeSize": "50", "BlockDeviceMapping.1.Ebs.VolumeType": "gp3", "BlockDeviceMapping.1.Ebs.Iops": "4000"}},
		"disk io1":    {key: func(s *Spec) { s.Disk.Type = "io1" }, want: map[string]string{"BlockDeviceMapping.1.Ebs.VolumeType": "io1", "BlockDeviceMapping.1.Ebs.Iops": "100"}},
		"disk key":    {key: func(s *Spec) { s.Disk.KMSKeyID = "key" }, want: map[string]string{"BlockDeviceMapping.1.Ebs.KmsKeyId": "key", "BlockDeviceMapping.1.Ebs.Encrypted": "true"}},
		"disk tags":   {key: func(s *Spec) { s.Disk.Tags = map[string]string{"Backup": "no"} }, tags: map[string]string{"volume Backup": "no", "instance Backup": ""}},
		"private":     {key: func(s *Spec) { s.Network.PrivateIP = true }, want: map[string]string{"NetworkInterface.1.AssociatePublicIpAddress": "false"}},
		"device name": {key: func(s *Spec) { s.DeviceName = "/dev/sda1" }, want: map[string]string{"BlockDeviceMapping.1.DeviceName": "/dev/sda1"}},
		"key pair":    {key: func(s *Spec) { s.Account.KeyPairName = "ops" }, want: map[string]string{"KeyName": "ops"}},
		"profile":     {key: func(s *Spec) { s.IAMProfileARN = profile }, want: map[string]string{"IamInstanceProfile.Arn": profile}},
		"zone":        {key: func(s *Spec) { s.Account.AvailabilityZone = "us-east-1b" }, want: map[string]string{"Placement.AvailabilityZone": "us-east-1b"}},
		"spot": {key: func(s *Spec) { s.MarketType = "spot" }, want: map[string]string{
			"InstanceMarketOptions.MarketType": "spot", "InstanceMarketOptions.SpotOptions.SpotInstanceType": "one-time",
			"InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior": "terminate",
		}, tags: map[string]string{"spot-instances-request runner:name": "NAME"}},
		"hibernate": {spec: func(s *drivers.Spec) { s.Hibernate = true }, want: map[string]string{"HibernationOptions.Configured": "true", "BlockDeviceMapping.1.Ebs.Encrypted": "true"}},
		"a gitspace": {key: func(s *Spec) { s.MarketType = "spot" }, spec: func(s *drivers.Spec) { s.Tags.Kind = "gitspace" }, want: map[string]string{
			"InstanceInitiatedShutdownBehavior": "stop", "InstanceMarketOptions.MarketType": "",
		}},
		"what a request asks for": {spec: func(s *drivers.Spec) {
			s.Image, s.MachineType, s.Zone, s.DiskGiB, s.DiskType = "ami-0a1b2c3d4e5f60003", "m7i.large", "us-east-1c", 77, "gp3"
		}, want: map[string]string{
			"ImageId": "ami-0a1b2c3d4e5f60003", "InstanceType": "m7i.large", "Placement.AvailabilityZone": "us-east-1c",
			"BlockDeviceMapping.1.Ebs.VolumeSize": "77", "BlockDeviceMapping.1.Ebs.VolumeType": "gp3",
		}},
		"facts": {spec: func(s *drivers.Spec) { s.Facts = map[string]string{"harness-account-id": "AbC_1", "aws:no": "x"} }, tags: map[string]string{
			"instance harness-account-id": "AbC_1", "instance aws:no": "", "instance harness-pool-name": "pool", "instance harness-resource-class": "m5.large",
			"instance harness-platform-os": "linux", "instance harness-platform-arch": "amd64",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := fake.Options{
				KeyPairs: []string{"ops"}, Profiles: []string{"builder"}, KMSKeys: []string{"key"},
				Parameters: map[string]string{"/aws/service/canonical/noble": ubuntu},
			}
			bubble(t, o, func(t *testing.T, c *fake.Cloud) {
				var asked requests
				change := tc.key
				if change == nil {
					change = func(*Spec) {}
				}
				d := open(t, c, setup{http: asked.client(c)}, pooled(t, change))
				spec := machine()
				if tc.spec != nil {
					tc.spec(&spec)
				}
				ref := create(t, d, spec)
				form := asked.of("RunInstances")[0]
				for key, want := range tc.want {
					if got := form.Get(key); got != want {
						t.Errorf("%s is %q, want %q", key, got, want)
					}
				}
				for at, want := range tc.tags {
					kind, key, _ := strings.Cut(at, " ")
					if got, want := tagOf(form, kind, key), strings.ReplaceAll(want, "NAME", spec.Name); got != want {
						t.Errorf("tag %s of the %s is %q, want %q", key, kind, got, want)
					}
				}
				destroy(t, d, ref)
				if left := existing(c); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

func TestSubnetsGroupsAndZonesReachTheLaunch(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		vpc, subnet := subnets(t, c)
		group := func(name string) string {
			d := open(t, c, setup{}, pooled(t, func(s *Spec) { s.Network.SubnetID = subnet["us-east-1a"] }))
			ids, err := d.groupsFor(t.Context(), subnet["us-east-1a"])
			if err != nil {
				t.Fatal(err)
			}
			return ids[0]
		}(groupName)
		for name, tc := range map[string]struct {
			key  func(*Spec)
			spec func(*drivers.Spec)
			want map[string]string
		}{
			"network.subnet_id": {key: func(s *Spec) { s.Network.SubnetID = subnet["us-east-1b"] }, want: map[string]string{"NetworkInterface.1.SubnetId": subnet["us-east-1b"], "NetworkInterface.1.SecurityGroupId.1": group}},
			"network.security_groups": {key: func(s *Spec) {
				s.Network.SubnetID, s.Network.SecurityGroups, s.Network.VPCSecurityGroups = subnet["us-east-1b"], []string{group}, []string{group}
			}, want: map[string]string{"NetworkInterface.1.SecurityGroupId.1": group, "NetworkInterface.1.SecurityGroupId.2": ""}},
			"the zone asked for of network.zone_details": {
				key: func(s *Spec) {
					for _, z := range []string{"us-east-1a", "us-east-1b", "us-east-1c"} {
						s.Network.ZoneDetails = append(s.Network.ZoneDetails, Zone{z, subnet[z]})
					}
				},
				spec: func(s *drivers.Spec) { s.Zone = "us-east-1c" },
				want: map[string]string{"Placement.AvailabilityZone": "us-east-1c", "NetworkInterface.1.SubnetId": subnet["us-east-1c"]},
			},
		} {
			var asked requests
			d := open(t, c, setup{http: asked.client(c)}, pooled(t, tc.key))
			spec := machine()
			if tc.spec != nil {
				tc.spec(&spec)
			}
			destroy(t, d, create(t, d, spec))
			form := asked.of("RunInstances")[0]
			for key, want := range tc.want {
				if got := form.Get(key); got != want {
					t.Errorf("%s: %s is %q, want %q", name, key, got, want)
				}
			}
		}
		// A network of the pool's own where no subnet says which.
		d := open(t, c, setup{}, pooled(t, func(s *Spec) { s.VPC = vpc }))
		if ids, err := d.groupsFor(t.Context(), ""); err != nil || ids[0] != group {
			t.Errorf("group of the pool's VPC is %v, %v, want %s", ids, err, group)
		}
	})
}

func TestRegionAndKeysOfTheAccount(t *testing.T) {
	t.Parallel()
	// As keys of today: the account is 40 bits behind the prefix.
	key := "AK" + "IA" + "Y3NXQ4WYR5ABCDEF"
	account, ok := accountOf(key)
	if !ok || len(account) != 12 {
		t.Fatalf("account of a key is %q, %v", account, ok)
	}
	for name, tc := range map[string]struct {
		account Account
		env     map[string]string
		want    string
	}{
		"a key of the pool":              {Account{Region: "eu-central-1", AccessKeyID: key, AccessKeySecret: "s"}, nil, "amazon:eu-central-1:" + account},
		"another key of the account":     {Account{Region: "eu-central-1", AccessKeyID: key[:16] + "ZZZZ", AccessKeySecret: "s"}, nil, "amazon:eu-central-1:" + account},
		"a key of the environment":       {Account{Region: "eu-central-1"}, map[string]string{"AMAZON_ACCESS_KEY_ID": key, "AMAZON_ACCESS_KEY_SECRET": "s"}, "amazon:eu-central-1:" + account},
		"half a key of the environment":  {Account{Region: "eu-central-1"}, map[string]string{"AMAZON_ACCESS_KEY_ID": key}, "amazon:eu-central-1"},
		"the chain of AWS":               {Account{Region: "eu-central-1"}, nil, "amazon:eu-central-1"},
		"a key that tells of no account": {Account{Region: "eu-central-1", AccessKeyID: "AKID", AccessKeySecret: "s"}, nil, "amazon:eu-central-1:key-2c8a2a08ad81"},
	} {
		cfg := pooled(t, func(s *Spec) { s.Account = tc.account })
		d := open(t, fake.New(fake.Options{}), setup{getenv: func(name string) string { return tc.env[name] }}, cfg)
		if got := d.Scope(); got != tc.want {
			t.Errorf("%s: scope is %s, want %s", name, got, tc.want)
		}
	}
}

func TestNoRegionIsAnErrorThatNamesTheKey(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		cfg := pooled(t, func(s *Spec) { s.Account.Region = "" })
		_, err := newDriver(drivers.Options{Pool: "p", Config: cfg}, setup{http: world(c), timing: ordinary, getenv: func(string) string { return "" }})
		if !errors.Is(err, drivers.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "account.region") {
			t.Errorf("got %v", err)
		}
	})
}

func TestRetriesAreTheAccounts(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud) {
		c.Faults.Add(fakecloud.Fault{Method: "DescribeInstances", Err: fake.ErrUnavailable()})
		for _, n := range []int{1, 3} {
			before := c.Books.Calls()["DescribeInstances"]
			if err := open(t, c, setup{}, pooled(t, func(s *Spec) { s.Account.Retries = n })).Ping(t.Context()); err == nil {
				t.Error("no error")
			}
			if got := c.Books.Calls()["DescribeInstances"] - before; got != n {
				t.Errorf("%d attempts, want %d", got, n)
			}
		}
	})
}

func TestLongBootScriptsAreCompressedOrRefused(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 2*maxBoot)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(noise)
	for name, tc := range map[string]struct {
		boot []byte
		os   string
		zip  bool
		err  string
	}{
		"none":                          {nil, "linux", false, ""},
		"as long as may be":             {bytes.Repeat([]byte("x"), maxBoot), "linux", false, ""},
		"longer":                        {bytes.Repeat([]byte("x"), maxBoot+1), "linux", true, ""},
		"longer, for Windows":           {bytes.Repeat([]byte("x"), maxBoot+1), "windows", false, "16385 bytes and EC2 takes 16384"},
		"longer than compression helps": {noise, "linux", false, "has 32768 bytes, compressed"},
	} {
		got, err := userData(tc.boot, tc.os)
		if tc.err != "" {
			if !errors.Is(err, drivers.ErrInvalid) || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: %v, want %s", name, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if tc.boot == nil {
			if got != nil {
				t.Errorf("%s: %q", name, *got)
			}
			continue
		}
		data, err := base64.StdEncoding.DecodeString(*got)
		if err != nil {
			t.Fatal(err)
		}
		if tc.zip {
			z, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if data, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(data, tc.boot) {
			t.Errorf("%s: %d bytes arrive of %d", name, len(data), len(tc.boot))
		}
	}
}

func TestBootOptionsAreTheSpecs(t *testing.T) {
	t.Parallel()
	o, err := (&Spec{UserData: drivers.UserData{UserData: "#!/bin/sh"}, EnableC4D: true}).BootOptions()
	if err != nil || o.Template != "#!/bin/sh" || len(o.Scratch) == 0 || o.MaxBytes != 16<<10 {
		t.Errorf("got %+v, %v", o, err)
	}
	if o, _ := (&Spec{}).BootOptions(); o.Scratch != nil || o.Template != "" {
		t.Errorf("got %+v of nothing", o)
	}
	if _, err := (&Spec{UserData: drivers.UserData{UserDataPath: "/nosuch"}}).BootOptions(); err == nil {
		t.Error("no error for a file that is not there")
	}
}
