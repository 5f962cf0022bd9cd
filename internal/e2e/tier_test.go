//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

const twoOnDisk = `
version: "1"
instances:
  - name: local
    default: true
    type: qemu
    pool: 2
    limit: 4
    platform: {os: linux}
    spec: {image: tiny, address_range: RANGE, hibernate: true}
`

// TestWarmMachinesWaitOnDiskAndServe: a pool that hibernates keeps no process
// and no memory for its free machines, and a request is answered by one of
// them, woken.
func TestWarmMachinesWaitOnDiskAndServe(t *testing.T) {
	r := newRunner(t, twoOnDisk)
	begun := time.Now()
	r.start()
	asleep := func(n, running int) {
		t.Helper()
		r.eventually(4*time.Minute, fmt.Sprintf("%d machines on disk, %d running", n, running), func() error {
			got, procs, dirs := r.countState("hibernated"), len(r.machineProcesses()), len(r.folders())
			if got != n || procs != running || dirs != n+running {
				return fmt.Errorf("%d on disk, %d processes, %d folders: %+v", got, procs, dirs, r.instances())
			}
			return nil
		})
		t.Logf("after %s: %d on disk, %d running", time.Since(begun).Round(100*time.Millisecond), n, running)
	}
	asleep(2, 0)
	if states, _ := filepath.Glob(filepath.Join(r.dir, "machines", "*", "state*")); len(states) != 2 {
		t.Errorf("state files: %v, want one for each machine", states)
	}
	before := map[string]bool{}
	for _, i := range r.instances() {
		before[i.ID] = true
	}
	asked := time.Now()
	got := r.setup("stage-1")
	t.Logf("setup answered by a machine from disk in %s", time.Since(asked).Round(time.Millisecond))
	for _, i := range r.instances() {
		if i.LeaseID == "stage-1" && !before[i.ID] {
			t.Errorf("answered by %s, which was not on disk", i.Name)
		}
	}
	if s := r.step("stage-1", "hello", `test "$(date +%Y)" -ge 2024 && echo awake`, nil); s.ExitCode != 0 || got.IPAddress == "" {
		t.Errorf("step on %s: %+v", got.IPAddress, s)
	}
	asleep(2, 1) // refilled, and put to disk again
	r.must(200, "/destroy", map[string]string{"id": "stage-1"})
	asleep(2, 0)
}
