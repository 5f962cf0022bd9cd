//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

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
