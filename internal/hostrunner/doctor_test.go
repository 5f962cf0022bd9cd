package hostrunner

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeDaemon answers what a daemon would on a socket of its own.
type fakeDaemon struct {
	drivers    []string
	networks   int
	containers []container
	logs       string
	status     int // of all answers, 0: 200
}

func (d fakeDaemon) start(t *testing.T) *Docker {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	reply := func(pattern string, body any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			if d.status != 0 {
				w.WriteHeader(d.status)
			}
			if text, ok := body.(string); ok {
				_, _ = w.Write([]byte(text)) // the client tells
				return
			}
			_ = json.NewEncoder(w).Encode(body) // the client tells
		})
	}
	reply("GET /_ping", "OK")
	reply("GET /info", map[string]any{"OSType": "linux", "Architecture": "x86_64", "ServerVersion": "28.1", "Plugins": map[string]any{"Network": d.drivers}})
	var networks []map[string]any
	for i := range d.networks {
		networks = append(networks, map[string]any{"Name": fmt.Sprint("n", i), "Driver": "bridge", "Labels": map[string]string{"org.vmrunner.owner": "x"}})
	}
	reply("GET /networks", append(networks, map[string]any{"Name": "host", "Driver": "host"}))
	reply("GET /containers/json", d.containers)
	reply("GET /containers/{id}/logs", d.logs)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: headerTime}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		if err := errors.Join(srv.Close(), <-done); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return NewDocker([]string{"DOCKER_HOST=tcp://overridden", "DOCKER_HOST=unix://" + socket})
}

func TestTheDoctorNamesAnotherDaemonsSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket := filepath.Join(dir, "podman", "podman.sock")
	if err := os.Mkdir(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil { // that something is there is all that counts
		t.Fatal(err)
	}
	e := Examination{DataDir: dir, Docker: NewDocker([]string{"DOCKER_HOST=unix:///nowhere/s", "XDG_RUNTIME_DIR=" + dir, "HOME=" + dir})}
	found := Examine(t.Context(), e)
	if last := found[len(found)-1]; last.Check != "docker" || !strings.Contains(last.Remedy, "set DOCKER_HOST=unix://"+socket+", where") {
		t.Errorf("%+v", last)
	}
}

func TestTheDoctorFindsWhatTheGuideNames(t *testing.T) {
	t.Parallel()
	roomy := func() (Facts, error) {
		return Facts{CPUs: 4, MemoryTotal: 16 << 30, MemoryAvailable: 8 << 30, DiskFree: 1 << 40}, nil
	}
	drivers := []string{"bridge", "host", "overlay"}
	delegate := func(state string) []container {
		return []container{{ID: "abc", Names: []string{"/del"}, Image: "harness/delegate:25.1", State: state}}
	}
	cases := []struct {
		name   string
		daemon fakeDaemon
		change func(*Examination)
		check  string // whose finding it is
		level  string
		want   string // in text and remedy
	}{
		{"a daemon that works", fakeDaemon{drivers: drivers, networks: 3}, nil, "docker", LevelOK, "version 28.1"},
		{"no daemon", fakeDaemon{}, func(e *Examination) { e.Docker = NewDocker([]string{"DOCKER_HOST=unix:///nowhere/s"}) }, "docker", LevelFailure, "Is the docker daemon running?"},
		{"a daemon that is ill", fakeDaemon{status: 500}, nil, "docker", LevelFailure, "500 Internal Server Error"},
		{"a host nobody can ask", fakeDaemon{}, func(e *Examination) { e.Docker = NewDocker([]string{"DOCKER_HOST=ssh://x"}) }, "docker", LevelFailure, "DOCKER_HOST"},
		{"the usual network driver", fakeDaemon{drivers: drivers}, nil, "network driver", LevelOK, "bridge"},
		{"a network driver that is missing", fakeDaemon{drivers: drivers}, func(e *Examination) { e.NetworkDriver = "nat" }, "network driver", LevelFailure, `plugin "nat" not found; the daemon has bridge, host, overlay`},
		{"few networks", fakeDaemon{networks: 3}, nil, "networks", LevelOK, "3 networks, 3 of them of stages"},
		{"so many networks that addresses run out", fakeDaemon{networks: 30}, nil, "networks", LevelWarning, "non-overlapping IPv4 address pool"},
		{"no delegate here", fakeDaemon{}, nil, "delegate", LevelNote, "RUNNER_URL"},
		{"a delegate that has ended", fakeDaemon{containers: delegate("exited")}, nil, "delegate", LevelFailure, "docker logs del"},
		{"a delegate that is not connected yet", fakeDaemon{containers: delegate("running"), logs: "starting"}, nil, "delegate", LevelWarning, delegateReady},
		{"a delegate that is connected", fakeDaemon{containers: delegate("running"), logs: "x " + delegateReady + " 1 in 5 seconds"}, nil, "delegate", LevelOK, "del is connected"},
		{"a full disk", fakeDaemon{}, func(e *Examination) { e.Facts = func() (Facts, error) { return Facts{DiskFree: 1}, nil } }, "host", LevelFailure, "--disk-reserve"},
		{"little memory", fakeDaemon{}, func(e *Examination) {
			e.Facts = func() (Facts, error) {
				return Facts{CPUs: 1, MemoryTotal: 1 << 30, MemoryAvailable: 1 << 29, DiskFree: 1 << 40}, nil
			}
		}, "host", LevelWarning, "room for 1 stages at once"},
		{"room", fakeDaemon{}, nil, "host", LevelOK, "room for 8 stages at once"},
		{"a mount that is not there", fakeDaemon{}, func(e *Examination) { e.Mounts = []Mount{{Source: "/nowhere/ca.pem", Target: "/x"}} }, "mounts", LevelFailure, "/nowhere/ca.pem"},
		{"a folder that will be made", fakeDaemon{}, func(e *Examination) { e.Mounts = []Mount{{Source: "/nowhere/made", Target: "/x", Create: true}} }, "mounts", LevelOK, "1 of CI_MOUNT_VOLUMES"},
		{"a data directory", fakeDaemon{}, nil, "data directory", LevelOK, "not-made-yet"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := Examination{DataDir: filepath.Join(t.TempDir(), "not-made-yet"), Limits: DefaultLimits(), Facts: roomy}
			e.Docker = c.daemon.start(t)
			if c.change != nil {
				c.change(&e)
			}
			found := Examine(t.Context(), e)
			i := slices.IndexFunc(found, func(f Finding) bool { return f.Check == c.check })
			if i < 0 {
				t.Fatalf("nothing about %s in %+v", c.check, found)
			}
			f := found[i]
			if f.Level != c.level || !strings.Contains(f.Text+f.Remedy, c.want) || (f.Level == LevelOK) != (f.Remedy == "") {
				t.Errorf("%+v, want %s with %q", f, c.level, c.want)
			}
			if exists(e.DataDir) || exists("/nowhere") {
				t.Error("the doctor has changed something")
			}
		})
	}
}

func TestHostFacts(t *testing.T) {
	t.Parallel()
	f, err := HostFacts(t.TempDir())
	if err != nil || f.CPUs < 1 || f.MemoryTotal == 0 || f.DiskFree == 0 || f.MemoryAvailable > f.MemoryTotal {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := HostFacts(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a folder that is not there has free space")
	}
}
