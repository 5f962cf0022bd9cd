//go:build docker && linux

package agent_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/client"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/containers"
	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

// box is a step that runs a script in a container of a real daemon.
func box(id, script string) agentapi.StartStepRequest {
	return agentapi.StartStepRequest{ID: id, Image: dockertest.Image, Run: agentapi.RunConfig{Entrypoint: []string{"sh", "-c"}, Commands: []string{script}}}
}

// plain is box in drone mode, where the output is the container's alone.
func plain(id, script string) agentapi.StartStepRequest {
	s := box(id, script)
	s.LogDrone = true
	return s
}

// objects are the containers, user-defined networks and volumes of a daemon.
func objects(t testing.TB, host string) []string {
	t.Helper()
	c, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// Not the test's context: it is asked for at its end, too.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out := []string{}
	all, err := c.ContainerList(ctx, client.ContainerListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range all.Items {
		out = append(out, "container "+strings.Join(x.Names, " "))
	}
	nets, err := c.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range nets.Items {
		if !slices.Contains([]string{"bridge", "host", "none", "podman"}, x.Name) {
			out = append(out, "network "+x.Name)
		}
	}
	vols, err := c.VolumeList(ctx, client.VolumeListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range vols.Items {
		out = append(out, "volume "+x.Name)
	}
	slices.Sort(out)
	return out
}

// onDocker is an agent on a real daemon, whose objects have a name of their own.
func onDocker(t testing.TB, host, prefix string, change ...func(*agent.Options)) *rig {
	t.Helper()
	r := newRig(t, append([]func(*agent.Options){func(o *agent.Options) { o.DockerHost, o.ContainerPrefix = host, prefix }}, change...)...)
	r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "net"}})
	return r
}

// quick is how many containers are started to see that no last line is lost.
var quick = map[bool]int{false: 100, true: 40}[raceEnabled]

func TestDockerSteps(t *testing.T) {
	t.Parallel()
	host := dockertest.Start(t)
	t.Run("steps", func(t *testing.T) { dockerSteps(t, host) })
	if diff := cmp.Diff([]string{}, objects(t, host)); diff != "" {
		t.Errorf("left at the daemon (-want +got):\n%s", diff)
	}
}

// dockerSteps runs steps on a daemon.
func dockerSteps(t *testing.T, host string) {
	run := func(name string, do func(t *testing.T, r *rig)) {
		prefix := strings.ReplaceAll(name, " ", "-") + "."
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := onDocker(t, host, prefix)
			do(t, r)
			if res := r.destroy(); len(res.Leftover) > 0 {
				t.Errorf("destroy left %v", res.Leftover)
			}
		})
	}
	expect := func(t *testing.T, r *rig, s agentapi.StartStepRequest, code int, output string) {
		t.Helper()
		got := r.run(s)
		if out := r.output(s.ID); got.ExitCode != code || !strings.Contains(out, output) {
			t.Errorf("%s: result %+v, output %.2000q; want code %d and %q", s.ID, got, out, code, output)
		}
	}
	// reach asks a service from as many containers as it takes: it may not listen
	// yet, and a name server of Podman's reads anew with each container.
	reach := func(t *testing.T, r *rig, id, url, output string) {
		t.Helper()
		var got agentapi.PollStepResponse
		var out string
		for try := range 5 {
			s := plain(fmt.Sprintf("%s-%d", id, try), "for i in $(seq 10); do timeout 1 wget -q -O - "+url+" && exit; sleep 0.1; done; exit 1")
			got = r.run(s)
			if out = r.output(s.ID); got.ExitCode == 0 {
				break
			}
		}
		if got.ExitCode != 0 || !strings.Contains(out, output) {
			t.Errorf("%s: result %+v, output %.2000q; want %q", id, got, out, output)
		}
	}

	run("results and last lines", func(t *testing.T, r *rig) {
		expect(t, r, plain("ok", "echo hello; printf 'no newline'"), 0, "hello\nno newline")
		expect(t, r, plain("three", "echo out; echo err >&2; exit 3"), 3, "err")
		expect(t, r, plain("low-byte", "exit 300"), 44, "")
		var wg sync.WaitGroup
		ids := make(chan string)
		for range 4 {
			wg.Go(func() {
				for id := range ids {
					r.start(plain(id, "echo first; printf 'last of "+id+"'"))
					if got := r.poll(id); got.ExitCode != 0 || r.output(id) != "first\nlast of "+id {
						t.Errorf("%s: %+v, output %q", id, got, r.output(id))
					}
				}
			})
		}
		for i := range quick {
			ids <- fmt.Sprintf("q%d", i)
		}
		close(ids)
		wg.Wait()
	})
	run("what a step sees", func(t *testing.T, r *rig) {
		r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "net"}, Envs: map[string]string{"STAGE": "s"}})
		s := plain("env", `echo "$STAGE $STEP ${EMPTY-unset} $(id -u):$(id -g) $(pwd) $HOME_OF_AGENT"`)
		s.Environment, s.User, s.WorkingDir = map[string]string{"STEP": "x y", "EMPTY": ""}, "1000:1000", "/made/up"
		expect(t, r, s, 0, "s x y unset 1000:1000 /made/up \n")
		expect(t, r, agentapi.StartStepRequest{ID: "plugin", LogDrone: true, Image: dockertest.Image, Environment: map[string]string{"PLUGIN_X": "1"}}, 0, "")
		missing := plain("no-program", "")
		missing.Run = agentapi.RunConfig{Entrypoint: []string{"/no/such"}}
		if got := r.run(missing); got.ExitCode != 255 || !strings.Contains(got.Error, "no such file") {
			t.Errorf("no program: %+v", got)
		}
	})
	run("volumes", func(t *testing.T, r *rig) {
		if err := os.WriteFile(r.path("file"), []byte("of the host\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "net"}, Volumes: []agentapi.Volume{
			{Host: &agentapi.HostVolume{Name: "ro", Path: r.work, ReadOnly: true}},
			{Host: &agentapi.HostVolume{Name: "rw", Path: r.path("rw"), Create: true}},
			{Temp: &agentapi.TempVolume{ID: "temp-id", Name: "temp"}},
			{Temp: &agentapi.TempVolume{ID: "mem-id", Name: "mem", Medium: "memory", SizeLimit: 1 << 20}},
			{Host: &agentapi.HostVolume{Name: "zero", Path: "/dev/zero"}},
		}})
		mounts := []agentapi.VolumeMount{{Name: "ro", Path: "/ro"}, {Name: "rw", Path: "/rw"}, {Name: "temp", Path: "/temp"}, {Name: "mem", Path: "/mem"}, {Name: "nobody", Path: "/nobody"}}
		s := plain("write", "cat /ro/file; touch /ro/x && echo WRITTEN; echo a > /rw/a; echo b > /temp/b; stat -c %a /mem; dd if=/dev/zero of=/mem/x bs=1k count=2000; head -c 2 /dev/ours | wc -c; test -e /nobody || echo nobody; test -S /var/run/docker.sock && echo socket")
		s.Volumes, s.Devices = mounts, []agentapi.VolumeDevice{{Name: "zero", Path: "/dev/ours"}}
		r.run(s)
		out := r.output("write")
		for _, want := range []string{"of the host\n", "Read-only file system", "\n700\n", "No space left on device", "\n2\n", "\nnobody\n", "\nsocket\n", `volume "nobody" is not one of the stage's`} {
			if !strings.Contains(out, want) {
				t.Errorf("output has no %q: %q", want, out)
			}
		}
		if strings.Contains(out, "WRITTEN") || r.read(r.path("rw/a")) != "a\n" {
			t.Errorf("read-only was written to, or a folder was not: %q", out)
		}
		s = plain("read", "cat /temp/b")
		s.Volumes = mounts[2:3]
		expect(t, r, s, 0, "b\n")
	})
	run("outputs", func(t *testing.T, r *rig) {
		s := box("outputs", `OUT="two
lines"; echo EXPORTED=e >> "$DRONE_ENV"; echo SECRET=s >> "$HARNESS_OUTPUT_SECRET_FILE"; printf artifact > "$PLUGIN_ARTIFACT_FILE"`)
		s.OutputVars = []string{"OUT"}
		got := r.run(s)
		if got.Outputs["OUT"] != "two\nlines" || got.Envs["EXPORTED"] != "e" || string(got.Artifact) != "artifact" || len(got.OutputV2) != 2 {
			t.Errorf("result %+v, output %q", got, r.output("outputs"))
		}
	})
	run("services are reached by id and alias", func(t *testing.T, r *rig) {
		s := plain("web", "mkdir /www; echo page > /www/index.html; exec httpd -f -p 80 -h /www")
		s.Detach, s.Name, s.NetworkAliases, s.PortBindings = true, "the web", []string{"db"}, map[string]string{"18080": "80"}
		if got := r.run(s); got.Error != "" {
			t.Fatalf("service: %+v", got)
		}
		for _, host := range []string{"web", "db"} {
			reach(t, r, "ask-"+host, "http://"+host+"/", "page\n")
		}
		h := plain("ask-port", "for i in $(seq 50); do wget -q -O - http://127.0.0.1:18080/ && exit; sleep 0.1; done; exit 1")
		h.Network = "host"
		expect(t, r, h, 0, "page\n")
	})
	run("limits", func(t *testing.T, r *rig) {
		s := plain("oom", "x=a; while :; do x=$x$x; done")
		s.MemLimit, s.MemSwapLimit = 24<<20, 24<<20
		if got := r.run(s); !got.OOMKilled || got.ExitCode != 137 || got.Error != framed("oom killed") {
			t.Errorf("too little memory: %+v", got)
		}
		s = plain("shm", "df -k /dev/shm | tail -n 1")
		s.ShmSize = 1 << 20
		expect(t, r, s, 0, " 1024 ")
		s = plain("dns", "cat /etc/hosts; hostname; cat /etc/resolv.conf")
		s.ExtraHosts, s.DNSSearch = []string{"extra:10.1.2.3"}, []string{"search.example"}
		expect(t, r, s, 0, "10.1.2.3\textra") // the same id runs once
		expect(t, r, s, 0, "search.example")
		s = plain("servers", "cat /etc/resolv.conf")
		s.Network, s.DNS = "bridge", []string{"10.9.8.7", "not-an-address"} // in others the daemon's own server asks them
		expect(t, r, s, 0, "nameserver 10.9.8.7")
	})
	run("terminal", func(t *testing.T, r *rig) {
		r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "net"}, TTY: true})
		expect(t, r, plain("tty", "tty; echo end"), 0, "end")
		if out := r.output("tty"); !strings.HasPrefix(out, "/dev/") {
			t.Errorf("output %q", out)
		}
	})
	run("timeouts", func(t *testing.T, r *rig) {
		for id, script := range map[string]string{
			"ignores-term": `trap "" TERM; while :; do sleep 1; done`,
			"forks":        `(trap "" TERM; sleep 300) & (sleep 300 &) ; sleep 300`,
			"closed":       `exec >&- 2>&-; sleep 300`,
		} {
			s := plain(id, "echo begun; "+script)
			s.Timeout = 2
			begun := time.Now()
			if got := r.run(s); got.ExitCode != 255 || got.Error != "context deadline exceeded" {
				t.Errorf("%s: %+v", id, got)
			}
			t.Logf("%s: answered after %s", id, time.Since(begun))
			eventually(t, "the end of "+id, func() bool { return !isRunning(t, host, "timeouts."+id) })
		}
		expect(t, r, plain("closes-output", "echo said; exec >&- 2>&-; sleep 1; exit 6"), 6, "said\n")
	})
	run("much output", func(t *testing.T, r *rig) {
		s := plain("line", "head -c 10000000 /dev/zero | tr '\\0' x; echo; echo end")
		if got, out := r.run(s), ""; got.ExitCode != 0 {
			t.Errorf("result %+v", got)
		} else if out = r.output("line"); len(out) != 10_000_001+4 || !strings.HasSuffix(out, "x\nend\n") {
			t.Errorf("%d bytes of output, ending in %q", len(out), out[max(0, len(out)-20):])
		}
		expect(t, r, plain("binary", "head -c 3 /dev/zero; printf '\\377\\376end'"), 0, "\x00\x00\x00\xff\xfeend")
	})
	run("images", func(t *testing.T, r *rig) {
		s := plain("missing", "")
		s.Image = "registry.invalid/nowhere:1"
		if got := r.run(s); got.ExitCode != 255 || !strings.Contains(got.Error, "pull image registry.invalid/nowhere:1") {
			t.Errorf("missing: %+v", got)
		}
		s.ID, s.Pull = "never", "Never"
		if got := r.run(s); got.ExitCode != 255 || !strings.Contains(strings.ToLower(got.Error), "no such image") || !strings.Contains(got.Error, "pull policy is Never") {
			t.Errorf("never: %+v", got)
		}
		dockertest.Import(t, host, "foreign:1", "linux/s390x", foreignImage(t))
		s = plain("foreign", "true")
		s.Image = "foreign:1"
		got := r.run(s)
		if text := got.Error + r.output("foreign"); got.ExitCode == 0 || !strings.Contains(text, "not for this machine's architecture") {
			t.Errorf("another architecture: %+v, output %q", got, r.output("foreign"))
		}
	})
	t.Run("two stages with equal ids", func(t *testing.T) {
		t.Parallel()
		r1, r2 := onDocker(t, host, "one."), onDocker(t, host, "two.")
		for i, r := range []*rig{r1, r2} {
			s := plain("service", fmt.Sprintf("mkdir /www; echo %d > /www/index.html; exec httpd -f -p 80 -h /www", i))
			s.Detach = true
			r.run(s)
		}
		for i, r := range []*rig{r1, r2} {
			reach(t, r, "ask", "http://service/", fmt.Sprintf("%d\n", i))
		}
		r1.destroy()
		reach(t, r2, "again", "http://service/", "1\n")
	})
	t.Run("mounts and a socket elsewhere", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "ca.crt")
		if err := os.WriteFile(file, []byte("authority\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		r := onDocker(t, host, "mounts.", func(o *agent.Options) {
			o.ContainerMounts = []containers.Mount{{Source: file, Target: "/etc/ca.crt", ReadOnly: true}}
		})
		expect(t, r, plain("read", "cat /etc/ca.crt; echo x > /etc/ca.crt"), 1, "authority\n")
	})
}

// isRunning asks the daemon for a container.
func isRunning(t testing.TB, host, name string) bool {
	t.Helper()
	c, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	res, err := c.ContainerInspect(t.Context(), name, client.ContainerInspectOptions{})
	return err == nil && res.Container.State.Running
}

// foreignImage has one program, which this machine cannot run.
func foreignImage(t testing.TB) *bytes.Buffer {
	t.Helper()
	// The header of an s390x program, with no code.
	elf := append([]byte("\x7fELF\x02\x02\x01"), make([]byte, 57)...)
	copy(elf[16:], []byte{0, 2, 0, 22, 0, 0, 0, 1})
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, dir := range []string{"bin/", "dev/", "proc/", "sys/", "etc/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			t.Fatal(err)
		}
	}
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/sh", Mode: 0o755, Size: int64(len(elf))})
	if _, writeErr := w.Write(elf); errors.Join(err, writeErr, w.Close()) != nil {
		t.Fatal(err, writeErr)
	}
	return &buf
}

// setups is how many setups fail, or are killed, with a real daemon: enough to
// use up its addresses if each left a network.
const setups = 100

func TestDockerFailedSetupsLeaveNothing(t *testing.T) {
	t.Parallel()
	host := dockertest.Start(t)
	r := newRig(t, func(o *agent.Options) { o.DockerHost = host })
	for range setups {
		// The volume is made, the network cannot be.
		a := r.post(agentapi.PathSetup, `{"network":{"id":"n1","options":{"com.docker.network.bridge.name":"far-too-long-for-a-bridge"}},"volumes":[{"temp":{"id":"v1","name":"v"}}]}`)
		if a.status != 500 || !strings.Contains(a.body, "network n1: Error response from daemon") {
			t.Fatalf("setup: %+v", a)
		}
	}
	if diff := cmp.Diff([]string{}, objects(t, host)); diff != "" {
		t.Errorf("left at the daemon (-want +got):\n%s", diff)
	}
	usesUpAddresses(t, host, "non-overlapping IPv4 address pool")
}

// usesUpAddresses makes networks until a setup fails: when running stages have all
// addresses, the next one is told so in the daemon's words.
func usesUpAddresses(t *testing.T, host, words string) {
	t.Helper()
	const atMost = 40
	for i := range atMost {
		r := newRig(t, func(o *agent.Options) { o.DockerHost, o.ContainerPrefix = host, fmt.Sprintf("stage-%d.", i) })
		a := r.post(agentapi.PathSetup, `{"network":{"id":"net"}}`)
		if a.status == 200 {
			continue
		}
		if !strings.Contains(a.body, words) || !strings.Contains(a.body, fmt.Sprintf("%d of them of running stages", i)) {
			t.Errorf("setup without addresses left: %+v", a)
		}
		return
	}
	t.Errorf("%d networks were made", atMost)
}

func TestDockerKilledAgentsAreSweptAtTheNextStart(t *testing.T) {
	t.Parallel()
	host := dockertest.Start(t)
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	kill := func(n int) {
		child := exec.CommandContext(t.Context(), self)
		child.Env = append(os.Environ(), childVariable+"="+childContainers, childDir+"="+dir, "DOCKER_HOST="+host, fmt.Sprintf("%s=%d", childNumber, n))
		child.Stderr = t.Output()
		said, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if n%2 == 0 {
			if _, err := said.Read(b[:]); err != nil { // its setup, or its container, is there
				t.Errorf("the agent to be killed said nothing: %v", err)
			}
		} else {
			<-time.After(time.Duration(n*7%300) * time.Millisecond) // anywhere within it
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait() // killed
	}
	// One of them has a container that runs, so that there is something to sweep.
	kill(0)
	if got := objects(t, host); len(got) < 3 {
		t.Fatalf("the killed agent has left only %v; the test shows nothing", got)
	}
	for n := 1; n <= setups; n++ {
		kill(n)
	}
	a, err := agent.New(agent.Options{SharedDir: filepath.Join(dir, "engine"), StateDir: filepath.Join(dir, "state"), DockerHost: host})
	if err != nil {
		t.Fatal(err)
	}
	// What the daemon was asked for last it may have made after the first look.
	sweep(t, a, func() bool { return len(objects(t, host)) == 0 })
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// BenchmarkContainerStep is a step that runs true in a container, from start to
// the answer of the poll, in turn with docker run on the same network. It
// reports medians.
func BenchmarkContainerStep(b *testing.B) {
	host := dockertest.Start(b)
	r := onDocker(b, host, "bench.", func(o *agent.Options) { o.Log = slog.New(slog.DiscardHandler) })
	var ours, theirs []float64
	n := 0
	for b.Loop() {
		n++
		begun := time.Now()
		if got := r.run(agentapi.StartStepRequest{ID: fmt.Sprintf("s%d", n), LogDrone: true, Image: dockertest.Image, Run: agentapi.RunConfig{Entrypoint: []string{"true"}}}); got.ExitCode != 0 {
			b.Fatalf("%+v", got)
		}
		ours = append(ours, time.Since(begun).Seconds()*1e3)
		begun = time.Now()
		if out, err := exec.CommandContext(b.Context(), "docker", "-H", host, "run", "--network", "bench.net", "--name", fmt.Sprintf("bench-%d", n), dockertest.Image, "true").CombinedOutput(); err != nil {
			b.Fatalf("%s %v", out, err)
		}
		theirs = append(theirs, time.Since(begun).Seconds()*1e3)
	}
	b.ReportMetric(median(ours), "step-ms")
	b.ReportMetric(median(theirs), "run-ms")
	b.ReportMetric(median(ours)-median(theirs), "above-ms")
}
