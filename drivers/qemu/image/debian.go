package image

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Debian is the name of the image with a whole Debian system, DebianDocker that
// of the same with a Docker daemon, for steps in containers.
const (
	Debian       = "debian"
	DebianDocker = "debian-docker"
)

// DefaultSuite is the release of Debian that is built.
const DefaultSuite = "bookworm"

// DebianMinMemoryMB is the least memory, in MiB, a debian machine boots with,
// DebianDockerMinMemoryMB what one with a Docker daemon does.
const (
	DebianMinMemoryMB       = 256
	DebianDockerMinMemoryMB = 512
)

// debianDisk is the size of its disk: what is not used takes no space, and a
// machine may have a larger one.
const debianDisk = 4 << 30

// rootLabel and rootUUID tell the file system of a debian machine's own disk.
// The second also makes it the same each time.
const (
	rootLabel = "runner-root"
	rootUUID  = "7e0d3c1a-5a44-4a55-9c8b-27b6a6cf2d10"
)

// DebianKernelArgs are what its kernel is told beside the console: where its
// disk is, and to leave the network card the name that it has before systemd
// would rename it.
const DebianKernelArgs = "root=LABEL=" + rootLabel + " rw net.ifnames=0 panic=-1"

// debianPackages are what is in a debian machine beside the essential packages.
var debianPackages = []string{
	"systemd-sysv", "udev", "dbus", "linux-image-cloud-%s", "initramfs-tools", "kmod", "e2fsprogs",
	"cloud-init", "openssh-server", "git", "curl", "ca-certificates", "iproute2", "sudo", "procps",
}

// dockerPackages are what a debian-docker machine has besides. The firewall's
// program is what the daemon makes networks with; where the kernel has AppArmor it
// starts no container without its parser.
var dockerPackages = []string{"docker.io", "iptables", "apparmor"}

// BuiltHere says whether the image of a name is made by [Build].
func BuiltHere(name string) bool { return name == Tiny || IsDebian(name) }

// IsDebian says whether the image of a name is a Debian system made by [Build].
func IsDebian(name string) bool { return name == Debian || name == DebianDocker }

//go:embed guest/fstab
var debianFstab []byte

//go:embed guest/cloud.cfg
var cloudConfig []byte

//go:embed guest/runner-ssh-keys.service
var sshKeysUnit []byte

//go:embed guest/ssh-keys.conf
var sshKeysDropIn []byte

// beforeKernel is run before the kernel is unpacked: its initramfs needs to
// find one kind of disk, and is made once.
const beforeKernel = `set -eu
mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
printf 'MODULES=list\nCOMPRESS=gzip\n' >"$1/etc/initramfs-tools/conf.d/runner-machine"
printf 'virtio_pci\nvirtio_blk\n' >"$1/usr/share/initramfs-tools/modules.d/runner-machine"`

// buildDebian makes the image of a Debian system with systemd, cloud-init and
// the agent as a service, and with Docker if that is asked for.
func buildDebian(ctx context.Context, o Options) (*Image, error) {
	o.Suite = cmp.Or(o.Suite, DefaultSuite)
	if err := debianTools(); err != nil {
		return nil, err
	}
	agent, version, err := readAgent(o.AgentPath, o.AgentVersion, o.Arch)
	if err != nil {
		return nil, err
	}
	if _, err := makeFolders(o.Dir); err != nil {
		return nil, err
	}
	tmp, err := newFolder(o.Dir)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp) // the half-made one, or the one replaced
	root := filepath.Join(tmp, "root")
	if err := bootstrap(ctx, o, root); err != nil {
		return nil, err
	}
	o.Progress("putting the agent into the system", 0, -1)
	if err := furnish(root, agent); err != nil {
		return nil, err
	}
	release, err := takeKernel(root, tmp)
	if err != nil {
		return nil, err
	}
	o.Progress("writing the disk", 0, -1)
	raw := filepath.Join(tmp, "disk.raw")
	if err := makeFileSystem(ctx, root, raw); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(root); err != nil {
		return nil, err
	}
	o.Progress("packing the disk", 0, -1)
	if err := toQCOW2(ctx, formatRaw, raw, filepath.Join(tmp, DiskFile)); err != nil {
		return nil, err
	}
	if err := os.Remove(raw); err != nil {
		return nil, err
	}
	m := Manifest{
		Name: o.Name, Arch: o.Arch, MinMemoryMB: DebianMinMemoryMB, KernelRelease: release,
		Disk:  &Disk{Size: debianDisk, Suite: o.Suite, Mirror: o.Mirror},
		Agent: Agent{Version: version, SHA256: hashBytes(agent).SHA256},
	}
	if o.Name == DebianDocker {
		m.MinMemoryMB = DebianDockerMinMemoryMB
	}
	if err := seal(tmp, filepath.Join(o.Dir, o.Name), m, DiskFile, KernelFile, InitramfsFile); err != nil {
		return nil, err
	}
	o.Progress("image "+o.Name+" is ready", 1, 1)
	return Inspect(o.Dir, o.Name)
}

// debianTools says what this host lacks, before anything is downloaded.
func debianTools() error {
	var missing []string
	for _, tool := range []struct{ program, debian string }{
		{"mmdebstrap", "mmdebstrap"}, {"mke2fs", "e2fsprogs"}, {"qemu-img", "qemu-utils"},
	} {
		if _, err := exec.LookPath(tool.program); err != nil {
			missing = append(missing, tool.debian)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("this host lacks the packages %s; on Debian and Ubuntu: apt-get install %s; elsewhere build it on such a host and copy the folder, or import a cloud image",
			strings.Join(missing, ", "), strings.Join(missing, " "))
	}
	if os.Geteuid() != 0 {
		return errors.New("the files of a system belong to several users, so root has to unpack them: run it with sudo, with the same --data-dir; or import a cloud image, which needs no root")
	}
	return nil
}

// bootstrap installs the system into root.
func bootstrap(ctx context.Context, o Options, root string) error {
	wanted := debianPackages
	if o.Name == DebianDocker {
		wanted = slices.Concat(wanted, dockerPackages)
	}
	packages := strings.ReplaceAll(strings.Join(wanted, ","), "%s", o.Arch)
	args := []string{
		"--mode=root", "--format=directory", "--variant=minbase", "--architectures=" + o.Arch, "--include=" + packages,
		// Its own user for downloads cannot read a private data directory.
		`--aptopt=APT::Sandbox::User "root"`, `--aptopt=Acquire::Languages "none"`,
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--essential-hook=" + beforeKernel,
		o.Suite, root,
	}
	if o.Mirror != "" {
		args = append(args, o.Mirror)
	}
	return follow(ctx, o.Progress, "mmdebstrap", args...)
}

// keptLines is how much of a program's last words an error carries.
const keptLines = 8

// follow runs a program that says what it does, one line a step, beginning with
// "I: ", and puts what it said last into the error if it fails.
func follow(ctx context.Context, progress func(string, int64, int64), program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var last []string
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		if step, ok := strings.CutPrefix(line, "I: "); ok {
			progress(program+": "+step, 0, -1)
		}
		last = append(last, line)
		last = last[max(0, len(last)-keptLines):]
	}
	_, copyErr := io.Copy(io.Discard, out) // past a line that is too long
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s: %w:\n  %s\nis this host offline? a mirror can be named with --mirror", program, err, strings.Join(last, "\n  "))
	}
	return errors.Join(lines.Err(), copyErr)
}

// furnish makes a machine of ours of a fresh system: the agent as a service,
// nothing secret, nothing that works behind a build's back.
func furnish(root string, agent []byte) error {
	for _, f := range []struct {
		path string
		mode os.FileMode
		data []byte
	}{
		{"usr/local/lib/runner-agent/runner-agent", 0o755, agent},
		{"etc/systemd/system/runner-guest.service", 0o644, guestUnit},
		{"etc/udev/rules.d/60-runner-guest.rules", 0o644, guestRule},
		{"etc/systemd/system/runner-ssh-keys.service", 0o644, sshKeysUnit},
		{"etc/systemd/system/ssh.service.d/keys.conf", 0o644, sshKeysDropIn},
		{"etc/systemd/system/ssh@.service.d/keys.conf", 0o644, sshKeysDropIn},
		{"etc/cloud/cloud.cfg.d/90-runner.cfg", 0o644, cloudConfig},
		{"etc/fstab", 0o644, debianFstab},
		{"etc/hostname", 0o644, []byte("debian\n")},
		{"etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n")},
		// Without a name server a look-up fails at once instead of waiting for
		// nobody: these machines reach no network.
		{"etc/resolv.conf", 0o644, []byte("# No name server: see egress in the pool file.\n")},
		// Empty: each machine has its own, and no first boot asks questions.
		{"etc/machine-id", 0o444, nil},
	} {
		path := filepath.Join(root, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // written anew, never through a link that leads elsewhere
		}
		if err := writeSynced(path, f.data); err != nil {
			return err
		}
		if err := os.Chmod(path, f.mode); err != nil {
			return err
		}
	}
	units := filepath.Join(root, "etc/systemd/system")
	for link, to := range map[string]string{
		"apt-daily.timer": "/dev/null", "apt-daily-upgrade.timer": "/dev/null", "e2scrub_all.timer": "/dev/null",
		"e2scrub_reap.service": "/dev/null", "fstrim.timer": "/dev/null", "dpkg-db-backup.timer": "/dev/null",
		"multi-user.target.wants/systemd-networkd.service": "/lib/systemd/system/systemd-networkd.service",
		// Started by a connection, so that keys are made when one is needed.
		"sockets.target.wants/ssh.socket": "/lib/systemd/system/ssh.socket",
	} {
		path := filepath.Join(units, link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(to, path); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	gone := []string{"etc/systemd/system/multi-user.target.wants/ssh.service", "etc/systemd/system/sshd.service"}
	keys, err := filepath.Glob(filepath.Join(root, "etc/ssh/ssh_host_*"))
	for _, path := range gone {
		keys = append(keys, filepath.Join(root, path))
	}
	errs := []error{err}
	for _, path := range keys {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// takeKernel moves kernel and initramfs out of the system, which they start
// from beside the disk, and returns the kernel's release.
func takeKernel(root, to string) (release string, err error) {
	found, err := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	if err != nil || len(found) != 1 {
		return "", errors.Join(err, fmt.Errorf("%d kernels were installed instead of one", len(found)))
	}
	release = strings.TrimPrefix(filepath.Base(found[0]), "vmlinuz-")
	for from, name := range map[string]string{found[0]: KernelFile, filepath.Join(root, "boot/initrd.img-"+release): InitramfsFile} {
		if err := os.Rename(from, filepath.Join(to, name)); err != nil {
			return "", fmt.Errorf("kernel %s: %w", release, err)
		}
	}
	return release, nil
}

// makeFileSystem writes the files below root as a file system.
func makeFileSystem(ctx context.Context, root, file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(debianDisk), f.Close()); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-L", rootLabel, "-U", rootUUID, "-E", "hash_seed="+rootUUID, "-d", root, file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("mke2fs: %w: %s", err, lastLine(stderr.Bytes()))
	}
	return nil
}
