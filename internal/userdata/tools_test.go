package userdata_test

import (
	"encoding/base64"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/internal/testhost"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func render(t *testing.T, b pool.BootRequest) []byte {
	t.Helper()
	b.Options.MaxBytes = 0
	out, err := renderer(t).Render(b)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// file is one of a cloud-config's.
type file struct {
	Path, Owner, Permissions, Encoding, Content string
}

// parsed reads a cloud-config back.
func parsed(t *testing.T, text []byte) (files map[string]file, run [][]string) {
	t.Helper()
	var c struct {
		Files []file     `yaml:"write_files"`
		Run   [][]string `yaml:"runcmd"`
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	files = map[string]file{}
	for _, f := range c.Files {
		if f.Encoding == "b64" {
			raw, err := base64.StdEncoding.DecodeString(f.Content)
			if err != nil {
				t.Fatal(err)
			}
			f.Content = string(raw)
		}
		files[f.Path] = f
	}
	return files, c.Run
}

// linuxOnes are the requests whose script is a cloud-config.
func linuxOnes(t *testing.T) map[string]pool.BootRequest {
	t.Helper()
	all := requests(t)
	for name, b := range all {
		if b.Platform.OS != "linux" {
			delete(all, name)
		}
	}
	return all
}

func TestCloudInitAcceptsEveryCloudConfig(t *testing.T) {
	t.Parallel()
	program := testhost.Program(t, "cloud-init", "cloud-init")
	check := func(t *testing.T, text string) (string, error) {
		t.Helper()
		name := filepath.Join(t.TempDir(), "user-data")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), program, "schema", "--config-file", name).CombinedOutput()
		return string(out), err
	}
	for name, b := range linuxOnes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, err := check(t, string(render(t, b))); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Run("the check finds what is wrong", func(t *testing.T) {
		t.Parallel()
		if out, err := check(t, "#cloud-config\nwrite_files:\n- path: /x\n  mode: '0600'\n"); err == nil {
			t.Errorf("accepted: %s", out)
		}
	})
}

func TestEveryShellScriptIsClean(t *testing.T) {
	t.Parallel()
	shellcheck, bash := testhost.Program(t, "shellcheck", "shellcheck"), testhost.Program(t, "bash", "bash")
	check := func(t *testing.T, name, text string) {
		t.Helper()
		dst := filepath.Join(t.TempDir(), path.Base(name))
		if err := os.WriteFile(dst, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, argv := range [][]string{{bash, "-n", dst}, {shellcheck, "-s", "sh", dst}} {
			if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v\n%s", name, argv[0], err, out)
			}
		}
	}
	for name, b := range requests(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			switch b.Platform.OS {
			case "darwin":
				check(t, "macos.sh", string(render(t, b)))
			case "linux":
				files, _ := parsed(t, render(t, b))
				seen := 0
				for name, f := range files {
					if strings.HasPrefix(f.Content, "#!/bin/sh") {
						check(t, name, f.Content)
						seen++
					}
				}
				if seen == 0 {
					t.Error("no script found")
				}
			}
		})
	}
}

func TestSystemdAcceptsEveryUnit(t *testing.T) {
	t.Parallel()
	program := testhost.Program(t, "systemd-analyze", "systemd")
	for name, b := range linuxOnes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, _ := parsed(t, render(t, b))
			dir := t.TempDir()
			var units []string
			for name, f := range files {
				if !strings.HasPrefix(name, "/etc/systemd/system/") {
					continue
				}
				// The programs are not here.
				text := f.Content
				for _, program := range []string{"/usr/bin/lite-engine", "/usr/local/lib/runner-agent/disks.sh", "/usr/local/lib/runner-agent/scratch.sh", "/sbin/shutdown"} {
					text = strings.ReplaceAll(text, "ExecStart="+program, "ExecStart=/bin/true")
				}
				dst := filepath.Join(dir, path.Base(name))
				if of, ok := strings.CutSuffix(path.Base(path.Dir(name)), ".d"); ok { // it adds to a unit that is not ours
					text = "[Service]\nExecStart=/bin/true\n" + text
					dst = filepath.Join(dir, of)
				}
				if err := os.WriteFile(dst, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				units = append(units, dst)
			}
			cmd := exec.CommandContext(t.Context(), program, append([]string{"verify", "--man=no", "--recursive-errors=no"}, units...)...)
			cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Contains(string(out), dir) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestSecretsStandInFilesOfTheirOwn: a key or an init script is content of a
// file that only root can read, and nothing that is run or printed has it.
func TestSecretsStandInFilesOfTheirOwn(t *testing.T) {
	t.Parallel()
	for name, b := range linuxOnes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, run := parsed(t, render(t, b))
			seen := map[string]bool{}
			for name, f := range files {
				for _, secret := range []string{"no-real-key", "hunter2"} {
					if !strings.Contains(f.Content, secret) {
						continue
					}
					seen[secret] = true
					if f.Permissions != "0600" && f.Permissions != "0700" || f.Owner != "root:root" {
						t.Errorf("%s is %s of %s and holds a secret", name, f.Permissions, f.Owner)
					}
				}
			}
			if !seen["no-real-key"] || seen["hunter2"] != (b.InitScript != "") {
				t.Errorf("secrets sent: %v", seen)
			}
			if len(run) != 1 || len(run[0]) != 1 {
				t.Errorf("commands %q; want one without arguments", run)
			}
		})
	}
}

// TestTheAgentIsAlwaysAService: whatever else a machine gets, its agent starts
// at each boot and again when it ends, and nothing but a disk holds it up.
func TestTheAgentIsAlwaysAService(t *testing.T) {
	t.Parallel()
	for name, b := range linuxOnes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, _ := parsed(t, render(t, b))
			unit := files["/etc/systemd/system/runner-agent.service"].Content
			for _, want := range []string{"ExecStart=/usr/bin/lite-engine server --env-file /root/.env\n", "Restart=always\n", "StartLimitIntervalSec=0\n", "WantedBy=multi-user.target\n"} {
				if !strings.Contains(unit, want) {
					t.Errorf("the unit lacks %q", want)
				}
			}
			if got, want := strings.Contains(unit, "Requires="), len(b.Disks) > 0; got != want {
				t.Errorf("requires something: %v, want %v", got, want)
			}
			if _, ends := files["/etc/systemd/system/runner-deadline.timer"]; ends != !b.Deadline.IsZero() {
				t.Errorf("ends itself: %v", ends)
			}
			if strings.Count(files["/usr/local/lib/runner-agent/boot.sh"].Content, "systemctl enable runner-agent.service\n") != 1 {
				t.Error("the agent is not enabled")
			}
		})
	}
}
