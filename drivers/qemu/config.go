package qemu

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
)

// The values of Config.Accelerator.
const (
	AccelAuto = "auto"
	AccelKVM  = "kvm"
	AccelTCG  = "tcg"
)

// What machines get by default, in MiB.
const (
	defaultMemoryMB         = 128 // tiny
	defaultDebianMemoryMB   = 512
	defaultDockerMemoryMB   = 1024
	defaultImportedMemoryMB = 1024
)

// Config is the spec of a pool of local machines.
type Config struct {
	Image        string `spec:"image" default:"tiny" doc:"Name of the image the machines boot from, as drone-runner-aws image ls shows it."`
	MemoryMB     int    `spec:"memory_mb" default:"" doc:"Memory of a machine in MiB; by default 128 for tiny, 512 for debian and 1024 for debian-docker and an image that was imported. Emulated machines of 192 and more do steps much faster than smaller ones."`
	CPUs         int    `spec:"cpus" default:"1" doc:"Virtual CPUs of a machine."`
	Disk         Disk   `spec:"disk" doc:"The machine's own disk, gone with the machine."`
	Egress       bool   `spec:"egress" default:"false" doc:"Whether machines may open connections to the outside; not built in yet."`
	UserData     string `spec:"user_data" default:"" doc:"Script, beginning with #!, that is run once before a machine is warm; never with secrets."`
	UserDataPath string `spec:"user_data_path" default:"" file:"true" doc:"File with such a script, read at start."`
	Hibernate    bool   `spec:"hibernate" default:"false" doc:"Whether warm machines are saved to disk and use no memory, instead of being paused in memory."`
	Accelerator  string `spec:"accelerator" default:"auto" enum:"auto,kvm,tcg" doc:"auto takes KVM where a trial boot succeeds and emulation elsewhere, kvm and tcg take only that."`
	AddressRange string `spec:"address_range" default:"127.77.0.0/16" doc:"Loopback network of which each machine gets one address; runners on one host need different ones."`
	Binary       string `spec:"binary" default:"" doc:"QEMU's program, by default qemu-system-x86_64 or qemu-system-aarch64 from PATH; 7.2 or later."`
	UIDRange     string `spec:"uid_range" default:"1900000000-1900065535" doc:"User ids of which each machine's QEMU gets its own when the runner is root."`
}

// Disk is the disk of a machine.
type Disk struct {
	Size int `spec:"size" default:"0" doc:"Size in GB, at least the image's; 0 takes the image's. tiny has no disk."`
}

// NewConfig returns a Config with its defaults; those that depend on image and
// platform are filled in by Check.
func NewConfig() *Config {
	c := &Config{}
	drivers.SetDefaults(c)
	return c
}

// Resolved says what the machines are like, for requests that ask for an image
// or a size; see [drivers.Resolver].
func (c *Config) Resolved() (imageName, machineType string, diskGiB int) {
	return c.Image, machineTypeOf(c.CPUs, c.MemoryMB), c.Disk.Size
}

// Hibernates says whether warm machines wait on disk; see [drivers.Sleeper].
func (c *Config) Hibernates() bool { return c.Hibernate }

// machineTypeOf writes a size as requests do: "2x1024" is two CPUs and 1 GiB.
func machineTypeOf(cpus, memoryMB int) string { return fmt.Sprintf("%dx%d", cpus, memoryMB) }

// Registration tells cmd of this driver.
var Registration = drivers.Registration{
	Name:      "qemu",
	NewConfig: func() any { return NewConfig() },
	Check: func(cfg any, p *drivers.Platform) []drivers.Problem {
		c, ok := cfg.(*Config)
		if !ok {
			return []drivers.Problem{{Message: fmt.Sprintf("spec of type %T, want %T", cfg, c)}}
		}
		return Check(c, p)
	},
	CheckVariant: checkVariant,
	New: func(o drivers.Options) (drivers.Driver, error) {
		d, err := New(o)
		if err != nil {
			return nil, err
		}
		return d, nil
	},
	Local: true,
}

// Check validates a spec and fills in the defaults that depend on platform and
// image. It looks at nothing but the file user_data_path names.
func Check(c *Config, p *drivers.Platform) []drivers.Problem {
	var problems []drivers.Problem
	bad := func(path, format string, args ...any) {
		problems = append(problems, drivers.Problem{Path: path, Message: fmt.Sprintf(format, args...)})
	}
	warn := func(path, format string, args ...any) {
		problems = append(problems, drivers.Problem{Path: path, Message: fmt.Sprintf(format, args...), Warning: true})
	}
	if p.OS == "" {
		p.OS = "linux"
	}
	if p.Arch == "" {
		p.Arch = runtime.GOARCH
	}
	if p.OS != "linux" {
		bad("platform.os", "%q: local machines run linux", p.OS)
	}
	if p.Arch != runtime.GOARCH {
		bad("platform.arch", "%q: local machines have the host's architecture, %s", p.Arch, runtime.GOARCH)
	} else if _, ok := architectures[p.Arch]; !ok {
		bad("platform.arch", "%q: local machines are built in for amd64 and arm64", p.Arch)
	}
	if err := image.CheckName(c.Image); err != nil {
		bad("image", "%s", err)
	}
	if c.MemoryMB == 0 {
		c.MemoryMB = memoryOf(c.Image)
	}
	if least := leastMemory(c.Image); c.MemoryMB < least {
		bad("memory_mb", "%d is less than the %d that %s needs", c.MemoryMB, least, c.Image)
	}
	if c.CPUs < 1 {
		bad("cpus", "%d: a machine has at least 1", c.CPUs)
	} else if c.CPUs > runtime.NumCPU() {
		warn("cpus", "%d is more than the %d of this host", c.CPUs, runtime.NumCPU())
	}
	if c.Disk.Size < 0 || c.Disk.Size > 0 && c.Image == image.Tiny {
		bad("disk.size", "%s", badDisk(c.Image))
	}
	if c.Egress {
		bad("egress", "outbound connections are not built in yet: through QEMU's network a machine would reach this host's loopback, "+
			"and with it the runner's own API; set it to false")
	}
	if err := checkUserData(c); err != nil {
		bad(err.path, "%s", err.message)
	}
	switch c.Accelerator {
	case AccelAuto, AccelKVM, AccelTCG:
	case "":
		c.Accelerator = AccelAuto
	default:
		bad("accelerator", "%q: want auto, kvm or tcg", c.Accelerator)
	}
	if _, err := parseAddressRange(c.AddressRange); err != nil {
		bad("address_range", "%s", err)
	}
	if _, err := parseUIDRange(c.UIDRange); err != nil {
		bad("uid_range", "%s", err)
	}
	return problems
}

// memoryOf is what machines of an image get by default, in MiB.
func memoryOf(imageName string) int {
	switch imageName {
	case image.Tiny:
		return defaultMemoryMB
	case image.Debian:
		return defaultDebianMemoryMB
	case image.DebianDocker:
		return defaultDockerMemoryMB
	default:
		return defaultImportedMemoryMB
	}
}

// leastMemory is what an image that is built needs; what others need stands in
// their manifests, and is looked at when a machine is made.
func leastMemory(imageName string) int {
	switch imageName {
	case image.Tiny:
		return image.TinyMinMemoryMB
	case image.Debian:
		return image.DebianMinMemoryMB
	case image.DebianDocker:
		return image.DebianDockerMinMemoryMB
	default:
		return 1
	}
}

// badDisk says why a size of a disk is none.
func badDisk(imageName string) string {
	if imageName == image.Tiny {
		return "tiny has no disk, its machines run from memory; leave the size out, or take the image debian"
	}
	return "a disk has at least the size of the image's; leave it out for that"
}

// checkVariant validates what a variant changes, by the rules of Create.
func checkVariant(cfg any, _ drivers.Platform, v drivers.Variant) []drivers.Problem {
	var out drivers.Problems
	name := v.Image
	if c, ok := cfg.(*Config); ok && name == "" {
		name = c.Image
	}
	if err := image.CheckName(name); err != nil && v.Image != "" {
		out.Errorf("image_name", "%s", err)
	}
	if v.MachineType != "" {
		_, memoryMB, err := parseMachineType(v.MachineType)
		switch {
		case err != nil:
			out.Errorf("machine_type", "%.40q is no size of a local machine; write <cpus>x<memory in MiB>, such as 2x1024", v.MachineType)
		case memoryMB < leastMemory(name):
			out.Errorf("machine_type", "%d MiB are less than the %d that %s needs; raise the second number", memoryMB, leastMemory(name), name)
		}
	}
	if v.DiskGiB < 0 || v.DiskGiB > 0 && name == image.Tiny {
		out.Errorf("disk_size", "%s", badDisk(name))
	}
	if v.DiskType != "" {
		out.Warnf("disk_type", "has no effect, local machines have one kind of disk; remove it")
	}
	if len(v.Zones) > 0 {
		out.Warnf("zones", "has no effect, local machines have no zones; remove it")
	}
	if v.Nested {
		out.Errorf("enable_nested_virtualization", "local machines cannot run machines; remove the key")
	}
	if v.GPU {
		out.Errorf("gpu", "local machines have no GPU; remove the key")
	}
	return out
}

// configError is a finding at one key.
type configError struct{ path, message string }

// checkUserData checks the script and where it comes from.
func checkUserData(c *Config) *configError {
	path, script := "user_data", c.UserData
	if c.UserDataPath != "" {
		if c.UserData != "" {
			return &configError{"user_data_path", "give user_data or user_data_path, not both"}
		}
		path = "user_data_path"
		info, err := os.Stat(c.UserDataPath)
		if err != nil {
			return &configError{path, err.Error()}
		}
		if !info.Mode().IsRegular() {
			return &configError{path, c.UserDataPath + " is no plain file; give the path of a script"}
		}
		raw, err := os.ReadFile(c.UserDataPath)
		if err != nil {
			return &configError{path, err.Error()}
		}
		script = string(raw)
	}
	if script != "" && !strings.HasPrefix(script, "#!") {
		return &configError{path, "local machines take a script whose first line begins with #!, for example #!/bin/sh; #cloud-config is not built in yet"}
	}
	if len(script) > maxUserData {
		return &configError{path, fmt.Sprintf("%d bytes are more than the %d that fit", len(script), maxUserData)}
	}
	return nil
}

// maxUserData leaves room in a message to the machine for the rest of it, also
// when every byte is escaped.
const maxUserData = 128 << 10

// loopback is what an address range must lie in.
var loopback = netip.MustParsePrefix("127.0.0.0/8")

// parseAddressRange reads a loopback network.
func parseAddressRange(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q: want a network such as 127.77.0.0/16", s)
	}
	if !p.Addr().Is4() || p.Bits() < loopback.Bits() || !loopback.Contains(p.Addr()) {
		return p, fmt.Errorf("%q is not inside 127.0.0.0/8", s)
	}
	return p.Masked(), nil
}

// uidRange is a range of user ids, both ends in it. The last one is for
// templates, which run nobody's code.
type uidRange struct{ first, last uint32 }

func (r uidRange) machines() int { return int(r.last - r.first) }

// parseUIDRange reads "first-last".
func parseUIDRange(s string) (uidRange, error) {
	a, b, ok := strings.Cut(s, "-")
	first, err1 := strconv.ParseUint(strings.TrimSpace(a), 10, 32)
	last, err2 := strconv.ParseUint(strings.TrimSpace(b), 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return uidRange{}, fmt.Errorf("%q: want first-last, such as 1900000000-1900065535", s)
	}
	// 65534 is nobody; all ones means "no change" to the kernel.
	if first <= 65535 || last <= first || last >= 1<<32-1 {
		return uidRange{}, fmt.Errorf("%q: want at least two ids, above 65535 and below 4294967295", s)
	}
	return uidRange{uint32(first), uint32(last)}, nil
}

// The most a request may ask for: beyond what any host has, below what QEMU
// and arithmetic take.
const (
	mostCPUs     = 255
	mostMemoryMB = 1 << 22
)

// parseMachineType reads "<cpus>x<memory in MiB>".
func parseMachineType(s string) (cpus, memoryMB int, err error) {
	a, b, ok := strings.Cut(s, "x")
	cpus, err1 := strconv.Atoi(a)
	memoryMB, err2 := strconv.Atoi(b)
	if !ok || err1 != nil || err2 != nil || cpus < 1 || cpus > mostCPUs || memoryMB < 1 || memoryMB > mostMemoryMB {
		return 0, 0, fmt.Errorf("%w: machine type %q: want <cpus>x<memory in MiB>, such as 2x1024", drivers.ErrInvalid, s)
	}
	return cpus, memoryMB, nil
}
