package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/internal/env"
)

func TestFlagsMayStandBehindArguments(t *testing.T) {
	t.Parallel()
	app := (&program{stdout: io.Discard, stderr: io.Discard}).app()
	for _, c := range []struct{ name, in, want string }{
		{"a switch behind", "x logs a b --follow", "x logs --follow a b"},
		{"a switch between", "x logs a -f b", "x logs -f a b"},
		{"a value behind", "x logs a --socket s b", "x logs --socket s a b"},
		{"a value with equals sign", "x logs a --socket=s b", "x logs --socket=s a b"},
		{"below a group", "x image build tiny --agent f --update", "x image build --agent f --update tiny"},
		{"an unknown flag stays a flag", "x logs a --nosuch", "x logs --nosuch a"},
		{"after two dashes nothing is a flag", "x logs a -- --follow", "x logs a -- --follow"},
		{"no command", "x --version", "x --version"},
		{"an unknown command", "x nosuch a --b", "x nosuch a --b"},
		{"nothing", "x", "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := strings.Join(flagsFirst(app, strings.Fields(c.in)), " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// orderWords are the flags of orders. They have no variables: one that is
// exported and forgotten would give the word for every order to come.
var orderWords = map[string]bool{
	"force": true, "disks": true, "why": true, "all": true, "min": true, "foreign": true, "gitspace": true, "yes": true,
}

func TestEveryFlagHasAVariableOfTheTable(t *testing.T) {
	t.Parallel()
	known := map[string]env.Variable{}
	used := map[string]bool{}
	for _, v := range env.Table() {
		known[v.Name] = v
	}
	var walk func(path string, commands []*cli.Command)
	walk = func(path string, commands []*cli.Command) {
		for _, c := range commands {
			if c.Hidden {
				continue
			}
			if c.Usage == "" {
				t.Errorf("%s %s has no usage", path, c.Name)
			}
			for _, f := range c.Flags {
				vars := f.(cli.DocGenerationFlag).GetEnvVars()
				if len(vars) == 0 && orderWords[f.Names()[0]] {
					continue
				}
				if len(vars) != 1 {
					t.Errorf("%s %s --%s has the variables %v, want one", path, c.Name, f.Names()[0], vars)
					continue
				}
				v, ok := known[vars[0]]
				if c.Name == "setup" && v.Flag == "" {
					continue // stands for a variable that others read too, or a cloud's own library
				}
				if !ok || v.Flag != "--"+f.Names()[0] {
					t.Errorf("%s %s --%s: the table says of %s that its flag is %q", path, c.Name, f.Names()[0], vars[0], v.Flag)
				}
				used[vars[0]] = true
			}
			walk(path+" "+c.Name, c.Subcommands)
		}
	}
	walk("", (&program{stdout: io.Discard, stderr: io.Discard}).app().Commands)
	for name, v := range known {
		if v.Flag != "" && !used[name] {
			t.Errorf("the table names %s for %s, which no command has", name, v.Flag)
		}
	}
}

func TestDataDirectory(t *testing.T) {
	t.Parallel()
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	check := func(name, want, given, file string) {
		t.Helper()
		if got, err := dataDir(given, file); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", name, got, err, want)
		}
	}
	check("nothing given", wd, "", "")
	check("beside the pool file", dir, "", filepath.Join(dir, "pool.yml"))
	check("named, and made", filepath.Join(dir, "a/b"), filepath.Join(dir, "a/b"), "pool.yml")
	check("a folder that is not there", wd, "", filepath.Join(dir, "nosuch", "pool.yml"))
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("looking left something behind: %v, %v", entries, err)
	}
	if _, err := dataDir(filepath.Join(wd, "main.go", "x"), ""); err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("a folder that cannot be: %v", err)
	}
}

func TestVolatileStorageIsNoticed(t *testing.T) {
	t.Parallel()
	mounts := filepath.Join(t.TempDir(), "mountinfo")
	text := `21 1 0:19 / / rw,relatime - overlay overlay rw,lowerdir=x
22 21 8:1 /data /runner rw - ext4 /dev/sda1 rw
23 21 0:22 / /tmp rw - tmpfs tmpfs rw
24 22 0:23 / /runner/with\040blank rw shared:1 - tmpfs none rw
`
	if err := os.WriteFile(mounts, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{
		"/home/x": "the container's own layer", "/runner": "", "/runner/a": "", "/runnerx": "the container's own layer",
		"/tmp/a": "memory (tmpfs)", "/runner/with blank/a": "memory (tmpfs)",
	} {
		if got := volatile(dir, mounts); got != want {
			t.Errorf("%s: got %q, want %q", dir, got, want)
		}
	}
	if got := volatile("/x", filepath.Join(t.TempDir(), "nosuch")); got != "" {
		t.Errorf("without mountinfo: got %q", got)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitDone},
		{errors.New("x"), exitFailed},
		{usageError{errors.New("x"), "y"}, exitUsage},
	} {
		if got := (&program{stderr: io.Discard}).report(c.err); got != c.want {
			t.Errorf("%v: got %d, want %d", c.err, got, c.want)
		}
	}
}

func TestAgo(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	got := map[string]string{}
	for _, d := range []time.Duration{-time.Second, 59 * time.Second, time.Minute, 47 * time.Hour, 49 * time.Hour} {
		got[d.String()] = ago(now, now.Add(-d))
	}
	want := map[string]string{"-1s": "0s", "59s": "59s", "1m0s": "1m", "47h0m0s": "47h", "49h0m0s": "2d"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := ago(now, time.Time{}); got != "-" {
		t.Errorf("never: got %q", got)
	}
}
