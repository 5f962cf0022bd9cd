//go:build linux && debian

package qemu_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
)

// TestCloudInitBringsTheAgentIntoAnImageThatLacksIt boots the image debian
// without its own agent, and with the seed of an imported image.
func TestCloudInitBringsTheAgentIntoAnImageThatLacksIt(t *testing.T) { // not parallel: see debianDir
	debian := debianDir(t)
	takeTurn(t)
	dir := importedDir(t, "mine", bootSector())
	mine := filepath.Join(qemu.ImagesDir(dir), "mine")
	run := func(program string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", program, err, out)
		}
	}
	raw := filepath.Join(t.TempDir(), "raw")
	run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", filepath.Join(debian, image.DiskFile), raw)
	for _, file := range []string{"/etc/udev/rules.d/60-runner-guest.rules", "/etc/systemd/system/runner-guest.service", "/usr/local/lib/runner-agent/runner-agent"} {
		run("debugfs", "-w", "-R", "rm "+file, raw)
	}
	run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, filepath.Join(mine, image.DiskFile))
	for _, name := range []string{image.KernelFile, image.InitramfsFile} {
		run("cp", filepath.Join(debian, name), filepath.Join(mine, name))
	}
	manifest := image.Manifest{Name: "mine", Arch: runtime.GOARCH, MinMemoryMB: 256, Disk: &image.Disk{Size: 4 << 30}, Files: map[string]image.File{}}
	for _, name := range []string{image.DiskFile, image.KernelFile, image.InitramfsFile, image.SeedFile} {
		info, err := os.Stat(filepath.Join(mine, name))
		if err != nil {
			t.Fatal(err)
		}
		manifest.Files[name] = image.File{Size: info.Size()}
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(mine, "manifest.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir, func(c *qemu.Config) { c.Image, c.MemoryMB, c.Accelerator = "mine", 512, qemu.AccelTCG })
	t.Cleanup(func() { cleanUp(t, d, dir) })
	ref, id := created(t, d, "one"), identityOf(t, "one")
	// cloud-init alone takes a minute where it is emulated.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	err = d.Identify(ctx, ref, id)
	var console bytes.Buffer
	if cerr := d.Console(bounded(t), ref, &console, 16<<10); cerr != nil || err != nil {
		t.Fatalf("identify: %v, %v; console:\n%s", err, cerr, console.String())
	}
	for _, want := range []string{"runner-boot: step 1/2 copy agent", "runner-boot: step 2/2 start agent"} {
		if !strings.Contains(console.String(), want) {
			t.Errorf("the console lacks %q:\n%s", want, console.String())
		}
	}
	g := &guest{tb: t, ref: ref, id: id}
	g.at(find(t, d, "one"))
	g.healthy()
	if out := g.run(`export OUT="$(hostname) $(systemctl is-active runner-guest)"`); out != "one active" {
		t.Errorf("the machine says %q", out)
	}
}
