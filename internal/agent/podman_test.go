//go:build docker && linux

package agent_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

// TestDockerStepsOnPodman is TestDockerSteps on Podman's socket. That a container
// had too little memory is the kernel's word there: Podman 4.3 does not tell.
func TestDockerStepsOnPodman(t *testing.T) {
	t.Parallel()
	host := dockertest.StartPodman(t)
	t.Run("steps", func(t *testing.T) { dockerSteps(t, host) })
	if diff := cmp.Diff([]string{}, objects(t, host)); diff != "" {
		t.Errorf("left at the service (-want +got):\n%s", diff)
	}
}

// TestDockerWhatPodmanRefusesHasItsRemedy: Podman has words and statuses of its own.
func TestDockerWhatPodmanRefusesHasItsRemedy(t *testing.T) {
	t.Parallel()
	host := dockertest.StartPodman(t)
	c, err := client.New(client.WithHost(host))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	made, err := c.ContainerCreate(t.Context(), client.ContainerCreateOptions{Name: "p.taken", Config: &container.Config{Image: dockertest.Image}})
	if err != nil {
		t.Fatal(err)
	}
	r := onDocker(t, host, "p.")
	web := plain("web", "sleep 300")
	web.Detach, web.PortBindings = true, map[string]string{"18080": "80"}
	if got := r.run(web); got.Error != "" {
		t.Fatalf("service: %+v", got)
	}
	second := plain("second", "true")
	second.PortBindings = web.PortBindings
	for want, s := range map[string]agentapi.StartStepRequest{
		"it is not one of this agent's":             plain("taken", "true"),
		"another container or program has the port": second,
	} {
		if got := r.run(s); got.ExitCode != 255 || !strings.Contains(got.Error, want) {
			t.Errorf("%s: %+v, want %q", s.ID, got, want)
		}
	}
	if _, err := c.ContainerInspect(t.Context(), made.ID, client.ContainerInspectOptions{}); err != nil {
		t.Errorf("somebody's container has gone: %v", err)
	}
	r.destroy()

	strange := newRig(t, func(o *agent.Options) { o.DockerHost, o.NetworkDriver = host, "nothing-like-it" })
	if a := strange.post(agentapi.PathSetup, `{"network":{"id":"n"}}`); a.status != 500 || !strings.Contains(a.body, "set NETWORK_DRIVER") {
		t.Errorf("setup with an unknown driver: %+v", a)
	}
	usesUpAddresses(t, host, "could not find free subnet")
}
