package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
)

// tinyELF is an ELF file with one section, enough for a module or an agent.
func tinyELF(machine elf.Machine, section string, data []byte) []byte {
	names := "\x00" + section + "\x00.shstrtab\x00"
	var b bytes.Buffer
	dataAt := 64
	namesAt := dataAt + len(data)
	tableAt := namesAt + len(names)
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(machine), Version: 1, Shoff: uint64(tableAt),
		Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	must(binary.Write(&b, binary.LittleEndian, h))
	b.Write(data)
	b.WriteString(names)
	for _, s := range []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: uint64(dataAt), Size: uint64(len(data))},
		{Name: uint32(len(section) + 2), Type: uint32(elf.SHT_STRTAB), Off: uint64(namesAt), Size: uint64(len(names))},
	} {
		must(binary.Write(&b, binary.LittleEndian, s))
	}
	return b.Bytes()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func hostMachine() elf.Machine {
	if runtime.GOARCH == "arm64" {
		return elf.EM_AARCH64
	}
	return elf.EM_X86_64
}

// koFile is a kernel module that depends on others.
func koFile(depends string) []byte {
	return tinyELF(hostMachine(), ".modinfo", []byte("license=GPL\x00depends="+depends+"\x00name=x\x00"))
}

// deb packs files into a Debian package.
func deb(files map[string][]byte) []byte {
	var data bytes.Buffer
	z := gzip.NewWriter(&data)
	t := tar.NewWriter(z)
	must(t.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}))
	for name, content := range files {
		must(t.WriteHeader(&tar.Header{Name: "./" + name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}))
		_, err := t.Write(content)
		must(err)
	}
	must(t.Close())
	must(z.Close())
	var ar bytes.Buffer
	ar.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", []byte("odd")}, {"data.tar.gz", data.Bytes()}} {
		fmt.Fprintf(&ar, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		ar.Write(m.data)
		if len(m.data)%2 == 1 {
			ar.WriteByte('\n')
		}
	}
	return ar.Bytes()
}

const release = "6.1.0-9-cloud-amd64"

func kernelFiles() map[string][]byte {
	base := "lib/modules/" + release + "/kernel/"
	return map[string][]byte{
		"boot/vmlinuz-" + release:                       []byte("kernel"),
		"lib/modules/" + release + "/modules.builtin":   []byte("kernel/drivers/char/hw_random/rng-core.ko\n"),
		base + "drivers/virtio/virtio.ko":               koFile("virtio_ring"),
		base + "drivers/virtio/virtio_ring.ko":          koFile(""),
		base + "drivers/virtio/virtio_pci.ko":           koFile("virtio,virtio_ring"),
		base + "drivers/net/virtio_net.ko":              koFile("net-failover,virtio"),
		base + "drivers/net/net_failover.ko":            koFile("failover"),
		base + "net/core/failover.ko":                   koFile(""),
		base + "drivers/block/virtio_blk.ko":            koFile("virtio"),
		base + "drivers/char/hw_random/virtio-rng.ko":   koFile("rng-core,virtio"),
		base + "drivers/char/virtio_console.ko":         koFile("virtio"),
		base + "drivers/net/wireless/not-for-us/big.ko": []byte("never read"),
	}
}

// The busybox of tests is a script that knows its own applets.
func busyboxFiles() map[string][]byte {
	return map[string][]byte{"bin/busybox": []byte("#!/bin/sh\necho bin/sh\necho usr/bin/awk\necho linuxrc\necho sbin/init\n")}
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// sources writes packages and an agent to files and returns options for them.
func sources(t *testing.T, kernel, busybox map[string][]byte) image.Options {
	t.Helper()
	dir := t.TempDir()
	k, b := deb(kernel), deb(busybox)
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return image.Options{
		Dir:          t.TempDir(),
		AgentPath:    write("agent", tinyELF(hostMachine(), ".text", []byte("agent"))),
		AgentVersion: "v1.2.3",
		Kernel:       image.Source{URL: write("linux-image-6.1.0-9-cloud-amd64_6.1.9-1_amd64.deb", k), SHA256: sum(k)},
		Busybox:      image.Source{URL: "file://" + write("busybox-static_1%3a1.35.0-4_amd64.deb", b), SHA256: sum(b)},
	}
}

func TestBuildMakesTheSameImageFromTheSamePackages(t *testing.T) {
	t.Parallel()
	o := sources(t, kernelFiles(), busyboxFiles())
	first, err := image.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	base := "/lib/modules/" + release + "/kernel/"
	wantModules := []string{
		base + "drivers/virtio/virtio_ring.ko", base + "drivers/virtio/virtio.ko", base + "drivers/virtio/virtio_pci.ko",
		base + "net/core/failover.ko", base + "drivers/net/net_failover.ko", base + "drivers/net/virtio_net.ko",
		base + "drivers/block/virtio_blk.ko", base + "drivers/char/hw_random/virtio-rng.ko", base + "drivers/char/virtio_console.ko",
	}
	if diff := cmp.Diff(wantModules, first.Modules); diff != "" {
		t.Errorf("modules in load order (-want +got):\n%s", diff)
	}
	if want := (image.Package{Name: "busybox-static", Version: "1:1.35.0-4", SHA256: o.Busybox.SHA256}); first.Busybox != want {
		t.Errorf("busybox is %+v, want %+v", first.Busybox, want)
	}
	if first.Agent.Version != "v1.2.3" || first.KernelRelease != release {
		t.Errorf("agent %q and kernel %q", first.Agent.Version, first.KernelRelease)
	}
	files := readCPIO(t, first.Initramfs())
	for path, want := range map[string]string{
		"init": "100755 agent", "bin/sh": "120777 /bin/busybox", "usr/bin/awk": "120777 /bin/busybox", "tmp": "041777 ",
		"root": "040700 ", "dev/console": "020600 5:1", "etc/runner-agent/modules": "100644 " + strings.Join(wantModules, "\n") + "\n",
	} {
		got := files[path]
		if path == "init" && strings.HasPrefix(got, "100755 \x7fELF") {
			got = want
		}
		if got != want {
			t.Errorf("%s in the initramfs is %q, want %q", path, got, want)
		}
	}
	if _, ok := files["linuxrc"]; ok {
		t.Error("linuxrc is in the initramfs")
	}
	o2 := o
	o2.Dir = t.TempDir()
	second, err := image.Build(t.Context(), o2)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.Manifest, second.Manifest); diff != "" {
		t.Errorf("second build differs (-first +second):\n%s", diff)
	}
	if err := image.Verify(o.Dir, "tiny"); err != nil {
		t.Error(err)
	}
}

func TestRebuildWithANewAgentTouchesNoNetwork(t *testing.T) {
	t.Parallel()
	o := sources(t, kernelFiles(), busyboxFiles())
	first, err := image.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range []string{o.Kernel.URL, strings.TrimPrefix(o.Busybox.URL, "file://")} {
		if err := os.Remove(src); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(o.AgentPath, tinyELF(hostMachine(), ".text", []byte("newer")), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := image.Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if first.Hash() == second.Hash() {
		t.Error("another agent gives the same image")
	}
	o.Kernel, o.Busybox = image.Source{}, image.Source{} // what is cached is enough
	if _, err := image.Build(t.Context(), o); err != nil {
		t.Errorf("without sources: %v", err)
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "tiny" && e.Name() != ".cache" {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(*testing.T, *image.Options, map[string][]byte)
		want   string
	}{
		"an agent that is not there": {
			func(_ *testing.T, o *image.Options, _ map[string][]byte) { o.AgentPath += "x" },
			"no such file",
		},
		"an agent that is a script": {
			func(t *testing.T, o *image.Options, _ map[string][]byte) {
				rewrite(t, o.AgentPath, []byte("#!/bin/sh"))
			},
			"not a Linux program; build it with CGO_ENABLED=0",
		},
		"an agent for another machine": {
			func(t *testing.T, o *image.Options, _ map[string][]byte) {
				rewrite(t, o.AgentPath, tinyELF(elf.EM_MIPS, ".text", nil))
			},
			"made for EM_MIPS",
		},
		"an image we cannot build": {
			func(_ *testing.T, o *image.Options, _ map[string][]byte) { o.Name = "mine" },
			"image mine: those that can be built are tiny, debian and debian-docker; others are made with: drone-runner-aws image import mine FILE|URL",
		},
		"a package with another checksum": {
			func(_ *testing.T, o *image.Options, _ map[string][]byte) { o.Kernel.SHA256 = sum([]byte("else")) },
			"the file is not the one meant",
		},
		"a source without a checksum": {
			func(_ *testing.T, o *image.Options, _ map[string][]byte) { o.Kernel.SHA256 = "" },
			"needs the SHA-256 of the file",
		},
		"a package that is none": {
			func(t *testing.T, o *image.Options, _ map[string][]byte) {
				o.Kernel = image.Source{URL: filepath.Join(t.TempDir(), "x.deb"), SHA256: sum([]byte("no ar"))}
				rewrite(t, o.Kernel.URL, []byte("no ar"))
			},
			"not a Debian package",
		},
		"a kernel without a module we need": {
			func(_ *testing.T, _ *image.Options, k map[string][]byte) {
				delete(k, "lib/modules/"+release+"/kernel/drivers/net/net_failover.ko")
			},
			"no module net_failover, needed by virtio_net",
		},
		"modules that need each other": {
			func(_ *testing.T, _ *image.Options, k map[string][]byte) {
				k["lib/modules/"+release+"/kernel/drivers/virtio/virtio_ring.ko"] = koFile("virtio")
			},
			"depends on itself",
		},
		"a package without a kernel": {
			func(_ *testing.T, _ *image.Options, k map[string][]byte) { delete(k, "boot/vmlinuz-"+release) },
			"no kernel in the package",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files := kernelFiles()
			tc.change(t, new(image.Options), files) // what changes the package
			o := sources(t, files, busyboxFiles())
			tc.change(t, &o, map[string][]byte{})
			_, err := image.Build(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
			if _, err := image.Inspect(o.Dir, "tiny"); !errors.Is(err, image.ErrNotExist) {
				t.Errorf("after the error: %v, want no image", err)
			}
		})
	}
}

func rewrite(t *testing.T, path string, data []byte) {
	t.Helper()
	if path == "" {
		return
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDownloadGoesOnWhereItBrokeOff(t *testing.T) {
	t.Parallel()
	o := sources(t, kernelFiles(), busyboxFiles())
	k, err := os.ReadFile(o.Kernel.URL)
	if err != nil {
		t.Fatal(err)
	}
	var calls, ranged atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			w.Header().Set("Content-Length", fmt.Sprint(len(k)))
			_, _ = w.Write(k[:len(k)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		if r.Header.Get("Range") == fmt.Sprintf("bytes=%d-", len(k)/2) {
			ranged.Add(1)
		}
		http.ServeContent(w, r, "k.deb", time.Time{}, bytes.NewReader(k))
	}))
	t.Cleanup(srv.Close)
	o.Kernel.URL = srv.URL + "/k.deb"
	if _, err := image.Build(t.Context(), o); err == nil || !strings.Contains(err.Error(), "call again to go on") {
		t.Fatalf("broken download: %v", err)
	}
	if _, err := image.Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if ranged.Load() != 1 {
		t.Error("the second download did not ask for the rest only")
	}
	if _, err := image.Build(t.Context(), o); err != nil || calls.Load() != 2 {
		t.Errorf("third build: %v after %d downloads, want 2", err, calls.Load())
	}
}

func TestOfflineMessageSaysWhatToDo(t *testing.T) {
	t.Parallel()
	o := sources(t, kernelFiles(), busyboxFiles())
	srv := httptest.NewServer(http.NotFoundHandler())
	o.Kernel.URL = srv.URL + "/k.deb"
	srv.Close()
	_, err := image.Build(t.Context(), o)
	if err == nil || !strings.Contains(err.Error(), "is this host offline?") || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("got %v, want a hint for hosts without network", err)
	}
}

// leftOnly says what is in a folder beside what should be.
func leftOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", dir, diff)
	}
}
