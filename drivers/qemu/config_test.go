package qemu_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
)

func TestCheckFillsInDefaults(t *testing.T) {
	t.Parallel()
	c, p := qemu.NewConfig(), drivers.Platform{}
	if problems := qemu.Check(c, &p); len(problems) != 0 {
		t.Fatalf("problems: %v", problems)
	}
	want := qemu.Config{
		Image: "tiny", MemoryMB: 128, CPUs: 1, Accelerator: "auto", AddressRange: "127.77.0.0/16", UIDRange: "1900000000-1900065535",
	}
	if diff := cmp.Diff(want, *c); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if want := (drivers.Platform{OS: "linux", Arch: runtime.GOARCH}); p != want {
		t.Errorf("platform %+v, want %+v", p, want)
	}
	image, size, disk := c.Resolved()
	if image != "tiny" || size != "1x128" || disk != 0 {
		t.Errorf("resolved to %s, %s, %d", image, size, disk)
	}
}

func TestCheckFindsProblems(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	script, text := write("ok.sh", "#!/bin/sh\n"), write("cloud.yml", "#cloud-config\n")
	for name, tc := range map[string]struct {
		change func(*qemu.Config, *drivers.Platform)
		path   string // "" for no problem
		want   string
	}{
		"windows":                     {func(_ *qemu.Config, p *drivers.Platform) { p.OS = "windows" }, "platform.os", "run linux"},
		"another architecture":        {func(_ *qemu.Config, p *drivers.Platform) { p.Arch = "s390x" }, "platform.arch", "have the host's architecture"},
		"the image debian":            {func(c *qemu.Config, _ *drivers.Platform) { c.Image, c.Disk.Size = "debian", 20 }, "", ""},
		"an image of one's own":       {func(c *qemu.Config, _ *drivers.Platform) { c.Image = "mine" }, "", ""},
		"a name that is no image's":   {func(c *qemu.Config, _ *drivers.Platform) { c.Image = "../mine" }, "image", "is no name of an image"},
		"too little for debian":       {func(c *qemu.Config, _ *drivers.Platform) { c.Image, c.MemoryMB = "debian", 128 }, "memory_mb", "128 is less than the 256 that debian needs"},
		"a disk of less than nothing": {func(c *qemu.Config, _ *drivers.Platform) { c.Image, c.Disk.Size = "debian", -1 }, "disk.size", "at least the size of the image's"},
		"memory below the minimum":    {func(c *qemu.Config, _ *drivers.Platform) { c.MemoryMB = 64 }, "memory_mb", "64 is less than the 128 that tiny needs"},
		"no CPU":                      {func(c *qemu.Config, _ *drivers.Platform) { c.CPUs = 0 }, "cpus", "at least 1"},
		"more CPUs than there are":    {func(c *qemu.Config, _ *drivers.Platform) { c.CPUs = 4096 }, "cpus", "is more than the"},
		"a disk":                      {func(c *qemu.Config, _ *drivers.Platform) { c.Disk.Size = 1 }, "disk.size", "tiny has no disk, its machines run from memory"},
		"egress":                      {func(c *qemu.Config, _ *drivers.Platform) { c.Egress = true }, "egress", "not built in yet: through QEMU's network a machine would reach this host's loopback"},
		"user data for cloud-init":    {func(c *qemu.Config, _ *drivers.Platform) { c.UserData = "#cloud-config" }, "user_data", "begins with #!"},
		"a script":                    {func(c *qemu.Config, _ *drivers.Platform) { c.UserData = "#!/bin/sh" }, "", ""},
		"a script in a file":          {func(c *qemu.Config, _ *drivers.Platform) { c.UserDataPath = script }, "", ""},
		"a file that is no script":    {func(c *qemu.Config, _ *drivers.Platform) { c.UserDataPath = text }, "user_data_path", "begins with #!"},
		"a file that is not there":    {func(c *qemu.Config, _ *drivers.Platform) { c.UserDataPath = dir + "/none" }, "user_data_path", "no such file"},
		"both":                        {func(c *qemu.Config, _ *drivers.Platform) { c.UserDataPath, c.UserData = script, "#!" }, "user_data_path", "not both"},
		"a script of a megabyte":      {func(c *qemu.Config, _ *drivers.Platform) { c.UserData = "#!" + strings.Repeat("x", 1<<20) }, "user_data", "more than the"},
		"hibernate":                   {func(c *qemu.Config, _ *drivers.Platform) { c.Hibernate = true }, "", ""},
		"an odd accelerator":          {func(c *qemu.Config, _ *drivers.Platform) { c.Accelerator = "hvf" }, "accelerator", "want auto, kvm or tcg"},
		"addresses that are no range": {func(c *qemu.Config, _ *drivers.Platform) { c.AddressRange = "127.0.0.1" }, "address_range", "want a network such as"},
		"addresses of others":         {func(c *qemu.Config, _ *drivers.Platform) { c.AddressRange = "10.0.0.0/16" }, "address_range", "not inside 127.0.0.0/8"},
		"a range around loopback":     {func(c *qemu.Config, _ *drivers.Platform) { c.AddressRange = "126.0.0.0/7" }, "address_range", "not inside 127.0.0.0/8"},
		"addresses of version 6":      {func(c *qemu.Config, _ *drivers.Platform) { c.AddressRange = "::1/128" }, "address_range", "not inside 127.0.0.0/8"},
		"user ids in disorder":        {func(c *qemu.Config, _ *drivers.Platform) { c.UIDRange = "200000-100000" }, "uid_range", "at least two ids"},
		"root among the user ids":     {func(c *qemu.Config, _ *drivers.Platform) { c.UIDRange = "0-100000" }, "uid_range", "above 65535"},
		"words for user ids":          {func(c *qemu.Config, _ *drivers.Platform) { c.UIDRange = "some" }, "uid_range", "want first-last"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, p := qemu.NewConfig(), drivers.Platform{}
			tc.change(c, &p)
			problems := qemu.Registration.Check(c, &p)
			if tc.path == "" {
				if len(problems) != 0 {
					t.Errorf("problems: %v", problems)
				}
				return
			}
			if len(problems) != 1 || problems[0].Path != tc.path || !strings.Contains(problems[0].Message, tc.want) {
				t.Errorf("got %v, want one at %s with %q", problems, tc.path, tc.want)
			}
			if warning := name == "more CPUs than there are"; problems[0].Warning != warning {
				t.Errorf("warning is %v", problems[0].Warning)
			}
		})
	}
}

// What a variant asks of local machines is looked at when the file is read.
func TestCheckVariant(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		variant drivers.Variant
		path    string // "" for no problem
		want    string
		warning bool
	}{
		"nothing":                {drivers.Variant{}, "", "", false},
		"another size":           {drivers.Variant{MachineType: "2x1024", Image: "tiny"}, "", "", false},
		"a size of a cloud":      {drivers.Variant{MachineType: "e2-standard-8"}, "machine_type", "such as 2x1024", false},
		"too little memory":      {drivers.Variant{MachineType: "1x64"}, "machine_type", "64 MiB are less than the 128", false},
		"another image":          {drivers.Variant{Image: "debian", DiskGiB: 20, MachineType: "1x256"}, "", "", false},
		"too little for debian":  {drivers.Variant{Image: "debian", MachineType: "1x128"}, "machine_type", "less than the 256 that debian needs", false},
		"no name of an image":    {drivers.Variant{Image: "Mine"}, "image_name", "is no name of an image", false},
		"a disk":                 {drivers.Variant{DiskGiB: 10}, "disk_size", "tiny has no disk", false},
		"a kind of disk":         {drivers.Variant{DiskType: "pd-ssd"}, "disk_type", "no effect", true},
		"zones":                  {drivers.Variant{Zones: []string{"a"}}, "zones", "no effect", true},
		"machines in a machine":  {drivers.Variant{Nested: true}, "enable_nested_virtualization", "cannot run machines", false},
		"a GPU":                  {drivers.Variant{GPU: true}, "gpu", "have no GPU", false},
		"the most that is taken": {drivers.Variant{MachineType: "255x4194304"}, "", "", false},
		"more than any host has": {drivers.Variant{MachineType: "256x4194304"}, "machine_type", "no size of a local machine", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems := qemu.Registration.CheckVariant(qemu.NewConfig(), drivers.Platform{}, tc.variant)
			if tc.path == "" {
				if len(problems) != 0 {
					t.Errorf("problems: %v", problems)
				}
				return
			}
			if len(problems) != 1 || problems[0].Path != tc.path || problems[0].Warning != tc.warning || !strings.Contains(problems[0].Message, tc.want) {
				t.Errorf("got %v, want one at %s with %q", problems, tc.path, tc.want)
			}
		})
	}
}

func TestRegistrationIsComplete(t *testing.T) {
	t.Parallel()
	r := qemu.Registration
	if r.Name != "qemu" || !r.Local || r.Dies {
		t.Errorf("registration %+v", r)
	}
	if problems := r.Check(struct{}{}, &drivers.Platform{}); len(problems) != 1 {
		t.Errorf("a spec of another driver: %v", problems)
	}
	for _, f := range drivers.Fields(r.NewConfig()) {
		if f.Doc == "" {
			t.Errorf("key %s has no documentation", f.Name)
		}
	}
}

// FuzzCheck gives Check odd values: it answers, and never with an empty message.
func FuzzCheck(f *testing.F) {
	f.Add("127.77.0.0/16", "1-2", "auto", 128, 1)
	f.Add("127.0.0.0/33", "-", "", -1, -1)
	f.Fuzz(func(t *testing.T, addresses, uids, accel string, memory, cpus int) {
		c := qemu.NewConfig()
		c.AddressRange, c.UIDRange, c.Accelerator, c.MemoryMB, c.CPUs = addresses, uids, accel, memory, cpus
		for _, p := range qemu.Check(c, &drivers.Platform{}) {
			if p.Message == "" || p.Path == "" {
				t.Errorf("empty problem %+v", p)
			}
		}
	})
}
