package image_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kdomanski/iso9660"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

// rawDisk is a raw disk of 2 MiB with a boot sector and some data.
func rawDisk() []byte {
	disk := make([]byte, 2<<20)
	copy(disk, "\xeb\xfe")
	disk[510], disk[511] = 0x55, 0xaa
	copy(disk[1<<20:], "data of the disk")
	return disk
}

// imported writes a disk and returns options that import it.
func imported(t *testing.T, disk []byte) image.ImportOptions {
	t.Helper()
	testhost.Program(t, "qemu-img", "qemu-utils")
	o := sources(t, kernelFiles(), busyboxFiles())
	file := filepath.Join(t.TempDir(), "disk.img")
	rewrite(t, file, disk)
	return image.ImportOptions{
		Name: "mine", Dir: o.Dir, AgentPath: o.AgentPath, AgentVersion: "v1.2.3", From: image.Source{URL: file},
	}
}

func TestImportKeepsTheDiskAndBringsTheAgent(t *testing.T) {
	t.Parallel()
	disk := rawDisk()
	o := imported(t, disk)
	o.From.SHA256 = sum(disk)
	o.MinMemoryMB = 777
	img, err := image.Import(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	want := &image.Disk{Size: 2 << 20, Source: o.From.URL, SourceSHA256: sum(disk)}
	if diff := cmp.Diff(want, img.Disk); diff != "" {
		t.Errorf("disk (-want +got):\n%s", diff)
	}
	if img.HasKernel() || !img.HasSeed() || img.MinMemoryMB != 777 || img.Agent.Version != "v1.2.3" {
		t.Errorf("manifest: %+v", img.Manifest)
	}
	if err := image.Verify(o.Dir, "mine"); err != nil {
		t.Error(err)
	}
	out := filepath.Join(t.TempDir(), "back.raw")
	if text, err := exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", filepath.Join(img.Dir, image.DiskFile), out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	back, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(back, disk) {
		t.Errorf("the disk is not the one imported (%d bytes, %v)", len(back), err)
	}
	agent, err := os.ReadFile(o.AgentPath)
	if err != nil {
		t.Fatal(err)
	}
	seed := readSeed(t, filepath.Join(img.Dir, image.SeedFile))
	if seed["runner-agent"] != string(agent) || !strings.HasPrefix(seed["vendor-data"], "#!/bin/sh\n") ||
		!strings.Contains(seed["meta-data"], "instance-id:") || !strings.HasPrefix(seed["user-data"], "#cloud-config\n") ||
		!strings.Contains(seed["runner-guest.service"], "runner-agent guest") {
		t.Errorf("the seed has %q", seed)
	}

	// Again with another disk: the image is replaced, and nothing is left over.
	first := img.Hash()
	disk[1<<20] = 'D'
	rewrite(t, o.From.URL, disk)
	o.From.SHA256 = ""
	if img, err = image.Import(t.Context(), o); err != nil || img.Hash() == first {
		t.Errorf("import of another disk: %v, the same hash %v", err, img.Hash() == first)
	}
	leftOnly(t, o.Dir, ".cache", "mine")
}

// readSeed reads the files of a seed, whose names cloud-init looks for in lower
// case.
func readSeed(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	label := make([]byte, 6)
	if _, err := f.ReadAt(label, 16*2048+40); err != nil || string(label) != "cidata" {
		t.Errorf("label %q, %v", label, err)
	}
	iso, err := iso9660.OpenImage(f)
	if err != nil {
		t.Fatal(err)
	}
	root, err := iso.RootDir()
	if err != nil {
		t.Fatal(err)
	}
	children, err := root.GetChildren()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, c := range children {
		var b bytes.Buffer
		if _, err := b.ReadFrom(c.Reader()); err != nil {
			t.Fatal(err)
		}
		files[c.Name()] = b.String()
	}
	return files
}

// qcow2Header is a version 3 header with some of its words changed.
func qcow2Header(change map[int]uint64) []byte {
	h := make([]byte, 64<<10)
	copy(h, "QFI\xfb")
	binary.BigEndian.PutUint32(h[4:], 3)
	binary.BigEndian.PutUint32(h[20:], 16)
	binary.BigEndian.PutUint64(h[24:], 1<<30)
	for at, v := range change {
		binary.BigEndian.PutUint64(h[at:], v)
	}
	return h
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		disk   []byte
		change func(*image.ImportOptions)
		want   string
	}{
		"a disk that is the difference to another":   {qcow2Header(map[int]uint64{8: 512}), nil, "backing file"},
		"a disk whose data lies in another file":     {qcow2Header(map[int]uint64{72: 4}), nil, "its data lies in another file"},
		"a disk that is in use":                      {qcow2Header(map[int]uint64{72: 1}), nil, "in use"},
		"a disk that is marked as corrupt":           {qcow2Header(map[int]uint64{72: 2}), nil, "corrupt"},
		"an encrypted disk":                          {qcow2Header(map[int]uint64{32: 1 << 32}), nil, "encrypted"},
		"a version to come":                          {qcow2Header(map[int]uint64{0: 0x514649fb_00000004}), nil, "version 4"},
		"a header that is cut short":                 {qcow2Header(nil)[:40], nil, "cut short"},
		"a header that qemu-img does not understand": {qcow2Header(map[int]uint64{72: 1 << 40}), nil, "qemu-img info"},
		"a text":                 {[]byte("no disk\n"), nil, "neither a qcow2 file nor a raw disk"},
		"nothing":                {nil, nil, "neither a qcow2 file nor a raw disk"},
		"a page":                 {[]byte("<!doctype html>"), nil, "a page, not a disk"},
		"a packed disk":          {[]byte("\xfd7zXZ\x00..."), nil, "unpack it first: unxz FILE"},
		"another program's disk": {[]byte("KDMV..."), nil, "qemu-img convert"},
		"a disk of one sector":   {rawDisk()[:512], nil, "from 1 MiB to 2 TiB"},
		"the name of an image that is built": {
			rawDisk(), func(o *image.ImportOptions) { o.Name = "debian" },
			"image build debian",
		},
		"a name that is none": {
			rawDisk(), func(o *image.ImportOptions) { o.Name = "../x" },
			"a name has at most 63",
		},
		"another checksum": {
			rawDisk(), func(o *image.ImportOptions) { o.From.SHA256 = sum([]byte("else")) },
			"the file is not the one meant",
		},
		"a checksum that is none": {
			rawDisk(), func(o *image.ImportOptions) { o.From.SHA256 = "abc" },
			"is no SHA-256",
		},
		"an address without a checksum": {
			rawDisk(), func(o *image.ImportOptions) { o.From.URL = "https://mirror.example.com/disk.qcow2" },
			"needs the SHA-256",
		},
		"a file that is not there": {
			rawDisk(), func(o *image.ImportOptions) { o.From.URL += "x" },
			"no such file",
		},
		"a disk of another architecture": {
			rawDisk(), func(o *image.ImportOptions) { o.Arch = "arm64" },
			"boot on amd64 only",
		},
		"no agent": {
			rawDisk(), func(o *image.ImportOptions) { o.AgentPath += "x" },
			"agent: open",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := imported(t, tc.disk)
			if tc.change != nil {
				tc.change(&o)
			}
			_, err := image.Import(t.Context(), o)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "import image") {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if images, err := image.List(o.Dir); len(images) != 0 || err != nil {
				t.Errorf("left behind: %v, %v", images, err)
			}
		})
	}
}

func TestImportGoesOnWhereADownloadBrokeOff(t *testing.T) {
	t.Parallel()
	disk := rawDisk()
	var calls atomic.Int32
	var resumed atomic.Value
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			w.Header().Set("Content-Length", fmt.Sprint(len(disk)))
			_, _ = w.Write(disk[:1<<20]) // the connection ends with it
			return
		}
		resumed.Store(r.Header.Get("Range"))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", 1<<20, len(disk)-1, len(disk)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(disk[1<<20:])
	}))
	defer srv.Close()
	o := imported(t, nil)
	o.From = image.Source{URL: srv.URL + "/disk.img", SHA256: sum(disk)}
	if _, err := image.Import(t.Context(), o); err == nil || !strings.Contains(err.Error(), "call again to go on") {
		t.Fatalf("a download that broke off: %v", err)
	}
	img, err := image.Import(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if got := resumed.Load(); got != "bytes=1048576-" {
		t.Errorf("went on with %q", got)
	}
	if img.Disk.SourceSHA256 != sum(disk) {
		t.Errorf("disk: %+v", img.Disk)
	}
	leftOnly(t, filepath.Join(o.Dir, ".cache"))

	// Without a network the message says what helps.
	srv.Close()
	if _, err := image.Import(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is this host offline? fetch the file elsewhere") {
		t.Errorf("offline: %v", err)
	}
}

func TestImportLeavesNothingWhenItIsGivenUp(t *testing.T) {
	t.Parallel()
	o := imported(t, rawDisk())
	ctx, cancel := context.WithCancel(t.Context())
	o.Progress = func(step string, _, _ int64) {
		if strings.Contains(step, "packing") {
			cancel()
		}
	}
	if _, err := image.Import(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	leftOnly(t, o.Dir, ".cache")
}
