//go:build linux

package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

// withFormatter is a driver whose host has mke2fs.
func withFormatter(t *testing.T) *Driver {
	t.Helper()
	if _, err := findFormatter(); err != nil {
		testhost.Lacks(t, "%v", err)
	}
	d := unitDriver(t)
	d.host.disk = func(string) (int64, error) { return 1 << 50, nil }
	return d
}

func diskSpec(name string, sizeGiB int) drivers.Spec {
	return drivers.Spec{
		Name: "m1", Tags: drivers.Tags{Controller: "c1", Pool: "p", Instance: "i", Kind: "gitspace"},
		Disks: []drivers.DiskSpec{{Name: name, SizeGiB: sizeGiB}},
	}
}

func TestADiskIsMadeOnceWithAFileSystem(t *testing.T) {
	t.Parallel()
	d := withFormatter(t)
	spec := diskSpec("demo-disk", 10)
	var wg sync.WaitGroup
	for range 4 { // whoever is first
		wg.Go(func() {
			if err := d.makeDisks(t.Context(), spec); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	file := filepath.Join(d.disksDir(), "demo-disk", "data")
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	super := make([]byte, 1024) // see the kernel's Documentation/filesystems/ext4/super.rst
	if _, err := f.ReadAt(super, 1024); err != nil {
		t.Fatal(err)
	}
	if magic := binary.LittleEndian.Uint16(super[0x38:]); magic != 0xef53 {
		t.Errorf("the file system's magic is %#x", magic)
	}
	if label := string(bytes.TrimRight(super[0x78:0x88], "\x00")); label != drivers.DiskLabel("demo-disk") {
		t.Errorf("the file system is called %q", label)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != 10<<30 || st.Blocks*512 > 16<<20 || st.Mode&0o777 != 0o600 || int(st.Uid) != os.Geteuid() {
		t.Errorf("%d bytes of which %d are there, mode %o, user %d", st.Size, st.Blocks*512, st.Mode, st.Uid)
	}
	// Also what has no file system any more is not given a new one.
	if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	again := spec
	again.Name, again.Tags, again.Disks = "m2", drivers.Tags{Controller: "c2"}, []drivers.DiskSpec{{Name: "demo-disk", SizeGiB: 20}}
	if err := d.makeDisks(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(super, 1024); err != nil || !bytes.Equal(super, make([]byte, 1024)) {
		t.Errorf("a disk that was there was written to, %v", err)
	}
	l, err := d.List(t.Context(), drivers.Query{})
	want := []drivers.Disk{{Name: "demo-disk", Tags: spec.Tags, SizeGiB: 10}}
	if err != nil || !l.Complete {
		t.Errorf("list: complete %v, %v", l.Complete, err)
	}
	if diff := cmp.Diff(want, l.Disks); diff != "" {
		t.Errorf("disks (-want +got):\n%s", diff)
	}
	left, err := filepath.Glob(filepath.Join(d.disksDir(), ".new-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestADiskThatCannotBeMadeLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*Driver)
		want   error
		text   string
	}{
		"mke2fs is not installed": {
			change: func(d *Driver) {
				d.host.formatter = func() (string, error) { return "", errors.New("apt-get install e2fsprogs") }
			},
			text: "e2fsprogs",
		},
		"mke2fs fails": {
			change: func(d *Driver) { d.host.formatter = func() (string, error) { return "/bin/false", nil } },
			text:   "exit status 1",
		},
		"the host's disk has no room for it": {
			change: func(d *Driver) { d.host.disk = func(string) (int64, error) { return 10 * gib, nil } },
			want:   drivers.ErrCapacity, text: "keeps 64 MiB; 10240 MiB are needed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := unitDriver(t)
			d.host.disk = func(string) (int64, error) { return 1 << 50, nil }
			d.host.formatter = func() (string, error) { return "/bin/true", nil }
			tc.change(d)
			err := d.makeDisks(t.Context(), diskSpec("demo", 10))
			if err == nil || !strings.Contains(err.Error(), tc.text) || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v with %q", err, tc.want, tc.text)
			}
			entries, err := os.ReadDir(d.disksDir())
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if e.IsDir() {
					t.Errorf("%s is left", e.Name())
				}
			}
		})
	}
}

func TestRoomIsNotPromisedTwice(t *testing.T) {
	t.Parallel()
	d := withFormatter(t)
	d.host.disk = func(string) (int64, error) { return 25 * gib, nil }
	for i, want := range []error{nil, nil, drivers.ErrCapacity} {
		if err := d.makeDisks(t.Context(), diskSpec(fmt.Sprint("disk-", i), 10)); !errors.Is(err, want) {
			t.Errorf("disk %d of 10 GiB in 25: %v, want %v", i, err, want)
		}
	}
}

func TestADiskHasOneHolder(t *testing.T) {
	t.Parallel()
	d := withFormatter(t)
	if err := d.makeDisks(t.Context(), diskSpec("demo", 1)); err != nil {
		t.Fatal(err)
	}
	k, err := d.openDisk("demo")
	if err != nil {
		t.Fatal(err)
	}
	f, err := k.take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if second, err := k.take(soon); err == nil {
		t.Error("a disk that is open was opened")
		second.Close()
	}
	if err := d.DestroyDisks(t.Context(), []drivers.Ref{{Name: "demo"}})[0]; err == nil || !strings.Contains(err.Error(), "open") {
		t.Errorf("destroy of a disk that is open: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.DestroyDisks(t.Context(), []drivers.Ref{{Name: "demo"}})[0]; err != nil {
		t.Error(err)
	}
	if _, err := d.openDisk("demo"); !errors.Is(err, drivers.ErrNotFound) {
		t.Errorf("after its destroy: %v", err)
	}
}

func TestADiskOfAMachineIsGivenToNobody(t *testing.T) {
	t.Parallel()
	d := withFormatter(t)
	if err := d.makeDisks(t.Context(), diskSpec("demo", 1)); err != nil {
		t.Fatal(err)
	}
	// The record alone says so: whether its QEMU lives does not matter.
	record := func(name string, disks ...string) meta {
		return meta{Version: metaVersion, Name: name, Disks: disks}
	}
	write := func(m meta) {
		t.Helper()
		s := seat{filepath.Join(d.machinesDir(), m.Name)}
		if err := errors.Join(os.Mkdir(s.path, 0o700), writeRecord(s, m, "")); err != nil {
			t.Fatal(err)
		}
	}
	write(record("sleeper", "demo"))
	if _, _, err := d.allocate(t.Context(), record("other", "demo"), ""); !errors.Is(err, drivers.ErrInvalid) || !strings.Contains(err.Error(), "sleeper") {
		t.Errorf("another machine: %v, want ErrInvalid with the holder's name", err)
	}
	if err := d.DestroyDisks(t.Context(), []drivers.Ref{{Name: "demo"}})[0]; err == nil {
		t.Error("the disk was destroyed")
	}
	l, err := d.List(t.Context(), drivers.Query{Controller: ""})
	if err != nil || len(l.Disks) != 1 || l.Disks[0].AttachedTo != "sleeper" {
		t.Errorf("listed as %+v, %v", l.Disks, err)
	}
	if err := d.Destroy(t.Context(), []drivers.Ref{{Name: "sleeper"}}, drivers.DestroyOptions{})[0]; err != nil {
		t.Fatal(err)
	}
	if used, err := d.inUse(); err != nil || used.free("other", "demo") != nil {
		t.Errorf("after the destroy: %v, %v", used.free("other", "demo"), err)
	}
	// A machine whose record cannot be read may have any disk.
	if err := os.Mkdir(filepath.Join(d.machinesDir(), "broken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.allocate(t.Context(), record("other", "demo"), ""); err == nil || errors.Is(err, drivers.ErrInvalid) || !strings.Contains(err.Error(), "broken") {
		t.Errorf("beside an unreadable machine: %v, want a transient error that names it", err)
	}
	if err := d.DestroyDisks(t.Context(), []drivers.Ref{{Name: "demo"}})[0]; err == nil || !strings.Contains(err.Error(), "broken") {
		t.Errorf("destroy beside an unreadable machine: %v", err)
	}
}

func TestDisksNoMachineCanHaveAreRefused(t *testing.T) {
	t.Parallel()
	many := make([]drivers.DiskSpec, mostDisks+1)
	for i := range many {
		many[i].Name = fmt.Sprint("d", i)
	}
	for name, disks := range map[string][]drivers.DiskSpec{
		"a path":              {{Name: "../etc"}},
		"no name":             {{}},
		"a hidden folder":     {{Name: ".new-x"}},
		"the same twice":      {{Name: "a"}, {Name: "b"}, {Name: "a"}},
		"less than nothing":   {{Name: "a", SizeGiB: -1}},
		"larger than a file":  {{Name: "a", SizeGiB: mostDiskGiB + 1}},
		"more than fit a bus": many,
	} {
		if err := checkDisks(disks); !errors.Is(err, drivers.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if err := checkDisks([]drivers.DiskSpec{{Name: "My_disk.1"}, {Name: "b", SizeGiB: mostDiskGiB}}); err != nil {
		t.Errorf("two good ones: %v", err)
	}
}

func TestAnUnreadableDiskMakesTheListingIncomplete(t *testing.T) {
	t.Parallel()
	d := unitDriver(t)
	if err := os.Mkdir(filepath.Join(d.disksDir(), "broken"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := d.List(t.Context(), drivers.Query{})
	if err != nil || l.Complete || len(l.Disks) != 1 || l.Disks[0].Name != "broken" {
		t.Errorf("listed %+v, %v", l, err)
	}
	if l, err = d.List(t.Context(), drivers.Query{NoDisks: true}); err != nil || !l.Complete || len(l.Disks) != 0 {
		t.Errorf("without disks listed %+v, %v", l, err)
	}
}

func TestAdviceNamesWhatDisksNeed(t *testing.T) {
	t.Parallel()
	d := unitDriver(t)
	d.host.formatter = func() (string, error) { return "/sbin/mke2fs", nil }
	if got := d.Advice(t.Context()); got != nil {
		t.Errorf("with mke2fs: %v", got)
	}
	d.host.formatter = func() (string, error) { return "", errors.New("apt-get install e2fsprogs") }
	if got := d.Advice(t.Context()); len(got) != 1 || got[0].Part != "disks" || !strings.Contains(got[0].Fix, "e2fsprogs") {
		t.Errorf("without mke2fs: %v", got)
	}
}
