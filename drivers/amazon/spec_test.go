package amazon

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
)

// What a pool is made of when the file names as little as possible.
func TestDefaultsFollowThePlatform(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text  string
		platform    drivers.Platform
		want        drivers.Platform
		machineType string
	}{
		{"nothing is said", "{ami: a}", drivers.Platform{}, drivers.Platform{OS: "linux", Arch: "amd64", OSName: "ubuntu"}, "t3.nano"},
		{"on arm64", "{ami: a}", drivers.Platform{Arch: "arm64"}, drivers.Platform{OS: "linux", Arch: "arm64", OSName: "ubuntu"}, "t4g.nano"},
		{"on windows", "{ami: a}", drivers.Platform{OS: "windows"}, drivers.Platform{OS: "windows", Arch: "amd64"}, "t3.nano"},
		{"a size is given", "{ami: a, size: m5.large}", drivers.Platform{OS: "darwin", OSName: "x"}, drivers.Platform{OS: "darwin", Arch: "amd64", OSName: "x"}, "m5.large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec, problems := drivertest.ReadSpec[Spec](t, Registration, tt.text, &tt.platform)
			if len(problems) > 0 {
				t.Error(problems)
			}
			if tt.platform != tt.want {
				t.Errorf("platform %+v, want %+v", tt.platform, tt.want)
			}
			image, machineType, disk := spec.Resolved()
			if image != "a" || machineType != tt.machineType || disk != 32 {
				t.Errorf("resolved to %s, %s, %d; want a, %s, 32", image, machineType, disk, tt.machineType)
			}
		})
	}
}

// What stands under a key of older files is moved to where it belongs.
func TestOldKeysAreMoved(t *testing.T) {
	t.Parallel()
	spec, problems := drivertest.ReadSpec[Spec](t, Registration, "{ami: a, zone_details: [{availability_zone: z, subnet_id: s}], network: {user_data: x}}", &drivers.Platform{})
	if len(problems) != 1 || !problems[0].Warning || problems[0].Path != "network.user_data" {
		t.Errorf("problems %v, want a warning of network.user_data", problems)
	}
	want := Registration.NewConfig().(*Spec)
	want.AMI, want.Size, want.UserData.UserData = "a", "t3.nano", "x"
	want.Network.ZoneDetails = []Zone{{AvailabilityZone: "z", SubnetID: "s"}}
	if diff := cmp.Diff(want, spec); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	spec, problems = drivertest.ReadSpec[Spec](t, Registration, "{ami: a, user_data: y, network: {user_data: x}}", &drivers.Platform{})
	if spec.UserData.UserData != "y" || spec.Network.UserData != "" || len(problems) != 1 || !strings.Contains(problems[0].Message, "not used") {
		t.Errorf("user data %q and problems %v; want that of the spec, and a warning", spec.UserData.UserData, problems)
	}
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, disk string
		iops       int
		problem    string
	}{
		{"by default", "{}", 0, ""},
		{"io1 without a speed", "{type: io1}", 100, ""},
		{"io1 with one", "{type: io1, iops: 500}", 500, ""},
		{"io2 without a speed", "{type: io2}", 0, "io2 volumes need it"},
		{"gp3 with a speed in quotes", "{type: gp3, iops: '3000'}", 3000, ""},
		{"gp2 with a speed", "{iops: 3000}", 3000, "no effect on gp2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			spec, problems := drivertest.ReadSpec[Spec](t, Registration, "{ami: a, disk: "+tt.disk+"}", &drivers.Platform{})
			if spec.Disk.IOPS != tt.iops {
				t.Errorf("%d operations, want %d", spec.Disk.IOPS, tt.iops)
			}
			if (len(problems) == 0) != (tt.problem == "") || len(problems) > 0 && !strings.Contains(problems[0].Message, tt.problem) {
				t.Errorf("problems %v, want %q", problems, tt.problem)
			}
		})
	}
}

func TestTagsOfAmazon(t *testing.T) {
	t.Parallel()
	many := map[string]string{}
	for c := range mostTags + 1 {
		many["k"+strings.Repeat("x", c)] = "v"
	}
	for name, tt := range map[string]struct {
		tags map[string]string
		want string
	}{
		"as they are":       {map[string]string{"Cost Center": "Größe 12", strings.Repeat("ü", 128): strings.Repeat("ü", 256)}, ""},
		"a key of Amazon":   {map[string]string{"AWS:x": ""}, "Amazon's"},
		"a long key":        {map[string]string{strings.Repeat("k", 129): ""}, "1 to 128"},
		"no key":            {map[string]string{"": "v"}, "1 to 128"},
		"a long value":      {map[string]string{"k": strings.Repeat("v", 257)}, "at most 256"},
		"more than allowed": {many, "36 tags"},
	} {
		var out drivers.Problems
		checkTags(tt.tags, "tags", &out)
		if (len(out) == 0) != (tt.want == "") || len(out) > 0 && !strings.Contains(out[0].Message, tt.want) {
			t.Errorf("%s: %v, want %q", name, out, tt.want)
		}
	}
}
