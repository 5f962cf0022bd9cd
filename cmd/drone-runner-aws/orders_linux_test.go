package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/server"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// terminal is where somebody gives orders to one running runner.
type terminal struct {
	t      *testing.T
	socket string
}

// run runs the program with that runner's socket and returns its output, what
// it said beside that, and its exit code.
func (o terminal) run(args ...string) (out, said string, code int) {
	o.t.Helper()
	var stdout, stderr bytes.Buffer
	// Flags come before names.
	at := len(args)
	for i, a := range args {
		if strings.HasPrefix(a, "-") {
			at = i
			break
		}
	}
	cmd := exec.CommandContext(o.t.Context(), thisProgram, slices.Insert(slices.Clone(args), at, "--socket", o.socket)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		return stdout.String(), stderr.String(), ee.ExitCode()
	}
	if err != nil {
		o.t.Fatal(err)
	}
	return stdout.String(), stderr.String(), 0
}

// asked runs a command that is to succeed with --json and decodes its answer,
// of which every field must be known.
func asked[A any](o terminal, args ...string) A {
	o.t.Helper()
	var answer A
	out, said, code := o.run(append(args, "--json")...)
	if code != 0 {
		o.t.Fatalf("%s: exit code %d: %s", strings.Join(args, " "), code, said)
	}
	d := json.NewDecoder(strings.NewReader(out))
	d.DisallowUnknownFields()
	if err := d.Decode(&answer); err != nil {
		o.t.Fatalf("%s: %v in %s", strings.Join(args, " "), err, out)
	}
	return answer
}

// refused runs a command that is to fail and say a text.
func (o terminal) refused(text string, args ...string) {
	o.t.Helper()
	out, said, code := o.run(args...)
	if code != 1 || !strings.Contains(said, text) {
		o.t.Errorf("%s: exit code %d, %q, %s; want 1 and %q", strings.Join(args, " "), code, out, said, text)
	}
}

func (o terminal) pool(name string) api.Pool {
	o.t.Helper()
	pools := asked[[]api.Pool](o, "pool", "ls")
	i := slices.IndexFunc(pools, func(p api.Pool) bool { return p.Name == name })
	if i < 0 {
		o.t.Fatalf("no pool %s in %+v", name, pools)
	}
	return pools[i]
}

// machine is a row by name, also of one that is gone.
func (o terminal) machine(name string) api.Instance {
	o.t.Helper()
	all := asked[[]api.Instance](o, "instance", "ls", "--all")
	i := slices.IndexFunc(all, func(i api.Instance) bool { return i.Name == name })
	if i < 0 {
		o.t.Fatalf("no machine %s in %+v", name, all)
	}
	return all[i]
}

func (o terminal) lease(id string) api.Lease {
	o.t.Helper()
	all := asked[[]api.Lease](o, "lease", "ls", "--all")
	i := slices.IndexFunc(all, func(l api.Lease) bool { return l.ID == id })
	if i < 0 {
		o.t.Fatalf("no lease %s in %+v", id, all)
	}
	return all[i]
}

func (o terminal) warm(name string, n int) {
	o.t.Helper()
	until(o.t, patience, "warm machines", func() bool { return o.pool(name).Machines["warm"] == n })
}

func (o terminal) gone(name string) {
	o.t.Helper()
	until(o.t, patience, "the end of "+name, func() bool { return o.machine(name).State == "gone" })
}

// setup takes a machine for a stage and returns its name.
func setup(t *testing.T, r *realRunner, id string, edit ...func(*api.SetupRequest)) string {
	t.Helper()
	q := api.SetupRequest{ID: id, PoolID: "p"}
	for _, e := range edit {
		e(&q)
	}
	res, err := r.api.Setup(t.Context(), q)
	if err != nil {
		t.Fatalf("setup %s: %v", id, err)
	}
	return res.InstanceInfo.Name
}

func ofGitspace(q *api.SetupRequest) { q.GitspaceAgentConfig.Ports = []int{3000} }

const ordersPool = `instances:
  - {name: p, type: noop, pool: 2, limit: 8, spec: {process: true}}
`

// TestEveryOrderChangesARunningRunner gives each order of the command line to a
// runner that is a process, with machines that are processes, and reads back
// what it did: by the same command line, and in the machines there are.
func TestEveryOrderChangesARunningRunner(t *testing.T) {
	t.Parallel()
	dir := realFolder(t, ordersPool)
	r := startReal(t, thisProgram, dir)
	o := terminal{t, filepath.Join(dir, server.AdminSocket)}
	exists := func(name string) bool { return slices.Contains(realMachines(t, dir), name) }
	o.warm("p", 2)

	// A machine that is held stays when its lease ends, and goes when it is let go.
	held := setup(t, r, "held")
	if i := asked[api.Instance](o, "instance", "hold", "--why", "look", held); !i.Held || i.Name != held || i.LeaseID != "held" {
		t.Errorf("held: %+v", i)
	}
	o.refused("unhold", "instance", "destroy", "--force", held)
	if l := asked[api.Lease](o, "lease", "end", "--why", "its delegate is gone", "held"); l.ID != "held" || l.State != "ended" || l.Reason != "operator" || !strings.Contains(l.Detail, "its delegate is gone") {
		t.Errorf("ended: %+v", l)
	}
	until(t, patience, "the held machine to wait for its end", func() bool {
		i := o.machine(held)
		return i.State == "destroying" && i.Reason == "held_by_operator"
	})
	if listed := asked[api.Orphans](o, "orphans").Held; len(listed) != 1 || listed[0].Name != held {
		t.Errorf("orphans lists as held %+v", listed)
	}
	if !exists(held) {
		t.Error("a held machine was destroyed")
	}
	if i := asked[api.Instance](o, "instance", "unhold", held); i.Held {
		t.Errorf("let go: %+v", i)
	}
	o.gone(held)
	if exists(held) {
		t.Error("the machine is left after its hold")
	}

	// A free machine is destroyed by name, one that a lease has by force only.
	o.warm("p", 2)
	free := realMachines(t, dir)[0]
	if i := asked[api.Instance](o, "instance", "destroy", free); i.Name != free || (i.State != "destroying" && i.State != "gone") {
		t.Errorf("destroyed: %+v", i)
	}
	o.gone(free)
	used := setup(t, r, "used")
	o.refused("--force", "instance", "destroy", used)
	if !exists(used) || o.lease("used").State != "active" {
		t.Error("an order that was refused did something")
	}
	asked[api.Instance](o, "instance", "destroy", "--force", "--why", "hangs", used)
	o.gone(used)
	if l := o.lease("used"); l.State != "ended" || l.Reason != "operator" {
		t.Errorf("the lease of a machine destroyed by force: %+v", l)
	}
	if exists(used) || exists(free) {
		t.Error("a destroyed machine is left")
	}

	// Scale, drain, stop and start.
	if done := asked[[]api.Ordered](o, "pool", "scale", "--min", "3", "p"); len(done) != 1 || done[0].Name != "p" || done[0].Done != "scaled to 3" {
		t.Errorf("scaled: %+v", done)
	}
	o.warm("p", 3)
	if over := o.pool("p").Override; over == nil || over.Min == nil || *over.Min != 3 || over.By == "" {
		t.Errorf("the pool says of its order %+v", over)
	}
	before := realMachines(t, dir)
	kept := setup(t, r, "kept")
	o.warm("p", 3)
	if done := asked[[]api.Ordered](o, "drain", "--why", "new image", "p"); len(done) != 1 || done[0].Done != "drained" || done[0].Count != 3 {
		t.Errorf("drained: %+v", done)
	}
	until(t, patience, "other machines than before", func() bool {
		now := realMachines(t, dir)
		old := slices.DeleteFunc(slices.Clone(before), func(name string) bool { return name == kept || !slices.Contains(now, name) })
		return len(old) == 0 && len(now) == 4
	})
	if !exists(kept) {
		t.Error("drain destroyed a machine in use")
	}
	if done := asked[[]api.Ordered](o, "pool", "stop", "--all"); len(done) != 1 || done[0].Done != "stopped" {
		t.Errorf("stopped: %+v", done)
	}
	until(t, patience, "the machine in use to be the only one", func() bool { return slices.Equal(realMachines(t, dir), []string{kept}) })
	if over := o.pool("p").Override; over == nil || !over.Stopped {
		t.Errorf("the pool says of its order %+v", over)
	}
	if done := asked[[]api.Ordered](o, "pool", "start", "p"); len(done) != 1 || done[0].Done != "started" {
		t.Errorf("started: %+v", done)
	}
	o.warm("p", 2)
	if over := o.pool("p").Override; over != nil {
		t.Errorf("a pool that was started has the order %+v", over)
	}

	// Each order is an event that says by whom.
	out, said, code := o.run("events", "--limit", "1000")
	if code != 0 {
		t.Fatal(said)
	}
	for _, want := range []string{"its delegate is gone", "look", "hangs", "new image", "pool_stopped", "pool_scaled", "pool_started"} {
		if !strings.Contains(out, want) {
			t.Errorf("the events lack %q:\n%s", want, out)
		}
	}
}

// TestOrphansOfALostStoreAreRemovedOneByOne: what a lost database leaves in the
// cloud is listed, and goes only with the words it needs.
func TestOrphansOfALostStoreAreRemovedOneByOne(t *testing.T) {
	t.Parallel()
	dir := realFolder(t, ordersPool)
	o := terminal{t, filepath.Join(dir, server.AdminSocket)}
	first := startReal(t, thisProgram, dir)
	o.warm("p", 2)
	space := setup(t, first, "space", ofGitspace)
	o.warm("p", 2)
	strangers := realMachines(t, dir)
	first.signal(t, syscall.SIGTERM)
	<-first.ended
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.RemoveAll(filepath.Join(dir, databaseFile+suffix)); err != nil {
			t.Fatal(err)
		}
	}
	startReal(t, thisProgram, dir)
	o.warm("p", 2)

	var listed api.Orphans
	until(t, patience, "the strangers in the list", func() bool {
		listed = asked[api.Orphans](o, "orphans", "--foreign")
		return len(listed.Machines) == len(strangers)
	})
	for _, m := range listed.Machines {
		if !slices.Contains(strangers, m.Name) || !m.Foreign || m.Reason == "" || m.Explanation == "" || (m.Kind == "gitspace") != (m.Name == space) {
			t.Errorf("listed: %+v", m)
		}
	}
	if mine := asked[api.Orphans](o, "orphans"); len(mine.Machines) != 0 {
		t.Errorf("without --foreign: %+v", mine.Machines)
	}
	build := strangers[slices.IndexFunc(strangers, func(name string) bool { return name != space })]
	own := ""
	for _, i := range asked[[]api.Instance](o, "instance", "ls") {
		own = i.Name
	}
	o.refused("--foreign", "orphans", "rm", "--yes", build)
	o.refused("--gitspace", "orphans", "rm", "--yes", "--foreign", space)
	o.refused("instance destroy", "orphans", "rm", "--yes", "--foreign", own)
	if now := realMachines(t, dir); len(now) != len(strangers)+2 {
		t.Fatalf("refusals left %v", now)
	}
	if done := asked[[]api.Ordered](o, "orphans", "rm", "--yes", "--foreign", "--why", "lost store", build); len(done) != 1 || done[0].Name != build {
		t.Errorf("removed: %+v", done)
	}
	// The answer came when the cloud had done it.
	if now := realMachines(t, dir); slices.Contains(now, build) || !slices.Contains(now, space) {
		t.Errorf("after the removal of %s: %v", build, now)
	}
	asked[[]api.Ordered](o, "orphans", "rm", "--yes", "--foreign", "--gitspace", space)
	until(t, patience, "the list without what was removed", func() bool {
		return !slices.ContainsFunc(asked[api.Orphans](o, "orphans", "--foreign").Machines, func(m api.Orphan) bool {
			return m.Name == build || m.Name == space
		})
	})
	out, _, _ := o.run("events", "--limit", "1000")
	if !strings.Contains(out, "orphan_removed") || !strings.Contains(out, "lost store") {
		t.Errorf("the events do not say who removed it:\n%s", out)
	}
}

// A destroy of a machine whose creation hangs is not kept waiting by that.
func TestForceAtTheCommandLineBreaksOffACallThatHangs(t *testing.T) {
	t.Parallel()
	dir := realFolder(t, strings.ReplaceAll(ordersPool, "process: true", "process: true, create_delay: 1h"))
	r := startReal(t, thisProgram, dir)
	o := terminal{t, filepath.Join(dir, server.AdminSocket)}
	asked[[]api.Ordered](o, "pool", "scale", "--min", "0", "p")
	answer := make(chan error, 1)
	go func() {
		_, err := r.api.Setup(t.Context(), api.SetupRequest{ID: "s", PoolID: "p"})
		answer <- err
	}()
	var hung string
	until(t, patience, "a creation for the stage", func() bool {
		for _, i := range asked[[]api.Instance](o, "instance", "ls") {
			if i.State == "creating" && i.LeaseID == "s" {
				hung = i.Name
			}
		}
		return hung != ""
	})
	begun := time.Now()
	asked[api.Instance](o, "instance", "destroy", "--force", hung)
	if err := <-answer; err == nil || !strings.Contains(err.Error(), "operator") {
		t.Errorf("the caller whose machine was destroyed by force was told %v", err)
	}
	o.gone(hung)
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("that took %s", took)
	}
}
