//go:build linux

package qemu_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
)

// firstFolder is where a machine has the first of its disks.
const firstFolder = "/mnt/disks/mountdevcontainer"

// withDisks is a spec of a gitspace with persistent disks.
func withDisks(name string, disks ...string) drivers.Spec {
	spec := specOf(name)
	spec.Tags.Kind = "gitspace"
	for _, k := range disks {
		spec.Disks = append(spec.Disks, drivers.DiskSpec{Name: k, SizeGiB: 1})
	}
	return spec
}

// gitspace makes a machine with disks, which answers.
func gitspace(tb testing.TB, d *qemu.Driver, spec drivers.Spec) *guest {
	tb.Helper()
	ref, err := d.Create(bounded(tb), spec)
	if err != nil {
		tb.Fatal(err)
	}
	g := &guest{tb: tb, ref: ref, id: identityOf(tb, spec.Name)}
	g.identify(d)
	return g
}

// identify gives a machine that has booted its identity and finds that it
// answers.
func (g *guest) identify(d *qemu.Driver) {
	g.tb.Helper()
	if err := d.Identify(bounded(g.tb), g.ref, g.id); err != nil {
		g.tb.Fatal(err)
	}
	g.at(find(g.tb, d, g.ref.Name))
	g.setUp = false
	g.healthy()
}

// disks are what a driver lists, by name and the machine that has them.
func disks(tb testing.TB, d *qemu.Driver) map[string]string {
	tb.Helper()
	l, err := d.List(bounded(tb), drivers.Query{})
	if err != nil || !l.Complete {
		tb.Fatalf("list: complete %v, %v", l.Complete, err)
	}
	m := map[string]string{}
	for _, k := range l.Disks {
		m[k.Name] = k.AttachedTo
	}
	return m
}

// overwrite writes over the beginning of a file.
func overwrite(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func killQEMU(t *testing.T, d *qemu.Driver, dir, name string) {
	t.Helper()
	pids := processes(dir, name)
	if len(pids) != 1 {
		t.Fatalf("processes of %s: %v, want one", name, pids)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return find(t, d, name).Status == drivers.StatusDead })
}

func destroyWith(tb testing.TB, d *qemu.Driver, ref drivers.Ref, policy drivers.DiskPolicy) {
	tb.Helper()
	if err := d.Destroy(bounded(tb), []drivers.Ref{ref}, drivers.DestroyOptions{Disks: policy})[0]; err != nil {
		tb.Fatal(err)
	}
}

// Nothing is flushed by hand here: what a step has written is on the disk for
// the next machine although the first is ended without warning.
func TestDisksOutliveSuspendResumeAndTheirMachine(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	g := gitspace(t, d, withDisks("one", "home", "cache"))
	if diff := cmp.Diff(map[string]string{"home": "one", "cache": "one"}, disks(t, d)); diff != "" {
		t.Errorf("disks (-want +got):\n%s", diff)
	}
	if out := g.run(`echo first >` + firstFolder + `/f; echo second >` + drivers.DiskFolder(1, "cache") + `/f; export OUT="$(grep -c ' /mnt/disks/.* ext4 ' /proc/mounts)"`); out != "2" {
		t.Errorf("%s disks are mounted, want 2", out)
	}
	if err := d.Suspend(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Create(bounded(t), withDisks("thief", "home")); !errors.Is(err, drivers.ErrInvalid) {
		t.Errorf("a disk of a sleeping machine: %v, want ErrInvalid", err)
	}
	i, err := d.Resume(bounded(t), g.ref)
	if err != nil {
		t.Fatal(err)
	}
	g.at(i)
	if out := g.run(`echo third >` + firstFolder + `/g; export OUT="$(cat ` + firstFolder + `/f ` + drivers.DiskFolder(1, "cache") + `/f | tr '\n' ' ')"`); out != "first second " {
		t.Errorf("after a resume the files have %q", out)
	}
	destroyWith(t, d, g.ref, drivers.Keep)
	if diff := cmp.Diff(map[string]string{"home": "", "cache": ""}, disks(t, d)); diff != "" {
		t.Errorf("disks after their machine (-want +got):\n%s", diff)
	}
	// In another order they are elsewhere, and themselves.
	g = gitspace(t, d, withDisks("two", "cache", "home"))
	home := drivers.DiskFolder(1, "home")
	if out := g.run(`export OUT="$(cat ` + firstFolder + `/f ` + home + `/f ` + home + `/g | tr '\n' ' ')"`); out != "second first third " {
		t.Errorf("on the next machine the files have %q", out)
	}
	destroyWith(t, d, g.ref, drivers.Delete)
	if left := disks(t, d); len(left) != 0 {
		t.Errorf("disks left: %v", left)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "disks", "[^.]*")); err != nil || len(left) != 0 {
		t.Errorf("folders of disks left: %v, %v", left, err)
	}
}

func TestADiskIsWholeAfterQEMUWasKilledInTheMiddleOfAWrite(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	g := gitspace(t, d, withDisks("one", "home"))
	g.run(`echo asleep >` + firstFolder + `/f; export OUT=x`)
	if err := d.Suspend(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	destroyWith(t, d, g.ref, drivers.Keep)

	// What a machine had in memory was on its disk before it slept, so its
	// successor has it though that memory is gone.
	g = gitspace(t, d, withDisks("two", "home"))
	if out := g.run(`export OUT="$(cat ` + firstFolder + `/f)"`); out != "asleep" {
		t.Errorf("on the disk of a machine that slept the file has %q", out)
	}
	if err := d.Suspend(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	i, err := d.Resume(bounded(t), g.ref)
	if err != nil {
		t.Fatal(err)
	}
	g.at(i)
	g.run(`echo awake >` + firstFolder + `/f; sync; (while :; do head -c 1000000 /dev/zero >` + firstFolder + `/junk; sync; done) >/dev/null 2>&1 </dev/null & export OUT=x`)
	killQEMU(t, d, dir, "two")

	// The same machine boots again. What was saved of it is not loaded once more:
	// its disk has changed since.
	if _, err := d.Resume(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	g.identify(d)
	if out := g.run(`export OUT="$(cat ` + firstFolder + `/f) $(hostname)"`); out != "awake two" {
		t.Errorf("after the kill the file and the host name are %q", out)
	}
	destroyWith(t, d, g.ref, drivers.Delete)
}

// A state that was loaded and has not run is loaded again; see
// TestADiskIsWholeAfterQEMUWasKilledInTheMiddleOfAWrite for one that has.
func TestRunnerKilledWhileItWakesAMachineWithADisk(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	g := gitspace(t, d, withDisks("one", "home"))
	g.run(`echo kept >` + firstFolder + `/f; echo memory >/tmp/f; export OUT=x`)
	killedIn(t, dir, "save:"+qemu.SavePhases[0])
	if err := d.Suspend(bounded(t), g.ref); err != nil {
		t.Fatal(err)
	}
	killedIn(t, dir, "resume:"+qemu.PhaseReloaded)
	if err := syscall.Kill(processes(dir, "one")[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return find(t, d, "one").Status == drivers.StatusSuspended })
	killedIn(t, dir, "resume:"+qemu.PhaseReloaded)
	i, err := d.Resume(bounded(t), g.ref)
	if err != nil {
		t.Fatal(err)
	}
	g.at(i)
	if out := g.run(`export OUT="$(cat ` + firstFolder + `/f /tmp/f | tr '\n' ' ')"`); out != "kept memory " {
		t.Errorf("the files have %q", out)
	}
	if _, err := os.Stat(filepath.Join(dir, "machines", "one", "state")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state of before is still there: %v", err)
	}
	destroyWith(t, d, g.ref, drivers.Delete)
}

func TestRunnerKilledWhileItMakesADisk(t *testing.T) {
	t.Parallel()
	for _, phase := range qemu.DiskPhases {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			dir := emptyDir(t)
			killedIn(t, dir, "disk:"+phase)
			d := open(t, dir)
			if got := disks(t, d); len(got) != 0 {
				t.Errorf("half-made disks are listed: %v", got)
			}
			if left, err := filepath.Glob(filepath.Join(dir, "disks", ".new-*")); err != nil || len(left) != 0 {
				t.Errorf("left after a restart: %v, %v", left, err)
			}
			if err := d.MakeDisks(bounded(t), withDisks("one", "home")); err != nil {
				t.Fatal(err)
			}
			if got := disks(t, d); len(got) != 1 {
				t.Errorf("made again: %v", got)
			}
		})
	}
}

func TestADiskWithoutAFileSystemTheMachineKnowsIsLeftAlone(t *testing.T) {
	t.Parallel()
	d, dir := fresh(t)
	ref, err := d.Create(bounded(t), withDisks("one", "home"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "disks", "home", "data")
	if err := overwrite(file, strings.Repeat("not ext4 ", 1000)); err != nil {
		t.Fatal(err)
	}
	err = d.Identify(bounded(t), ref, identityOf(t, "one"))
	if err == nil || !strings.Contains(err.Error(), "disk-0") || !strings.Contains(err.Error(), firstFolder) {
		t.Errorf("identify: %v, want an error with disk and folder", err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw := make([]byte, 9000)
	if _, err := f.Read(raw); err != nil || string(raw) != strings.Repeat("not ext4 ", 1000) {
		t.Errorf("the disk was changed: %.20q, %v", raw, err)
	}
	destroyWith(t, d, ref, drivers.Delete)
}
