package service_test

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/hostrunner/service"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

var update = flag.Bool("update", false, "write golden files")

func spec() service.Spec {
	return service.Spec{
		Name: service.DefaultName, Description: "Local runner of 100% <pipeline> stages",
		Program: "/opt/my tools/runner-agent", Args: []string{"host", "--env-file", `/etc/a "b" $c&d.env`, "--drain", "10m0s"},
		User: "builder", StopTime: 10*time.Minute + 30*time.Second, Log: "/var/log/harness-docker-runner.log",
	}
}

func TestServiceFiles(t *testing.T) {
	t.Parallel()
	plain := spec()
	plain.Program, plain.Args, plain.User, plain.Description = "/usr/local/bin/runner-agent", []string{"host"}, "", "Local runner"
	cases := []struct {
		golden string
		write  func(service.Spec) ([]byte, error)
		spec   service.Spec
	}{
		{"system.service", func(s service.Spec) ([]byte, error) { return service.Systemd(s, false) }, spec()},
		{"user.service", func(s service.Spec) ([]byte, error) { return service.Systemd(s, true) }, plain},
		{"daemon.plist", service.Launchd, spec()},
		{"agent.plist", service.Launchd, plain},
		{"windows.txt", service.Windows, spec()},
	}
	for _, c := range cases {
		t.Run(c.golden, func(t *testing.T) {
			t.Parallel()
			got, err := c.write(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", c.golden)
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSystemdReadsTheUnits is for hosts that have it: the golden files are what
// it was shown to others.
func TestSystemdReadsTheUnits(t *testing.T) {
	t.Parallel()
	verify := testhost.Program(t, "systemd-analyze", "systemd")
	program := filepath.Join(t.TempDir(), "my program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := spec()
	s.Program, s.User = program, "root"
	text, err := service.Systemd(s, false)
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "x.service")
	if err := os.WriteFile(unit, text, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, verify, "verify", "--man=no", unit).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("x.service:")) {
		t.Errorf("%v: %s\n%s", err, out, text)
	}
}

func TestWhatNoServiceFileCanHoldIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*service.Spec){
		"a name that leads elsewhere":      func(s *service.Spec) { s.Name = "../x" },
		"no name":                          func(s *service.Spec) { s.Name = "" },
		"a name that is a flag":            func(s *service.Spec) { s.Name = "-x" },
		"no program":                       func(s *service.Spec) { s.Program = "" },
		"a line of its own in an argument": func(s *service.Spec) { s.Args = []string{"a\nExecStartPre=/bin/evil"} },
		"a line of its own in the user":    func(s *service.Spec) { s.User = "a\nb" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := spec()
			change(&s)
			for _, write := range []func(service.Spec) ([]byte, error){service.Launchd, service.Windows, func(s service.Spec) ([]byte, error) { return service.Systemd(s, false) }} {
				if text, err := write(s); err == nil || strings.Contains(string(text), "evil") {
					t.Errorf("%s, %v", text, err)
				}
			}
		})
	}
}
