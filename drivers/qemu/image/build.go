package image

import (
	"bytes"
	"cmp"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Tiny is the name and kind of the image [Build] makes.
const Tiny = "tiny"

// TinyMinMemoryMB is the least memory, in MiB, a tiny machine boots with.
const TinyMinMemoryMB = 128

// ModulesFile lists, inside the machine, the modules the agent loads at boot:
// one path a line, dependencies first.
const ModulesFile = "/etc/runner-agent/modules"

// Options says what to build.
type Options struct {
	// Name is the image's name: "tiny" (also the default) or "debian".
	Name string
	// Dir is the folder of all images.
	Dir string
	// AgentPath is the agent for the machine: a static Linux binary.
	AgentPath string
	// AgentVersion is written to the manifest; by default it is read from the
	// binary's build information.
	AgentVersion string
	// Arch is Go's name of the machine's architecture, by default the host's.
	Arch string
	// Kernel and Busybox replace apt as the source of the packages.
	Kernel, Busybox Source
	// Suite and Mirror are for debian: the release, by default DefaultSuite, and
	// where it comes from, by default Debian itself with all updates.
	Suite, Mirror string
	// Update asks apt or the source again though the packages are cached.
	Update bool
	// HTTP fetches from a Source; by default http.DefaultClient.
	HTTP *http.Client
	// Progress, if set, is told what is done now, in words for a person, and
	// how many bytes of how many; total is negative when unknown.
	Progress func(step string, done, total int64)
}

// Build makes an image, or makes it anew: a running reader sees the old one or
// the new one, whole. It touches the network only for packages that are not in
// the cache beside the images. Only debian and debian-docker need root.
func Build(ctx context.Context, o Options) (*Image, error) {
	o.Name = cmp.Or(o.Name, Tiny)
	o.Arch = cmp.Or(o.Arch, runtime.GOARCH)
	if !BuiltHere(o.Name) {
		return nil, fmt.Errorf("image %s: those that can be built are %s, %s and %s; others are made with: %s", o.Name, Tiny, Debian, DebianDocker, remake(o.Name))
	}
	if o.HTTP == nil {
		o.HTTP = http.DefaultClient
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	build := buildTiny
	if IsDebian(o.Name) {
		build = buildDebian
	}
	img, err := build(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("build image %s: %w", o.Name, err)
	}
	return img, nil
}

// makeFolders makes the folders of images and packages, and removes from them
// what killed builds have left.
func makeFolders(dir string) (cache string, err error) {
	cache = filepath.Join(dir, cacheFolder)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	for _, d := range []string{dir, cache} {
		if err := tidy(d, time.Now()); err != nil {
			return "", err
		}
	}
	return cache, nil
}

// buildTiny makes the image that runs from memory.
func buildTiny(ctx context.Context, o Options) (*Image, error) {
	agent, version, err := readAgent(o.AgentPath, o.AgentVersion, o.Arch)
	if err != nil {
		return nil, err
	}
	o.AgentVersion = version
	cache, err := makeFolders(o.Dir)
	if err != nil {
		return nil, err
	}
	f := &fetcher{
		cache: cache, arch: o.Arch, client: o.HTTP, progress: o.Progress, help: offlineHelp,
		apt: runApt, osRelease: "/etc/os-release",
	}
	kernel, modules, err := f.getKernel(ctx, o.Kernel, o.Update)
	if err != nil {
		return nil, err
	}
	busybox, err := f.get(ctx, "busybox", o.Busybox, func(context.Context) (string, error) { return "busybox-static", nil }, o.Update)
	if err != nil {
		return nil, err
	}
	manifest := Manifest{Name: o.Name, Arch: o.Arch, MinMemoryMB: TinyMinMemoryMB, Kernel: kernel.Package, Busybox: busybox.Package}
	kernelDebs := []string{filepath.Join(cache, kernel.File)}
	if modules != nil {
		manifest.KernelModules = &modules.Package
		kernelDebs = append(kernelDebs, filepath.Join(cache, modules.File))
	}
	return assemble(ctx, o, agent, kernelDebs, filepath.Join(cache, busybox.File), manifest)
}

// readAgent checks that the agent can be the first process of a machine of that
// architecture, and finds out its version unless one is given.
func readAgent(file, given, arch string) (agent []byte, version string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, "", fmt.Errorf("agent: %w", err)
	}
	bad := func(why string) ([]byte, string, error) {
		return nil, "", fmt.Errorf("agent %s: %s; build it with CGO_ENABLED=0 GOOS=linux GOARCH=%s go build ./cmd/runner-agent", file, why, arch)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return bad("not a Linux program")
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	if want, ok := machines[arch]; !ok {
		return nil, "", fmt.Errorf("architecture %s: not built in yet; amd64 and arm64 are", arch)
	} else if f.Machine != want {
		return bad("made for " + f.Machine.String())
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return bad("not static, and there is no C library in the image")
		}
	}
	if given != "" {
		return data, given, nil
	}
	version = "unknown"
	if info, err := buildinfo.Read(bytes.NewReader(data)); err == nil {
		version = info.Main.Version
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && info.Main.Version == "(devel)" {
				version = s.Value
			}
		}
	}
	return data, version, nil
}

// assemble unpacks the packages and writes the image's folder.
func assemble(ctx context.Context, o Options, agent []byte, kernelDebs []string, busyboxDeb string, m Manifest) (*Image, error) {
	o.Progress("unpacking the kernel", 0, -1)
	k, err := readKernel(ctx, kernelDebs)
	if err != nil {
		return nil, err
	}
	busybox, err := readBusybox(ctx, busyboxDeb)
	if err != nil {
		return nil, err
	}
	applets, err := listApplets(ctx, o.Dir, busybox)
	if err != nil {
		return nil, err
	}
	o.Progress("writing the initramfs", 0, -1)
	t := tree{}
	skeleton(t)
	t.file("init", 0o755, agent)
	t.file("bin/busybox", 0o755, busybox)
	for _, a := range applets {
		if _, taken := t[a]; !taken && a != "linuxrc" {
			t.link(a, "/bin/busybox")
		}
	}
	for _, mod := range k.modules {
		t.file(mod.path, 0o644, mod.data)
		m.Modules = append(m.Modules, "/"+mod.path)
	}
	t.file(ModulesFile, 0o644, []byte(strings.Join(m.Modules, "\n")+"\n"))
	m.KernelRelease = k.release
	var initramfs bytes.Buffer
	if err := t.writeTo(&initramfs); err != nil {
		return nil, err
	}
	m.Agent = Agent{Version: o.AgentVersion, SHA256: hashBytes(agent).SHA256}
	files := map[string][]byte{KernelFile: k.image, InitramfsFile: initramfs.Bytes()}
	m.Files = map[string]File{}
	for name, data := range files {
		m.Files[name] = hashBytes(data)
	}
	manifest, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	files[manifestFile] = append(manifest, '\n')
	if err := install(filepath.Join(o.Dir, o.Name), files); err != nil {
		return nil, err
	}
	o.Progress("image "+o.Name+" is ready", 1, 1)
	return Inspect(o.Dir, o.Name)
}

// kernel is what an image takes from the kernel's packages.
type kernel struct {
	release string
	image   []byte
	modules []module
}

// readKernel reads the kernel's package and, where its modules have one of
// their own, that too.
func readKernel(ctx context.Context, debs []string) (kernel, error) {
	var k kernel
	have := map[string]module{}
	packed := map[string]module{} // compressed modules, by name
	builtin := map[string]bool{}
	for _, deb := range debs {
		err := walkDeb(ctx, deb, func(name string, r io.Reader) error {
			name = strings.TrimPrefix(name, "usr/")
			release, isKernel := strings.CutPrefix(name, "boot/vmlinuz-")
			switch {
			case isKernel:
				k.release = release
				var err error
				k.image, err = io.ReadAll(r)
				return err
			case path.Base(name) == "modules.builtin":
				data, err := io.ReadAll(r)
				builtin = parseBuiltin(data)
				return err
			case isModuleWeMayNeed(name):
				data, err := io.ReadAll(r)
				if err != nil {
					return err
				}
				base, suffix, _ := strings.Cut(name, ".ko")
				m := module{path: base + ".ko", data: data}
				if suffix == "" {
					have[moduleName(name)] = m
				} else {
					packed[moduleName(name)+suffix] = m
				}
			}
			return nil
		})
		if err != nil {
			return k, err
		}
	}
	deb := debs[len(debs)-1]
	if k.image == nil {
		return k, fmt.Errorf("%s: no kernel in the package", debs[0])
	}
	for name, m := range packed {
		base, suffix, _ := strings.Cut(name, ".")
		err := decompress(ctx, "."+suffix, bytes.NewReader(m.data), func(r io.Reader) (err error) {
			m.data, err = io.ReadAll(r)
			return err
		})
		if err != nil {
			return k, fmt.Errorf("module %s: %w", name, err)
		}
		have[base] = m
	}
	var err error
	k.modules, err = loadOrder(have, builtin)
	if err != nil {
		return k, fmt.Errorf("%s: %w", deb, err)
	}
	return k, nil
}

func readBusybox(ctx context.Context, deb string) ([]byte, error) {
	var data []byte
	err := walkDeb(ctx, deb, func(name string, r io.Reader) (err error) {
		if strings.TrimPrefix(name, "usr/") == "bin/busybox" {
			data, err = io.ReadAll(r)
		}
		return err
	})
	if err == nil && data == nil {
		err = fmt.Errorf("%s: no bin/busybox in the package", deb)
	}
	return data, err
}

// listApplets asks busybox itself which programs it can be. It is the package
// of this host's own architecture, checked by checksum.
func listApplets(ctx context.Context, dir string, busybox []byte) ([]string, error) {
	tmp, err := os.MkdirTemp(dir, busyboxPrefix+"*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "busybox")
	if err := os.WriteFile(file, busybox, 0o700); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, file, "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list-full: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// skeleton is what a small Linux system has besides programs.
func skeleton(t tree) {
	for _, d := range []string{"bin", "sbin", "usr/bin", "usr/sbin", "etc", "dev", "proc", "sys", "run", "var/log", "var/lib", "home", "mnt", "srv", "opt"} {
		t.dir(d, 0o755)
	}
	t.dir("root", 0o700)
	t.dir("tmp", 0o1777)
	t.dir("var/tmp", 0o1777)
	// Without a console node the messages of the first process go nowhere.
	t.char("dev/console", 0o600, 5, 1)
	t.char("dev/null", 0o666, 1, 3)
	t.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"))
	t.file("etc/group", 0o644, []byte("root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"))
	t.file("etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"))
	// The name server of QEMU's user-mode network.
	t.file("etc/resolv.conf", 0o644, []byte("nameserver 10.0.2.3\n"))
	t.file("etc/os-release", 0o644, []byte("ID=tiny\nNAME=\"tiny\"\nPRETTY_NAME=\"tiny (Debian kernel, busybox)\"\n"))
	t.file("etc/profile", 0o644, []byte("export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"))
}

// The beginnings of names of files and folders that are there while something
// is done, and rubbish if it was not ended.
const (
	newPrefix     = ".new-"
	gonePrefix    = ".gone-"
	aptPrefix     = ".apt-"
	busyboxPrefix = ".busybox-"
)

// tidyAfter is longer than a build may take.
const tidyAfter = time.Hour

// tidy removes what builds that were killed have left.
func tidy(dir string, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		for _, prefix := range []string{newPrefix, gonePrefix, aptPrefix, busyboxPrefix} {
			info, err := e.Info()
			if err == nil && strings.HasPrefix(e.Name(), prefix) && now.Sub(info.ModTime()) > tidyAfter {
				errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// install puts the files into place as one: into a new folder that takes the
// place of the old one.
func install(dir string, files map[string][]byte) error {
	parent := filepath.Dir(dir)
	tmp, err := os.MkdirTemp(parent, newPrefix+"*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // the half-made one, or the one replaced
	// QEMU may run under another user and reads kernel and initramfs.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	for name, data := range files {
		if err := writeSynced(filepath.Join(tmp, name), data); err != nil {
			return err
		}
	}
	return replaceDir(tmp, dir)
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
}
