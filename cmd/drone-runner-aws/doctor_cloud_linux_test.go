package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
)

// quickly is how long things take in the fake of these tests.
func quickly() gce.Durations {
	r := gce.Range{Least: time.Millisecond, Most: 10 * time.Millisecond}
	return gce.Durations{Provisioning: r, Staging: r, Stopping: r, Deleting: r, Disk: r, Other: r, Accepting: r}
}

// examined is a run of doctor on a fake cloud.
type examined struct {
	Checks []check `json:"checks"`
	code   int
	said   string
}

// failure is the check that failed first.
func (e examined) failure() check {
	for _, c := range e.Checks {
		if !c.OK {
			return c
		}
	}
	return check{}
}

// newAgentless is a cloud whose machines boot, write to their consoles, and have no
// agent that answers.
func newAgentless(o gce.Options) *gce.Cloud {
	var c *gce.Cloud
	o.Durations, o.Projects, o.PageSize = quickly(), []string{"rehearsal"}, 100
	o.Boots = func(m gce.Machine) {
		_ = c.Console(m.Name, "runner-boot: step 2/4 download agent: failed: no answer from https://agents.example.com\n") // it is there: it boots
	}
	// Nothing listens there.
	o.Address = func(gce.Machine) (internal, external netip.Addr) {
		return netip.MustParseAddr("127.88.0.2"), netip.Addr{}
	}
	c = gce.New(o)
	return c
}

const cloudPool = `version: "1"
instances:
  - name: builds
    type: google
    limit: 2
    platform: {os: linux, arch: amd64}
    spec:
      account: {project_id: rehearsal, no_service_account: true}
      image: projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64
      machine_type: e2-medium
      zone: [us-central1-a]
      private_ip: true
`

// patient is a pool of a cloud that doctor is run on, and its data directory.
type patient struct {
	cloud     *gce.Cloud
	dir, url  string
	boot      time.Duration
	timeout   string       // of a pool, a minute if empty
	out, said bytes.Buffer // of the last run
}

// newPatient has a pool file of a cloud, whose machines may take so long to boot.
func newPatient(t *testing.T, c *gce.Cloud, file string, boot time.Duration) *patient {
	t.Helper()
	srv := httptest.NewServer(c)
	t.Cleanup(srv.Close)
	p := &patient{cloud: c, dir: t.TempDir(), url: srv.URL, boot: boot}
	if err := os.WriteFile(filepath.Join(p.dir, "pool.yml"), []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// command is a run that is not started yet.
func (p *patient) command(t *testing.T) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), thisProgram, "doctor", "--pool", filepath.Join(p.dir, "pool.yml"), "--data-dir", p.dir, "--timeout", cmp.Or(p.timeout, "1m"), "--json")
	cmd.Env = append(os.Environ(), "RUNNER_GOOGLE_ENDPOINT="+p.url, "DRONE_LITE_ENGINE_PATH=https://agents.example.com", "HEALTH_CHECK_COLDSTART_TIMEOUT="+p.boot.String())
	p.out.Reset()
	p.said.Reset()
	cmd.Stdout, cmd.Stderr = &p.out, &p.said
	return cmd
}

// machines are those things of the cloud that cost.
func (p *patient) machines() (living []fakecloud.Thing) {
	for _, thing := range p.cloud.Living() {
		if thing.Kind == "instance" || thing.Kind == "disk" {
			living = append(living, thing)
		}
	}
	return living
}

// examine runs doctor and finds that it left nothing.
func (p *patient) examine(t *testing.T) examined {
	t.Helper()
	cmd := p.command(t)
	err := cmd.Run()
	out := examined{code: cmd.ProcessState.ExitCode(), said: p.said.String()}
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatal(err)
	}
	if err := json.Unmarshal(p.out.Bytes(), &out); err != nil {
		t.Fatalf("%v: stdout %q, stderr %q", err, p.out.Bytes(), out.said)
	}
	if strings.Contains(out.said, "panic") || strings.Contains(out.said, "goroutine ") {
		t.Errorf("a panic:\n%s", out.said)
	}
	if left := p.machines(); len(left) > 0 {
		t.Errorf("left behind: %+v\n%+v", left, out.Checks)
	}
	return out
}

// TestDoctorNamesThePartOfACloudThatFailsAndTheFix: credentials, quota, image,
// network and agent.
func TestDoctorNamesThePartOfACloudThatFailsAndTheFix(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		o        gce.Options
		fault    error
		old, new string // in the pool file
		part     string
		kind     string
		detail   string
		fix      string
	}{
		{name: "an expired token", fault: gce.TokenExpired(), part: "credentials", kind: "auth", detail: "invalid authentication credentials", fix: "spec.account.json_path"},
		{name: "a missing right", fault: gce.PermissionDenied("compute.instances.create", "projects/rehearsal"), part: "credentials", kind: "auth", detail: "compute.instances.create", fix: "roles/compute.instanceAdmin.v1"},
		{name: "a wrong project", old: "project_id: rehearsal", new: "project_id: nosuch", part: "credentials", detail: "account.project_id", fix: "spec.account.project_id"},
		{name: "no quota", o: gce.Options{Quotas: map[string]float64{"CPUS": 0}}, part: "machine", kind: "quota", detail: "CPUS", fix: "ask for more quota in the region"},
		{name: "a wrong image", old: "ubuntu-2404-lts-amd64", new: "nosuch", part: "machine", detail: "nosuch", fix: "the key the message names"},
		{name: "a wrong network", old: "private_ip: true", new: "private_ip: true\n      network: nosuch", part: "machine", detail: "nosuch", fix: "the key the message names"},
		{name: "an agent that does not answer", part: "agent", detail: "agent not healthy", fix: "port 9079"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newAgentless(tt.o)
			if tt.fault != nil {
				c.Faults.Add(fakecloud.Fault{Err: tt.fault})
			}
			got := newPatient(t, c, strings.Replace(cloudPool, tt.old, tt.new, 1), 3*time.Second).examine(t)
			f := got.failure()
			t.Logf("%s: %s\nwhat to do: %s", f.Part, f.Detail, f.Fix)
			if got.code != exitFailed || f.Part != tt.part || tt.kind != "" && f.Kind != tt.kind || !strings.Contains(f.Detail, tt.detail) || !strings.Contains(f.Fix, tt.fix) {
				t.Errorf("exit code %d, failed: %+v", got.code, f)
			}
			if tt.part == "agent" && !strings.Contains(f.Console, "no answer from https://agents.example.com") {
				t.Errorf("the console is not shown: %q", f.Console)
			}
			if last := got.Checks[len(got.Checks)-1]; tt.part != "credentials" && (last.Part != "clean-up" || !last.OK) {
				t.Errorf("it has not cleaned up: %+v", last)
			}
		})
	}
}

// TestDoctorLeavesNothingWhicheverCallFails has each call that a run makes fail
// once, and has the answers of those that change something get lost.
func TestDoctorLeavesNothingWhicheverCallFails(t *testing.T) {
	t.Parallel()
	c := newAgentless(gce.Options{})
	newPatient(t, c, cloudPool, time.Second).examine(t)
	calls := c.Books.Calls()
	for _, needed := range []string{"compute.instances.insert", "compute.instances.delete"} {
		if calls[needed] == 0 {
			t.Fatalf("%s was not called: %v", needed, calls)
		}
	}
	for method := range calls {
		for name, fault := range map[string]fakecloud.Fault{
			"fails":           {Method: method, Times: 1, Effect: fakecloud.Refuse, Err: gce.Backend503()},
			"loses an answer": {Method: method, Times: 1, Effect: fakecloud.Lose},
		} {
			if fault.Effect == fakecloud.Lose && !slices.Contains([]string{"compute.instances.insert", "compute.instances.delete"}, method) {
				continue
			}
			t.Run(fmt.Sprintf("%s %s", method, name), func(t *testing.T) {
				t.Parallel()
				c := newAgentless(gce.Options{})
				c.Faults.Add(fault)
				if got := newPatient(t, c, cloudPool, time.Second).examine(t); got.code != exitFailed || len(got.Checks) == 0 {
					t.Errorf("exit code %d, %+v", got.code, got.Checks)
				}
			})
		}
	}
}

// killedAt is a run that is killed at its first call of a method: "before" the
// cloud has carried it out, "after", or "meanwhile", when the cloud does so for a
// caller that is dead.
func (p *patient) killedAt(t *testing.T, method, when string) {
	t.Helper()
	cmd, started, dead := p.command(t), make(chan struct{}), make(chan struct{})
	var once sync.Once
	kill := func(call fakecloud.Call) {
		if call.Method == method {
			<-started
			once.Do(func() { _ = cmd.Process.Kill() }) // an error: it is dead, which Wait tells
			<-dead
		}
	}
	abort := func(call fakecloud.Call) {
		kill(call)
		if call.Method == method {
			panic(http.ErrAbortHandler)
		}
	}
	switch when {
	case "before":
		p.cloud.Faults.Stops(abort, nil)
	case "after":
		p.cloud.Faults.Stops(nil, abort)
	default:
		p.cloud.Faults.Stops(kill, nil)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	close(started)
	err := cmd.Wait()
	close(dead)
	if cmd.ProcessState.ExitCode() != -1 {
		t.Fatalf("it was not killed: %v, %s", err, p.said.Bytes())
	}
	p.cloud.Faults.Stops(nil, nil)
}

// TestWhatAKilledDoctorLeftTheNextOneDestroys kills a run at each call that it
// makes: before the cloud has carried it out, after, and where the cloud does so
// when its caller is dead.
func TestWhatAKilledDoctorLeftTheNextOneDestroys(t *testing.T) {
	t.Parallel()
	c := newAgentless(gce.Options{})
	newPatient(t, c, cloudPool, time.Second).examine(t)
	var orphans atomic.Int32
	t.Run("kills", func(t *testing.T) {
		for method := range c.Books.Calls() {
			for _, when := range []string{"before", "after", "meanwhile"} {
				t.Run(method+" "+when, func(t *testing.T) {
					t.Parallel()
					p := newPatient(t, newAgentless(gce.Options{}), cloudPool, time.Second)
					p.killedAt(t, method, when)
					left := len(p.machines())
					got := p.examine(t)
					first := got.Checks[0]
					cleaned := first.Part == "clean-up"
					if cleaned && !first.OK || left > 0 && !cleaned {
						t.Errorf("%d things were left, the next run did not begin by destroying them: %+v", left, got.Checks)
					}
					if left > 0 {
						orphans.Add(1)
					}
				})
			}
		}
	})
	if orphans.Load() == 0 {
		t.Error("no kill left anything behind: nothing is shown")
	}
}

// TestDoctorGoesOnWhileACloudDoesNotLetGo: what an earlier run left does not keep
// the pools from being tried, and is waited for in the end.
func TestDoctorGoesOnWhileACloudDoesNotLetGo(t *testing.T) {
	t.Parallel()
	p := newPatient(t, newAgentless(gce.Options{}), cloudPool, time.Second)
	p.timeout = "4s"
	p.killedAt(t, "compute.instances.getSerialPortOutput", "before")
	stuck := p.machines()
	if len(stuck) == 0 {
		t.Fatal("the killed run left nothing")
	}
	letGo := p.cloud.Faults.Add(fakecloud.Fault{
		Method: "compute.instances.delete", Match: func(c fakecloud.Call) bool { return c.Name == stuck[0].Name },
		Effect: fakecloud.Refuse, Err: gce.Backend503(),
	})
	p.cloud.Faults.Stops(func(c fakecloud.Call) {
		if c.Method == "compute.instances.insert" { // the pool is tried
			letGo()
		}
	}, nil)
	checks := p.examine(t).Checks
	parts := make([]string, 0, len(checks))
	for _, c := range checks {
		parts = append(parts, c.Part)
	}
	last := checks[len(checks)-1]
	if want := []string{"credentials", "machine", "agent", "clean-up", "clean-up"}; !slices.Equal(parts, want) || !last.OK || last.Detail != "1 machine of an earlier run destroyed" {
		t.Errorf("checks %v, the last %+v", parts, last)
	}
}
