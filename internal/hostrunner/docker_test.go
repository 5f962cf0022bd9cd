//go:build docker

package hostrunner

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

// objects are the names of all a daemon has.
func objects(t *testing.T, d *Docker) []string {
	t.Helper()
	var networks []network
	var containers []container
	var volumes struct{ Volumes []struct{ Name string } }
	for path, into := range map[string]any{"/networks": &networks, "/containers/json?all=true": &containers, "/volumes": &volumes} {
		if err := d.get(t.Context(), path, into); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for _, n := range networks {
		names = append(names, "network "+n.Name)
	}
	for _, c := range containers {
		names = append(names, "container "+strings.Join(c.Names, ","))
	}
	for _, v := range volumes.Volumes {
		names = append(names, "volume "+v.Name)
	}
	slices.Sort(names)
	return names
}

// inContainer is the body of a step that runs a script in a container, with the
// stage's folder mounted.
func inContainer(stage, id, script, more string) string {
	return fmt.Sprintf(`{"stage_runtime_id":%q,"start_step_request":{"id":%q,"image":%q,"pull":"Never","working_dir":"/harness","output_vars":["OUT"],
		"volumes":[{"name":"harness","path":"/harness"}],"run":{"entrypoint":["sh","-c"],"commands":[%q]}%s}}`, stage, id, dockertest.Image, script, more)
}

func TestDockerStagesInContainers(t *testing.T) {
	t.Parallel()
	stagesInContainers(t, dockertest.Start(t))
}

func TestDockerStagesInContainersOfPodman(t *testing.T) {
	t.Parallel()
	stagesInContainers(t, dockertest.StartPodman(t))
}

// stagesInContainers has one daemon for all, since it takes a second to start.
func stagesInContainers(t *testing.T, host string) {
	t.Helper()
	daemon := NewDocker([]string{"DOCKER_HOST=" + host})
	mounted := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(mounted, []byte("certificate"), 0o644); err != nil {
		t.Fatal(err)
	}
	onDaemon := func(c *Config) {
		c.Environ = append(c.Environ, "DOCKER_HOST="+host)
		c.Docker = nil
		c.Mounts = []Mount{{Source: mounted, Target: "/opt/ca.pem", ReadOnly: true}}
	}
	before := objects(t, daemon)
	g := newRig(t, onDaemon)
	if h := g.r.Health(t.Context()); !h.DockerInstalled {
		t.Errorf("health: %+v", h)
	}

	t.Run("equal steps of two stages do not meet", func(t *testing.T) {
		var wg sync.WaitGroup
		for _, id := range []string{"st1", "st2"} {
			g.setup(id)
			wg.Go(func() {
				a, err := request(t.Context(), http.MethodPost, g.url+"/step", inContainer(id, "service", "mkdir /www; echo from "+id+" > /www/x; httpd -f -p 80 -h /www", `,"detach":true`))
				if err != nil || a.status != 200 || strings.TrimSpace(a.body) != "{}" {
					t.Errorf("service: %+v, %v", a, err)
				}
				script := `echo ` + id + ` > file; for i in $(seq 100); do got=$(wget -qO- http://service/x) && break; sleep 0.1; done; export OUT="$(pwd) $(cat file) $got $(cat /opt/ca.pem)"; ! echo x > /opt/ca.pem`
				a, err = request(t.Context(), http.MethodPost, g.url+"/step", inContainer(id, "same", script, ""))
				if err != nil {
					t.Error(err)
					return
				}
				s := a.step(t)
				if want := g.stageDir(id) + " " + id + " from " + id + " certificate"; s.Outputs["OUT"] != want || s.ExitCode != 0 {
					t.Errorf("%q, want %q: %s", s.Outputs["OUT"], want, a.body)
				}
				if text, err := os.ReadFile(filepath.Join(g.stageDir(id), "file")); err != nil || string(text) != id+"\n" {
					t.Errorf("the stage's folder has %q, %v", text, err)
				}
			})
		}
		wg.Wait()
		for _, id := range []string{"st1", "st2"} {
			if a := g.post("/destroy", `{"id":%q}`, id); a.status != 200 || a.body != "{}\n" {
				t.Errorf("destroy: %d %s", a.status, a.body)
			}
		}
		if diff := cmp.Diff(before, objects(t, daemon)); diff != "" {
			t.Errorf("the daemon has other objects than before: %s", diff)
		}
		nothingLeft(t, g)
	})

	t.Run("a runner that follows another cleans up", func(t *testing.T) {
		g.setup("st1")
		if a := g.call(http.MethodPost, "/step", inContainer("st1", "service", "sleep 300", `,"detach":true`)); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		g.stop()
		g.start(onDaemon)
		if s := g.call(http.MethodPost, "/step", inContainer("st1", "next", "export OUT=yes", "")).step(t); s.Outputs["OUT"] != "yes" {
			t.Errorf("a step after it: %+v", s)
		}
		if a := g.post("/destroy", `{"id":"st1"}`); a.status != 200 || a.body != "{}\n" {
			t.Errorf("destroy: %d %s", a.status, a.body)
		}
		if diff := cmp.Diff(before, objects(t, daemon)); diff != "" {
			t.Errorf("the daemon has other objects than before: %s", diff)
		}
	})

	t.Run("the doctor knows the daemon's network drivers", func(t *testing.T) {
		for driver, want := range map[string]string{"": LevelOK, "nothing-like-it": LevelFailure} {
			found := Examine(t.Context(), Examination{DataDir: g.dir, Limits: DefaultLimits(), Docker: daemon, NetworkDriver: driver})
			i := slices.IndexFunc(found, func(f Finding) bool { return f.Check == "network driver" })
			if i < 0 || found[i].Level != want {
				t.Errorf("%q: %+v", driver, found)
			}
		}
	})
}
