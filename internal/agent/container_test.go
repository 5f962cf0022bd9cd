//go:build unix

package agent_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

// dockerRig is an agent beside a fake daemon that has the image app:1.
func dockerRig(t testing.TB, change ...func(*agent.Options)) (*rig, *dockertest.Fake) {
	t.Helper()
	fake := dockertest.NewFake(t)
	fake.AddImage("app:1", false)
	r := newRig(t, append([]func(*agent.Options){func(o *agent.Options) { o.DockerHost = fake.Host() }}, change...)...)
	return r, fake
}

// in is a step in a container of the image app:1, outside drone mode.
func in(id string) agentapi.StartStepRequest {
	return agentapi.StartStepRequest{ID: id, Image: "app:1"}
}

// untilKilled runs until the container is sent KILL.
func untilKilled(c *dockertest.FakeContainer) int {
	for s := range c.Signals() {
		if s == "SIGKILL" {
			return 137
		}
	}
	return 0
}

// waited returns when n containers are waited for: before, the agent does not
// know that they were started.
func waited(t *testing.T, fake *dockertest.Fake, n int) {
	t.Helper()
	eventually(t, "containers", func() bool {
		seen := 0
		for _, call := range fake.Calls() {
			if call == "POST /containers/{id}/wait" {
				seen++
			}
		}
		return seen >= n
	})
}

// left fails unless nothing is left of what the agent made.
func left(t *testing.T, fake *dockertest.Fake, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, fake.Objects()); diff != "" {
		t.Errorf("left at the daemon (-want +got):\n%s", diff)
	}
}

func TestAContainersResultAndWholeOutput(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	fake.Run(func(c *dockertest.FakeContainer) int {
		c.Print(1, "first\n")
		c.Print(2, "to stderr\n")
		c.Print(1, strings.Repeat("x", 1<<20)+"\n")
		c.Print(1, "no newline")
		return 3
	})
	r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "net-1"}, Secrets: []string{"stderr"}})
	got := r.run(in("step-1"))
	want := agentapi.PollStepResponse{Exited: true, ExitCode: 3, Error: framed("exit status 3"), OptimizationState: "DISABLED", TelemetryData: &agentapi.TelemetryData{}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if out, want := r.output("step-1"), "first\nto **************\n"+strings.Repeat("x", 1<<20)+"\nno newline"; out != want {
		t.Errorf("output is %d bytes, want %d: %.60q…%q", len(out), len(want), out, out[max(0, len(out)-20):])
	}
	left(t, fake, "container step-1", "network net-1")
	if res := r.destroy(); len(res.Leftover) > 0 {
		t.Errorf("destroy left %v", res.Leftover)
	}
	left(t, fake)
}

func TestAContainerWithoutMemoryIsSaidToHaveHadTooLittle(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	fake.Run(func(c *dockertest.FakeContainer) int { c.Killed(); return 137 })
	got := r.run(in("s1"))
	if !got.OOMKilled || got.ExitCode != 137 || got.Error != framed("oom killed") {
		t.Errorf("result %+v", got)
	}
	if out := r.output("s1"); !strings.Contains(out, "[runner-agent] hint: the container had no memory left") {
		t.Errorf("output %q, want a hint", out)
	}
}

func TestWhatAContainerIsMadeOf(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t, func(o *agent.Options) {
		o.ContainerPrefix, o.ContainerLabels = "stage-9.", map[string]string{"org.example.host": "h"}
	})
	err := r.agent.SetupFor(t.Context(), "lease-9/1", &agentapi.SetupRequest{
		Envs: map[string]string{"A": "setup", "B": "setup"}, Network: agentapi.Network{ID: "net-1"}, TTY: true,
		Volumes: []agentapi.Volume{
			{Host: &agentapi.HostVolume{Name: "code", Path: r.work, ReadOnly: true}},
			{Temp: &agentapi.TempVolume{ID: "tv", Name: "temp"}},
			{Temp: &agentapi.TempVolume{ID: "mv", Name: "memory", Medium: "memory", SizeLimit: 4096}},
			{Host: &agentapi.HostVolume{Name: "null", Path: "/dev/null"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := in("step-1")
	s.Name, s.NetworkAliases = "step one", []string{"db", "bad alias"}
	s.Environment = map[string]string{"B": "step", "EMPTY": ""}
	s.Run = agentapi.RunConfig{Entrypoint: []string{"sh", "-c"}, Commands: []string{"true"}}
	s.WorkingDir, s.User, s.Labels = "/code", "1000:1000", map[string]string{"who": "user", "org.vmrunner.owner": "nobody"}
	s.Volumes = []agentapi.VolumeMount{{Name: "code", Path: "/code"}, {Name: "temp", Path: "/temp"}, {Name: "memory", Path: "/memory"}, {Name: "unknown", Path: "/unknown"}}
	s.Devices = []agentapi.VolumeDevice{{Name: "null", Path: "/dev/nothing"}}
	s.PortBindings = map[string]string{"127.0.0.1:8080": "80", "9000": "90/udp"}
	s.DNS, s.DNSSearch, s.ExtraHosts = []string{"10.0.0.1", "not-an-address"}, []string{"example.org"}, []string{"host:10.0.0.2"}
	s.MemLimit, s.MemSwapLimit, s.CPUShares, s.CPUQuota, s.CPUPeriod, s.CPUSet, s.ShmSize, s.Privileged = 1<<26, 1<<27, 512, 50000, 100000, []string{"0", "1"}, 1<<20, true
	if got := r.run(s); got.ExitCode != 0 {
		t.Fatalf("result %+v", got)
	}
	c := fake.Container("stage-9.step-1")
	if c == nil {
		t.Fatalf("there is no container of that name: %v", fake.Objects())
	}
	if !slices.Contains(c.Config.Env, "B=step") || !slices.Contains(c.Config.Env, "A=setup") || slices.ContainsFunc(c.Config.Env, func(kv string) bool { return strings.HasPrefix(kv, "EMPTY") || strings.HasPrefix(kv, "HOME=") }) {
		t.Errorf("environment %v", c.Config.Env)
	}
	if !slices.Contains(c.Config.Env, "DRONE_OUTPUT="+r.shared+"/step-1-output.env") {
		t.Errorf("environment has no file for outputs: %v", c.Config.Env)
	}
	labels := c.Config.Labels
	if labels["who"] != "user" || labels["org.vmrunner.owner"] == "nobody" || labels["org.vmrunner.lease"] != "lease-9/1" || labels["org.example.host"] != "h" || labels["org.vmrunner.step"] != "step-1" || labels["org.vmrunner.stage"] == "" || labels["org.vmrunner.created"] == "" {
		t.Errorf("labels %v", labels)
	}
	if !c.Config.Tty {
		t.Error("the setup's tty is not the container's")
	}
	host := fmt.Sprint(c.HostConfig)
	for _, want := range []string{
		"NetworkMode:stage-9.net-1", "Privileged:true", "ShmSize:1.048576e+06", "Memory:6.7108864e+07", "MemorySwap:1.34217728e+08",
		"CpuShares:512", "CpuQuota:50000", "CpuPeriod:100000", "CpusetCpus:0,1", "Dns:[10.0.0.1]", "DnsSearch:[example.org]", "ExtraHosts:[host:10.0.0.2]",
		"80/tcp:[map[HostIp:127.0.0.1 HostPort:8080]]", "90/udp:[map[HostIp: HostPort:9000]]",
		"PathInContainer:/dev/nothing PathOnHost:/dev/null",
		"ReadOnly:true Source:" + r.work + " Target:/code Type:bind",
		"Source:stage-9.tv Target:/temp Type:volume",
		"Target:/memory TmpfsOptions:map[Mode:448 SizeBytes:4096] Type:tmpfs",
		"Source:" + r.shared + " Target:" + r.shared + " Type:bind",
		"Target:/var/run/docker.sock Type:bind",
	} {
		if !strings.Contains(host, want) {
			t.Errorf("host configuration has no %q:\n%s", want, host)
		}
	}
	out := r.output("step-1")
	for _, want := range []string{`volume "unknown" is not one of the stage's, so nothing is mounted at /unknown`, "dns not-an-address: not an address"} {
		if !strings.Contains(out, want) {
			t.Errorf("output has no remark %q: %q", want, out)
		}
	}
	r.destroy()
	left(t, fake)
}

func TestTheDaemonsSocketIsNotGivenToStagesAndStepsThatGoWithout(t *testing.T) {
	t.Parallel()
	no := false
	for name, at := range map[string]func(*agentapi.SetupRequest, *agentapi.StartStepRequest){
		"stage": func(set *agentapi.SetupRequest, _ *agentapi.StartStepRequest) { set.MountDockerSocket = &no },
		"step":  func(_ *agentapi.SetupRequest, s *agentapi.StartStepRequest) { s.MountDockerSocket = &no },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, fake := dockerRig(t)
			set, s := agentapi.SetupRequest{}, in("s1")
			at(&set, &s)
			r.setup(set)
			r.run(s)
			if mounts := fmt.Sprint(fake.Container("s1").HostConfig["Mounts"]); strings.Contains(mounts, "docker.sock") {
				t.Errorf("mounts %s", mounts)
			}
		})
	}
}

func TestImagesArePulledAsThePolicySays(t *testing.T) {
	t.Parallel()
	const pulled, none = "Status: Downloaded newer image", "-"
	cases := []struct {
		name, image, policy string
		here, remote        bool
		pulls               bool
		code                int
		want                string
	}{
		{"there, default", "a:1", "", true, true, false, 0, none},
		{"missing, default", "a:1", "default", false, true, true, 0, pulled},
		{"latest is always asked for", "a:latest", "", true, true, true, 0, pulled},
		{"so is what has no tag", "a", "", true, true, true, 0, pulled},
		{"a registry's port is no tag", "reg:5000/a", "", true, true, true, 0, pulled},
		{"there, always", "a:1", "Always", true, true, true, 0, pulled},
		{"missing, if not present", "a:1", "IfNotPresent", false, true, true, 0, pulled},
		{"latest, if not present", "a:latest", "IfNotPresent", true, true, false, 0, none},
		{"missing, never", "a:1", "Never", false, true, false, 255, "pull policy is Never"},
		{"nowhere", "a:1", "", false, false, true, 255, "see whether the name and the tag are right"},
		{"an unknown policy is the default", "a:1", "sometimes", true, true, false, 0, none},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, fake := dockerRig(t)
			full := c.image
			if !strings.Contains(strings.TrimPrefix(full, "reg:5000"), ":") {
				full += ":latest"
			}
			if c.here {
				fake.AddImage(c.image, false)
				fake.AddImage(full, false)
			}
			if c.remote {
				fake.AddImage(full, true)
			}
			s := in("s1")
			s.Image, s.Pull = c.image, c.policy
			got := r.run(s)
			if got.ExitCode != c.code || c.code != 0 && !strings.Contains(got.Error, c.want) {
				t.Errorf("result %+v", got)
			}
			if n := slices.Contains(fake.Calls(), "POST /images/create"); n != c.pulls {
				t.Errorf("asked the registry: %v, want %v", n, c.pulls)
			}
			if out := r.output("s1"); c.code == 0 && strings.Contains(out, pulled) != (c.want == pulled) {
				t.Errorf("output %q", out)
			}
		})
	}
}

func TestContainersAndImagesAreForThePlatformTheOperatorHasChosen(t *testing.T) {
	t.Parallel()
	for _, platform := range []string{"", "linux/arm64"} {
		r, fake := dockerRig(t, func(o *agent.Options) { o.Env = []string{"DOCKER_DEFAULT_PLATFORM=" + platform} })
		fake.AddImage("far:1", true)
		asked := make(chan string, 4)
		for _, route := range []string{"POST /images/create", "POST /containers/create"} {
			fake.On(route, func(_ http.ResponseWriter, req *http.Request) bool {
				asked <- req.URL.Query().Get("platform")
				return false
			})
		}
		s := in("s1")
		s.Image, s.Pull = "far:1", "Always"
		if got := r.run(s); got.ExitCode != 0 {
			t.Errorf("result %+v", got)
		}
		for range 2 {
			if got := <-asked; got != platform {
				t.Errorf("platform %q, want %q", got, platform)
			}
		}
	}
}

func TestPrivateImagesAreAskedForWithTheStepsAccount(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	fake.AddImage("reg.example/a:1", true)
	fake.On("POST /images/create", func(w http.ResponseWriter, req *http.Request) bool {
		who, err := dockertest.Credentials(req)
		if err == nil && who["username"] == "ann" && who["password"] == "right" && who["serveraddress"] == "reg.example" {
			return false
		}
		dockertest.Fail(w, http.StatusUnauthorized, "unauthorized: authentication required")
		return true
	})
	for _, c := range []struct {
		id   string
		auth *agentapi.Auth
		want string
	}{
		{"s1", nil, "authentication is required: Error response from daemon: unauthorized: authentication required (give the step's connector a user name and password)"},
		{"s2", &agentapi.Auth{Address: "reg.example", Username: "ann", Password: "wrong"}, `user "ann" has no right to it, or the password is wrong`},
		{"s3", &agentapi.Auth{Address: "reg.example", Username: "ann", Password: "right"}, ""},
	} {
		s := in(c.id)
		s.Image, s.Auth = "reg.example/a:1", c.auth
		got := r.run(s)
		if c.want == "" && got.ExitCode != 0 || !strings.Contains(got.Error, c.want) || strings.Contains(got.Error, "wrong)") {
			t.Errorf("%s: %+v, want %q", c.id, got, c.want)
		}
	}
}

func TestAPullIsTriedAgainUnlessTheAnswerIsFinal(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	fake.AddImage("b:1", true)
	var mu sync.Mutex
	tries := 0
	fake.On("POST /images/create", func(w http.ResponseWriter, _ *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if tries++; tries < 3 {
			dockertest.Fail(w, http.StatusInternalServerError, "net/http: TLS handshake timeout")
			return true
		}
		return false
	})
	s := in("s1")
	s.Image = "b:1"
	if got := r.run(s); got.ExitCode != 0 {
		t.Errorf("result %+v", got)
	}
}

func TestATimeoutEndsAContainerThatIgnoresTERM(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	fake.Run(untilKilled)
	s := in("s1")
	s.Timeout = 1
	begun := time.Now()
	want := agentapi.PollStepResponse{Exited: true, ExitCode: 255, Error: "context deadline exceeded"}
	if diff := cmp.Diff(want, r.run(s)); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
	if d := time.Since(begun); d < time.Second {
		t.Errorf("timed out after %s", d)
	}
	eventually(t, "the container's end", func() bool { c := fake.Container("s1"); return c == nil || !c.Running() })
}

func TestATimeoutIncludesThePull(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	fake.AddImage("slow:1", true)
	fake.On("POST /images/create", func(_ http.ResponseWriter, req *http.Request) bool { <-req.Context().Done(); return true })
	s := in("s1")
	s.Image, s.Timeout = "slow:1", 1
	if got := r.run(s); got.Error != "context deadline exceeded" || got.ExitCode != 255 {
		t.Errorf("result %+v", got)
	}
}

func TestDestroyEndsDetachedContainersAndTheirStage(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	fake.Run(untilKilled)
	r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "net-1"}, Volumes: []agentapi.Volume{{Temp: &agentapi.TempVolume{ID: "tv", Name: "temp"}}}})
	s := in("service")
	s.Detach = true
	if diff := cmp.Diff(agentapi.PollStepResponse{}, r.run(s)); diff != "" {
		t.Errorf("a detached step's answer (-want +got):\n%s", diff)
	}
	r.start(in("step-1"))
	waited(t, fake, 2)
	left(t, fake, "container service", "container step-1", "network net-1", "volume tv")
	if res := r.destroy(); len(res.Leftover) > 0 {
		t.Errorf("destroy left %v", res.Leftover)
	}
	left(t, fake)
	if got := r.poll("step-1"); got.ExitCode != 137 {
		t.Errorf("result of the step that ran: %+v", got)
	}
}

func TestADetachedContainerThatCannotBeMadeSaysSo(t *testing.T) {
	t.Parallel()
	r, _ := dockerRig(t)
	s := in("s1")
	s.Image, s.Detach = "nowhere:1", true
	if got := r.run(s); got.ExitCode != 255 || !strings.Contains(got.Error, "pull image nowhere:1") {
		t.Errorf("result %+v", got)
	}
}

func TestSoftStopGivesAContainerTimeAtDestroyOnly(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	signals := make(chan string, 4)
	fake.Run(func(c *dockertest.FakeContainer) int { signals <- <-c.Signals(); return 0 })
	s := in("s1")
	s.SoftStop = true
	r.start(s)
	waited(t, fake, 1)
	r.destroy()
	if got := r.poll("s1"); got.ExitCode != 0 || got.Error != "" {
		t.Errorf("result %+v", got)
	}
	if s := <-signals; s != "SIGTERM" || !slices.Contains(fake.Calls(), "POST /containers/{id}/stop") {
		t.Errorf("signal %s, calls %v", s, fake.Calls())
	}
	left(t, fake)
}

func TestAContainerMadeWhileItsStageEndsIsRemoved(t *testing.T) {
	t.Parallel()
	for _, route := range []string{"POST /containers/create", "POST /containers/{id}/start", "POST /networks/create"} {
		t.Run(route, func(t *testing.T) {
			t.Parallel()
			r, fake := dockerRig(t)
			fake.Run(untilKilled)
			asked, gate := make(chan struct{}), make(chan struct{})
			var once sync.Once
			fake.On(route, func(http.ResponseWriter, *http.Request) bool {
				once.Do(func() { close(asked) })
				<-gate
				return false
			})
			r.start(in("s1"))
			<-asked
			destroyed := make(chan agentapi.DestroyResponse, 1)
			go func() { destroyed <- r.destroy() }()
			eventually(t, "the destroy", func() bool { return r.agent.Ending() })
			close(gate)
			if res := <-destroyed; len(res.Leftover) > 0 {
				t.Errorf("destroy left %v", res.Leftover)
			}
			if got := r.poll("s1"); got.ExitCode == 0 {
				t.Errorf("result %+v", got)
			}
			left(t, fake)
		})
	}
}

func TestTwoStagesWithEqualIDsShareADaemonByTheirPrefixes(t *testing.T) {
	t.Parallel()
	r1, fake := dockerRig(t, func(o *agent.Options) { o.ContainerPrefix = "a-" })
	r2 := newRig(t, func(o *agent.Options) { o.ContainerPrefix, o.DockerHost = "b-", fake.Host() })
	fake.Run(untilKilled)
	for _, r := range []*rig{r1, r2} {
		r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "n"}, Volumes: []agentapi.Volume{{Temp: &agentapi.TempVolume{ID: "v", Name: "v"}}}})
		s := in("s")
		s.Detach = true
		r.run(s)
	}
	left(t, fake, "container a-s", "container b-s", "network a-n", "network b-n", "volume a-v", "volume b-v")
	r1.destroy()
	left(t, fake, "container b-s", "network b-n", "volume b-v")
}

func TestANameThatIsTaken(t *testing.T) {
	t.Parallel()
	r1, fake := dockerRig(t)
	r2 := newRig(t, func(o *agent.Options) { o.DockerHost = fake.Host() })
	fake.Run(untilKilled)
	s := in("same")
	s.Detach = true
	r1.run(s)
	got := r2.run(s)
	for _, want := range []string{"Conflict. The container name", "it is step same of another stage", "docker rm -f 0000"} {
		if !strings.Contains(got.Error, want) {
			t.Errorf("error has no %q: %s", want, got.Error)
		}
	}
	if fake.Container("same") == nil {
		t.Error("the container of another agent was removed")
	}
}

func TestAContainerThatCannotBeConnectedIsRemovedAndItsStepFails(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	s := in("s1")
	s.Networks = []string{"missing"}
	got := r.run(s)
	if got.ExitCode != 255 || !strings.Contains(got.Error, "connect to network missing") {
		t.Errorf("result %+v", got)
	}
	if fake.Container("s1") != nil {
		t.Error("the container is still there")
	}
	r.destroy()
	left(t, fake)
}

func TestHostileStepIDsMakeHarmlessNames(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t, func(o *agent.Options) { o.ContainerPrefix = "p-" })
	for _, id := range []string{"../../etc", "a b", "--rm", strings.Repeat("x", 500), "ä", "s"} {
		if got := r.run(in(id)); got.ExitCode != 0 {
			t.Errorf("%q: %+v", id, got)
		}
	}
	for _, o := range fake.Objects() {
		name, ok := strings.CutPrefix(o, "container p-")
		if ok && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("made %s", o)
		}
	}
}

func TestSuspendRemovesContainersThatHaveEndedAndHaveTheLabels(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	for id, labels := range map[string]map[string]string{"old": {"a": "b", "c": "d"}, "other": {"a": "x"}} {
		s := in(id)
		s.Labels = labels
		r.run(s)
	}
	fake.Run(untilKilled)
	s := in("running")
	s.Labels, s.Detach = map[string]string{"a": "b"}, true
	r.run(s)
	if a := r.post(agentapi.PathSuspend, `{"labels":{"a":"b"}}`); a.status != http.StatusOK {
		t.Errorf("suspend: %+v", a)
	}
	for name, want := range map[string]bool{"old": false, "other": true, "running": true} {
		if (fake.Container(name) != nil) != want {
			t.Errorf("container %s is there: %v", name, !want)
		}
	}
	fake.Down()
	if a := r.post(agentapi.PathSuspend, `{"labels":{"a":"b"}}`); a.status != http.StatusOK && !strings.Contains(a.body, "failed to list stopped plugin containers: Cannot connect to the Docker daemon") {
		t.Errorf("suspend without the daemon: %+v", a)
	}
	fake.Up()
}

func TestASecondSetupRemovesVolumesAndNetworkOfTheFirst(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	volume := func(id string) []agentapi.Volume {
		return []agentapi.Volume{{Temp: &agentapi.TempVolume{ID: id, Name: id}}}
	}
	r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "n1"}, Volumes: volume("v1")})
	r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "n2"}, Volumes: volume("v2")})
	left(t, fake, "network n2", "volume v2")
	r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "n2"}, Volumes: volume("v2")})
	left(t, fake, "network n2", "volume v2")
}

// sweep sweeps until cond holds.
func sweep(t *testing.T, a *agent.Agent, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var swept sync.WaitGroup
	swept.Go(func() { a.SweepContainers(ctx) })
	defer swept.Wait()
	defer cancel()
	eventually(t, "the end of what killed agents have left", cond)
}

func TestAKilledAgentsContainersAreRemovedAtTheNextStart(t *testing.T) {
	t.Parallel()
	fake := dockertest.NewFake(t)
	fake.AddImage(dockertest.Image, false)
	fake.Run(untilKilled)
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), self)
	child.Env = append(os.Environ(), childVariable+"="+childContainers, childDir+"="+dir, childNumber+"=0", "DOCKER_HOST="+fake.Host())
	child.Stderr = t.Output()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the container", func() bool { c := fake.Container("ctr-0"); return c != nil && c.Running() })
	open := func() *agent.Agent {
		t.Helper()
		a, err := agent.New(agent.Options{SharedDir: dir + "/engine2", StateDir: dir + "/state", DockerHost: fake.Host()})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	// Beside a living agent another one leaves its containers alone.
	other := open()
	other.SweepContainers(t.Context())
	left(t, fake, "container ctr-0", "network net-0", "volume vol-0")
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed

	// A daemon that is away now does not let them be forgotten.
	fake.Down()
	next := open()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	next.SweepContainers(ctx)
	if err := next.Close(); err != nil {
		t.Error(err)
	}
	fake.Up()
	last := open()
	sweep(t, last, func() bool { return len(fake.Objects()) == 0 })
	if err := last.Close(); err != nil {
		t.Error(err)
	}
}

func TestStoppingTheAgentRemovesItsContainers(t *testing.T) {
	t.Parallel()
	fake := dockertest.NewFake(t)
	fake.AddImage("app:1", false)
	fake.Run(untilKilled)
	dir := t.TempDir()
	a, err := agent.New(agent.Options{SharedDir: dir + "/engine", StateDir: dir + "/state", DockerHost: fake.Host()})
	if err != nil {
		t.Fatal(err)
	}
	s := in("s1")
	if err := a.Start(t.Context(), &s); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the container", func() bool { c := fake.Container("s1"); return c != nil && c.Running() })
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	left(t, fake)
}
