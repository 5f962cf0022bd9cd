package image

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// ImportedMinMemoryMB is the least memory, in MiB, of an imported image that
// says nothing else.
const ImportedMinMemoryMB = 256

// ImportOptions says what to import.
type ImportOptions struct {
	// Name is the image's new name. Those that are built are refused.
	Name string
	// Dir is the folder of all images.
	Dir string
	// From is the disk: qcow2, or raw with a boot sector. The checksum may be
	// left out for a file, not for an address.
	From Source
	// AgentPath is the agent for the machine, AgentVersion its version, by
	// default read from the binary.
	AgentPath, AgentVersion string
	// Arch is Go's name of the disk's architecture, by default the host's.
	Arch string
	// MinMemoryMB is the least memory, in MiB, machines get; 0: ImportedMinMemoryMB.
	MinMemoryMB int
	// HTTP fetches; by default http.DefaultClient.
	HTTP *http.Client
	// Progress is as in [Options].
	Progress func(step string, done, total int64)
}

// Import makes an image of a disk that was made elsewhere, such as a
// distribution's cloud image: it boots as the disk says and has cloud-init,
// which brings the agent from a second disk. The disk is checked and written
// anew, so that nothing of the file but the disk's content is kept. An image of
// the name is replaced as a whole; a download that broke off goes on where it
// ended.
func Import(ctx context.Context, o ImportOptions) (*Image, error) {
	img, err := importDisk(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("import image %s: %w", o.Name, err)
	}
	return img, nil
}

func importDisk(ctx context.Context, o ImportOptions) (*Image, error) {
	o.Arch = cmp.Or(o.Arch, runtime.GOARCH)
	o.MinMemoryMB = cmp.Or(o.MinMemoryMB, ImportedMinMemoryMB)
	o.HTTP = cmp.Or(o.HTTP, http.DefaultClient)
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	switch {
	case !nameRE.MatchString(o.Name):
		return nil, errors.New("a name has at most 63 lower-case letters, digits, dots and dashes, a letter or digit first")
	case BuiltHere(o.Name):
		return nil, fmt.Errorf("the name is taken by the image that %q makes; choose another", remake(o.Name))
	case o.Arch != "amd64":
		return nil, fmt.Errorf("imported disks boot on amd64 only, and this is %s; use the image debian", o.Arch)
	case o.MinMemoryMB < 0:
		return nil, fmt.Errorf("%d MiB is no size of memory", o.MinMemoryMB)
	}
	agent, version, err := readAgent(o.AgentPath, o.AgentVersion, o.Arch)
	if err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("qemu-img"); err != nil {
		return nil, errNoQemuImg
	}
	cache, err := makeFolders(o.Dir)
	if err != nil {
		return nil, err
	}
	file, sum, fetched, err := o.fetch(ctx, cache)
	if err != nil {
		return nil, err
	}
	defer fetched()
	format, size, err := inspectDisk(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.From.URL, err)
	}
	tmp, err := newFolder(o.Dir)
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp) // the half-made one, or the one replaced
	o.Progress("packing the disk", 0, -1)
	if err := toQCOW2(ctx, format, file, filepath.Join(tmp, DiskFile)); err != nil {
		return nil, err
	}
	seed, err := os.OpenFile(filepath.Join(tmp, SeedFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(writeSeed(seed, agent), seed.Close()); err != nil {
		return nil, err
	}
	m := Manifest{
		Name: o.Name, Arch: o.Arch, MinMemoryMB: o.MinMemoryMB,
		Disk:  &Disk{Size: size, Source: o.From.URL, SourceSHA256: sum},
		Agent: Agent{Version: version, SHA256: hashBytes(agent).SHA256},
	}
	if err := seal(tmp, filepath.Join(o.Dir, o.Name), m, DiskFile, SeedFile); err != nil {
		return nil, err
	}
	o.Progress("image "+o.Name+" is ready", 1, 1)
	return Inspect(o.Dir, o.Name)
}

// fetch brings the disk onto this host and checks its checksum. done removes
// what was downloaded.
func (o *ImportOptions) fetch(ctx context.Context, cache string) (file, sum string, done func(), err error) {
	done = func() {}
	want := strings.ToLower(o.From.SHA256)
	raw, err := hex.DecodeString(want)
	path, local := localPath(o.From.URL)
	switch {
	case o.From.URL == "":
		return "", "", done, errors.New("which disk? Give a file or an address")
	case want != "" && (err != nil || len(raw) != sha256.Size):
		return "", "", done, fmt.Errorf("%q is no SHA-256; write 64 hex digits", o.From.SHA256)
	case want == "" && !local:
		return "", "", done, fmt.Errorf("%s needs the SHA-256 of the file: nothing else tells what comes over the network", o.From.URL)
	}
	if local {
		file = path
		o.Progress("reading "+filepath.Base(file), 0, -1)
	} else {
		file = filepath.Join(cache, want+".part")
		f := &fetcher{cache: cache, client: o.HTTP, progress: o.Progress, help: "fetch the file elsewhere and give its path instead of the address"}
		if err := f.download(ctx, "image "+o.Name, o.From.URL, file); err != nil {
			return "", "", done, err
		}
		done = func() { _ = os.Remove(file) } // it is in the image, or no disk
	}
	got, err := hashFile(file)
	if err == nil && want != "" && got.SHA256 != want {
		err = fmt.Errorf("%s has SHA-256 %s, %s expected: the file is not the one meant", o.From.URL, got.SHA256, want)
	}
	if err != nil {
		done() // going on from a wrong beginning would never end well
		return "", "", func() {}, err
	}
	return file, got.SHA256, done, nil
}

// newFolder makes a folder beside the images in which one is put together.
func newFolder(dir string) (string, error) {
	tmp, err := os.MkdirTemp(dir, newPrefix+"*")
	if err != nil {
		return "", err
	}
	// QEMU may run under another user.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	return tmp, nil
}

// seal writes the manifest of the files in tmp, makes all durable and puts the
// folder into place; what was there is in tmp afterwards.
func seal(tmp, final string, m Manifest, names ...string) error {
	m.Files = map[string]File{}
	for _, name := range names {
		file := filepath.Join(tmp, name)
		sum, err := hashFile(file)
		if err != nil {
			return err
		}
		m.Files[name] = sum
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(tmp, manifestFile), append(raw, '\n')); err != nil {
		return err
	}
	return replaceDir(tmp, final)
}
