package poolfile_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

var update = flag.Bool("update", false, "write the golden files")

// sameZone compares time zones by name.
var sameZone = cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() })

// golden compares got with the file at path, or writes it with -update.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; write it with -update):\n%s", path, diff)
	}
}

// box is the spec of a made-up type that has a key of every kind.
type box struct {
	Image    string            `spec:"image" default:"small" doc:"What it boots from."`
	MemoryMB int               `spec:"memory_mb" alias:"memory" default:"128" min:"64" max:"4096" doc:"Memory in MiB."`
	CPUs     int               `spec:"cpus" default:"1" min:"1" doc:"Processors."`
	Boot     time.Duration     `spec:"boot" default:"5s" min:"0s" doc:"Time to boot."`
	Share    float64           `spec:"share" default:"0.5" min:"0" max:"1" doc:"A share."`
	Mode     string            `spec:"mode" default:"auto" enum:"auto,kvm,tcg" doc:"How."`
	Sleepy   bool              `spec:"hibernate" default:"false" doc:"Whether it sleeps."`
	Private  *bool             `spec:"private_ip" oldname:"privateIP2" doc:"Whether it hides."`
	Zone     []string          `spec:"zone" oldname:"zonelist" single:"true" doc:"Where."`
	Ports    []int             `spec:"ports" doc:"Which ports."`
	Labels   map[string]string `spec:"labels" doc:"Labels."`
	Disk     boxDisk           `spec:"disk" doc:"The disk."`
	Networks []boxNetwork      `spec:"networks" doc:"The networks."`
	Script   string            `spec:"script_path" file:"true" doc:"A file."`
	GPU      bool              `spec:"gpu" later:"it needs a driver in the image" doc:"A graphics processor."`
	RootDir  string            `spec:"root_directory" ignored:"no use" doc:"The root directory."`
}

type boxDisk struct {
	Size int `spec:"size" default:"10" min:"1" doc:"GiB."`
	IOPS int `spec:"iops" numeric:"true" min:"100" max:"100000" doc:"Speed."`
}

type boxNetwork struct {
	Network string `spec:"network" required:"true" doc:"Its name."`
	Public  bool   `spec:"public" default:"true" doc:"Whether it is public."`
}

// Resolved implements drivers.Resolver.
func (b *box) Resolved() (image, machineType string, diskGiB int) {
	return b.Image, fmt.Sprintf("%dx%d", b.CPUs, b.MemoryMB), b.Disk.Size
}

// Hibernates implements drivers.Sleeper.
func (b *box) Hibernates() bool { return b.Sleepy }

// pretend is the spec of a type with one key.
type pretend struct {
	Sleepy bool `spec:"hibernate" default:"false" doc:"Whether it sleeps."`
}

// Hibernates implements drivers.Sleeper.
func (s *pretend) Hibernates() bool { return s.Sleepy }

// unopened stands for a driver that no test here opens.
func unopened(drivers.Options) (drivers.Driver, error) {
	return nil, errors.New("a pool file is read without drivers")
}

// registrations are a type with many keys and rules, one with few, and one
// that is not built in yet.
func registrations() []drivers.Registration {
	return []drivers.Registration{
		{
			Name:    "box",
			Aliases: []string{"carton"},
			Tenants: true,
			New:     unopened,
			NewConfig: func() any {
				b := new(box)
				drivers.SetDefaults(b)
				return b
			},
			Check: func(cfg any, p *drivers.Platform) []drivers.Problem {
				b := cfg.(*box)
				var out []drivers.Problem
				if p.OS == "" {
					p.OS = "linux"
				}
				if p.OS != "linux" {
					out = append(out, drivers.Problem{Path: "platform.os", Message: fmt.Sprintf("%q: boxes run linux; write linux", p.OS)})
				}
				if b.CPUs > 64 {
					out = append(out, drivers.Problem{Path: "cpus", Message: "more than this host has; lower it", Warning: true})
				}
				if b.Image == "big" && b.MemoryMB < 256 {
					out = append(out, drivers.Problem{Path: "memory_mb", Message: "image big needs 256; raise memory_mb"})
				}
				if b.Image == "huge" && b.Disk.Size < 100 {
					out = append(out, drivers.Problem{Path: "disk.size", Message: "image huge needs 100; raise disk.size"})
				}
				return out
			},
			CheckVariant: func(cfg any, _ drivers.Platform, v drivers.Variant) []drivers.Problem {
				var out drivers.Problems
				if v.GPU {
					out.Errorf("gpu", "boxes of image %s have none; remove it", cfg.(*box).Image)
				}
				if v.DiskType != "" {
					out.Warnf("disk_type", "has no effect on boxes; remove it")
				}
				return out
			},
		},
		{Name: "noop", NewConfig: drivers.NewOf[pretend](), New: unopened},
		{Name: "crane", Aliases: []string{"hoist"}, NewConfig: drivers.NewOf[struct {
			Load int `spec:"load" default:"1" min:"1" doc:"What it lifts."`
		}]()},
	}
}
