//go:build docker

package dockertest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

// startTime bounds the start of a daemon, which takes about a second on a host
// that has nothing else to do.
const startTime = time.Minute

// stopTime bounds its end, with its containers.
const stopTime = 20 * time.Second

// Start starts a Docker daemon until the test ends and returns its address. It
// has a network, process ids and mounts of its own: it ends with everything it
// has begun when the test's process does, however that ends. The test is skipped
// where dockerd is missing, but fails there if CI is set.
func Start(tb testing.TB) (host string) {
	tb.Helper()
	need(tb, map[string]string{"dockerd": "docker.io", "unshare": "util-linux", "busybox": "busybox-static"})
	d := newDaemon(tb, "dockerd", "")
	d.start(`(command -v ip && ip link set lo up) >/dev/null 2>&1; exec dockerd "$@"`, nil,
		"--host", "unix://"+d.socket,
		"--data-root", filepath.Join(d.dir, "data"), "--exec-root", filepath.Join(d.dir, "exec"), "--pidfile", filepath.Join(d.dir, "pid"),
		"--cgroup-parent", d.group, "--exec-opt", "native.cgroupdriver=cgroupfs",
		// Few networks, so that a test can use them up.
		"--default-address-pool", "base=172.30.0.0/20,size=24")
	host = "unix://" + d.socket
	importImage(tb, host)
	return host
}

// helperDirs are where packages put programs that only others start.
var helperDirs = []string{"/usr/lib/podman", "/usr/libexec/podman"}

// need ends a test where one of the programs is missing, by its package.
func need(tb testing.TB, packages map[string]string) {
	tb.Helper()
	for program, name := range packages {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		if slices.ContainsFunc(helperDirs, func(dir string) bool { _, err := exec.LookPath(filepath.Join(dir, program)); return err == nil }) {
			continue
		}
		testhost.Lacks(tb, "needs root and %s (package %s)", program, name)
	}
}

// daemon is a process that answers Docker's interface on a socket.
type daemon struct {
	tb     testing.TB
	name   string
	dir    string
	group  string // of its containers' processes
	socket string
	log    *os.File
	cmd    *exec.Cmd
	exited chan struct{}
}

// newDaemon makes the folder of a daemon. Its containers' processes are in a group
// of the folder's name, unless another is given.
func newDaemon(tb testing.TB, name, group string) *daemon {
	tb.Helper()
	dir, err := os.MkdirTemp("", "dt") // a test's own folder may be too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("data of the daemon: %v", err)
		}
	})
	return &daemon{tb: tb, name: name, dir: dir, group: cmp.Or(group, "/"+filepath.Base(dir)), socket: filepath.Join(dir, "docker.sock")}
}

// start runs a script that becomes the daemon as the child of unshare, which is
// killed with the thread that made it and takes all its processes with it.
func (d *daemon) start(script string, env []string, args ...string) {
	d.tb.Helper()
	var err error
	if d.log, err = os.Create(filepath.Join(d.dir, "log")); err != nil {
		d.tb.Fatal(err)
	}
	d.cmd = exec.Command("unshare", append([]string{"--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "sh", "-c", script, d.name}, args...)...)
	d.cmd.Dir, d.cmd.Env = d.dir, append(os.Environ(), env...) // Podman's monitors leave files where they are
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		d.tb.Fatal(err)
	}
	d.exited = make(chan struct{})
	go func() { _ = d.cmd.Wait(); close(d.exited) }() // how it ended is in its log
	d.tb.Cleanup(d.stop)
	d.awaitReady()
}

func (d *daemon) awaitReady() {
	d.tb.Helper()
	c := httpClient(d.socket)
	defer c.CloseIdleConnections()
	deadline := time.After(startTime)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(d.tb.Context(), http.MethodGet, "http://docker/_ping", nil)
		if err != nil {
			d.tb.Fatal(err)
		}
		if res, err := c.Do(req); err == nil {
			_ = res.Body.Close() // only its status counts
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-tick.C:
		case <-d.exited:
			d.tb.Fatalf("%s ended:\n%s", d.name, d.tail())
		case <-deadline:
			d.tb.Fatalf("%s does not answer after %s:\n%s", d.name, startTime, d.tail())
		}
	}
}

// httpClient talks to a daemon without a client's library.
func httpClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
}

// tail is the end of the daemon's log.
func (d *daemon) tail() string {
	text, err := os.ReadFile(filepath.Join(d.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4<<10):])
}

// stop asks the daemon to end, as it does when nothing runs any more, then makes
// it. The folders of its control groups are removed.
func (d *daemon) stop() {
	if d.tb.Failed() {
		d.tb.Logf("log of %s:\n%s", d.name, d.tail())
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		d.signal(sig)
		select {
		case <-d.exited:
			_ = d.log.Close()
			d.removeGroups()
			return
		case <-time.After(stopTime):
		}
	}
	d.tb.Errorf("%s does not end:\n%s", d.name, d.tail())
}

// signal signals the daemon, which is the one child of unshare.
func (d *daemon) signal(sig syscall.Signal) {
	pid := d.cmd.Process.Pid
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return // it has gone
	}
	for child := range strings.FieldsSeq(string(text)) {
		if n, err := strconv.Atoi(child); err == nil {
			_ = syscall.Kill(n, sig) // it may have gone
		}
	}
}

func (d *daemon) removeGroups() {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + d.group) // one pattern, which is right
	for _, root := range append(roots, "/sys/fs/cgroup"+d.group) {
		var all []string
		_ = filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		for i := len(all) - 1; i >= 0; i-- {
			_ = os.Remove(all[i]) // one that is busy stays until the next boot
		}
	}
}

// applets are what tests run in containers.
const applets = "sh true false echo printf cat sleep env id pwd ls mkdir touch rm stat head tail tr yes dd seq wc grep base64 kill ps test mount df nslookup hostname ping wget nc httpd sync date tty"

// needsLoader says whether a program is linked with libraries.
func needsLoader(tb testing.TB, program []byte) bool {
	tb.Helper()
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		tb.Fatal(err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return true
		}
	}
	return false
}

// importImage makes Image of the host's busybox.
func importImage(tb testing.TB, host string) {
	tb.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		tb.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if needsLoader(tb, program) {
		tb.Fatalf("%s needs libraries, which the image has not: install busybox-static", path)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, data []byte) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			tb.Fatal(err)
		}
	}
	for _, dir := range []string{"bin/", "etc/", "dev/", "proc/", "sys/", "root/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	for name := range strings.FieldsSeq(applets) {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000:worker:/tmp:/bin/sh\n"))
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nworker:x:1000:\n"))
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	Import(tb, host, Image, "", &buf)
}

// Import makes an image of an archive of its files, for the daemon's platform or
// the one that is given.
func Import(tb testing.TB, host, name, platform string, files io.Reader) {
	tb.Helper()
	c := httpClient(strings.TrimPrefix(host, "unix://"))
	defer c.CloseIdleConnections()
	query := url.Values{"fromSrc": {"-"}, "repo": {name}, "changes": {"ENV PATH=/bin", `CMD ["sh"]`}}
	if platform != "" {
		query.Set("platform", platform)
	}
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, "http://docker/v"+fakeVersion+"/images/create?"+query.Encode(), files)
	if err != nil {
		tb.Fatal(err)
	}
	res, err := c.Do(req)
	if err != nil {
		tb.Fatalf("import image %s: %v", name, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || strings.Contains(string(text), `"error"`) {
		tb.Fatalf("import image %s: %s %s %v", name, res.Status, text, err)
	}
}
