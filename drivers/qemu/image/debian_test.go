package image_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

// tree writes files below a new folder and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestAFurnishedSystemHasTheAgentAndNoSecret(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{
		"etc/machine-id": "0123456789abcdef0123456789abcdef\n", "etc/ssh/ssh_host_rsa_key": "secret", "etc/ssh/ssh_host_rsa_key.pub": "public",
		"etc/ssh/sshd_config": "kept", "etc/systemd/system/multi-user.target.wants/ssh.service": "",
		"outside": "untouched",
	})
	// A link must not lead a write out of the system.
	if err := os.Symlink(filepath.Join(root, "outside"), filepath.Join(root, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	if err := image.Furnish(root, []byte("agent")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"etc/machine-id": "", "outside": "untouched", "etc/ssh/sshd_config": "kept", "usr/local/lib/runner-agent/runner-agent": "agent",
		"etc/hostname": "debian\n",
	} {
		got, err := os.ReadFile(filepath.Join(root, path))
		if err != nil || string(got) != want {
			t.Errorf("%s is %q (%v), want %q", path, got, err, want)
		}
	}
	for path, want := range map[string]string{
		"etc/systemd/system/apt-daily.timer": "/dev/null", "etc/systemd/system/sockets.target.wants/ssh.socket": "/lib/systemd/system/ssh.socket",
	} {
		if got, err := os.Readlink(filepath.Join(root, path)); err != nil || got != want {
			t.Errorf("%s leads to %q (%v), want %q", path, got, err, want)
		}
	}
	for _, gone := range []string{"etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "etc/systemd/system/multi-user.target.wants/ssh.service"} {
		if _, err := os.Lstat(filepath.Join(root, gone)); !os.IsNotExist(err) {
			t.Errorf("%s is still there (%v)", gone, err)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "usr/local/lib/runner-agent/runner-agent")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("agent: %v, %v", info, err)
	}
	raw, err := os.ReadFile(filepath.Join(root, "etc/cloud/cloud.cfg.d/90-runner.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := yaml.Unmarshal(raw, &config); err != nil || config["locale"] != "C.UTF-8" {
		t.Errorf("cloud-init's configuration: %v, %v", config, err)
	}
}

func TestTheOneKernelOfASystemIsMovedBesideItsDisk(t *testing.T) {
	t.Parallel()
	root := tree(t, map[string]string{"boot/vmlinuz-6.1.0-9": "kernel", "boot/initrd.img-6.1.0-9": "initramfs", "boot/config-6.1.0-9": ""})
	to := t.TempDir()
	release, err := image.TakeKernel(root, to)
	if err != nil || release != "6.1.0-9" {
		t.Fatalf("got %q, %v", release, err)
	}
	leftOnly(t, to, "initramfs", "vmlinuz")
	for name, files := range map[string]map[string]string{
		"no kernel":         {"boot/x": ""},
		"two kernels":       {"boot/vmlinuz-1": "", "boot/vmlinuz-2": ""},
		"without initramfs": {"boot/vmlinuz-1": ""},
	} {
		if _, err := image.TakeKernel(tree(t, files), t.TempDir()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestBuildOfDebianSaysWhatTheHostLacks(t *testing.T) {
	o := sources(t, kernelFiles(), busyboxFiles())
	o.Name = "debian"
	t.Setenv("PATH", t.TempDir())
	_, err := image.Build(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "apt-get install mmdebstrap e2fsprogs qemu-utils") {
		t.Errorf("got %v", err)
	}
}

func TestOnlyDebianDockerHasADaemon(t *testing.T) {
	testhost.Root(t, "build the image")
	bin := t.TempDir()
	for name, script := range map[string]string{
		"mmdebstrap": "#!/bin/sh\nfor a; do case $a in --include=*) echo \"I: $a\" >&2 ;; esac; done\nexit 25\n",
		"mke2fs":     "#!/bin/sh\n", "qemu-img": "#!/bin/sh\n",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	for name, want := range map[string]bool{image.Debian: false, image.DebianDocker: true} {
		o := sources(t, kernelFiles(), busyboxFiles())
		o.Name = name
		var steps []string
		o.Progress = func(step string, _, _ int64) { steps = append(steps, step) }
		if _, err := image.Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), "build image "+name) {
			t.Errorf("%s: got %v", name, err)
		}
		if got := strings.Join(steps, " "); !strings.Contains(got, "systemd-sysv") || strings.Contains(got, "docker.io") != want {
			t.Errorf("%s is made of %s", name, got)
		}
	}
}

func TestAFailedBuildOfDebianSaysWhyAndLeavesNothing(t *testing.T) {
	testhost.Root(t, "build the image")
	o := sources(t, kernelFiles(), busyboxFiles())
	o.Name, o.Mirror = "debian", "http://127.0.0.1:1/debian"
	bin := t.TempDir()
	for name, script := range map[string]string{
		"mmdebstrap": "#!/bin/sh\n[ \"$LC_ALL\" = C ] || exit 9\nfor a; do last=$a; done\necho 'I: running apt-get update' >&2\necho \"E: no answer from $last\" >&2\nexit 25\n",
		"mke2fs":     "#!/bin/sh\n", "qemu-img": "#!/bin/sh\n",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin)
	var steps []string
	o.Progress = func(step string, _, _ int64) { steps = append(steps, step) }
	_, err := image.Build(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "E: no answer from http://127.0.0.1:1/debian") || !strings.Contains(err.Error(), "--mirror") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]string{"mmdebstrap: running apt-get update"}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	leftOnly(t, o.Dir, ".cache")
}

// TestGuestFilesAreRight has what runs inside of machines checked by the
// programs that know.
func TestGuestFilesAreRight(t *testing.T) {
	t.Parallel()
	packages := map[string]string{"shellcheck": "shellcheck", "systemd-analyze": "systemd"}
	for name, check := range map[string]func(t *testing.T, tool, dir string) *exec.Cmd{
		"shellcheck": func(t *testing.T, tool, dir string) *exec.Cmd {
			t.Helper()
			file := filepath.Join(dir, "vendor-data.sh")
			rewrite(t, file, image.VendorData)
			return exec.CommandContext(t.Context(), tool, file)
		},
		"systemd-analyze": func(t *testing.T, tool, dir string) *exec.Cmd {
			t.Helper()
			if err := image.Furnish(dir, []byte("#!/bin/sh\n")); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(dir, "usr/bin"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "usr/bin/ssh-keygen"), []byte("#!/bin/sh\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			return exec.CommandContext(t.Context(), tool, "verify", "--root="+dir, "--recursive-errors=no", "runner-guest.service", "runner-ssh-keys.service")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tool := testhost.Program(t, name, packages[name])
			if out, err := check(t, tool, t.TempDir()).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "" {
				t.Error(fmt.Errorf("%w: %s", err, out))
			}
		})
	}
}
