//go:build linux

package qemu_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
)

// The tests of this file use real machines, as many at a time as takeTurn lets
// through.

func TestCloneAnswersOnceIdentified(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	if err := d.Ping(bounded(t)); err != nil {
		t.Fatal(err)
	}
	g := machine(t, d, "one")
	got := find(t, d, "one")
	want := drivers.Instance{
		Ref: g.ref, Tags: specOf("one").Tags, Status: drivers.StatusRunning, Address: got.Address, Port: 9079,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	if a, err := netip.ParseAddr(got.Address); err != nil || !netip.MustParsePrefix(addressRange(dir)).Contains(a) {
		t.Errorf("address %s is not of the range, %v", got.Address, err)
	}
	// Harmless again, also from another process; refused for somebody else.
	for _, again := range []*qemu.Driver{d, open(t, dir)} {
		if err := again.Identify(bounded(t), g.ref, g.id); err != nil {
			t.Errorf("identify again: %v", err)
		}
	}
	if err := d.Identify(bounded(t), g.ref, identityOf(t, "two")); err == nil {
		t.Error("the machine took a second identity")
	}
	if out := g.run(`export OUT="$(hostname)"`); out != "one" {
		t.Errorf("host name is %q", out)
	}
	// The folder is private and has no secret in it.
	err := filepath.WalkDir(filepath.Join(dir, "machines", "one"), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.IsDir() && info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if info.Mode().IsRegular() {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if bytes.Contains(raw, []byte("PRIVATE KEY")) {
				t.Errorf("%s has a key in it", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestQEMURunsWithoutPrivileges(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	uids := map[string]bool{}
	for _, ref := range []drivers.Ref{created(t, d, "one"), created(t, d, "two")} {
		pids := processes(dir, ref.Name)
		if len(pids) != 1 {
			t.Fatalf("processes of %s: %v", ref.Name, pids)
		}
		raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pids[0]), "status"))
		if err != nil {
			t.Fatal(err)
		}
		status := map[string]string{}
		for line := range strings.Lines(string(raw)) {
			key, value, _ := strings.Cut(line, ":")
			status[key] = strings.TrimSpace(value)
		}
		if status["Seccomp"] != "2" || strings.Trim(status["CapEff"], "0") != "" && os.Geteuid() == 0 {
			t.Errorf("%s: Seccomp %s, CapEff %s", ref.Name, status["Seccomp"], status["CapEff"])
		}
		if status["THP_enabled"] == "1" {
			t.Errorf("%s takes huge pages", ref.Name)
		}
		uids[status["Uid"]] = true
		if os.Geteuid() == 0 && !strings.HasPrefix(status["Uid"], "1900") {
			t.Errorf("%s runs as %s", ref.Name, status["Uid"])
		}
		sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pids[0]), 0, 0)
		if errno != 0 || int(sid) != pids[0] {
			t.Errorf("%s is in session %d", ref.Name, sid)
		}
	}
	if os.Geteuid() == 0 && len(uids) != 2 {
		t.Errorf("two machines share a user: %v", uids)
	}
}

func TestClonesShareNothingRandom(t *testing.T) {
	t.Parallel()
	d, _ := fresh(t)
	seen := map[string]string{}
	for _, name := range []string{"one", "two", "three"} {
		g := machine(t, d, name)
		out := g.run(`export OUT="$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n') $(cat /proc/sys/kernel/random/boot_id)"`)
		values := strings.Fields(out)
		if len(values) != 2 || len(values[0]) != 32 || len(values[1]) != 36 {
			t.Fatalf("%s says %q", name, out)
		}
		for _, value := range values {
			if other, ok := seen[value]; ok {
				t.Errorf("%s has the random bytes or the boot id of %s: %s", name, other, value)
			}
			seen[value] = name
		}
		if errs := d.Destroy(bounded(t), []drivers.Ref{g.ref}, drivers.DestroyOptions{}); errs[0] != nil {
			t.Fatal(errs[0])
		}
	}
}

func TestNoWayOut(t *testing.T) {
	t.Parallel()
	d, _ := fresh(t)
	g := machine(t, d, "one")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if out := g.run(`if nc -w 2 10.0.2.2 ` + port + ` </dev/null; then OUT=reached; else OUT=refused; fi; export OUT`); out != "refused" {
		t.Error("a machine reaches the host's loopback")
	}
}

func TestPauseUsesNoCPUAndUnpausePutsTheClockRight(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	g := machine(t, d, "one")
	g.spoilClock()
	for range 2 {
		if err := d.Pause(bounded(t), g.ref); err != nil {
			t.Fatal(err)
		}
	}
	if got := find(t, d, "one").Status; got != drivers.StatusPaused {
		t.Errorf("listed as %s", got)
	}
	if err := d.Identify(bounded(t), g.ref, g.id); err == nil || !strings.Contains(err.Error(), "paused") {
		t.Errorf("identify of a paused machine: %v", err)
	}
	pid := processes(dir, "one")[0]
	before := cpuTicks(t, pid)
	wait(t, time.Second) // the thing measured is a stretch of time
	if used := cpuTicks(t, pid) - before; used > 10 {
		t.Errorf("a paused machine used %d ticks of 10 ms in a second", used)
	}
	for range 2 {
		if err := d.Unpause(bounded(t), g.ref); err != nil {
			t.Fatal(err)
		}
	}
	if got := find(t, d, "one").Status; got != drivers.StatusRunning {
		t.Errorf("listed as %s", got)
	}
	g.healthy() // on the connection that was kept
	g.checkClock()
}

// spoil is how far spoilClock puts a machine's clock back: so much that no host
// is slow enough to make a clock that was put right look like one that was not.
const spoil = 12 * time.Hour

// spoilClock makes the machine's clock wrong, as a pause of so long would.
func (g *guest) spoilClock() {
	g.tb.Helper()
	out := g.run(fmt.Sprintf(`date -s @%d >/dev/null; export OUT="$(date +%%s)"`, time.Now().Add(-spoil).Unix()))
	seconds, err := strconv.ParseInt(out, 10, 64)
	if behind := time.Since(time.Unix(seconds, 0)); err != nil || behind < spoil/2 {
		g.tb.Fatalf("the clock could not be put back: it says %q", out)
	}
}

// checkClock finds the machine's clock between what the host's was before and
// after it was read, but for what a slow host takes to tell the machine.
func (g *guest) checkClock() {
	g.tb.Helper()
	before := time.Now()
	out := g.run(`export OUT="$(date +%s)"`)
	after := time.Now()
	seconds, err := strconv.ParseInt(out, 10, 64)
	if err != nil {
		g.tb.Fatal(err)
	}
	if clock := time.Unix(seconds, 0); clock.Before(before.Add(-patience)) || clock.After(after.Add(time.Second)) {
		g.tb.Errorf("the machine's clock says %v, the host's %v before and %v after", clock, before, after)
	}
}

// cpuTicks is what a process has used, in ticks of 10 ms.
func cpuTicks(t *testing.T, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+2:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return user + system
}

func wait(t *testing.T, how time.Duration) {
	t.Helper()
	select {
	case <-time.After(how):
	case <-t.Context().Done():
	}
}

func TestSuspendedMachineKeepsWhatItHad(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	g := machine(t, d, "one")
	const sum = `export OUT="$(md5sum /tmp/f | cut -c1-32) $(cat /proc/sys/kernel/random/boot_id)"`
	g.run(`head -c 3000000 /dev/urandom >/tmp/f; export OUT=x`)
	want := g.run(sum)
	address := find(t, d, "one").Address
	// From each state it can be in, and by a runner that has just started.
	for _, from := range []string{"running", "paused"} {
		g.spoilClock()
		if from == "paused" {
			if err := d.Pause(bounded(t), g.ref); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if err := d.Suspend(bounded(t), g.ref); err != nil {
				t.Fatalf("from %s: %v", from, err)
			}
		}
		if got := find(t, d, "one"); got.Status != drivers.StatusSuspended || got.Address != address {
			t.Errorf("from %s: listed as %s at %s", from, got.Status, got.Address)
		}
		if pids := processes(dir, "one"); len(pids) != 0 {
			t.Errorf("from %s: QEMU still runs: %v", from, pids)
		}
		info, err := os.Stat(filepath.Join(dir, "machines", "one", "state"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("state file: %v, %v", info, err)
		}
		if err := d.Unpause(bounded(t), g.ref); err == nil {
			t.Error("a suspended machine was unpaused")
		}
		d = open(t, dir)
		for range 2 { // the second finds it running
			i, err := d.Resume(bounded(t), g.ref)
			if err != nil {
				t.Fatalf("from %s: %v", from, err)
			}
			g.at(i)
		}
		if got := g.run(sum); got != want {
			t.Errorf("from %s: file and boot are %s, want %s", from, got, want)
		}
		g.checkClock()
		if _, err := os.Stat(filepath.Join(dir, "machines", "one", "state")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("state file of a running machine: %v", err)
		}
	}
	if err := d.Pause(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Resume(bounded(t), g.ref); err != nil {
		t.Errorf("resume of a paused machine: %v", err)
	}
	g.healthy()
}

func TestASaveThatIsGivenUpLeavesTheMachineRunning(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	ref := created(t, d, "one")
	runs := func() {
		t.Helper()
		if state, err := d.AskMonitor(bounded(t), "one"); state != "running" || err != nil {
			t.Fatalf("QEMU says %q, %v", state, err)
		}
	}
	// Whenever that is: before, in the middle of writing, or too late.
	gaveUp := 0
	for _, after := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		err := d.Suspend(ctx, ref)
		cancel()
		if err == nil || find(t, d, "one").Status == drivers.StatusSuspended {
			if _, err := d.Resume(bounded(t), ref); err != nil {
				t.Fatalf("given up after %v: %v", after, err)
			}
			continue
		}
		gaveUp++
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("given up after %v: %v", after, err)
		}
		t.Logf("given up after %v: %v", after, err)
		runs()
		if left, err := filepath.Glob(filepath.Join(dir, "machines", "one", "state*")); err != nil || len(left) != 0 {
			t.Errorf("given up after %v, left: %v, %v", after, left, err)
		}
	}
	if gaveUp == 0 {
		t.Error("no save was given up")
	}
	runs()
}

func TestKilledQEMUIsListedAsDeadUntilDestroyed(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	ref := created(t, d, "one")
	if err := syscall.Kill(processes(dir, "one")[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return find(t, d, "one").Status == drivers.StatusDead })
	if got := find(t, d, "one").Reason; !strings.Contains(got, "killed") {
		t.Errorf("reason %q does not say that it was killed", got)
	}
	if got := find(t, open(t, dir), "one"); got.Status != drivers.StatusDead || got.Reason == "" {
		t.Errorf("another runner lists %+v", got)
	}
	for what, err := range map[string]error{
		"pause":    d.Pause(bounded(t), ref),
		"unpause":  d.Unpause(bounded(t), ref),
		"identify": d.Identify(bounded(t), ref, identityOf(t, "one")),
		"suspend":  d.Suspend(bounded(t), ref),
	} {
		if err == nil || !strings.Contains(err.Error(), "machine has ended") {
			t.Errorf("%s of a dead machine: %v", what, err)
		}
	}
	if _, err := d.Resume(bounded(t), ref); err == nil || !strings.Contains(err.Error(), "was not saved to disk") {
		t.Errorf("resume of a dead machine: %v", err)
	}
	var console bytes.Buffer
	if err := d.Console(bounded(t), ref, &console, 10); err != nil || console.Len() > 10 {
		t.Errorf("console of a dead machine: %q, %v", console.String(), err)
	}
	// The same name again is the same machine, dead as it is.
	if again, err := d.Create(bounded(t), specOf("one")); err != nil || again != ref {
		t.Errorf("create again: %v, %v", again, err)
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("did not come true")
		}
		wait(t, 5*time.Millisecond)
	}
}

func TestDestroyLeavesNothing(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	ref := created(t, d, "one")
	address := find(t, d, "one").Address
	if err := d.Suspend(bounded(t), created(t, d, "two")); err != nil {
		t.Fatal(err)
	}
	refs := []drivers.Ref{{Name: "never"}, {Name: "one"}, {Name: "../images"}, {Name: "two"}, ref}
	errs := d.Destroy(bounded(t), refs, drivers.DestroyOptions{})
	for i, err := range errs {
		if bad := refs[i].Name == "../images"; bad != (err != nil) {
			t.Errorf("%s: %v", refs[i].Name, err)
		}
	}
	if !errors.Is(errs[2], drivers.ErrInvalid) {
		t.Errorf("a name outside: %v, want ErrInvalid", errs[2])
	}
	nothingLeft(t, dir)
	if conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, "9079"), time.Second); err == nil {
		_ = conn.Close()
		t.Error("something still listens at the address")
	}
	// Its address can be had again.
	created(t, d, "one")
	if again := find(t, d, "one").Address; again != address {
		t.Errorf("the same name has %s now, was %s", again, address)
	}
}

func TestDestroyEndsAStoppedQEMU(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	ref := created(t, d, "one")
	pid := processes(dir, "one")[0]
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil { // hangs, answers nothing
		t.Fatal(err)
	}
	if got := find(t, d, "one").Status; got != drivers.StatusRunning {
		t.Errorf("a QEMU that hangs is listed as %s", got)
	}
	// The file that says which process it is names another by now.
	bystander := exec.Command("sleep", "600")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := bystander.Process.Kill(); err != nil {
			t.Errorf("the bystander was killed: %v", err)
		}
		_ = bystander.Wait() // it was killed just now
	}()
	if err := os.WriteFile(filepath.Join(dir, "machines", "one", "pid"), []byte(strconv.Itoa(bystander.Process.Pid)), 0o600); err != nil {
		t.Fatal(err)
	}
	if errs := d.Destroy(bounded(t), []drivers.Ref{ref}, drivers.DestroyOptions{}); errs[0] != nil {
		t.Fatal(errs[0])
	}
	nothingLeft(t, dir)
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the bystander: %v", err)
	}
}

func TestCreateWithTheSameNameIsOneMachine(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	other := open(t, dir)
	type result struct {
		ref drivers.Ref
		err error
	}
	results := make(chan result)
	for i := range 4 {
		go func() {
			ref, err := []*qemu.Driver{d, other}[i%2].Create(bounded(t), specOf("one"))
			results <- result{ref, err}
		}()
	}
	for range 4 {
		if r := <-results; r.err != nil || r.ref.Name != "one" {
			t.Errorf("create: %+v", r)
		}
	}
	if pids := processes(dir, "one"); len(pids) != 1 {
		t.Errorf("%d QEMUs of one machine", len(pids))
	}
}

func TestTwoDriversOnOneDirectory(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	other := open(t, dir)
	g := machine(t, d, "one")
	h := machine(t, other, "two")
	if g.addr == h.addr {
		t.Errorf("both have %s", g.addr)
	}
	done := make(chan error)
	for i, by := range []*qemu.Driver{d, other} {
		go func() {
			ref := []drivers.Ref{h.ref, g.ref}[i]
			var errs []error
			for range 10 {
				_, err := by.List(bounded(t), drivers.Query{})
				errs = append(errs, by.Pause(bounded(t), ref), by.Unpause(bounded(t), ref), err)
			}
			done <- errors.Join(errs...)
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	g.healthy()
	h.healthy()
	l, err := other.List(bounded(t), drivers.Query{Controller: "somebody else"})
	if err != nil || len(l.Instances) != 0 || !l.Complete {
		t.Errorf("machines of another controller: %+v, %v", l, err)
	}
	if d.Scope() != other.Scope() || d.Scope() != "qemu:"+dir {
		t.Errorf("scopes %q and %q", d.Scope(), other.Scope())
	}
}

func TestUserDataRunsBeforeTheMachineIsReady(t *testing.T) {
	t.Parallel()
	d, _ := fresh(t, func(c *qemu.Config) { c.UserData = "#!/bin/sh\necho from user data >/etc/made\n" })
	g := machine(t, d, "one")
	if out := g.run(`export OUT="$(cat /etc/made)"`); out != "from user data" {
		t.Errorf("the script left %q", out)
	}
}

func TestNoRoomIsSaidWithNumbers(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	ref := created(t, d, "one") // the template is there, and one machine to save
	const gib = int64(1) << 30
	for name, tc := range map[string]struct {
		total, available, disk int64
		call                   func() error
		want                   string
	}{
		"memory for a machine": {
			8 * gib, 300 << 20, 10 * gib,
			func() error { _, err := d.Create(bounded(t), specOf("two")); return err },
			"this host has 300 MiB of memory available and keeps 409 MiB; the machine needs 192 MiB",
		},
		"disk for a machine": {
			8 * gib, 8 * gib, 10 << 20,
			func() error { _, err := d.Create(bounded(t), specOf("two")); return err },
			"has 10 MiB free and keeps 64 MiB; 0 MiB are needed",
		},
		"disk for a save": {
			8 * gib, 8 * gib, 100 << 20,
			func() error { return d.Suspend(bounded(t), ref) },
			"has 100 MiB free and keeps 64 MiB; 128 MiB are needed",
		},
	} {
		d.SetHost(tc.total, tc.available, tc.disk)
		err := tc.call()
		if !errors.Is(err, drivers.ErrCapacity) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want ErrCapacity with %q", name, err, tc.want)
		}
	}
	if left := folders(t, dir); len(left) != 1 {
		t.Errorf("folders: %v, want that of the first only", left)
	}
	if got := find(t, d, "one").Status; got != drivers.StatusRunning {
		t.Errorf("after a suspend that was refused: %s", got)
	}
}

func TestCreateRefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	for name, change := range map[string]func(*drivers.Spec){
		"another image":    func(s *drivers.Spec) { s.Image = "debian" },
		"a disk":           func(s *drivers.Spec) { s.DiskGiB = 10 },
		"too little":       func(s *drivers.Spec) { s.MachineType = "1x16" },
		"an odd size":      func(s *drivers.Spec) { s.MachineType = "n1-standard-1" },
		"a name outside":   func(s *drivers.Spec) { s.Name = "../one" },
		"a name too long":  func(s *drivers.Spec) { s.Name = strings.Repeat("a", 64) },
		"a name of digits": func(s *drivers.Spec) { s.Name = "01" },
	} {
		spec := specOf("one")
		change(&spec)
		if _, err := d.Create(bounded(t), spec); !errors.Is(err, drivers.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if left := folders(t, dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestARequestMayAskForAnotherSize(t *testing.T) {
	t.Parallel()
	d, _ := fresh(t)
	ctx := bounded(t)
	spec := specOf("one")
	spec.MachineType = "1x192"
	ref, err := d.Create(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{tb: t, ref: ref, id: identityOf(t, "one")}
	if err := d.Identify(ctx, ref, g.id); err != nil {
		t.Fatal(err)
	}
	g.at(find(t, d, "one"))
	out := g.run(`export OUT="$(grep MemTotal /proc/meminfo | tr -dc 0-9)"`)
	if kb, err := strconv.Atoi(out); err != nil || kb < 140<<10 || kb > 192<<10 {
		t.Errorf("memory of the machine is %s kB", out)
	}
}

func TestAcceleratorIsChosenWithAReason(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	v, err := d.Accelerator(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(raw, []byte(" svm ")) && !bytes.Contains(raw, []byte(" vmx ")) {
		if v.Accel != qemu.AccelTCG || !strings.Contains(v.Reason, "no svm or vmx") {
			t.Errorf("got %+v, want tcg because there is no svm or vmx", v)
		}
		k := open(t, dir, func(c *qemu.Config) { c.Accelerator = qemu.AccelKVM })
		if _, err := k.Create(bounded(t), specOf("one")); !errors.Is(err, drivers.ErrInvalid) || !strings.Contains(err.Error(), "no svm or vmx") {
			t.Errorf("kvm asked for: %v", err)
		}
	}
	again, err := open(t, dir).Accelerator(bounded(t))
	if err != nil || again != v {
		t.Errorf("second time: %+v, %v, want %+v", again, err, v)
	}
}
