//go:build unix

package agent_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

// These tests are about daemons that come late, go away, or are not there.

// shows returns when a step's output has text, which is shown while the step runs.
func (r *rig) shows(id, text string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+agentapi.PathStream, strings.NewReader(`{"id":"`+id+`"}`))
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close()
	var have strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(have.String(), text) {
		n, err := res.Body.Read(buf)
		have.Write(buf[:n])
		if err != nil && !strings.Contains(have.String(), text) {
			r.t.Fatalf("step %s does not show %q but %q: %v", id, text, have.String(), err)
		}
	}
}

func TestNothingButContainersWaitsForADaemonThatIsStarting(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T, fake *dockertest.Fake) (up func()){
		"its socket appears late": func(_ *testing.T, fake *dockertest.Fake) func() {
			fake.Down()
			return fake.Up
		},
		"its socket is there and silent": func(t *testing.T, fake *dockertest.Fake) func() {
			begun := make(chan struct{})
			up := sync.OnceFunc(func() { close(begun) })
			t.Cleanup(up)
			fake.On("GET /_ping", func(_ http.ResponseWriter, r *http.Request) bool {
				select {
				case <-begun:
					return false
				case <-r.Context().Done():
					return true
				}
			})
			return up
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, fake := dockerRig(t, func(o *agent.Options) { o.DockerPatience = patience })
			up := start(t, fake)
			r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "net-1"}})
			if got := r.run(sh("host", "echo works")); got.ExitCode != 0 {
				t.Errorf("a step on the machine: %+v", got)
			}
			left(t, fake)
			r.start(in("s1"))
			r.start(in("s2"))
			for _, id := range []string{"s1", "s2"} {
				r.shows(id, "waiting up to ")
			}
			if got := r.run(sh("host-2", "echo works")); got.ExitCode != 0 {
				t.Errorf("a step on the machine beside one that waits: %+v", got)
			}
			up()
			for _, id := range []string{"s1", "s2"} {
				if got := r.poll(id); got.ExitCode != 0 {
					t.Errorf("%s: %+v, output %q", id, got, r.output(id))
				}
				if out := r.output(id); strings.Count(out, "waiting up to ") != 1 || !strings.Contains(out, "[runner-agent] the Docker daemon answers after ") {
					t.Errorf("%s: output %q", id, out)
				}
				if c := fake.Container(id); c == nil || !slices.Contains(c.Networks, "net-1") {
					t.Errorf("%s is not in the network of its stage: %+v", id, c)
				}
			}
			if res := r.destroy(); len(res.Leftover) > 0 {
				t.Errorf("destroy left %v", res.Leftover)
			}
			left(t, fake)
		})
	}
}

func TestADaemonThatDoesNotComeFailsTheStepWithARemedy(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t, func(o *agent.Options) { o.DockerPatience = 500 * time.Millisecond })
	fake.Down()
	r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "net-1"}})
	got := r.run(in("s1"))
	if want := framed("Cannot connect to the Docker daemon at " + fake.Host() + ". Is the docker daemon running?"); got.ExitCode != 255 || got.Error != want {
		t.Errorf("result %+v, want %q", got, want)
	}
	out := r.output("s1")
	for _, want := range []string{"waiting up to 500ms for the Docker daemon at " + fake.Host(), "has not come within 500ms: look at it on the machine with systemctl status docker"} {
		if strings.Count(out, want) != 1 {
			t.Errorf("output has not once %q: %q", want, out)
		}
	}
	fake.Up()
	if got := r.run(in("s2")); got.ExitCode != 0 {
		t.Errorf("when it has come after all: %+v", got)
	}
	r.destroy()
	left(t, fake)
}

func TestASetupWithVolumesWaitsForADaemonThatIsStarting(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t, func(o *agent.Options) { o.DockerPatience = time.Hour })
	fake.Down()
	answered := make(chan answer, 1)
	go func() {
		answered <- r.post(agentapi.PathSetup, `{"network":{"id":"net-1"},"volumes":[{"temp":{"id":"v1","name":"cache"}}]}`)
	}()
	select {
	case a := <-answered:
		t.Fatalf("answered without a daemon: %+v", a)
	case <-time.After(time.Second):
	}
	fake.Up()
	if a := <-answered; a.status != http.StatusOK {
		t.Fatalf("setup: %+v", a)
	}
	s := in("s1")
	s.Volumes = []agentapi.VolumeMount{{Name: "cache", Path: "/cache"}}
	if got := r.run(s); got.ExitCode != 0 {
		t.Errorf("step: %+v", got)
	}
	r.destroy()
	left(t, fake)
}

func TestAStageEndsWhileAStepWaitsForTheDaemon(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t, func(o *agent.Options) { o.DockerPatience = time.Hour })
	fake.Down()
	timed := in("timed")
	timed.Timeout = 1
	if got := r.run(timed); got.ExitCode != 255 || got.Error != "context deadline exceeded" {
		t.Errorf("out of time: %+v", got)
	}
	r.start(in("s1"))
	r.shows("s1", "waiting up to ")
	if res := r.destroy(); len(res.Leftover) > 0 {
		t.Errorf("destroy left %v", res.Leftover)
	}
	if got := r.poll("s1"); got.ExitCode != 255 || !strings.Contains(got.Error, "the stage is destroyed") {
		t.Errorf("result %+v", got)
	}
	fake.Up()
	left(t, fake)
}

func TestAStreamThatIsCutIsGoneOnWithFromTheLog(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	lines := make(chan struct{})
	fake.Run(func(c *dockertest.FakeContainer) int {
		c.Print(1, "one\n")
		c.Print(2, "two\n")
		<-lines
		c.Print(1, "three\n")
		return 0
	})
	s := in("s1")
	s.LogDrone = true
	r.start(s)
	waited(t, fake, 1)
	fake.Down()
	fake.Up()
	eventually(t, "a look at the log", func() bool { return slices.Contains(fake.Calls(), "GET /containers/{id}/logs") })
	close(lines)
	if got := r.poll("s1"); got.ExitCode != 0 {
		t.Errorf("result %+v", got)
	}
	out := r.output("s1")
	for _, line := range []string{"one\n", "two\n", "three\n"} {
		if strings.Count(out, line) != 1 {
			t.Errorf("%q is %d times in %q", line, strings.Count(out, line), out)
		}
	}
}

func TestADaemonThatIsAwayWhileAContainerRunsIsWaitedFor(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	gate := make(chan struct{})
	fake.Run(func(c *dockertest.FakeContainer) int { <-gate; c.Print(1, "end\n"); return 4 })
	r.start(in("s1"))
	waited(t, fake, 1)
	fake.Down()
	close(gate)
	eventually(t, "the container's end", func() bool { return !fake.Container("s1").Running() })
	fake.Up()
	if got := r.poll("s1"); got.ExitCode != 4 {
		t.Errorf("result %+v", got)
	}
	if out := r.output("s1"); strings.Count(out, "end\n") != 1 {
		t.Errorf("output %q", out)
	}
}

func TestWithoutADaemonOnlyWhatNeedsOneFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const text = `{
  "error_msg": "Cannot connect to the Docker daemon at unix:///no/docker.sock. Is the docker daemon running?"
}
`
	if a := r.post(agentapi.PathSetup, `{"network":{"id":"n1"},"volumes":[{"temp":{"id":"v1","name":"v"}}]}`); a.status != http.StatusInternalServerError || a.body != text {
		t.Errorf("setup with a volume: %+v", a)
	}
	if a := r.post(agentapi.PathSetup, `{"network":{"id":"n1"},"volumes":[{"temp":{"id":"v1","name":"v","medium":"memory"}}]}`); a.status != http.StatusOK {
		t.Errorf("setup without: %+v", a)
	}
	if res := r.destroy(); len(res.Leftover) > 0 {
		t.Errorf("destroy: %v", res.Leftover)
	}
}
