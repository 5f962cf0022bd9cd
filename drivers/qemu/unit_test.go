//go:build linux

package qemu

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

var update = flag.Bool("update", false, "write the golden files")

func TestCommandLineIsTheGoldenOne(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]commandLine{
		"template": {arch: architectures["amd64"], accel: AccelTCG, memoryMB: 128, cpus: 1, memory: memoryShared, guest: "template"},
		"clone":    {arch: architectures["amd64"], accel: AccelKVM, memoryMB: 256, cpus: 2, memory: memoryPrivate, guest: "m1", address: "127.77.0.1", incoming: true, stopped: true},
		"resumed":  {arch: architectures["arm64"], accel: AccelTCG, memoryMB: 128, cpus: 1, guest: "m1", address: "127.77.0.1", incoming: true, stopped: true},
		"disks":    {arch: architectures["amd64"], accel: AccelTCG, memoryMB: 128, cpus: 1, guest: "m1", address: "127.77.0.1", stopped: true, disks: 2},
		"debian":   {arch: architectures["amd64"], accel: AccelTCG, memoryMB: 512, cpus: 1, guest: "m1", address: "127.77.0.1", stopped: true, disks: 1, boot: &bootDisk{Size: 4 << 30, Kernel: true}},
		"imported": {arch: architectures["amd64"], accel: AccelTCG, memoryMB: 1024, cpus: 1, guest: "m1", address: "127.77.0.1", stopped: true, boot: &bootDisk{Size: 2 << 30, Seed: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := strings.Join(c.args(), "\n") + "\n"
			golden := filepath.Join("testdata", "args-"+name+".txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
		})
	}
}

// unitDriver is a driver without image or QEMU.
func unitDriver(t *testing.T, change ...func(*Config)) *Driver {
	t.Helper()
	c := NewConfig()
	for _, f := range change {
		f(c)
	}
	d, err := New(drivers.Options{Config: c, DataDir: t.TempDir(), Limit: 2, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTemplateKeyChangesWithAllThatMustMatch(t *testing.T) {
	t.Parallel()
	d := unitDriver(t)
	base := func() recipe {
		img := &image.Image{Manifest: image.Manifest{Files: map[string]image.File{
			image.KernelFile: {SHA256: "k"}, image.InitramfsFile: {SHA256: "i"},
		}}}
		return recipe{img: img, accel: AccelTCG, memoryMB: 128, cpus: 1, qemu: probed{version: version{text: "7.2.22 (Debian)"}}}
	}
	seen := map[string]string{}
	for name, change := range map[string]func(*recipe){
		"the recipe itself": func(*recipe) {},
		"another QEMU":      func(r *recipe) { r.qemu.text = "7.2.23 (Debian)" },
		"more memory":       func(r *recipe) { r.memoryMB = 256 },
		"more CPUs":         func(r *recipe) { r.cpus = 2 },
		"KVM":               func(r *recipe) { r.accel = AccelKVM },
		"another kernel":    func(r *recipe) { r.img.Files[image.KernelFile] = image.File{SHA256: "k2"} },
		"another initramfs": func(r *recipe) { r.img.Files[image.InitramfsFile] = image.File{SHA256: "i2"} },
	} {
		r := base()
		change(&r)
		key, err := d.templateKey(r)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[key]; ok {
			t.Errorf("%s has the key of %s", name, other)
		}
		seen[key] = name
		if again, err := d.templateKey(r); err != nil || again != key {
			t.Errorf("%s: a second key, %v", name, err)
		}
	}
	if recipeKey("t", "a") == recipeKey("t", "b") {
		t.Error("other user data is the same recipe")
	}
}

func TestAddressesOfARangeAreAllGivenAndNoOthers(t *testing.T) {
	t.Parallel()
	for cidr, want := range map[string]int{"127.77.3.0/30": 2, "127.77.3.8/29": 6, "127.77.3.4/32": 1, "127.77.3.4/31": 2} {
		p, err := parseAddressRange(cidr)
		if err != nil {
			t.Fatal(err)
		}
		taken := map[netip.Addr]bool{}
		for range want {
			a, err := chooseAddress(p, "same-name", func(a netip.Addr) bool { return !taken[a] })
			if err != nil {
				t.Fatal(err)
			}
			if !p.Contains(a) || taken[a] {
				t.Errorf("%s: %s is outside or taken", cidr, a)
			}
			taken[a] = true
		}
		_, err = chooseAddress(p, "x", func(a netip.Addr) bool { return !taken[a] })
		if !errors.Is(err, drivers.ErrCapacity) {
			t.Errorf("%s is full: %v, want ErrCapacity", cidr, err)
		}
	}
}

func TestUserIDsAreNeverShared(t *testing.T) {
	t.Parallel()
	r := uidRange{100000, 100003}
	taken := map[uint32]bool{}
	for range 3 {
		uid, err := chooseUID(r, "x", taken)
		if err != nil || taken[uid] || uid < r.first || uid >= r.last {
			t.Fatalf("uid %d: %v", uid, err)
		}
		taken[uid] = true
	}
	if _, err := chooseUID(r, "x", taken); !errors.Is(err, drivers.ErrCapacity) {
		t.Errorf("got %v, want ErrCapacity", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*drivers.Options){
		"fewer addresses than the limit": func(o *drivers.Options) { o.Config.(*Config).AddressRange = "127.77.0.0/29"; o.Limit = 7 },
		"a spec of another driver":       func(o *drivers.Options) { o.Config = struct{}{} },
		"a spec with a problem":          func(o *drivers.Options) { o.Config.(*Config).Egress = true },
		"a relative data directory":      func(o *drivers.Options) { o.DataDir = "data" },
	} {
		o := drivers.Options{Config: NewConfig(), DataDir: t.TempDir(), Limit: 1, Log: slog.New(slog.DiscardHandler)}
		change(&o)
		if _, err := New(o); !errors.Is(err, drivers.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// program writes a script that stands in for QEMU.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPingSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	good := "echo 'QEMU emulator version 8.1.0 (Debian 1:8.1)'"
	for name, tc := range map[string]struct{ binary, want string }{
		"no QEMU":              {"/nonexistent/qemu", "is not installed"},
		"the package to get":   {"/nonexistent/qemu", "apt-get install qemu-system-"},
		"an old QEMU":          {program(t, "echo 'QEMU emulator version 5.2.0 (Debian 1:5.2)'"), "is version 5.2.0 (Debian 1:5.2), 7.2 or later is needed"},
		"some other program":   {program(t, "echo hello"), `not QEMU: it says "hello"`},
		"a program that fails": {program(t, "exit 3"), "exit status 3"},
		"no image":             {program(t, good), "drone-runner-aws image build tiny"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := unitDriver(t, func(c *Config) { c.Binary = tc.binary })
			if err := d.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright": true,
		"QEMU emulator version 10.0.2":                                  true,
		"QEMU emulator version 7.1.0":                                   false,
		"QEMU emulator version 7":                                       false,
	} {
		v, err := parseVersion(text)
		if err != nil || v.atLeast(7, 2) != want {
			t.Errorf("%q: %+v, %v; at least 7.2 should be %v", text, v, err, want)
		}
	}
}

func TestAFolderWithoutReadableRecordMakesAListingIncomplete(t *testing.T) {
	t.Parallel()
	d := unitDriver(t)
	if _, err := d.Allocate(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Allocate(t.Context(), "bad"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.machinesDir(), "bad", metaName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := d.List(t.Context(), drivers.Query{})
	if err != nil || l.Complete || len(l.Instances) != 2 {
		t.Fatalf("got %+v, %v", l, err)
	}
	if l, err = d.List(t.Context(), drivers.Query{Controller: "c"}); err != nil || l.Complete {
		t.Errorf("for one controller: %+v, %v; what is unreadable may be its", l, err)
	}
	for _, err := range d.Destroy(t.Context(), []drivers.Ref{{Name: "bad"}, {Name: "good"}}, drivers.DestroyOptions{}) {
		if err != nil {
			t.Error(err)
		}
	}
	if l, err = d.List(t.Context(), drivers.Query{}); err != nil || !l.Complete || len(l.Instances) != 0 {
		t.Errorf("after destroy: %+v, %v", l, err)
	}
}

func TestLeftOversOfCrashesAreTidiedUnlessHeld(t *testing.T) {
	t.Parallel()
	d := unitDriver(t)
	mk := func(name string, old bool, files ...string) string {
		path := filepath.Join(d.machinesDir(), name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if err := os.WriteFile(filepath.Join(path, file), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if old {
			past := time.Now().Add(-time.Hour)
			if err := os.Chtimes(path, past, past); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	held := mk(newPrefix+"held", true, metaName)
	unlock, err := seat{held}.lockOp(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	left := mk(newPrefix+"left", false, metaName)
	unlockLeft, err := seat{left}.lockOp(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlockLeft()
	mk(newPrefix+"just-begun", false)
	mk(newPrefix+"lock-just-made", false, opLockName)
	mk(newPrefix+"lock-made-long-ago", true, opLockName)
	mk(gonePrefix+"old", true)
	if _, err := d.List(t.Context(), drivers.Query{}); err != nil {
		t.Fatal(err)
	}
	check := func(want ...string) {
		t.Helper()
		var got []string
		entries, err := os.ReadDir(d.machinesDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.IsDir() {
				got = append(got, e.Name())
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("folders (-want +got):\n%s", diff)
		}
	}
	check(newPrefix+"held", newPrefix+"just-begun", newPrefix+"lock-just-made")
	unlock()
	if _, err := d.List(t.Context(), drivers.Query{}); err != nil {
		t.Fatal(err)
	}
	check(newPrefix+"just-begun", newPrefix+"lock-just-made")
}

func TestDestroyWaitsForWhoWorksOnAMachine(t *testing.T) {
	t.Parallel()
	d := unitDriver(t)
	if _, err := d.Allocate(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	s, err := d.seatOf("one")
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := s.lockOp(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if errs := d.Destroy(ctx, []drivers.Ref{{Name: "one"}}, drivers.DestroyOptions{}); errs[0] == nil {
		t.Error("destroyed under somebody's hands")
	}
	if l, err := d.List(t.Context(), drivers.Query{}); err != nil || l.Instances[0].Status != drivers.StatusPending {
		t.Errorf("while it is being made: %+v, %v", l, err)
	}
	unlock()
	if l, err := d.List(t.Context(), drivers.Query{}); err != nil || l.Instances[0].Status != drivers.StatusDead {
		t.Errorf("half made: %+v, %v", l, err)
	}
	ref := drivers.Ref{Name: "one"}
	_, resume := d.Resume(t.Context(), ref)
	for what, err := range map[string]error{
		"pause": d.Pause(t.Context(), ref), "unpause": d.Unpause(t.Context(), ref), "suspend": d.Suspend(t.Context(), ref), "resume": resume,
	} {
		if !errors.Is(err, errHalfMade) {
			t.Errorf("%s of a half-made machine: %v", what, err)
		}
	}
	if errs := d.Destroy(t.Context(), []drivers.Ref{ref}, drivers.DestroyOptions{}); errs[0] != nil {
		t.Error(errs[0])
	}
}

func TestLongFoldersHaveSockets(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := seat{dir}
	for range 2 { // the second takes the place of the first
		l, err := s.bind(monitorName)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := s.dial(t.Context(), monitorName)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(conn.Close(), l.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestSealedMemoryIsTheTemplatesAndCannotBeChanged(t *testing.T) {
	t.Parallel()
	d := unitDriver(t)
	tpl := &template{seat: seat{t.TempDir()}, key: "k", templateInfo: templateInfo{MemoryMB: 1}}
	content := make([]byte, mib)
	if _, err := rand.Read(content[300_000:400_000]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tpl.file(ramFile), content, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f, err := d.sealedRAM(tpl)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(f, 0, mib+1))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("memory differs from the file, %v", err)
		}
		if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
			t.Errorf("write: %v, want EPERM", err)
		}
		if err := f.Truncate(0); !errors.Is(err, unix.EPERM) {
			t.Errorf("truncate: %v, want EPERM", err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Blocks*512 > 200_000 {
			t.Errorf("%d bytes are used for 100 kB, %v", st.Blocks*512, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestConsoleIsCutWhenItIsLong(t *testing.T) {
	t.Parallel()
	s := seat{t.TempDir()}
	long := bytes.Repeat([]byte("0123456789abcde\n"), int(consoleMost/16)+1)
	if err := os.WriteFile(s.file(consoleName), long, 0o600); err != nil {
		t.Fatal(err)
	}
	s.trimConsole(slog.New(slog.DiscardHandler))
	got, err := os.ReadFile(s.file(consoleName))
	if err != nil || len(got) != consoleKept || !bytes.HasSuffix(long, got) {
		t.Errorf("%d bytes are left, %v", len(got), err)
	}
	if words := s.lastWords(); words != "console.log: 0123456789abcde" {
		t.Errorf("last words %q", words)
	}
}

func TestOnlyTheGuestsOwnQEMUIsKilled(t *testing.T) {
	t.Parallel()
	s := seat{t.TempDir()}
	lock, err := lockFile(t.Context(), s.file(lockName), os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	// One has the right name and another lock, one our lock and another name.
	start := func(guest string, files ...*os.File) *exec.Cmd {
		cmd := exec.Command("sh", "-c", "sleep 600", "-name", "guest="+guest)
		cmd.Args = append(cmd.Args, "x")
		cmd.ExtraFiles = files
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // may have ended
			_ = cmd.Wait()
		})
		return cmd
	}
	name, other := start("one"), start("two", lock)
	if err := s.killHolder("one"); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range []*exec.Cmd{name, other} {
		if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("%v was killed", cmd.Args)
		}
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if alive, err := s.alive(); err != nil || !alive {
		t.Errorf("a lock that a child inherited is held: %v, %v", alive, err)
	}
	if err := s.killHolder("two"); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(-other.Process.Pid, syscall.SIGKILL) // its own child has the lock too
	if err := s.waitGone(t.Context(), func() {}); err != nil {
		t.Error(err)
	}
}

func FuzzMeta(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"a","address":"127.77.0.1","uid":5}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := parseMeta(data); err == nil && m.Version != metaVersion {
			t.Errorf("read %+v", m)
		}
	})
}

func FuzzParsers(f *testing.F) {
	f.Add("QEMU emulator version 7.2.22 (x)\n", "2x1024", "MemTotal: 1 kB\nMemAvailable: 1 kB\n")
	f.Add("flags : svm vmx", "x", "MemTotal: -1 kB")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		_, _ = parseVersion(a)
		_ = hasVirtualisation(parseCPUFlags([]byte(a)))
		if cpus, memory, err := parseMachineType(b); err == nil && (cpus < 1 || memory < 1) {
			t.Errorf("%q is %d CPUs and %d MiB", b, cpus, memory)
		}
		if total, available, err := parseMeminfo([]byte(c)); err == nil && (total < 0 || available < 0) {
			t.Errorf("%q is %d and %d", c, total, available)
		}
	})
}

func TestAMachineThatIsNotIdentifiedInTimeSaysWhy(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		heard *guestlink.Response
		disks int
		want  []string
	}{
		"one that was never heard of":        {nil, 1, []string{"nothing was heard", "image tiny has no agent", "image build or import"}},
		"an agent that is too old for disks": {&guestlink.Response{State: guestlink.StateWaiting, Version: "0.1"}, 2, []string{`version "0.1"`, "2 persistent disks", "too old for disks", "make image tiny anew"}},
		"one that does not take any":         {&guestlink.Response{State: guestlink.StateWaiting, Version: "0.1"}, 0, []string{"another time than this runner", "make image tiny anew"}},
		"one that is still at it":            {&guestlink.Response{State: guestlink.StateStarting}, 0, []string{"still starting", "user_data"}},
	} {
		got := whyUnidentified(tt.heard, "tiny", tt.disks)
		for _, want := range tt.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q lacks %q", name, got, want)
			}
		}
	}
}
