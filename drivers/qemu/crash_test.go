//go:build linux

package qemu_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
)

// child is this test program as another runner. Its role says what it does on
// the data directory in QEMU_TEST_DIR; many of them end by SIGKILL.
func child(role string) int {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cfg := qemu.NewConfig()
	cfg.AddressRange, cfg.UserData = os.Getenv("QEMU_TEST_RANGE"), os.Getenv("QEMU_TEST_USER_DATA")
	d, err := qemu.New(options(os.Getenv("QEMU_TEST_DIR"), cfg, os.Stderr))
	if err == nil {
		verb, arg, _ := strings.Cut(role, ":")
		err = map[string]func(context.Context, *qemu.Driver, string) error{
			"create": crashInCreate, "save": crashInSave, "resume": crashInResume, "run": runAndHang, "allocate": allocateMany, "warm": crashInTemplate,
			"full": onFullDisk, "disk": crashInDisk, "crowd": onCrowdedDisk,
		}[verb](ctx, d, arg)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// dieAt ends the process as kill -9 does when the driver comes to a phase.
func dieAt(d *qemu.Driver, phase string) {
	d.SetHook(func(at string) {
		if at == phase {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
}

func crashInCreate(ctx context.Context, d *qemu.Driver, phase string) error {
	dieAt(d, phase)
	_, err := d.Create(ctx, specOf("one"))
	return errors.Join(err, errors.New("it did not come to "+phase))
}

func crashInDisk(ctx context.Context, d *qemu.Driver, phase string) error {
	dieAt(d, phase)
	return errors.Join(d.MakeDisks(ctx, withDisks("one", "home")), errors.New("it did not come to "+phase))
}

func crashInSave(ctx context.Context, d *qemu.Driver, phase string) error {
	dieAt(d, phase)
	return errors.Join(d.Suspend(ctx, drivers.Ref{Name: "one"}), errors.New("it did not come to "+phase))
}

func crashInResume(ctx context.Context, d *qemu.Driver, phase string) error {
	dieAt(d, phase)
	_, err := d.Resume(ctx, drivers.Ref{Name: "one"})
	return errors.Join(err, errors.New("it did not come to "+phase))
}

// crashInTemplate makes a template and is killed from outside.
func crashInTemplate(ctx context.Context, d *qemu.Driver, _ string) error { return d.WarmTemplate(ctx) }

// runAndHang creates and identifies a machine, tells so and waits to be killed.
func runAndHang(ctx context.Context, d *qemu.Driver, _ string) error {
	ref, err := d.Create(ctx, specOf("one"))
	if err != nil {
		return err
	}
	var id drivers.Identity
	if err := gob.NewDecoder(os.Stdin).Decode(&id); err != nil {
		return err
	}
	if err := d.Identify(ctx, ref, id); err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	return ctx.Err()
}

// allocateMany makes folders until all addresses of a small range are gone.
func allocateMany(ctx context.Context, d *qemu.Driver, prefix string) error {
	for i := range 20 {
		address, err := d.Allocate(ctx, fmt.Sprintf("%s-%d", prefix, i))
		if err != nil {
			return err
		}
		fmt.Println(address)
	}
	return nil
}

// onFullDisk has a machines folder of a few megabytes, in a mount namespace of
// its own, and shows what a full disk does to a create and to a suspend.
func onFullDisk(ctx context.Context, d *qemu.Driver, _ string) error {
	machines := filepath.Join(os.Getenv("QEMU_TEST_DIR"), "machines")
	if err := onOwnMount(machines, "size=4m,mode=700"); err != nil {
		return err
	}
	d.SetHost(8<<30, 8<<30, 1<<40) // the check before says that there is room
	ref, err := d.Create(ctx, specOf("one"))
	if err != nil {
		return err
	}
	defer d.Destroy(ctx, []drivers.Ref{ref}, drivers.DestroyOptions{})
	err = d.Suspend(ctx, ref)
	if !errors.Is(err, drivers.ErrCapacity) || !strings.Contains(err.Error(), "MiB free") {
		return fmt.Errorf("suspend on a full disk: %w, want ErrCapacity with a number", err)
	}
	if left, err := filepath.Glob(filepath.Join(machines, "one", "state*")); err != nil || len(left) != 0 {
		return fmt.Errorf("left of the state: %v, %w", left, err)
	}
	l, err := d.List(ctx, drivers.Query{})
	if err != nil || len(l.Instances) != 1 || l.Instances[0].Status != drivers.StatusRunning {
		return fmt.Errorf("after a suspend that failed: %+v, %w", l, err)
	}
	if err := d.Unpause(ctx, ref); err != nil { // it goes on and answers
		return err
	}
	filler := filepath.Join(machines, ".filler")
	if err := os.WriteFile(filler, make([]byte, 8<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("fill the disk: %w", err)
	}
	_, err = d.Create(ctx, specOf("two"))
	if !errors.Is(err, drivers.ErrCapacity) {
		return fmt.Errorf("create on a full disk: %w, want ErrCapacity", err)
	}
	entries, err := os.ReadDir(machines)
	for _, e := range entries {
		if strings.Contains(e.Name(), "two") {
			return fmt.Errorf("%s was left", e.Name())
		}
	}
	for _, err := range d.Destroy(ctx, []drivers.Ref{ref}, drivers.DestroyOptions{}) {
		if err != nil {
			return fmt.Errorf("destroy on a full disk: %w", err)
		}
	}
	return err
}

// onOwnMount mounts a tmpfs in a mount namespace of this process alone.
func onOwnMount(folder, options string) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("own mounts: %w", err)
	}
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, options); err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	return nil
}

func TestAFullDiskLosesAndLeavesNothing(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	if err := d.WarmTemplate(bounded(t)); err != nil {
		t.Fatal(err)
	}
	cmd, stderr := asRunner(t, dir, "full")
	ownMounts(cmd)
	if err := cmd.Run(); err != nil {
		t.Errorf("%v\n%s", err, stderr)
	}
}

// ownMounts gives a process a mount namespace in which it may mount.
func ownMounts(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // to mount, as somebody who is not root
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	}
}

// asRunner starts this program in a role.
func asRunner(t *testing.T, dir, role string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "QEMU_TEST_CHILD="+role, "QEMU_TEST_DIR="+dir, "QEMU_TEST_RANGE="+addressRange(dir))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	return cmd, &stderr
}

// killedIn runs a role that ends by SIGKILL.
func killedIn(t *testing.T, dir, role string) {
	t.Helper()
	cmd, stderr := asRunner(t, dir, role)
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%s: %v\n%s", role, err, stderr)
	}
}

func TestRunnerKilledInsideCreate(t *testing.T) {
	t.Parallel()
	for _, phase := range qemu.CreatePhases {
		t.Run(phase+", then destroyed", func(t *testing.T) {
			t.Parallel()
			d, dir := fresh(t)
			if err := d.WarmTemplate(bounded(t)); err != nil {
				t.Fatal(err)
			}
			killedIn(t, dir, "create:"+phase)
			got := find(t, d, "one")
			if got.Tags.Controller != "c1" || got.Tags.Instance != "i-one" {
				t.Errorf("listed without its tags: %+v", got)
			}
			if got.Status == drivers.StatusRunning {
				t.Errorf("listed as running: %+v", got)
			}
			if errs := d.Destroy(bounded(t), []drivers.Ref{{Name: "one"}}, drivers.DestroyOptions{}); errs[0] != nil {
				t.Fatal(errs[0])
			}
			nothingLeft(t, dir)
		})
		t.Run(phase+", then created again", func(t *testing.T) {
			t.Parallel()
			d, dir := fresh(t)
			if err := d.WarmTemplate(bounded(t)); err != nil {
				t.Fatal(err)
			}
			killedIn(t, dir, "create:"+phase)
			machine(t, d, "one")
			if pids := processes(dir, "one"); len(pids) != 1 {
				t.Errorf("processes: %v, want one", pids)
			}
		})
	}
}

func TestRunnerKilledWhileAMachineRuns(t *testing.T) {
	t.Parallel()
	_, dir := fresh(t)
	cmd, stderr := asRunner(t, dir, "run")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id := identityOf(t, "one")
	if err := gob.NewEncoder(stdin).Encode(id); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("ready\n"))
	if _, err := io.ReadFull(stdout, line); err != nil || string(line) != "ready\n" {
		_ = cmd.Process.Kill() // unless it has ended
		t.Fatalf("child: %q, %v, %v\n%s", line, err, cmd.Wait(), stderr)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed

	d := open(t, dir)
	got := find(t, d, "one")
	if got.Status != drivers.StatusRunning {
		t.Fatalf("listed as %+v", got)
	}
	g := &guest{tb: t, ref: got.Ref, id: id}
	g.at(got)
	g.healthy()
	if err := d.Identify(bounded(t), got.Ref, id); err != nil {
		t.Errorf("identify: %v", err)
	}
	if err := errors.Join(d.Pause(bounded(t), got.Ref), d.Unpause(bounded(t), got.Ref)); err != nil {
		t.Error(err)
	}
	g.healthy()
}

func TestRunnerKilledInsideSuspendAndResume(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	g := machine(t, d, "one")
	g.run(`echo kept >/tmp/f; export OUT=x`)
	killedIn(t, dir, "save:"+qemu.SavePhases[0])
	if got := find(t, d, "one").Status; got == drivers.StatusRunning || got == drivers.StatusDead {
		t.Errorf("after a save that was not ended: %s", got)
	}
	if err := d.Suspend(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	if got := find(t, d, "one").Status; got != drivers.StatusSuspended {
		t.Errorf("listed as %s", got)
	}
	killedIn(t, dir, "resume:"+qemu.SavePhases[1])
	i, err := d.Resume(bounded(t), g.ref)
	if err != nil {
		t.Fatal(err)
	}
	g.at(i)
	if out := g.run(`export OUT="$(cat /tmp/f)"`); out != "kept" {
		t.Errorf("the file has %q", out)
	}
	// Killed between loading and the answer, and then QEMU too: the file is
	// still there, and nothing is lost.
	if err := d.Suspend(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	killedIn(t, dir, "resume:"+qemu.SavePhases[1])
	if err := syscall.Kill(processes(dir, "one")[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return find(t, d, "one").Status == drivers.StatusSuspended })
	if i, err = d.Resume(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	g.at(i)
	if out := g.run(`export OUT="$(cat /tmp/f)"`); out != "kept" {
		t.Errorf("the file has %q", out)
	}
}

func TestRunnerKilledWhileItMakesATemplate(t *testing.T) {
	t.Parallel()
	takeTurn(t)
	dir := emptyDir(t) // its own templates
	if err := os.Symlink(sharedDir(t)+"/images", dir+"/images"); err != nil {
		t.Fatal(err)
	}
	cmd, stderr := asRunner(t, dir, "warm")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return len(templateQEMUs(dir)) == 1 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if len(templateQEMUs(dir)) != 1 {
		t.Fatalf("QEMU ended with its runner:\n%s", stderr)
	}
	d := open(t, dir)
	t.Cleanup(func() { cleanUp(t, d, dir) })
	if qemus := templateQEMUs(dir); len(qemus) != 0 {
		t.Errorf("left after a restart: %v", qemus)
	}
	machine(t, d, "one")
	if qemus := templateQEMUs(dir); len(qemus) != 0 {
		t.Errorf("left after the template was made: %v", qemus)
	}
}

// templateQEMUs are the processes of templates being made in a directory.
func templateQEMUs(dir string) []int {
	return qemusIn(dir + "/templates/.new-")
}

func TestAddressesAreGivenOnceAcrossProcesses(t *testing.T) {
	t.Parallel()
	dir := emptyDir(t)
	const runners = 4
	outputs := make(chan string, runners)
	for i := range runners {
		cmd, stderr := asRunner(t, dir, fmt.Sprintf("allocate:m%d", i))
		go func() {
			out, err := cmd.Output()
			if err != nil {
				outputs <- fmt.Sprintf("%v: %s", err, stderr)
				return
			}
			outputs <- string(out)
		}()
	}
	seen := map[string]bool{}
	for range runners {
		lines := strings.Fields(<-outputs)
		if len(lines) != 20 {
			t.Fatalf("a runner says %q", lines)
		}
		for _, address := range lines {
			if seen[address] {
				t.Errorf("%s was given twice", address)
			}
			seen[address] = true
		}
	}
}
