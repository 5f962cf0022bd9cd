//go:build e2e && debian

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kdomanski/iso9660"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/google"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/internal/userdata"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// needDebian is the folder of the image debian. Building it takes minutes, and so
// does a boot with cloud-init where machines are emulated: hence the build tag.
func needDebian(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("TEST_DEBIAN_IMAGE")
	if dir == "" {
		t.Fatal("the image debian is missing: make cloud-init builds it, TEST_DEBIAN_IMAGE names its folder")
	}
	return dir
}

// guestHost is this host as machines see it through QEMU's network.
const guestHost = "10.0.2.2"

// releases is where machines download their agent from.
type releases struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string
}

func serveReleases(t *testing.T) *releases {
	t.Helper()
	asset := "lite-engine-linux-" + runtime.GOARCH
	sum, err := exec.Command("sha256sum", built.agent).Output()
	if err != nil {
		t.Fatal(err)
	}
	sums := strings.Fields(string(sum))[0] + "  " + asset + "\n"
	r := &releases{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.seen = append(r.seen, req.URL.Path)
		r.mu.Unlock()
		switch req.URL.Path {
		case "/agent/" + asset:
			http.ServeFile(w, req, built.agent)
		case "/agent/SHA256SUMS":
			fmt.Fprint(w, sums)
		default:
			http.NotFound(w, req)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// cloudMachine is a machine of this host that boots like one of a cloud: all it
// is given is boot data.
type cloudMachine struct {
	t       *testing.T
	target  pool.Target
	agent   *agentclient.Client
	console string
}

// startCloudMachine boots the image with boot data and nothing else: no identity
// channel, no agent that starts by itself. A test that fails shows its console.
func startCloudMachine(t *testing.T, id drivers.Identity, address string, userData []byte) *cloudMachine {
	t.Helper()
	img, dir := needDebian(t), t.TempDir()
	seed, overlay := filepath.Join(dir, "seed.iso"), filepath.Join(dir, "overlay.qcow2")
	writeSeed(t, seed, map[string]string{"meta-data": "instance-id: " + id.Machine + "\nlocal-hostname: " + id.Hostname + "\n", "user-data": string(userData)})
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-b", filepath.Join(img, "disk.qcow2"), "-F", "qcow2", overlay).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, out)
	}
	program, machine, serial := "qemu-system-x86_64", "pc", "ttyS0"
	if runtime.GOARCH == "arm64" {
		program, machine, serial = "qemu-system-aarch64", "virt", "ttyAMA0"
	}
	m := &cloudMachine{t: t, console: filepath.Join(dir, "console.log"), agent: agentclient.New(agentclient.Config{})}
	m.target = pool.Target{Instance: id.Machine, Address: address, Port: 9079, Identity: id, OS: "linux"}
	cmd := exec.Command(program, "-accel", "tcg", "-machine", machine, "-cpu", "max", "-m", "512",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "file:"+m.console,
		"-kernel", filepath.Join(img, "vmlinuz"), "-initrd", filepath.Join(img, "initramfs"),
		"-append", "console="+serial+" root=LABEL=runner-root rw panic=-1",
		"-drive", "if=virtio,format=qcow2,cache=unsafe,file="+overlay,
		"-drive", "if=virtio,format=raw,readonly=on,file="+seed,
		// For these tests alone a machine reaches this host.
		"-netdev", "user,id=n0,hostfwd=tcp:"+address+":9079-:9079", "-device", "virtio-net-pci,netdev=n0,romfile=",
		"-device", "virtio-rng-pci")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.agent.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		if t.Failed() {
			raw, _ := os.ReadFile(m.console)
			t.Logf("QEMU: %s\nconsole:\n%s", output.String(), raw[max(0, len(raw)-8<<10):])
		}
	})
	return m
}

// writeSeed writes a disk cloud-init takes for its NoCloud source.
func writeSeed(t *testing.T, file string, files map[string]string) {
	t.Helper()
	iso, err := iso9660.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := iso.AddFile(strings.NewReader(text), name); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := iso.WriteTo(f, "cidata"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := iso.Cleanup(); err != nil {
		t.Fatal(err)
	}
}

// said waits until the console has a text n times.
func (m *cloudMachine) said(text string, n int, patience time.Duration) {
	m.t.Helper()
	m.await(fmt.Sprintf("%q %d times on the console", text, n), patience, func(context.Context) error {
		raw, err := os.ReadFile(m.console)
		if err == nil && bytes.Count(raw, []byte(text)) < n {
			err = fmt.Errorf("not yet")
		}
		return err
	})
}

func (m *cloudMachine) healthy(patience time.Duration) {
	m.t.Helper()
	m.await("a healthy agent", patience, func(ctx context.Context) error {
		_, err := m.agent.Health(ctx, m.target)
		return err
	})
}

func (m *cloudMachine) await(what string, patience time.Duration, f func(context.Context) error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			m.t.Fatalf("waited %s for %s: %v", patience, what, err)
		case <-tick.C:
		}
	}
}

// step runs a command in the machine and returns what it wrote.
func (m *cloudMachine) step(id, command string) string {
	m.t.Helper()
	body, err := json.Marshal(map[string]any{
		"id": id, "kind": "Run", "name": id, "working_dir": "/tmp", "environment": map[string]string{},
		"run": map[string]any{"entrypoint": []string{"sh", "-c"}, "commands": []string{command}},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.agent.StartStep(m.t.Context(), m.target, body); err != nil {
		m.t.Fatalf("step %s: %v", id, err)
	}
	var out bytes.Buffer
	if _, err := m.agent.Output(m.t.Context(), m.target, id, 0, &out); err != nil {
		m.t.Fatalf("output of %s: %v", id, err)
	}
	return out.String()
}

// TestRenderedUserDataBootsAMachine: cloud-init of a real machine takes exactly
// the bytes the runner renders for a machine of a cloud.
func TestRenderedUserDataBootsAMachine(t *testing.T) { // not parallel: emulated, one machine has a core
	needDebian(t)
	server := serveReleases(t)
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	id, err := pool.NewIdentity("i1", "machine-1", "runner", nil, now, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	r, err := userdata.New(userdata.Config{AgentURL: "http://" + net.JoinHostPort(guestHost, port) + "/agent/"})
	if err != nil {
		t.Fatal(err)
	}
	options, err := google.Registration.NewConfig().(*google.Spec).BootOptions()
	if err != nil {
		t.Fatal(err)
	}
	data, err := r.Render(pool.BootRequest{
		Pool: "p", Driver: "google", Kind: pool.Build, Platform: drivers.Platform{OS: "linux", Arch: runtime.GOARCH},
		Identity: id, Deadline: now.Add(time.Hour), Options: options,
	})
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSuffix(addressRange(), "0/24") + "2"
	m := startCloudMachine(t, id, address, data)
	m.healthy(10 * time.Minute)
	m.said("runner-boot: done", 1, 2*time.Minute)

	server.mu.Lock()
	seen := strings.Join(server.seen, " ")
	server.mu.Unlock()
	if want := "/agent/lite-engine-linux-" + runtime.GOARCH + " /agent/SHA256SUMS"; seen != want {
		t.Errorf("downloads: %s, want %s", seen, want)
	}
	if err := m.agent.Setup(t.Context(), m.target, json.RawMessage(`{"id":"stage","network":{"id":"n"},"volumes":[],"envs":{},"secrets":[]}`)); err != nil {
		t.Fatalf("setup: %v", err)
	}
	out := m.step("look", `
hostname
stat -c '%a %U %n' /etc/runner-agent/certs/server-key.pem /root/.env
systemctl is-enabled runner-agent.service
systemctl is-active runner-deadline.timer
cloud-init status
cloud-init schema --system 2>&1 | tail -n 1`)
	for _, want := range []string{
		"machine-1\n", "600 root /etc/runner-agent/certs/server-key.pem", "600 root /root/.env", "enabled\n", "active\n", "status: done",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the machine says\n%swithout %q", out, want)
		}
	}

	// The agent comes back by itself, with the same certificates.
	m.step("reboot", `nohup sh -c 'sleep 1; systemctl reboot' >/dev/null 2>&1 &`)
	m.said("Linux version", 2, 5*time.Minute)
	m.healthy(5 * time.Minute)
	if out := m.step("again", "cat /proc/uptime"); out == "" {
		t.Error("no step runs after the reboot")
	}
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
