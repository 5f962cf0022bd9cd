//go:build (e2e || bench) && linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
)

// The pool has a range of addresses of its own, so that a runner that serves
// on this host meanwhile is not in the way.
const (
	testRange = "127.77.192.0/18"
	testPool  = `instances:
  - name: local
    type: qemu
    pool: 2
    limit: 4
    spec:
      address_range: ` + testRange + "\n"
)

// makeRun is one run of what `make run` runs.
type makeRun struct {
	t       *testing.T
	data    string
	address string
	cmd     *exec.Cmd
	// said is what it printed so far; ready is closed when it says Ready.
	ready chan struct{}
	ended chan struct{}
	said  bytes.Buffer
}

// TestE2EMakeRun does what the README tells a newcomer, with real virtual
// machines: make run, the walk, Ctrl-C; the next make run finds the machines.
func TestE2EMakeRun(t *testing.T) {
	data, err := os.MkdirTemp("", "run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { clean(t, data) })
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	// The packages of the image are fetched once for all runs of this clone.
	images := filepath.Join(top, ".run", "images")
	for _, err := range []error{
		os.Chmod(data, 0o755), // machines of other users read their image below it
		os.MkdirAll(images, 0o755),
		os.Symlink(images, filepath.Join(data, "images")),
		os.WriteFile(filepath.Join(data, "pool.yml"), []byte(testPool), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}

	first := start(t, data)
	walk := exec.CommandContext(t.Context(), filepath.Join(top, "scripts/walk.sh"), "run")
	walk.Env = append(os.Environ(), "WALK_URL="+first.address, "WALK_DATA="+data)
	out, err := walk.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"hello from", `"ANSWER":"42"`, `"exit_code":3`, "suspend: 200", "suspended", `"NOTE":"still here"`} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("no %s in the answers", want)
		}
	}
	if n := bytes.Count(out, []byte("destroy: 200")); n != 2 {
		t.Errorf("%d of 2 destroys answered 200", n)
	}
	first.stop()
	left := machines(t, data)

	second := start(t, data)
	found := machines(t, data)
	second.stop()
	if len(left) < 2 {
		t.Errorf("a stop left %v, want two machines at least", left)
	}
	for _, name := range found {
		if !slices.Contains(left, name) {
			t.Errorf("the second run made %s though %v were there", name, left)
		}
	}
}

// start runs the script until it says that it is ready.
func start(t *testing.T, data string) *makeRun {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &makeRun{t: t, data: data, address: l.Addr().String(), ready: make(chan struct{}), ended: make(chan struct{})}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r.cmd = exec.Command("../../scripts/run.sh")
	r.cmd.Env = append(os.Environ(), "DRONE_HTTP_BIND="+r.address, "RUN_DIR="+data, "POOL_FILE="+filepath.Join(data, "pool.yml"))
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as a terminal does
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.cmd.Stdout, r.cmd.Stderr = write, write
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	t.Cleanup(func() { _ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) }) // gone already, if all went well
	go r.listen(read)
	select {
	case <-r.ready:
	case <-r.ended:
		t.Fatalf("it ended before it was ready:\n%s", r.said.String())
	case <-time.After(5 * time.Minute):
		t.Fatal("not ready after 5 minutes")
	}
	return r
}

// listen keeps what is printed, and notices when it is ready.
func (r *makeRun) listen(out io.Reader) {
	defer close(r.ended)
	ready := false
	for s := bufio.NewScanner(out); s.Scan(); {
		fmt.Fprintln(&r.said, s.Text())
		if !ready && strings.HasPrefix(s.Text(), "Ready") {
			ready = true
			close(r.ready)
		}
	}
}

// stop sends what Ctrl-C sends, to the whole group.
func (r *makeRun) stop() {
	r.t.Helper()
	if err := syscall.Kill(-r.cmd.Process.Pid, syscall.SIGINT); err != nil {
		r.t.Fatal(err)
	}
	<-r.ended
	if err := r.cmd.Wait(); err != nil {
		r.t.Errorf("after Ctrl-C: %v\n%s", err, r.said.String())
	}
}

func driver(t *testing.T, data string) drivers.Driver {
	t.Helper()
	cfg := qemu.NewConfig()
	cfg.AddressRange = testRange
	p := drivers.Platform{OS: "linux"}
	for _, problem := range qemu.Check(cfg, &p) {
		t.Error(problem)
	}
	d, err := qemu.New(drivers.Options{Pool: "local", Platform: p, Config: cfg, DataDir: data, Limit: 4, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// machines lists the machines of the data directory by name.
func machines(t *testing.T, data string) []string {
	t.Helper()
	l, err := driver(t, data).List(t.Context(), drivers.Query{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range l.Instances {
		names = append(names, m.Name)
	}
	return names
}

// clean destroys what a stop rightly leaves.
func clean(t *testing.T, data string) {
	ctx := context.WithoutCancel(t.Context())
	d := driver(t, data)
	l, err := d.List(ctx, drivers.Query{})
	if err != nil {
		t.Error(err)
	}
	refs := make([]drivers.Ref, len(l.Instances))
	for i, m := range l.Instances {
		refs[i] = m.Ref
	}
	for _, err := range d.Destroy(ctx, refs, drivers.DestroyOptions{Disks: drivers.Delete}) {
		if err != nil {
			t.Error(err)
		}
	}
	if err := os.RemoveAll(data); err != nil {
		t.Error(err)
	}
}
