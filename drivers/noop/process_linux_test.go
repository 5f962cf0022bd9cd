package noop_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// identify gives a spec an identity of its own.
func identify(t testing.TB, s drivers.Spec) drivers.Spec {
	t.Helper()
	id, err := pool.NewIdentity(s.Tags.Instance, s.Name, "runner", nil, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	s.Identity = id
	return s
}

// processes finds the children of a data directory by their command lines.
func processes(t testing.TB, dir string) map[string]int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	for _, path := range all {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(data), "\x00")
		if len(args) < 4 || args[1] != "noop-machine" || !strings.HasPrefix(args[3], dir+"/") {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(path, "/proc/%d/cmdline", &pid); err != nil {
			t.Fatal(err)
		}
		found[filepath.Base(args[3])] = pid
	}
	return found
}

// directory is a data directory whose processes end with the test, however
// that ends.
func directory(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		for _, pid := range processes(t, dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by now
		}
	})
	return dir
}

func TestConformanceOfProcesses(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(t *testing.T) drivertest.Harness {
		dir := directory(t)
		f := &faulty{destroys: map[string]bool{}}
		h := drivertest.Harness{
			Open: func(t testing.TB) drivers.Driver {
				return open(t, noop.Config{Process: true}, dir, noop.Setup{Faults: f.faults()})
			},
			Spec: func(t testing.TB) drivers.Spec { return identify(t, spec()) },
			Existing: func(t testing.TB) (all []string) {
				for name, pid := range processes(t, dir) {
					all = append(all, fmt.Sprintf("process %d of %s", pid, name))
				}
				entries, err := filepath.Glob(filepath.Join(dir, "noop", "*", "*"))
				if err != nil {
					t.Fatal(err)
				}
				hidden, err := filepath.Glob(filepath.Join(dir, "noop", "*", ".*"))
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range append(entries, hidden...) {
					if filepath.Base(e) != ".lock" {
						all = append(all, e)
					}
				}
				return all
			},
			Kill: func(t testing.TB, ref drivers.Ref) {
				if err := syscall.Kill(processes(t, dir)[ref.Name], syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			},
			Invalid:  func(testing.TB) drivers.Spec { return drivers.Spec{Name: "../escape"} },
			Patience: time.Minute,
		}
		h.Full = func(t testing.TB) drivers.Driver {
			if _, err := h.Open(t).Create(t.Context(), h.Spec(t)); err != nil {
				t.Fatal(err)
			}
			return open(t, noop.Config{Process: true, Capacity: 1}, dir, noop.Setup{})
		}
		f.fill(&h)
		return h
	})
}

func awaitRunning(t testing.TB, d *noop.Driver, name string) drivers.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := d.List(ctx, drivers.Query{})
		if err != nil {
			t.Fatal(err)
		}
		for _, inst := range l.Instances {
			if inst.Name == name && inst.Status == drivers.StatusRunning {
				return inst
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s does not run: %+v", name, l.Instances)
		case <-tick.C:
		}
	}
}

func client(t testing.TB, id drivers.Identity) *http.Client {
	t.Helper()
	pair, err := tls.X509KeyPair(id.Cert, id.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(id.CACert)
	tr := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: id.ServerName}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func call(t testing.TB, c *http.Client, inst drivers.Instance, route, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("https://%s%s", net.JoinHostPort(inst.Address, fmt.Sprint(inst.Port)), route), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body == "" {
		req.Method = http.MethodGet
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", route, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s: %v", route, err)
	}
	return resp.StatusCode, strings.TrimSpace(string(data))
}

func TestProcessServesAPretendAgent(t *testing.T) {
	t.Parallel()
	d := open(t, noop.Config{Process: true}, directory(t), noop.Setup{})
	s := identify(t, spec())
	ref, err := d.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	inst := awaitRunning(t, d, s.Name)
	if !strings.HasPrefix(inst.Address, "127.78.") || inst.Port != 9079 {
		t.Errorf("at %s:%d, want 127.78.x.y:9079", inst.Address, inst.Port)
	}
	c := client(t, s.Identity)
	for _, tc := range []struct {
		route, body string
		status      int
		want        string
	}{
		{"/healthz", "", 200, `{"ok":true,"running_steps":0,"used":false,"version":"noop"}`},
		{"/setup", `{"envs":{"A":"b"}}`, 200, `{}`},
		{"/setup", `{bad`, 400, `{"error_msg":"invalid character 'b' looking for beginning of object key string"}`},
		{"/poll_step", `{"id":"s1"}`, 400, `{"error_msg":"Step has not started"}`},
		{"/start_step", `{}`, 400, `{"error_msg":"ID needs to be set"}`},
		{"/start_step", `{"id":"s1"}`, 200, `{}`},
		{"/start_step", `{"id":"s1"}`, 200, `{}`},
		{"/poll_step", `{"id":"s1"}`, 200, `{"exited":true}`},
		{"/stream_output", `{"id":"s1"}`, 200, `pretend step s1`},
		{"/stream_output", `{"id":"s1","offset":8}`, 200, `step s1`},
		{"/stream_output", `{"id":"s1","offset":99}`, 500, `{"error_msg":"error: index 'offset' is out of bounds"}`},
		{"/suspend", `{}`, 200, `{}`},
		{"/destroy", `{}`, 200, `{"os_stats":{}}`},
	} {
		if status, got := call(t, c, inst, tc.route, tc.body); status != tc.status || got != tc.want {
			t.Errorf("%s %s: %d %s, want %d %s", tc.route, tc.body, status, got, tc.status, tc.want)
		}
	}
	if other, err := client(t, identify(t, spec()).Identity).Get("https://" + inst.Address + ":9079/healthz"); err == nil {
		other.Body.Close()
		t.Error("another machine's identity is let in")
	}

	// A long poll is cut by a suspend and its step is still there afterwards.
	if err := d.Suspend(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if resp, err := client(t, s.Identity).Get("https://" + inst.Address + ":9079/healthz"); err == nil {
		resp.Body.Close()
		t.Error("a suspended machine answers")
	}
	back, err := d.Resume(t.Context(), ref)
	if err != nil || back.Address != inst.Address {
		t.Fatalf("resumed at %s, %v; want %s", back.Address, err, inst.Address)
	}
	if status, got := call(t, client(t, s.Identity), back, "/poll_step", `{"id":"s1"}`); status != 200 || got != `{"exited":true}` {
		t.Errorf("after a resume the step's result is %d %s", status, got)
	}
}

func TestProcessSurvivesItsRunner(t *testing.T) {
	t.Parallel()
	dir := directory(t)
	s := identify(t, spec())
	// The runner of this machine is a process of its own that ends.
	if _, err := open(t, noop.Config{Process: true}, dir, noop.Setup{}).Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	pid := processes(t, dir)[s.Name]
	if sid, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || !strings.Contains(string(sid), fmt.Sprintf(" %d %d ", pid, pid)) {
		t.Errorf("process %d is not the leader of a session of its own: %s, %v", pid, sid, err)
	}
	again := open(t, noop.Config{Process: true}, dir, noop.Setup{})
	inst := awaitRunning(t, again, s.Name)
	if inst.Tags.Instance != s.Tags.Instance {
		t.Errorf("found as %q, want %q", inst.Tags.Instance, s.Tags.Instance)
	}
	if status, _ := call(t, client(t, s.Identity), inst, "/healthz", ""); status != 200 {
		t.Errorf("health %d", status)
	}
	if c := drivers.NewClient(again, drivers.ClientOptions{Dies: true}); c.Dies() {
		t.Error("the driver says its machines die with the runner")
	}
}

func TestProcessKeepsNoSecretOnDisk(t *testing.T) {
	t.Parallel()
	dir := directory(t)
	s := identify(t, spec())
	d := open(t, noop.Config{Process: true}, dir, noop.Setup{})
	if _, err := d.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	awaitRunning(t, d, s.Name)
	pid := processes(t, dir)[s.Name]
	places := []string{fmt.Sprintf("/proc/%d/cmdline", pid), fmt.Sprintf("/proc/%d/environ", pid)}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			places = append(places, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range places {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(s.Identity.Key), "\n") {
			if len(line) > 30 && strings.Contains(string(data), line[:30]) || strings.Contains(string(data), "PRIVATE KEY") {
				t.Fatalf("a key is in %s", path)
			}
		}
	}
	if len(places) < 5 {
		t.Errorf("looked at %d places only: %v", len(places), places)
	}
}

func TestProcessesHaveAddressesOfTheirOwn(t *testing.T) {
	t.Parallel()
	// Two runners with data directories of their own on one host.
	drivers2 := []*noop.Driver{
		open(t, noop.Config{Process: true}, directory(t), noop.Setup{}),
		open(t, noop.Config{Process: true}, directory(t), noop.Setup{}),
	}
	name := identify(t, spec()) // one name, so that both want the same address
	var wg sync.WaitGroup
	for _, d := range drivers2 {
		wg.Go(func() {
			if _, err := d.Create(t.Context(), name); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	a, b := awaitRunning(t, drivers2[0], name.Name), awaitRunning(t, drivers2[1], name.Name)
	if a.Address == b.Address {
		t.Errorf("both are at %s", a.Address)
	}
}

func TestCrashBetweenDirectoryAndProcess(t *testing.T) {
	t.Parallel()
	dir := directory(t)
	d := open(t, noop.Config{Process: true}, dir, noop.Setup{})
	s := identify(t, spec())
	if err := d.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, "noop", "pool", s.Name)
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	meta, err := json.Marshal(map[string]any{"name": s.Name, "tags": s.Tags})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(home, "meta.json")
	if err := os.WriteFile(path, meta, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := d.List(t.Context(), drivers.Query{})
	if err != nil || len(l.Instances) != 1 || l.Instances[0].Status != drivers.StatusPending {
		t.Fatalf("listed as %+v, %v; want one pending machine, whose maker may be at it", l.Instances, err)
	}
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	l, err = d.List(t.Context(), drivers.Query{})
	if err != nil || len(l.Instances) != 1 || l.Instances[0].Status != drivers.StatusDead || l.Instances[0].Reason == "" {
		t.Fatalf("listed as %+v, %v; want one dead machine with a reason", l.Instances, err)
	}
	if _, err := d.Create(t.Context(), s); err != nil {
		t.Fatalf("create again: %v", err)
	}
	awaitRunning(t, d, s.Name)
}

func TestProcessThatCannotStart(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, binary string
		spec         drivers.Spec
		want         string
	}{
		{"no such program", "/no/such/program", identify(t, spec()), "/no/such/program"},
		{"a program that ends at once", "/bin/false", identify(t, spec()), "it ended at once"},
		{"no identity", "", spec(), "take the identity"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := directory(t)
			d := open(t, noop.Config{Process: true}, dir, noop.Setup{Binary: tc.binary})
			_, err := d.Create(t.Context(), tc.spec)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
			l, err := d.List(t.Context(), drivers.Query{})
			if err != nil || len(l.Instances) != 0 {
				t.Errorf("listed %+v, %v; want nothing", l.Instances, err)
			}
			if left := processes(t, dir); len(left) != 0 {
				t.Errorf("processes %v are left", left)
			}
			if strings.HasPrefix(tc.binary, "/no") {
				if err := d.Ping(t.Context()); !errors.Is(err, drivers.ErrInvalid) {
					t.Errorf("ping: %v, want an invalid request", err)
				}
			}
		})
	}
}

// A create that is broken off at any moment takes no machine from another
// process that has asked for the same one meanwhile: so it is when a replica is
// stopped, another takes over, and the first goes on.
func TestCreateThatIsBrokenOffTakesNoMachineFromAnother(t *testing.T) {
	t.Parallel()
	dir := directory(t)
	for range 5 {
		s := identify(t, spec())
		first := open(t, noop.Config{Process: true}, dir, noop.Setup{})
		second := open(t, noop.Config{Process: true}, dir, noop.Setup{})
		ctx, breakOff := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := first.Create(ctx, s)
			done <- err
		}()
		if _, err := second.Create(t.Context(), s); err != nil {
			t.Fatalf("create by the second: %v", err)
		}
		breakOff()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the first: %v", err)
		}
		inst := awaitRunning(t, second, s.Name)
		if status, _ := call(t, client(t, s.Identity), inst, "/healthz", ""); status != 200 {
			t.Errorf("health %d", status)
		}
	}
}
