package boot_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/amazon"
	"github.com/vm-runner/drone-runner-aws/drivers/google"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/boot"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
	"github.com/vm-runner/drone-runner-aws/internal/userdata"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// agentDir holds the agent that machines run, once it was built.
var agentDir string

// machines is how many run at the same time unless -parallel says otherwise:
// most of a boot is waiting for what it has started.
const machines = 8

func TestMain(m *testing.M) {
	boot.Main()
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", strconv.Itoa(machines)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	agentDir = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// agent builds the real agent.
var agent = sync.OnceValues(func() (string, error) {
	file := filepath.Join(agentDir, "lite-engine")
	cmd := exec.Command("go", "build", "-tags", "urfave_cli_no_docs", "-o", file, "github.com/vm-runner/drone-runner-aws/cmd/runner-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, out)
	}
	return file, nil
})

const (
	first  = "https://releases.example.com/agent"
	second = "https://mirror.example.com/agent"
)

var asset = "lite-engine-linux-" + runtime.GOARCH

// scene is one machine's boot data and world, for a test to spoil.
type scene struct {
	t        *testing.T
	request  pool.BootRequest
	config   userdata.Config
	options  boot.Options
	userData func(string) string
}

// newScene is a build machine on google, all well.
func newScene(t *testing.T) *scene {
	t.Helper()
	file, err := agent()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	sums := filepath.Join(t.TempDir(), "SHA256SUMS")
	text := hex.EncodeToString(make([]byte, 32)) + "  lite-engine-linux-other\n" + hex.EncodeToString(sum[:]) + "  " + asset + "\n"
	if err := os.WriteFile(sums, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	id, err := pool.NewIdentity("i1", "machine-1", "runner", nil, now, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	spec := google.Registration.NewConfig().(*google.Spec)
	bo, err := spec.BootOptions()
	if err != nil {
		t.Fatal(err)
	}
	return &scene{
		t: t,
		request: pool.BootRequest{
			Pool: "p", Driver: "google", Kind: pool.Build, Platform: drivers.Platform{OS: "linux", Arch: runtime.GOARCH},
			Identity: id, Deadline: now.Add(time.Hour), Options: bo,
		},
		config:   userdata.Config{AgentURL: first + "/", FallbackURL: second},
		options:  boot.Options{Docker: true, Served: map[string]string{first + "/" + asset: file, first + "/SHA256SUMS": sums}},
		userData: func(s string) string { return s },
	}
}

func (s *scene) start() *boot.Machine {
	s.t.Helper()
	r, err := userdata.New(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	data, err := r.Render(s.request)
	if err != nil {
		s.t.Fatal(err)
	}
	s.options.UserData = []byte(s.userData(string(data)))
	m, err := boot.Start(s.t.Context(), s.options)
	if errors.Is(err, boot.ErrUnsupported) {
		testhost.Lacks(s.t, "namespaces are missing: %v", err)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if s.t.Failed() {
			log, _, _ := m.File("/var/log/cloud-init-output.log")
			s.t.Logf("console:\n%s\noutput:\n%s", m.Console(), log)
		}
		if err := m.Stop(); err != nil {
			s.t.Error(err)
		}
	})
	return m
}

func (s *scene) keys() boot.Keys {
	id := s.request.Identity
	return boot.Keys{CACert: id.CACert, Cert: id.Cert, Key: id.Key, ServerName: id.ServerName}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// healthy expects a machine to become ready.
func (s *scene) healthy(m *boot.Machine) {
	s.t.Helper()
	ctx := within(s.t)
	if err := m.Booted(ctx); err != nil {
		s.t.Fatalf("boot: %v", err)
	}
	h, err := m.Healthy(ctx, s.keys())
	if err != nil || !h.OK {
		s.t.Fatalf("%+v, %v", h, err)
	}
}

// fails expects a machine not to boot, and its console to say at which step.
func (s *scene) fails(m *boot.Machine, step string) {
	s.t.Helper()
	if err := m.Booted(within(s.t)); err == nil {
		s.t.Error("the boot script ended well")
	}
	if got := pool.LastBootStep(m.Console()); !regexp.MustCompile(step).MatchString(got) {
		s.t.Errorf("the console says %q, want %q", got, step)
	}
	if _, err := m.Health(within(s.t), s.keys()); err == nil {
		s.t.Error("an agent answers")
	}
}

// paused is how long the machine's scripts slept each time, in seconds, where
// nobody waits for it.
func paused(t *testing.T, m *boot.Machine) string {
	t.Helper()
	calls, err := m.Calls()
	if err != nil {
		t.Fatal(err)
	}
	var seconds []string
	for _, c := range calls {
		if c.Program == "sleep" {
			seconds = append(seconds, c.Args...)
		}
	}
	return strings.Join(seconds, " ")
}

func called(t *testing.T, m *boot.Machine, want string) bool {
	t.Helper()
	calls, err := m.Calls()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(calls, func(c boot.Call) bool { return c.String() == want })
}

func TestABuildMachineBootsAndSurvivesAReboot(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	m := s.start()
	s.healthy(m)
	if got := pool.LastBootStep(m.Console()); got != "" || !strings.Contains(m.Console(), "runner-boot: done") {
		t.Errorf("the console ends at %q:\n%s", got, m.Console())
	}
	for name, want := range map[string]os.FileMode{
		"/etc/runner-agent/certs/server-key.pem": 0o600, "/etc/runner-agent/certs/ca-cert.pem": 0o600, "/root/.env": 0o600, "/usr/bin/lite-engine": 0o755,
	} {
		if _, mode, err := m.File(name); err != nil || mode.Perm() != want {
			t.Errorf("%s has mode %v, %v, want %v", name, mode, err, want)
		}
	}
	key := strings.Split(string(s.request.Identity.Key), "\n")[1]
	output, _, err := m.File("/var/log/cloud-init-output.log")
	if err != nil || strings.Contains(string(output), key) || strings.Contains(m.Console(), key) {
		t.Errorf("the key is in a log: %v", err)
	}
	for _, want := range []string{"ufw allow 9079/tcp", "systemctl enable --now runner-deadline.timer", "systemctl enable --now docker"} {
		if !called(t, m, want) {
			t.Errorf("%s was not called", want)
		}
	}
	before, err := m.Calls()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Reboot(within(t)); err != nil {
		t.Fatal(err)
	}
	s.healthy(m)
	after, err := m.Calls()
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) {
		t.Errorf("the reboot ran the boot script again: %v", after[len(before):])
	}
}

func TestWhatHelpsItself(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*scene){
		"a configured sum instead of a list": func(s *scene) {
			raw, err := os.ReadFile(s.options.Served[first+"/"+asset])
			if err != nil {
				s.t.Fatal(err)
			}
			sum := sha256.Sum256(raw)
			s.config.SHA256 = map[string]string{asset: hex.EncodeToString(sum[:])}
			delete(s.options.Served, first+"/SHA256SUMS")
		},
		"a first address that is dead": func(s *scene) { s.move() },
		"a first address with another agent": func(s *scene) {
			s.move()
			s.options.Served[first+"/"+asset], s.options.Served[first+"/SHA256SUMS"] = os.Args[0], s.options.Served[second+"/SHA256SUMS"]
		},
		"a first address without sums": func(s *scene) {
			s.move()
			s.options.Served[first+"/"+asset] = s.options.Served[second+"/"+asset]
		},
		"an image without docker":        func(s *scene) { s.options.Docker = false },
		"Amazon Linux, and packed":       func(s *scene) { s.onAmazon(); s.options.Docker, s.options.Dnf = false, true },
		"no local SSD for scratch space": func(s *scene) { s.request.Options.Scratch = []string{"/dev/disk/by-id/google-local-nvme-ssd-*"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			change(s)
			m := s.start()
			s.healthy(m)
			if s.options.Dnf != called(t, m, "dnf install -y -q docker git") {
				t.Error("dnf was, or was not, called")
			}
		})
	}
}

// move lets only the second address answer.
func (s *scene) move() {
	for _, name := range []string{asset, "SHA256SUMS"} {
		s.options.Served[second+"/"+name] = s.options.Served[first+"/"+name]
		delete(s.options.Served, first+"/"+name)
	}
}

func (s *scene) onAmazon() {
	spec := amazon.Registration.NewConfig().(*amazon.Spec)
	o, err := spec.BootOptions()
	if err != nil {
		s.t.Fatal(err)
	}
	o.MaxBytes = 8 << 10 // so that it must be packed
	s.request.Driver, s.request.Options, s.request.Platform.OSName = "amazon", o, "amazon-linux"
}

func TestWhatIsBrokenFailsWithItsStep(t *testing.T) {
	t.Parallel()
	edit := func(old, changed string) func(*scene) {
		return func(s *scene) {
			s.userData = func(text string) string {
				if !strings.Contains(text, old) {
					s.t.Fatalf("nothing to spoil: %q", old)
				}
				return strings.ReplaceAll(text, old, changed)
			}
		}
	}
	for name, c := range map[string]struct {
		change func(*scene)
		step   string
		pauses string // in seconds
	}{
		"no address answers":           {func(s *scene) { s.options.Served = nil }, `^2/4 download agent: failed: no answer from ` + second, "0 2 4"},
		"a wrong checksum, everywhere": {func(s *scene) { s.config.SHA256 = map[string]string{asset: strings.Repeat("0", 64)} }, `^2/4 download agent: failed: `, "0 2 4"},
		"no checksum anywhere": {
			func(s *scene) { delete(s.options.Served, first+"/SHA256SUMS"); s.config.FallbackURL = "" },
			`^2/4 download agent: failed: no checksum for .*RUNNER_AGENT_SHA256`, "0 2 4",
		},
		"an init script that fails": {
			func(s *scene) { s.request.InitScript = "#!/bin/sh\necho hunter2\nexit 7\n" },
			`^4/5 run the init script: failed: exit code 7, see /var/log/runner-init.log`, "0",
		},
		"a wrong path of the agent's":  {edit("ExecStart=/usr/bin/lite-engine ", "ExecStart=/usr/bin/lite-engin "), `^4/4 start agent: failed`, "0"},
		"an agent that may not be run": {edit("install -m 0755", "install -m 0644"), `^4/4 start agent: failed`, "0"},
		"no service":                   {edit("path: /etc/systemd/system/runner-agent.service", "path: /etc/runner-agent.service"), `^4/4 start agent: failed`, "0"},
		"a persistent disk that is not there": {
			func(s *scene) { s.gitspace("/dev/disk/by-id/other") },
			`^2/5 mount persistent disks: failed: disk gs-\w+ for /mnt/disks/mountdevcontainer did not appear`, strings.TrimSpace(strings.Repeat("1 ", 19)),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.options.NoPauses = true
			c.change(s)
			m := s.start()
			s.fails(m, c.step)
			if got := paused(t, m); got != c.pauses {
				t.Errorf("it paused for %q, want %q", got, c.pauses)
			}
			if strings.Contains(m.Console(), "hunter2") {
				t.Error("the console has a secret")
			}
		})
	}
	t.Run("a boot script that may not be run", func(t *testing.T) {
		t.Parallel()
		s := newScene(t)
		s.userData = func(text string) string {
			return regexp.MustCompile(`(?s)boot\.sh\n( +owner: root:root\n +permissions: )"0755"`).ReplaceAllString(text, "boot.sh\n$1\"0600\"")
		}
		m := s.start()
		s.fails(m, `^$`)
	})
	t.Run("a key of cloud-init's that is not known here", func(t *testing.T) {
		t.Parallel()
		s := newScene(t)
		s.userData = func(text string) string { return text + "packagez: [x]\n" }
		if err := s.start().Booted(within(t)); err == nil || !strings.Contains(err.Error(), "packagez") {
			t.Errorf("got %v", err)
		}
	})
}

// gitspace makes the machine one with a persistent disk of 8 MiB at a path.
func (s *scene) gitspace(device string) string {
	s.request.Kind, s.request.Deadline = pool.Gitspace, time.Time{}
	s.request.Disks = []drivers.DiskSpec{{Name: "demo-disk"}}
	file := filepath.Join(s.t.TempDir(), "disk")
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.options.Disks = map[string]string{device: file}
	return file
}

func TestAPersistentDiskIsFormattedOnceAndNeverAgain(t *testing.T) {
	t.Parallel()
	const device = "/dev/disk/by-id/google-disk-0"
	for name, c := range map[string]struct {
		fill   func(t *testing.T, file string)
		kind   string // of the file system afterwards, "" if the boot must fail
		kept   bool   // not a byte has changed
		reason string
	}{
		"a new disk":                     {func(*testing.T, string) {}, "ext4", false, ""},
		"a disk with a file system":      {func(t *testing.T, file string) { mkfs(t, file, "ext3", "mine") }, "ext3", true, ""},
		"a disk with bytes nobody knows": {func(t *testing.T, file string) { scribble(t, file, 4096) }, "", true, "mount"},
		"a disk with a partition table":  {partition, "", true, "mount"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			file := s.gitspace(device)
			c.fill(t, file)
			before := sumOf(t, file)
			m := s.start()
			if c.kind == "" {
				s.fails(m, `^2/5 mount persistent disks: failed: mount of .* left alone`)
			} else {
				s.healthy(m)
				out, err := exec.CommandContext(t.Context(), "blkid", "-p", "-o", "value", "-s", "TYPE", file).Output()
				if got := strings.TrimSpace(string(out)); err != nil || got != c.kind {
					t.Errorf("holds %q, %v, want %q", got, err, c.kind)
				}
			}
			made := sumOf(t, file)
			if (made == before) != c.kept {
				t.Errorf("unchanged: %v, want %v", made == before, c.kept)
			}
			if c.kind == "" {
				return
			}
			if err := m.Reboot(within(t)); err != nil {
				t.Fatal(err)
			}
			s.healthy(m)
			if sumOf(t, file) != made {
				t.Error("the reboot changed the disk")
			}
			mounts, err := m.Calls()
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, call := range mounts {
				if call.Program == "mount" && slices.Contains(call.Args, "/mnt/disks/mountdevcontainer") && !slices.Contains(call.Args, "-L") {
					n++
				}
			}
			if n != 2 {
				t.Errorf("mounted %d times over two boots: %v", n, mounts)
			}
		})
	}
}

func mkfs(t *testing.T, file, kind, label string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-t", kind, "-L", label, file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func scribble(t *testing.T, file string, at int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("\xff\xfe somebody's data"), at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// partition writes a table with one partition, by hand.
func partition(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	entry := []byte{0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x20, 0, 0} // linux, from sector 2048, 8192 long
	if _, err := f.WriteAt(append(entry, make([]byte, 48)...), 446); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0x55, 0xaa}, 510); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func sumOf(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func TestAnInitScriptRunsOnceBeforeTheAgentAnswers(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.gitspace("/dev/disk/by-id/google-disk-0")
	s.request.InitScript = "#!/bin/bash\nset -e\n[ -r /harness/certs/server-key.pem ]\nmountpoint -q /mnt/disks/mountdevcontainer\necho once >>/var/lib/once\necho secret=hunter2\n"
	m := s.start()
	s.healthy(m)
	if err := m.Reboot(within(t)); err != nil {
		t.Fatal(err)
	}
	s.healthy(m)
	if text, _, err := m.File("/var/lib/once"); err != nil || string(text) != "once\n" {
		t.Errorf("%q, %v", text, err)
	}
	if _, mode, err := m.File("/usr/local/lib/runner-agent/init-script"); err != nil || mode.Perm() != 0o700 {
		t.Errorf("%v, %v", mode, err)
	}
	output, _, err := m.File("/var/log/cloud-init-output.log")
	if err != nil || strings.Contains(string(output)+m.Console(), "hunter2") {
		t.Errorf("a secret is in a log: %v", err)
	}
}

func TestABuildMachineEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.request.Deadline = time.Now().Add(2 * time.Second)
	m := s.start()
	select {
	case <-m.Off():
	case <-within(t).Done():
		t.Fatal("it is still there")
	}
	if !called(t, m, "shutdown -h now") {
		t.Error("it was not shut down by itself")
	}
}

func TestTheAgentComesBackWhenItEnds(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	m := s.start()
	s.healthy(m)
	if err := m.Kill("lite-engine"); err != nil {
		t.Fatal(err)
	}
	ctx := within(t)
	for !strings.Contains(m.Console(), "runner-agent.service ended") {
		if ctx.Err() != nil {
			t.Fatal("its end was not seen")
		}
		if _, err := m.Health(ctx, s.keys()); err != nil {
			break
		}
	}
	s.healthy(m)
}

// behindProxy makes the machine one whose way out is a proxy with an authority
// of its own, and gives that.
func (s *scene) behindProxy(address string) string {
	s.t.Helper()
	ca := string(s.request.Identity.CACert) // any certificate will do
	s.request.Proxy = address
	s.config.Helpers.EgressNoProxy, s.config.Helpers.EgressCACert = "localhost,mirror.example.com", ca
	s.options.Served[address+"/healthz"] = s.options.Served[first+"/SHA256SUMS"]
	return ca
}

func TestAMachineBehindAProxyDownloadsThroughIt(t *testing.T) {
	t.Parallel()
	const proxy = "http://proxy.example.com:3128"
	for _, dnf := range []bool{false, true} {
		s := newScene(t)
		if dnf {
			s.onAmazon()
			s.options.Dnf, s.request.Options.MaxBytes = true, 0
		}
		s.config.AgentURL, s.config.FallbackURL = "https://nowhere.example.com", second // the latter is reached directly
		ca := s.behindProxy(proxy)
		s.move()
		m := s.start()
		s.healthy(m)
		through := map[string]string{}
		calls, err := m.Calls()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range calls {
			if c.Program == "curl" {
				through[c.Args[len(c.Args)-1]] = c.Proxy
			}
		}
		want := map[string]string{
			proxy + "/healthz": "", "https://nowhere.example.com/" + asset: proxy, second + "/" + asset: "", second + "/SHA256SUMS": "",
		}
		if diff := cmp.Diff(want, through); diff != "" {
			t.Errorf("what went through which proxy (-want +got):\n%s", diff)
		}
		for name, ends := range map[string]string{
			"/etc/harness-certs/ca.crt": ca, "/etc/harness-certs/ca-bundle.crt": ca,
			"/etc/systemd/system/docker.service.d/egress.conf": "Environment=\"HTTPS_PROXY=" + proxy + "\"\nEnvironment=\"NO_PROXY=localhost,mirror.example.com\"\n",
		} {
			text, mode, err := m.File(name)
			if err != nil || mode.Perm() != 0o644 || !strings.HasSuffix(string(text), ends) {
				t.Errorf("%s: %v, %v, ends in %.300q", name, err, mode, text[max(0, len(text)-300):])
			}
		}
		if _, err := exec.LookPath("update-ca-certificates"); err == nil {
			store, _, err := m.File("/etc/ssl/certs/ca-certificates.crt")
			if err != nil || !strings.Contains(string(store), strings.TrimSpace(ca)) {
				t.Errorf("the system does not trust the proxy's authority: %v, %d bytes", err, len(store))
			}
		}
		if !called(t, m, "systemctl try-restart docker") {
			t.Error("docker is not told of the proxy")
		}
		env, _, err := m.File("/root/.env")
		if err != nil || strings.Contains(strings.ToLower(string(env)), "_proxy") {
			t.Errorf("the agent itself is told of the proxy: %v\n%s", err, env)
		}
	}
}

func TestAProxyThatDoesNotAnswerFailsTheBootWithItsStep(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.behindProxy("http://proxy.example.com:3128")
	clear(s.options.Served)
	s.options.NoPauses = true
	m := s.start()
	s.fails(m, `^2/5 reach the egress proxy: failed: no answer from http://proxy.example.com:3128/healthz in five tries: .*proxy_url in the pool file`)
	if got := paused(t, m); got != "0 3 3 3 3" {
		t.Errorf("it paused for %q between its tries", got)
	}
}

func TestAUsersOwnScriptIsRun(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.request.Options.TemplateName = "user_data"
	s.request.Options.Template = `#!/bin/sh
set -e
mkdir -p {{ .CertsDirectory }}
umask 077
cat >{{ .CaCertPath }} <<'END'
{{ .CACert | trim }}
END
cat >{{ .CertPath }} <<'END'
{{ .TLSCert | trim }}
END
echo {{ .TLSKey | base64 }} | base64 -d >{{ .KeyPath }}
wget -q {{ .LiteEnginePath }}/lite-engine-{{ .Platform.OS }}-{{ .Platform.Arch }} -O /usr/bin/lite-engine
chmod 755 /usr/bin/lite-engine
/usr/bin/lite-engine server --env-file /root/.env >{{ .LiteEngineLogsPath }} 2>&1 &
`
	s.healthy(s.start())
}
