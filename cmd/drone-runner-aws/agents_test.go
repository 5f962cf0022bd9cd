package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// freeAddress is one on loopback that nobody listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestMachinesDownloadTheirAgentFromAListenerOfItsOwn(t *testing.T) {
	t.Parallel()
	agents := t.TempDir()
	if err := os.WriteFile(filepath.Join(agents, "runner-agent-linux-amd64"), []byte("an agent"), 0o600); err != nil {
		t.Fatal(err)
	}
	bind := freeAddress(t)
	s := serve(t, onePool, func(d *delegate) { d.cfg.AgentBind, d.cfg.AgentDir = bind, agents })
	s.until(t, "healthz", func() bool { return s.api.Healthy(t.Context()) == nil })
	base := "http://" + bind
	sum := sha256.Sum256([]byte("an agent"))
	for path, want := range map[string]string{
		"/lite-engine-linux-amd64": "an agent",
		"/SHA256SUMS":              hex.EncodeToString(sum[:]) + "  lite-engine-linux-amd64\n",
	} {
		if status, body := fetch(t, base+path); status != http.StatusOK || body != want {
			t.Errorf("%s answers %d %q, want %q", path, status, body, want)
		}
	}
	for _, path := range []string{"/", "/healthz", "/metrics", "/v1/pools"} {
		if status, _ := fetch(t, base+path); status != http.StatusNotFound {
			t.Errorf("%s answers %d there", path, status)
		}
	}
	if status, _ := fetch(t, "http://"+s.cfg.HTTPBind+"/lite-engine-linux-amd64"); status != http.StatusNotFound {
		t.Errorf("the API serves the agent: %d", status)
	}
	s.stop()
	if err := s.result(t); err != nil {
		t.Errorf("ended with %v", err)
	}
	if l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", bind); err != nil {
		t.Errorf("its port is still taken: %v", err)
	} else if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestAListenerOfAgentsThatCannotServeIsAnErrorAtTheStart(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "runner-agent-linux-amd64"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bind, dir string
		want      []string
	}{
		"no agent in the folder":  {"127.0.0.1:0", empty, []string{"RUNNER_AGENT_DIR", empty, "lite-engine-linux-amd64"}},
		"no port in the address":  {"127.0.0.1", full, []string{"DRONE_AGENT_DOWNLOAD_BIND", "missing port"}},
		"every address, unnamed":  {"0.0.0.0:0", full, []string{"DRONE_AGENT_DOWNLOAD_BIND", "DRONE_LITE_ENGINE_PATH"}},
		"an address not of ours":  {"192.0.2.1:0", full, []string{"DRONE_AGENT_DOWNLOAD_BIND", "192.0.2.1"}},
		"a folder that is absent": {"127.0.0.1:0", full + "/none", []string{full + "/none"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := serve(t, onePool, func(d *delegate) { d.cfg.AgentBind, d.cfg.AgentDir = c.bind, c.dir }).result(t)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want one with %q", err, want)
				}
			}
		})
	}
}

func TestWhereBootScriptsGetTheAgent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, bind, want string
	}{
		"from the runner's own listener":          {"", "10.0.0.5:3080", "http://10.0.0.5:3080"},
		"from what is named, listener or not":     {"https://mirror.example/agents", "10.0.0.5:3080", "https://mirror.example/agents"},
		"from what is named for a wide listener":  {"http://10.0.0.5:3080", ":3080", "http://10.0.0.5:3080"},
		"from nowhere if this program is unnamed": {"", "", ""},
	} {
		r, err := bootScripts(env.Config{AgentBind: c.bind, Boot: env.Boot{AgentURL: c.path}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		script, err := r.Render(pool.BootRequest{})
		if c.want == "" {
			if err == nil {
				t.Errorf("%s: a script was made", name)
			}
			continue
		}
		if err != nil || !strings.Contains(string(script), "URLS='"+c.want+"'") {
			t.Errorf("%s: %v, want %s in the script", name, err, c.want)
		}
	}
}
