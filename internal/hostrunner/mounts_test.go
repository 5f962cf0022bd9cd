package hostrunner_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/hostrunner"
)

func TestParseMounts(t *testing.T) {
	t.Parallel()
	type mounts = []hostrunner.Mount
	cases := []struct {
		name, text string
		want       mounts
		err        string // in the error, "" if there is none
	}{
		{name: "nothing", text: ""},
		{name: "empty entries", text: " , ,"},
		{name: "the documented form", text: "/etc/ca;/opt/ca,/a;/b", want: mounts{{Source: "/etc/ca", Target: "/opt/ca"}, {Source: "/a", Target: "/b"}}},
		{name: "the form of the prose", text: "/etc/ca:/opt/ca", want: mounts{{Source: "/etc/ca", Target: "/opt/ca"}}},
		{name: "read-only, either way", text: "/a;/b;ro,/c:/d:ro", want: mounts{{Source: "/a", Target: "/b", ReadOnly: true}, {Source: "/c", Target: "/d", ReadOnly: true}}},
		{name: "a folder to make", text: "/a;/b;ro;create", want: mounts{{Source: "/a", Target: "/b", ReadOnly: true, Create: true}}},
		{name: "spaces", text: " /a ; /b , /c : /d ", want: mounts{{Source: "/a", Target: "/b"}, {Source: "/c", Target: "/d"}}},
		{name: "drive letters", text: `C:\certs;C:\opt,D:\x:E:/y:ro`, want: mounts{{Source: `C:\certs`, Target: `C:\opt`}, {Source: `D:\x`, Target: "E:/y", ReadOnly: true}}},
		{name: "a share of Windows", text: `\\host\share;C:\s`, want: mounts{{Source: `\\host\share`, Target: `C:\s`}}},
		{name: "a path with a colon", text: "/a:b;/c", want: mounts{{Source: "/a:b", Target: "/c"}}},
		{name: "no target", text: "/a;/b, /etc/ca", err: `entry 2 (column 8) "/etc/ca": has no target; write source;target`},
		{name: "a relative source", text: "certs;/b", err: `"certs" is no absolute path`},
		{name: "a relative target", text: "/a;b", err: `"b" is no absolute path`},
		{name: "an empty target", text: "/a;", err: `"" is no absolute path`},
		{name: "an unknown option", text: "/a;/b;rw", err: `"rw" is no option; known are ro and create`},
		{name: "colons without one meaning", text: "/a:/b:/c:/d", err: `"/c" is no option`},
		{name: "a target twice", text: "/a;/c,/b;/c", err: "entry 2 (column 7)"},
		{name: "all that is wrong at once", text: "x;/b,/a;/b,y;/c", err: "entry 3"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := hostrunner.ParseMounts(c.text)
			if c.err == "" {
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Error(diff)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), "CI_MOUNT_VOLUMES") {
				t.Errorf("error %v, want one with %q", err, c.err)
			}
		})
	}
}

func FuzzParseMounts(f *testing.F) {
	for _, seed := range []string{"", "/a;/b", "/a:/b:ro", `C:\a:C:\b`, ",;:", "/a;/b;create,x", "\x00;/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		mounts, err := hostrunner.ParseMounts(text)
		if err != nil {
			var at *hostrunner.MountError
			if !errors.As(err, &at) || at.Entry < 1 || at.Column < 1 || at.Column > len(text) {
				t.Fatalf("%q: %v has no place", text, err)
			}
			if !strings.HasPrefix(text[at.Column-1:], at.Text) {
				t.Errorf("%q: column %d is not where %q begins", text, at.Column, at.Text)
			}
			return
		}
		var again []string
		for _, m := range mounts {
			entry := m.Source + ";" + m.Target
			if m.ReadOnly {
				entry += ";ro"
			}
			if m.Create {
				entry += ";create"
			}
			again = append(again, entry)
		}
		same, err := hostrunner.ParseMounts(strings.Join(again, ","))
		if err != nil || !cmp.Equal(mounts, same) {
			t.Errorf("%q printed is %q, which means %v, %v", text, again, same, err)
		}
	})
}

func TestASourceThatIsMissingIsNotMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing, wanted := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "made")
	_, err := hostrunner.CheckMounts([]hostrunner.Mount{{Source: missing, Target: "/x"}, {Source: wanted, Target: "/y", Create: true}}, false)
	if err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("error %v, want one that names %s", err, missing)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("a file that was missing is a folder now")
	}
	if info, err := os.Stat(wanted); err != nil || !info.IsDir() {
		t.Errorf("a folder that was to be made: %v", err)
	}
}

func TestFilesAreWarnedAboutOnWindows(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mounts := []hostrunner.Mount{{Source: file, Target: "/x"}}
	warnings, err := hostrunner.CheckMounts(mounts, true)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], file) {
		t.Errorf("warnings %v, %v", warnings, err)
	}
	if warnings, err = hostrunner.CheckMounts(mounts, false); err != nil || len(warnings) != 0 {
		t.Errorf("elsewhere: %v, %v", warnings, err)
	}
}
