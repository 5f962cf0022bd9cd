package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// The files of an image's folder.
const (
	KernelFile    = "vmlinuz"
	InitramfsFile = "initramfs"
	DiskFile      = "disk.qcow2"
	SeedFile      = "seed.iso"
	manifestFile  = "manifest.json"
)

// cacheFolder holds fetched packages, beside the images. Names of images never
// begin with a dot.
const cacheFolder = ".cache"

// ErrNotExist is wrapped when an image has not been made; the message names
// the command that makes it.
var ErrNotExist = errors.New("image does not exist")

// Manifest says what an image is and what it was made of. It has no times and
// no paths, so that equal inputs give equal manifests.
type Manifest struct {
	Name string `json:"name"`
	// Arch is Go's word, "amd64" or "arm64".
	Arch string `json:"arch"`
	// Disk is the disk machines of the image boot from; nil if they run from
	// memory.
	Disk *Disk `json:"disk,omitempty"`
	// KernelRelease is what uname -r says inside; "" if the kernel is on the disk.
	KernelRelease string  `json:"kernel_release,omitempty"`
	Kernel        Package `json:"kernel,omitzero"`
	// KernelModules is the package of the kernel's modules, if it has its own.
	KernelModules *Package `json:"kernel_modules,omitempty"`
	Busybox       Package  `json:"busybox,omitzero"`
	Agent         Agent    `json:"agent"`
	// MinMemoryMB is the least memory it boots with, in MiB.
	MinMemoryMB int `json:"min_memory_mb"`
	// Modules are loaded by the agent, in this order.
	Modules []string `json:"modules,omitempty"`
	// Files are the files of the image by name.
	Files map[string]File `json:"files"`
}

// Disk is the disk of an image, a qcow2 file without a backing file.
type Disk struct {
	// Size is what a machine sees of it, in bytes.
	Size int64 `json:"size"`
	// Suite and Mirror are what it was built from, "" if it was imported.
	Suite  string `json:"suite,omitempty"`
	Mirror string `json:"mirror,omitempty"`
	// Source and SourceSHA256 are what it was imported from.
	Source       string `json:"source,omitempty"`
	SourceSHA256 string `json:"source_sha256,omitempty"`
}

// Package is a Debian package an image was made of.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
}

// Agent is the agent in an image.
type Agent struct {
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
}

// File is one file of an image: its checksum and its size in bytes.
type File struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// Image is one image in the store.
type Image struct {
	Manifest
	// Dir is its folder.
	Dir string
}

// Kernel is the path of the kernel.
func (i *Image) Kernel() string { return filepath.Join(i.Dir, KernelFile) }

// Initramfs is the path of the initramfs.
func (i *Image) Initramfs() string { return filepath.Join(i.Dir, InitramfsFile) }

// HasKernel says whether machines are started with the image's kernel and
// initramfs; if not, the firmware looks for one on the disk.
func (i *Image) HasKernel() bool { return i.has(KernelFile) }

// HasSeed says whether the agent comes into a machine by cloud-init and a disk
// of the image's own.
func (i *Image) HasSeed() bool { return i.has(SeedFile) }

func (i *Image) has(name string) bool {
	_, ok := i.Files[name]
	return ok
}

// Hash identifies all files of the image together.
func (i *Image) Hash() string {
	text := i.Files[KernelFile].SHA256 + "\n" + i.Files[InitramfsFile].SHA256
	if i.Disk != nil {
		text += "\n" + i.Files[DiskFile].SHA256 + "\n" + i.Files[SeedFile].SHA256
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// needs are the files without which the image is none.
func (i *Image) needs() []string {
	switch {
	case i.Disk == nil:
		return []string{KernelFile, InitramfsFile}
	case i.HasKernel():
		return []string{DiskFile, KernelFile, InitramfsFile}
	default:
		return []string{DiskFile, SeedFile}
	}
}

// remake is the command that makes an image of this name.
func remake(name string) string {
	if BuiltHere(name) {
		return "drone-runner-aws image build " + name
	}
	return "drone-runner-aws image import " + name + " FILE|URL"
}

var nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// CheckName says why no image can have a name.
func CheckName(name string) error {
	if !nameRE.MatchString(name) {
		return fmt.Errorf("%q is no name of an image: names are lower-case letters, digits, dots and dashes, a letter or digit first", name)
	}
	return nil
}

// Inspect reads the image called name in dir. It looks at the manifest and the
// sizes of the files, not at their content (see [Verify]).
func Inspect(dir, name string) (*Image, error) {
	if !nameRE.MatchString(name) {
		return nil, fmt.Errorf("image %q: %w: names are lower-case letters, digits, dots and dashes", name, ErrNotExist)
	}
	img := &Image{Dir: filepath.Join(dir, name)}
	raw, err := os.ReadFile(filepath.Join(img.Dir, manifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image %s: %w in %s; make it with: %s", name, ErrNotExist, dir, remake(name))
	}
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	if err := json.Unmarshal(raw, &img.Manifest); err != nil {
		return nil, fmt.Errorf("image %s: %s is broken: %w; make the image again", name, manifestFile, err)
	}
	for _, file := range img.needs() {
		want, ok := img.Files[file]
		if !ok {
			return nil, fmt.Errorf("image %s: %s does not name %s; make the image again", name, manifestFile, file)
		}
		info, err := os.Stat(filepath.Join(img.Dir, file))
		if err != nil {
			return nil, fmt.Errorf("image %s: %w; make the image again", name, err)
		}
		if info.Size() != want.Size {
			return nil, fmt.Errorf("image %s: %s has %d bytes, %d expected; make the image again", name, file, info.Size(), want.Size)
		}
	}
	return img, nil
}

// List reads every image in dir, sorted by name. A folder that cannot be read
// as one is reported in the error, beside the images that can.
func List(dir string) ([]*Image, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var images []*Image
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		img, err := Inspect(dir, e.Name())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		images = append(images, img)
	}
	return images, errors.Join(errs...)
}

// Remove deletes an image; one that does not exist is no error. Machines that
// run from it are not touched: templates keep files of their own.
func Remove(dir, name string) error {
	if !nameRE.MatchString(name) {
		return nil
	}
	path := filepath.Join(dir, name)
	// Renamed first: an image is there as a whole or not at all.
	gone, err := os.MkdirTemp(dir, gonePrefix+"*")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	defer os.RemoveAll(gone)
	err = os.Rename(path, filepath.Join(gone, "image"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	return nil
}

// Verify compares the content of an image with its manifest.
func Verify(dir, name string) error {
	img, err := Inspect(dir, name)
	if err != nil {
		return err
	}
	for file, want := range img.Files {
		got, err := hashFile(filepath.Join(img.Dir, filepath.Base(file)))
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		if got != want {
			return fmt.Errorf("image %s: %s was changed (SHA-256 %s, %s expected); make the image again", name, file, got.SHA256, want.SHA256)
		}
	}
	return nil
}

func hashFile(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, err
	}
	return File{SHA256: hex.EncodeToString(h.Sum(nil)), Size: n}, nil
}

func hashBytes(data []byte) File {
	sum := sha256.Sum256(data)
	return File{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data))}
}
