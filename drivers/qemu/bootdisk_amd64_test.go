//go:build linux

package qemu_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
)

// bootSector is a disk whose only program writes a line to the first serial port
// and stands still: a machine without a system, let alone cloud-init.
func bootSector() []byte {
	disk := make([]byte, 2<<20)
	copy(disk, "\x31\xc0\x8e\xd8\xbe\x16\x7c\xba\xf8\x03\xfc"+ // ds = 0; si = the text; dx = the port
		"\xac\x84\xc0\x74\x03\xee\xeb\xf8"+ // write it byte by byte
		"\xf4\xeb\xfd"+ // halt, for ever
		"no system on this disk\r\n\x00")
	disk[510], disk[511] = 0x55, 0xaa
	return disk
}

// importedDir is a data directory with an imported image, and nothing else.
func importedDir(t *testing.T, name string, disk []byte) string {
	t.Helper()
	agent := filepath.Join(sharedDir(t), "runner-agent")
	dir := emptyDir(t)
	file := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(file, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Import(t.Context(), image.ImportOptions{
		Name: name, Dir: qemu.ImagesDir(dir), AgentPath: agent, AgentVersion: "test", MinMemoryMB: 32, From: image.Source{URL: file},
	}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAnImportedDiskBootsAndItsConsoleTellsWhyItIsOfNoUse(t *testing.T) {
	t.Parallel()
	takeTurn(t)
	dir := importedDir(t, "mine", bootSector())
	change := func(c *qemu.Config) {
		c.Image, c.MemoryMB, c.Accelerator, c.Disk.Size = "mine", 64, qemu.AccelTCG, 1
	}
	d := open(t, dir, change)
	t.Cleanup(func() { cleanUp(t, d, dir) })
	if err := d.Ping(bounded(t)); err != nil {
		t.Fatal(err)
	}
	ref := created(t, d, "one")
	console := func() string {
		var b bytes.Buffer
		if err := d.Console(bounded(t), ref, &b, 4096); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	eventually(t, func() bool { return strings.Contains(console(), "no system on this disk") })
	short, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := d.Identify(short, ref, identityOf(t, "one")); err == nil {
		t.Error("a machine without an agent took an identity")
	}
	if got := find(t, d, "one").Status; got != drivers.StatusRunning {
		t.Errorf("status %s", got)
	}

	// The image may go: the machine has its files. Whoever asks is told of it.
	if users, err := qemu.ImageUsers(dir, "mine"); err != nil || len(users) != 1 || users[0] != "one" {
		t.Errorf("users of the image: %v, %v", users, err)
	}
	if err := image.Remove(qemu.ImagesDir(dir), "mine"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(bounded(t), specOf("two")); err == nil || !strings.Contains(err.Error(), "image import mine") {
		t.Errorf("create without the image: %v", err)
	}
	for _, change := range []func(context.Context, drivers.Ref) error{d.Pause, d.Suspend} {
		if err := change(bounded(t), ref); err != nil {
			t.Fatal(err)
		}
	}
	if got := find(t, d, "one").Status; got != drivers.StatusSuspended {
		t.Errorf("status %s", got)
	}
	if errs := d.Destroy(bounded(t), []drivers.Ref{ref}, drivers.DestroyOptions{}); errs[0] != nil {
		t.Fatal(errs[0])
	}
	if users, err := qemu.ImageUsers(dir, "mine"); err != nil || len(users) != 0 {
		t.Errorf("users of the image: %v, %v", users, err)
	}
}

func TestABootDiskThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	takeTurn(t)
	disk := make([]byte, 3<<30>>10) // sparse below
	copy(disk, bootSector())
	dir := importedDir(t, "mine", bootSector())
	file := filepath.Join(t.TempDir(), "big.img")
	if err := os.WriteFile(file, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 3<<30); err != nil {
		t.Fatal(err)
	}
	if _, err := image.Import(t.Context(), image.ImportOptions{
		Name: "big", Dir: qemu.ImagesDir(dir), AgentPath: filepath.Join(sharedDir(t), "runner-agent"), AgentVersion: "test", From: image.Source{URL: file},
	}); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir, func(c *qemu.Config) { c.Image, c.MemoryMB, c.Accelerator = "mine", 64, qemu.AccelTCG })
	t.Cleanup(func() { cleanUp(t, d, dir) })
	for name, tc := range map[string]struct {
		change func(*drivers.Spec)
		want   string
	}{
		"an image nobody has":            {func(s *drivers.Spec) { s.Image = "other" }, "the images that are here: big, mine"},
		"less memory than it needs":      {func(s *drivers.Spec) { s.MachineType = "1x16" }, "less than the 32 that image mine needs"},
		"a disk smaller than the image":  {func(s *drivers.Spec) { s.Image, s.MachineType, s.DiskGiB = "big", "1x512", 2 }, "smaller than that of image big, which has 3.0 GB"},
		"a disk of less than nothing":    {func(s *drivers.Spec) { s.DiskGiB = -1 }, "is none"},
		"a disk larger than any":         {func(s *drivers.Spec) { s.DiskGiB = 1 << 40 }, "is none"},
		"memory of the pool for another": {func(s *drivers.Spec) { s.Image = "big" }, "less than the 256 that image big needs"},
	} {
		spec := specOf("one")
		tc.change(&spec)
		_, err := d.Create(bounded(t), spec)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
	nothingLeft(t, dir)
}
