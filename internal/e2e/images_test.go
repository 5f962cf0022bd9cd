//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// newRunnerWithOwnImages has a folder of images that no other test shares.
func newRunnerWithOwnImages(t *testing.T, poolFile string) *runner {
	t.Helper()
	r := newRunner(t, poolFile)
	images := filepath.Join(r.dir, "images")
	if err := os.Remove(images); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(images, 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

// systemlessDisk has no system, only a boot sector that writes a text to the
// first serial port and stands still.
func systemlessDisk(text string) []byte {
	disk := make([]byte, 1<<20)
	copy(disk, "\x31\xc0\x8e\xd8\xbe\x16\x7c\xba\xf8\x03\xfc\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfd"+text+"\x00")
	disk[510], disk[511] = 0x55, 0xaa
	return disk
}

// TestAnImageWithoutCloudInitFailsTheSetupWithItsConsole: a machine that boots
// and never asks for its identity.
func TestAnImageWithoutCloudInitFailsTheSetupWithItsConsole(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		t.Skip("disks are imported on amd64 only")
	}
	r := newRunnerWithOwnImages(t, `
version: "1"
instances:
  - name: local
    default: true
    type: qemu
    pool: 0
    limit: 1
    platform: {os: linux}
    spec: {image: mine, memory_mb: 64, accelerator: tcg, address_range: RANGE}
`)
	disk := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(disk, systemlessDisk("runner-boot: step 2/4 download agent\r\nthere is no system here\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(built.runner, "image", "import", "--data-dir", r.dir, "--agent", built.agent, "--memory", "32", "mine", disk).CombinedOutput(); err != nil {
		t.Fatalf("image import: %v\n%s", err, out)
	}
	r.env = append(r.env, "HEALTH_CHECK_COLDSTART_TIMEOUT=8s")
	r.start()
	a, err := r.post(t.Context(), "/setup", buildSetup("s1"))
	if err != nil {
		t.Fatal(err)
	}
	if a.status == 200 {
		t.Fatalf("the setup succeeded: %s", a.body)
	}
	for _, want := range []string{"there is no system here", "2/4 download agent"} {
		if !bytes.Contains(a.body, []byte(want)) {
			t.Errorf("the answer lacks %q: %s", want, a.body)
		}
	}
	t.Logf("answer: %s", a.body)
}

// TestDebianPool walks a build through a pool of machines of the image debian.
func TestDebianPool(t *testing.T) { // not parallel, see TestRenderedUserDataBootsAMachine
	img := needDebian(t)
	r := newRunnerWithOwnImages(t, `
version: "1"
instances:
  - name: local
    default: true
    type: qemu
    pool: 1
    limit: 2
    platform: {os: linux}
    spec: {image: debian, accelerator: tcg, address_range: RANGE}
`)
	if out, err := exec.Command("cp", "-r", img, filepath.Join(r.dir, "images", "debian")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r.start()
	r.eventually(4*time.Minute, "one warm machine", func() error {
		if r.countState("warm") != 1 {
			return os.ErrNotExist
		}
		return nil
	})
	r.setup("s1")
	out := r.step("s1", "look", `export OUT="$(. /etc/os-release; echo $ID $(git --version | cut -d ' ' -f 1))"`, map[string]any{"output_vars": []string{"OUT"}})
	if !out.Exited || out.ExitCode != 0 || strings.TrimSpace(out.Outputs["OUT"]) != "debian git" {
		t.Errorf("step: %+v", out)
	}
	r.must(200, "/destroy", map[string]any{"id": "s1", "pool_id": "local"})
	if out, err := exec.Command(built.runner, "image", "rm", "debian", "--data-dir", r.dir).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("is used by")) {
		t.Errorf("image rm while machines use it: %v, %s", err, out)
	}
}
