//go:build linux && debian

package qemu_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
)

// debianDir is the folder of the image debian. It takes minutes to build, and
// machines of it minutes to boot where they are emulated: one at a time.
func debianDir(t *testing.T) string { return builtDir(t, "debian", "TEST_DEBIAN_IMAGE") }

func builtDir(t *testing.T, name, variable string) string {
	t.Helper()
	dir := os.Getenv(variable)
	if dir == "" {
		t.Fatalf("the image %s is missing: make cloud-init builds it, %s names its folder", name, variable)
	}
	return dir
}

// onDebian is a driver whose machines are of the image debian.
func onDebian(t *testing.T) (*qemu.Driver, string) { return onBuilt(t, "debian", 512, debianDir(t)) }

// onBuilt is one whose machines are of an image in a folder.
func onBuilt(t *testing.T, name string, memoryMB int, img string) (*qemu.Driver, string) {
	t.Helper()
	takeTurn(t)
	dir := emptyDir(t)
	if err := os.Mkdir(qemu.ImagesDir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-r", img, filepath.Join(qemu.ImagesDir(dir), name)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	d := open(t, dir, func(c *qemu.Config) {
		c.Image, c.MemoryMB, c.Accelerator, c.Disk.Size = name, memoryMB, qemu.AccelTCG, 6
	})
	t.Cleanup(func() { cleanUp(t, d, dir) })
	return d, dir
}

// TestDebianGitspaceIsThereAgainAfterItsQEMUWasKilled: it boots anew on its own
// disk and on its persistent one.
func TestDebianGitspaceIsThereAgainAfterItsQEMUWasKilled(t *testing.T) { // not parallel: see debianDir
	d, dir := onDebian(t)
	g := gitspace(t, d, withDisks("one", "home"))
	g.run(`echo persistent >` + firstFolder + `/f; echo own >/root/f; sync; export OUT=x`)
	killQEMU(t, d, dir, "one")
	if _, err := d.Resume(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	g.identify(d)
	if out := g.run(`export OUT="$(cat ` + firstFolder + `/f /root/f | tr '\n' ' ')"`); out != "persistent own " {
		t.Errorf("the files have %q", out)
	}
	destroyWith(t, d, g.ref, drivers.Delete)
}

// TestDebianDockerMachineRunsAStepInAContainer of an image that is made on the
// machine, which reaches no registry: it has a shell and what that needs.
func TestDebianDockerMachineRunsAStepInAContainer(t *testing.T) { // not parallel: see debianDir
	d, _ := onBuilt(t, "debian-docker", 1024, builtDir(t, "debian-docker", "TEST_DEBIAN_DOCKER_IMAGE"))
	g := machine(t, d, "one")
	// As callers do, again and again: the daemon takes a while to come up.
	for end := time.Now().Add(2 * time.Minute); !g.setUp; {
		_, err := g.call(http.MethodPost, "/setup", `{"network":{"id":"n"},"mount_docker_socket":false,"log_config":{},"ti_config":{}}`)
		if g.setUp = err == nil; err != nil && time.Now().After(end) {
			t.Fatal(err)
		}
	}
	g.run(`tar -C / -ch bin/sh $(ldd /bin/sh | grep -o '/[^ ]*' | cut -c 2-) | docker import - tool:1; export OUT=x`)
	id := "in-a-container"
	if _, err := g.call(http.MethodPost, "/start_step", `{"id":"`+id+`","name":"`+id+`","kind":"Run","log_drone":true,"image":"tool:1","pull":"Never",
		"network_aliases":["tool"],"run":{"entrypoint":["/bin/sh","-c"],"commands":["echo process $$ of a container"]},"timeout":120}`); err != nil {
		t.Fatal(err)
	}
	body, err := g.call(http.MethodPost, "/poll_step", `{"id":"`+id+`"}`)
	if err != nil {
		t.Fatal(err)
	}
	if body = strings.Join(strings.Fields(body), ""); body != `{"exited":true}` {
		t.Errorf("the step says %s", body)
	}
	said, err := g.call(http.MethodPost, "/stream_output", `{"id":"`+id+`"}`)
	if err != nil {
		t.Fatal(err)
	}
	if said != "process 1 of a container\n" {
		t.Errorf("the container says %q", said)
	}
	if _, err := g.call(http.MethodPost, "/destroy", `{}`); err != nil {
		t.Fatal(err)
	}
	g.setUp = false
	if left := g.run(`export OUT="$(docker ps -aq | wc -l) $(docker volume ls -q | wc -l)"`); left != "0 0" {
		t.Errorf("containers and volumes afterwards: %s", left)
	}
}

func TestDebianMachine(t *testing.T) { // not parallel: see debianDir
	d, dir := onDebian(t)
	g := machine(t, d, "one")
	out := g.run(`export OUT="$(. /etc/os-release; echo $ID $(hostname) $(git --version | cut -d ' ' -f 1) $(cat /proc/1/comm) $(ls /etc/ssh/ssh_host_* 2>/dev/null | wc -l))"`)
	if want := "debian one git systemd 0"; out != want {
		t.Errorf("the machine says %q, want %q", out, want)
	}
	if out := g.run(`export OUT="$(df --output=size -BG / | tail -n 1 | tr -d ' G')"`); out != "6" {
		t.Errorf("its file system has %s GB, want 6", out)
	}
	g.run(`head -c 5000000 /dev/urandom >/root/file; md5sum </root/file >/run/sum; export OUT=`)

	// Warm is proven and paused; a claim continues it.
	if err := d.Pause(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	if err := d.Unpause(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	g.healthy()

	// Memory and disk come back together, twice.
	for range 2 {
		if err := d.Suspend(bounded(t), g.ref); err != nil {
			t.Fatal(err)
		}
		if len(processes(dir, "one")) != 0 {
			t.Error("a suspended machine has a process")
		}
		i, err := d.Resume(bounded(t), g.ref)
		if err != nil {
			t.Fatal(err)
		}
		g.at(i)
		if out := g.run(`echo 3 >/proc/sys/vm/drop_caches; export OUT="$(md5sum </root/file | cmp - /run/sum && echo same)"`); out != "same" {
			t.Error("its file is not what it was")
		}
		g.run(`head -c 1000000 /dev/urandom >>/root/file; md5sum </root/file >/run/sum; export OUT=`)
	}

	// The next machine has none of it.
	other := machine(t, d, "two")
	if out := other.run(`export OUT="$(ls /root | wc -l) $(cat /etc/machine-id)"`); !strings.HasPrefix(out, "0 ") || out[2:] == g.run(`export OUT="$(cat /etc/machine-id)"`) {
		t.Errorf("another machine has %q", out)
	}
}
