package image_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

// apt is a folder with programs that answer like apt's on a host whose mirrors
// have these packages, and the packages.
func apt(t *testing.T, depends map[string]string, debs map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), data, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, d := range depends {
		write(name+".deb", debs[name], 0o600)
		write(name+".txt", []byte("Package: "+name+"\nVersion: 1.2-3\nSHA256: "+sum(debs[name])+"\nDepends: "+d+"\n"), 0o600)
	}
	write("apt-cache", []byte("#!/bin/sh\nfor name; do :; done\n"+
		"cat '"+dir+"'/\"${name%%=*}\".txt 2>/dev/null || { echo \"N: Unable to locate package $name\" >&2; exit 100; }\n"), 0o700)
	write("apt-get", []byte("#!/bin/sh\necho \"$*\" >>'"+dir+"/calls'\nfor name; do :; done\n"+
		"cp '"+dir+"'/\"${name%%=*}\".deb \"${name%%=*}_1.2-3_all.deb\"\n"), 0o700)
	return dir
}

// Not parallel: it changes PATH.
func TestBuildTakesUbuntusKernelAndItsModules(t *testing.T) {
	testhost.Program(t, "zstd", "zstd")
	const release = "6.8.0-45-generic"
	base := "lib/modules/" + release + "/kernel/"
	modules := map[string][]byte{
		// Where Ubuntu differs: more is built in, and what is not is packed.
		"lib/modules/" + release + "/modules.builtin": []byte("kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_pci.ko\n" +
			"kernel/drivers/char/virtio_console.ko\nkernel/drivers/char/hw_random/rng-core.ko\n"),
		base + "drivers/net/virtio_net.ko.zst":            zstd(t, koFile("net_failover")),
		base + "drivers/net/net_failover.ko.zst":          zstd(t, koFile("failover")),
		base + "net/core/failover.ko.zst":                 zstd(t, koFile("")),
		base + "drivers/block/virtio_blk.ko.zst":          zstd(t, koFile("")),
		base + "drivers/char/hw_random/virtio-rng.ko.zst": zstd(t, koFile("rng-core")),
	}
	kernel, packed := "linux-image-"+release, "linux-modules-"+release
	dir := apt(t,
		map[string]string{"linux-image-virtual": kernel, kernel: "kmod, " + packed, packed: "", "busybox-static": ""},
		map[string][]byte{
			kernel: deb(map[string][]byte{"boot/vmlinuz-" + release: []byte("kernel")}), packed: deb(modules), "busybox-static": deb(busyboxFiles()),
		})
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	o := sources(t, kernelFiles(), busyboxFiles())
	o.Kernel, o.Busybox = image.Source{}, image.Source{}
	for _, updated := range []bool{false, false, true} { // the second finds all in the cache
		o.Update = updated
		img, err := image.Build(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if img.KernelRelease != release || img.Manifest.Kernel.Name != kernel || img.KernelModules == nil || img.KernelModules.Name != packed {
			t.Errorf("built from %+v", img.Manifest)
		}
		var names []string
		for _, m := range img.Modules {
			names = append(names, filepath.Base(m))
		}
		if want := []string{"failover.ko", "net_failover.ko", "virtio_net.ko", "virtio_blk.ko", "virtio-rng.ko"}; !slices.Equal(names, want) {
			t.Errorf("modules %v, want %v", names, want)
		}
		files := readCPIO(t, img.Initramfs())
		if got := files[base+"drivers/net/virtio_net.ko"]; got != "100644 "+string(koFile("net_failover")) {
			t.Errorf("virtio_net.ko is %q", got)
		}
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(calls), "\n"); got != 6 {
		t.Errorf("%d downloads, want three and three again for the update:\n%s", got, calls)
	}
}

// Not parallel: it changes PATH.
func TestBuildWithoutAKernelInAptNamesTheFlag(t *testing.T) {
	t.Setenv("PATH", apt(t, nil, nil)+":"+os.Getenv("PATH"))
	o := sources(t, kernelFiles(), busyboxFiles())
	o.Kernel = image.Source{}
	_, err := image.Build(t.Context(), o)
	for _, want := range []string{"linux-image-cloud-" + runtime.GOARCH, "linux-image-virtual", "linux-image-kvm", "--kernel-url"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func zstd(t *testing.T, data []byte) []byte {
	t.Helper()
	cmd := exec.Command("zstd", "-q", "-c")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}
