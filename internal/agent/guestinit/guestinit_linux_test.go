package guestinit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

var discard = slog.New(slog.DiscardHandler)

func TestPortIsFoundByItsName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, ok := findPort(dir); ok {
		t.Error("found a port where there is none")
	}
	for dev, name := range map[string]string{"vport0p1": "org.qemu.guest_agent.0\n", "vport2p1": guestlink.PortName + "\n", "vport3p1": ""} {
		if err := os.MkdirAll(filepath.Join(dir, dev), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, dev, "name"), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok := findPort(dir); !ok || got != "vport2p1" {
		t.Errorf("found %q, %v", got, ok)
	}
}

func TestDiskIsFoundByItsSerialNumber(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, serial := range map[string]string{"vda": "disk-10\n", "vdb": "disk-1\x00\x00", "vdc": "", "vdd": "disk-0"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "serial"), []byte(serial), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for serial, want := range map[string]string{"disk-0": "/dev/vdd", "disk-1": "/dev/vdb", "disk-10": "/dev/vda"} {
		if got, err := awaitDisk(t.Context(), dir, serial, time.Minute); err != nil || got != want {
			t.Errorf("%s is %q, %v, want %s", serial, got, err, want)
		}
	}
	if got, err := awaitDisk(t.Context(), dir, "disk-2", time.Millisecond); err == nil || !strings.Contains(err.Error(), "disk-2") {
		t.Errorf("a disk that is not there is %q, %v", got, err)
	}
}

func TestHandoverReachesTheNewProcess(t *testing.T) {
	t.Parallel()
	socks, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := guestlink.Request{
		Seq: 77, Op: guestlink.OpIdentify, Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Entropy: []byte("e"),
		Identity: &guestlink.Identity{Machine: "m", Key: bytes.Repeat([]byte("k"), 200<<10)},
	}
	mem, err := giveHandover(want)
	if err != nil {
		t.Fatal(err)
	}
	h, err := takeHandover(fmt.Sprintf("%d,%d", mem, socks[0]))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, h.request); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if flags, err := unix.FcntlInt(uintptr(h.port.fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the identity port would reach the steps: %#x, %v", flags, err)
	}
	if _, err := unix.FcntlInt(uintptr(mem), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("the memory with the key stays open: %v", err)
	}
	if _, err := h.port.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := unix.Read(socks[1], buf); err != nil || string(buf[:n]) != "ping" {
		t.Errorf("the port carries %q, %v", buf[:n], err)
	}
	if err := unix.Close(socks[1]); err != nil {
		t.Fatal(err)
	}
	if n, err := h.port.Read(buf); n != 0 || err != nil {
		t.Errorf("a read without a host is %d, %v; want nothing", n, err)
	}
	if err := unix.Close(socks[0]); err != nil {
		t.Fatal(err)
	}
}

func TestABrokenHandoverIsAnError(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x", "1", "9999,9998", "-1,-1"} {
		if _, err := takeHandover(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestMachineIDs(t *testing.T) {
	t.Parallel()
	a, b := machineID("a"), machineID("b")
	if len(a) != 32 || strings.Trim(a, "0123456789abcdef") != "" || a == b || a != machineID("a") {
		t.Errorf("machine ids %q and %q", a, b)
	}
}

func TestNetworkAddresses(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{"10.0.2.15/24": true, "10.0.2.15": false, "fd00::1/64": false, "10.0.2.15/33": false, "x": false} {
		if _, err := parsePrefix(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := configureNetwork("", ""); err != nil {
		t.Errorf("no address: %v", err)
	}
	for _, gateway := range []string{"x", "fd00::1", "10.0.2.2/24"} {
		if err := addDefaultRoute(gateway); err == nil {
			t.Errorf("gateway %q is taken", gateway)
		}
	}
}

func TestModulesThatCannotBeLoadedDoNotStopTheOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	list := filepath.Join(dir, "modules")
	if err := os.WriteFile(list, []byte("# first\n\n"+dir+"/a.ko\n  "+dir+"/b.ko.xz \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	loadModules(list, slog.New(slog.NewTextHandler(&log, nil)))
	if n := strings.Count(log.String(), "module not loaded"); n != 2 {
		t.Errorf("%d modules reported, want 2:\n%s", n, &log)
	}
	log.Reset()
	loadModules(filepath.Join(dir, "none"), slog.New(slog.NewTextHandler(&log, nil)))
	if log.Len() > 0 {
		t.Errorf("no list at all is reported: %s", &log)
	}
}

// TestUserData is not parallel: a fork beside it could hold the script open
// for writing, and it would not start.
func TestUserData(t *testing.T) {
	r := newReaper(discard)
	cases := []struct{ name, script, want string }{
		{"none", "", ""},
		{"succeeds", "echo fine", ""},
		{"names its interpreter", "#!/bin/sh\nexit 0\n", ""},
		{"leaves something in the background", "sleep 5 & exit 0", ""},
		{"fails", "echo no disk >&2; exit 3", "user data: exit status 3: no disk"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			err := runScript(ctx, r, filepath.Join(t.TempDir(), "user-data"), c.script, discard)
			if got := errorText(err); got != c.want {
				t.Errorf("error %q, want %q", got, c.want)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

var _ agent.Spawner = (*reaper)(nil)

// TestReaperCollectsOnlyWhatItInherits makes this process the parent of
// orphans, as process 1 is. Not parallel: other tests' children would be
// collected too.
func TestReaperCollectsOnlyWhatItInherits(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	}()
	r := newReaper(discard)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); r.run(ctx) }()
	defer func() { cancel(); <-done }()

	pidFile := filepath.Join(t.TempDir(), "pid")
	for range 30 {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "(sh -c 'echo $$ > "+pidFile+"' &) ; exit 5")
		if err := r.Start(cmd); err != nil {
			t.Fatal(err)
		}
		err := cmd.Wait()
		r.Exited(cmd)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 5 {
			t.Fatalf("our own child's status is %v, want 5", err)
		}
	}
	deadline := time.Now().Add(time.Minute)
	for {
		pid, err := firstDead()
		if errors.Is(err, unix.ECHILD) {
			return // no child is left, dead or alive
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d is not collected: %v", pid, err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestRunIsForProcessOneOnly(t *testing.T) {
	t.Parallel()
	if err := Run(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "runner-agent server") {
		t.Errorf("error %v", err)
	}
}
