//go:build unix

package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice/logservicetest"
)

func TestCredentialsAreSharedWithContainersOnRequestOnly(t *testing.T) {
	t.Parallel()
	for name, wanted := range map[string]bool{"true": true, "false": false, "": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			r, fake := dockerRig(t, func(o *agent.Options) { o.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")} })
			mounted := netrcsOf(fake)
			r.setup(agentapi.SetupRequest{Envs: map[string]string{"DRONE_PERSIST_CREDS": name}})
			for _, id := range []string{"one", "two"} {
				if res := r.run(in(id)); res.ExitCode != 0 {
					t.Errorf("%s: %+v", id, res)
				}
				if got := <-mounted; wanted != (len(got) == 1) || wanted && got[0] != filepath.Join(home, ".netrc") {
					t.Errorf("%s has %q as its ~/.netrc", id, got)
				}
			}
			info, err := os.Stat(filepath.Join(home, ".netrc"))
			if wanted && (err != nil || info.Mode() != 0o600) || !wanted && err == nil {
				t.Errorf("file %v, %v", info, err)
			}
		})
	}
}

func TestCredentialsThatCannotBeSharedAreToldAndNoFailure(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t, func(o *agent.Options) { o.Netrc = "/no/such/folder/netrc" })
	mounted := netrcsOf(fake)
	r.setup(agentapi.SetupRequest{Envs: map[string]string{"DRONE_PERSIST_CREDS": "true"}})
	if res := r.run(in("s")); res.ExitCode != 0 {
		t.Errorf("result %+v", res)
	}
	if got := <-mounted; len(got) > 0 {
		t.Errorf("mounted %q", got)
	}
	if out := r.output("s"); !strings.Contains(out, "[runner-agent] ~/.netrc is not shared with this container (DRONE_PERSIST_CREDS): open /no/such/folder/netrc") {
		t.Errorf("output %q", out)
	}
}

// netrcsOf gets, of each container that runs from now on, what it has as its
// ~/.netrc.
func netrcsOf(fake *dockertest.Fake) <-chan []string {
	mounted := make(chan []string, 10)
	fake.Run(func(c *dockertest.FakeContainer) int {
		var sources []string
		all, _ := c.HostConfig["Mounts"].([]any)
		for _, one := range all {
			if m, _ := one.(map[string]any); m["Target"] == "/root/.netrc" {
				source, _ := m["Source"].(string)
				sources = append(sources, source)
			}
		}
		mounted <- sources
		return 0
	})
	return mounted
}

func TestAContainersOutputGoesToTheLogServiceToo(t *testing.T) {
	t.Parallel()
	s, address := logservicetest.Start(t, "acc", logToken)
	r, fake := dockerRig(t)
	r.setup(agentapi.SetupRequest{
		Secrets:   []string{"hunter2"},
		LogConfig: agentapi.LogConfig{URL: address, AccountID: "acc", Token: logToken},
	})
	fake.Run(func(c *dockertest.FakeContainer) int {
		c.Print(1, "my hun")
		c.Print(1, "ter2\n")
		c.Print(2, "last")
		return 0
	})
	step := in("s")
	step.LogKey = "k"
	r.run(step)
	if got := s.Log("k"); got.Kept() != "my "+stars+"\nlast" || got.Live() != got.Kept() || got.Closes != 1 {
		t.Errorf("kept %q, live %q, closed %d times", got.Kept(), got.Live(), got.Closes)
	}
}
