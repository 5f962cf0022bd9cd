//go:build linux

package qemu

import (
	"fmt"
	"runtime"
	"strconv"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// architecture is what differs between the hosts' architectures.
type architecture struct {
	binary string // program
	debian string // the package it is in
	// machine is versioned, so that state saved under one QEMU loads in the next.
	machine string
	console string // the kernel's name of the first serial port
}

var architectures = map[string]architecture{
	"amd64": {binary: "qemu-system-x86_64", debian: "qemu-system-x86", machine: "pc-i440fx-7.2", console: "ttyS0"},
	"arm64": {binary: "qemu-system-aarch64", debian: "qemu-system-arm", machine: "virt-7.2", console: "ttyAMA0"},
}

// DefaultBinary is QEMU's program for this host's architecture, "" if none of
// its machines is supported.
func DefaultBinary() string { return architectures[runtime.GOARCH].binary }

// The descriptors QEMU is started with; exec.Cmd numbers extra files from 3.
const (
	fdMonitor = 3 + iota
	fdIdentity
	fdConsole
	fdLock
	fdKernel
	fdInitramfs
	fdRAM
)

// The numbers of sets of descriptors: the console has the first, persistent disks
// those after it, the boot disk others.
const (
	fdsetDisks = 2
	fdsetBoot  = fdsetDisks + mostDisks
)

// memory is how a machine's RAM is backed.
type memory int

const (
	// memoryAnonymous is ordinary memory: a machine loaded from a full state.
	memoryAnonymous memory = iota
	// memoryShared writes through to the file: a template being made.
	memoryShared
	// memoryPrivate is copy-on-write over the file: a clone.
	memoryPrivate
)

// commandLine is everything QEMU is told.
type commandLine struct {
	arch     architecture
	accel    string
	memoryMB int
	cpus     int
	memory   memory
	// guest is the name that tells this process from others.
	guest string
	// address is where the agent is reached; none for a template.
	address string
	// incoming waits for a state to be loaded.
	incoming bool
	// stopped: the CPUs do not run until they are told to.
	stopped bool
	// disks is the number of persistent disks.
	disks int
	// boot is the disk it boots from, nil for a machine that runs from memory.
	boot *bootDisk
}

// hasKernel says whether QEMU is given a kernel; else the firmware finds one.
func (c commandLine) hasKernel() bool { return c.boot == nil || c.boot.Kernel }

// fdBoot is the first descriptor of the boot disk: a machine that has one is no
// clone, and has no file of memory.
func (c commandLine) fdBoot() int {
	if c.hasKernel() {
		return fdInitramfs + 1
	}
	return fdKernel
}

// fdDisks is the first descriptor of the persistent disks; the same holds.
func (c commandLine) fdDisks() int { return c.fdBoot() + c.boot.files() }

// translationMB bounds the memory, in MiB, in which emulation keeps translated
// code. By default that is up to 1 GiB; proving a tiny machine and rehearsing a
// claim translate 42 MB (72,000 blocks of 570 bytes, half of them the kernel's),
// more than all else the machine takes, for code that mostly runs once. When the
// memory is full QEMU drops all of it and translates anew what is used then.
//
// A claim with its steps goes on using 18 MB (31,000 blocks: 20,000 the kernel's,
// 4,600 Go's runtime, 1,300 net/http). With less, each step translates anew; with
// as much, a paused machine takes more than the 40 MB it may. So the smallest
// machines stay small, and those that are given more memory keep what their steps
// need. Measured under emulation on two processors at rest, medians of 20 setups
// and 50 steps, of one to three runs:
//
//	MiB   row to warm      setup          step            own memory when paused
//	 14   0.9 to 1.2 s     61 to 76 ms    249 to 257 ms   38 MiB
//	 16   0.9 to 1.3 s     64 to 79 ms    251 to 292 ms   38 to 39 MiB
//	 18   0.8 s            127 to 135 ms  21 to 24 ms     40 MiB
//	 24   0.7 to 0.8 s     45 to 51 ms    19 to 20 ms     46 to 47 MiB
//
// Of the other 22 MiB 11 are QEMU's heap (3 as soon as it knows its own types,
// and about 80 bytes for each block), 6 pages of the guest that differ from the
// template and 5 relocations of QEMU and its libraries. Tried, with less than 5 %
// of memory or of translated code to gain: malloc's arenas, trimming and slices;
// other CPU models, and a CPU without ERMS, SMAP or XSAVE; a kernel without
// mitigations, memory cgroups, audit, PSI, IPv6, security modules or huge pages;
// Go's collector off (or busier: worse).
func translationMB(memoryMB int) int { return max(16, memoryMB/8) }

// args builds QEMU's arguments. Nothing in them is secret or names a path in
// the machine's folder: all it needs is passed as descriptors.
func (c commandLine) args() []string {
	cpu := "max"
	if c.accel == AccelKVM {
		cpu = "host"
	}
	accel := c.accel
	if accel == AccelTCG {
		accel += ",tb-size=" + strconv.Itoa(translationMB(c.memoryMB))
	}
	// x-ignore-shared and a full state alike need the RAM block's name.
	size := strconv.Itoa(c.memoryMB) + "M"
	backend := "memory-backend-ram,id=m,size=" + size
	if c.memory != memoryAnonymous {
		share := "off"
		if c.memory == memoryShared {
			share = "on"
		}
		backend = fmt.Sprintf("memory-backend-file,id=m,size=%s,mem-path=/proc/self/fd/%d,share=%s", size, fdRAM, share)
	}
	// restrict: the guest reaches nothing, neither the world nor this host.
	network := "user,id=n0,restrict=on"
	if c.address != "" {
		network += fmt.Sprintf(",hostfwd=tcp:%s:%d-:%d", c.address, guestlink.AgentPort, guestlink.AgentPort)
	}
	args := []string{
		"-name", "guest=" + c.guest,
		"-accel", accel,
		"-machine", c.arch.machine + ",memory-backend=m",
		"-cpu", cpu,
		"-smp", strconv.Itoa(c.cpus),
		"-m", size,
		"-object", backend,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-chardev", fmt.Sprintf("socket,id=q0,fd=%d,server=on,wait=off", fdMonitor),
		"-mon", "chardev=q0,mode=control",
		"-add-fd", fmt.Sprintf("fd=%d,set=1", fdConsole),
		// Without append QEMU empties the log of a machine that is resumed.
		"-chardev", "file,id=con0,path=/dev/fdset/1,append=on",
		"-serial", "chardev:con0",
	}
	if c.hasKernel() {
		args = append(args,
			"-kernel", fmt.Sprintf("/proc/self/fd/%d", fdKernel),
			"-initrd", fmt.Sprintf("/proc/self/fd/%d", fdInitramfs),
			"-append", "console="+c.arch.console+" "+c.kernelArgs())
	}
	args = append(args,
		"-netdev", network,
		"-device", "virtio-net-pci,netdev=n0,romfile=",
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci",
		"-chardev", fmt.Sprintf("socket,id=id0,fd=%d,server=on,wait=off", fdIdentity),
		"-device", "virtserialport,chardev=id0,name="+guestlink.PortName,
	)
	if c.boot != nil {
		args = append(args, c.boot.args(c.fdBoot())...)
	}
	for i := range c.disks {
		args = append(args, c.diskArgs(i)...)
	}
	if c.incoming {
		args = append(args, "-incoming", "defer")
	}
	if c.stopped {
		args = append(args, "-S")
	}
	return args
}

// kernelArgs is what the kernel is told beside its console.
func (c commandLine) kernelArgs() string {
	if c.boot != nil {
		return image.DebianKernelArgs
	}
	// Memory is not emptied a second time when the kernel hands it out: it would
	// be written, and so copied from the template, for nothing. What runs in the
	// machine is one lease's, and root.
	return "panic=-1 init_on_alloc=0"
}

// diskArgs adds a persistent disk, known to the machine by its serial number. It
// comes after all other devices, which so have the places they have without. What
// the machine flushes QEMU has the host's disk confirm; a host's disk that is full
// stops the machine instead of telling it of a broken one.
func (c commandLine) diskArgs(i int) []string {
	node, set := fmt.Sprintf("d%d", i), fdsetDisks+i
	return []string{
		"-add-fd", fmt.Sprintf("fd=%d,set=%d", c.fdDisks()+i, set),
		"-blockdev", fmt.Sprintf("driver=raw,node-name=%s,discard=unmap,file.driver=file,file.filename=/dev/fdset/%d,file.discard=unmap", node, set),
		"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s,werror=enospc,rerror=report", node, diskSerial(i)),
	}
}
