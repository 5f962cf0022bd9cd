package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// The formats of disks that are taken.
const (
	formatQCOW2 = "qcow2"
	formatRaw   = "raw"
)

// A disk of another size is a mistake, or an attack on whoever reads it.
const (
	leastDisk = 1 << 20
	mostDisk  = 2 << 40
)

// infoPatience is how long qemu-img may look at a file that was made elsewhere.
const infoPatience = 30 * time.Second

// qcow2 is the part of a qcow2 header that says what a file may make its reader
// do; see docs/interop/qcow2.rst of QEMU.
type qcow2 struct {
	Magic                    [4]byte
	Version                  uint32
	BackingOffset            uint64
	BackingSize, ClusterBits uint32
	Size                     uint64
	Encryption, L1Size       uint32
	L1Offset, RefcountOffset uint64
	RefcountClusters         uint32
	Snapshots                uint32
	SnapshotsOffset          uint64
	Incompatible             uint64 // version 3
}

// The incompatible features of qcow2 a disk may not have.
const (
	qcow2Dirty    = 1 << 0
	qcow2Corrupt  = 1 << 1
	qcow2External = 1 << 2
)

// diskFormat says what a file is, by its beginning alone. A raw disk is taken
// for one only if it has a boot sector: everything else would be raw too.
func diskFormat(head []byte) (string, error) {
	for _, other := range []struct{ magic, name string }{
		{"KDMV", "a VMware disk; convert it with: qemu-img convert -O qcow2 IN OUT"},
		{"COWD", "a VMware disk; convert it with: qemu-img convert -O qcow2 IN OUT"},
		{"vhdxfile", "a Hyper-V disk; convert it with: qemu-img convert -O qcow2 IN OUT"},
		{"<<< Oracle VM VirtualBox", "a VirtualBox disk; convert it with: qemu-img convert -O qcow2 IN OUT"},
		{"\x1f\x8b", "packed with gzip; unpack it first: gunzip FILE"},
		{"\xfd7zXZ\x00", "packed with xz; unpack it first: unxz FILE"},
		{"\x28\xb5\x2f\xfd", "packed with zstd; unpack it first: unzstd FILE"},
		{"BZh", "packed with bzip2; unpack it first: bunzip2 FILE"},
		{"PK\x03\x04", "a zip archive; unpack it first"},
		{"<!", "a page, not a disk; is the address right?"},
		{"<htm", "a page, not a disk; is the address right?"},
	} {
		if bytes.HasPrefix(head, []byte(other.magic)) {
			return "", errors.New("it is " + other.name)
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		return formatQCOW2, checkQCOW2(head)
	case len(head) >= 512 && head[510] == 0x55 && head[511] == 0xaa:
		return formatRaw, nil
	}
	return "", errors.New("it is neither a qcow2 file nor a raw disk with a boot sector")
}

// checkQCOW2 refuses files that would have their reader open others, or that
// nobody can read: before any program looks at them.
func checkQCOW2(head []byte) error {
	var h qcow2
	if err := binary.Read(bytes.NewReader(head), binary.BigEndian, &h); err != nil {
		return errors.New("its qcow2 header is cut short")
	}
	if h.Version < 3 {
		h.Incompatible = 0 // not in the header yet
	}
	switch {
	case h.Version != 2 && h.Version != 3:
		return fmt.Errorf("it is qcow2 of version %d; 2 and 3 are known", h.Version)
	case h.BackingOffset != 0 || h.BackingSize != 0:
		return errors.New("it is only the difference to another file (backing file); make it whole with: qemu-img convert -O qcow2 IN OUT")
	case h.Incompatible&qcow2External != 0:
		return errors.New("its data lies in another file; make it whole with: qemu-img convert -O qcow2 IN OUT")
	case h.Encryption != 0:
		return errors.New("it is encrypted")
	case h.Incompatible&qcow2Corrupt != 0:
		return errors.New("it is marked as corrupt; look at it with: qemu-img check FILE")
	case h.Incompatible&qcow2Dirty != 0:
		return errors.New("it was not closed, or is in use; look at it with: qemu-img check FILE")
	}
	return nil
}

// errNoQemuImg says what to install.
var errNoQemuImg = errors.New("qemu-img is not installed; on Debian and Ubuntu: apt-get install qemu-utils")

// runQemuImg runs qemu-img and returns its output.
func runQemuImg(ctx context.Context, args ...string) ([]byte, error) {
	path, err := exec.LookPath("qemu-img")
	if err != nil {
		return nil, errNoQemuImg
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("qemu-img %s: %w: %s", args[0], err, lastLine(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// inspectDisk checks a file that was made elsewhere and returns its format and
// what a machine would see of it, in bytes.
func inspectDisk(ctx context.Context, file string) (format string, size int64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", 0, err
	}
	head := make([]byte, 4096)
	n, err := io.ReadFull(f, head)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", 0, err
	}
	if format, err = diskFormat(head[:n]); err != nil {
		return "", 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, infoPatience, fmt.Errorf("qemu-img has not read it within %s", infoPatience))
	defer cancel()
	// The format is named: what the disk's own system writes is never a header.
	out, err := runQemuImg(ctx, "info", "--output=json", "-f", format, file)
	if err != nil {
		return "", 0, err
	}
	size, err = parseInfo(out, format)
	return format, size, err
}

// parseInfo reads qemu-img's word on a disk.
func parseInfo(out []byte, format string) (size int64, err error) {
	var info struct {
		Format      string `json:"format"`
		VirtualSize int64  `json:"virtual-size"`
		Backing     string `json:"backing-filename"`
		FullBacking string `json:"full-backing-filename"`
		Encrypted   bool   `json:"encrypted"`
		Specific    struct {
			Data struct {
				DataFile string `json:"data-file"`
				Corrupt  bool   `json:"corrupt"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return 0, fmt.Errorf("qemu-img info: %w", err)
	}
	switch {
	case info.Format != format:
		return 0, fmt.Errorf("qemu-img takes it for %q, not for %s", info.Format, format)
	case cmp.Or(info.Backing, info.FullBacking, info.Specific.Data.DataFile) != "":
		return 0, errors.New("it needs another file")
	case info.Encrypted:
		return 0, errors.New("it is encrypted")
	case info.Specific.Data.Corrupt:
		return 0, errors.New("it is corrupt")
	case info.VirtualSize < leastDisk || info.VirtualSize > mostDisk:
		return 0, fmt.Errorf("it says that its disk has %d bytes; a disk has from 1 MiB to 2 TiB", info.VirtualSize)
	}
	return info.VirtualSize, nil
}

// toQCOW2 writes a disk as a packed qcow2 file. Only what is used takes space.
func toQCOW2(ctx context.Context, format, from, to string) error {
	_, err := runQemuImg(ctx, "convert", "-c", "-f", format, "-O", formatQCOW2, "-o", "compression_type=zstd", from, to)
	if err != nil && ctx.Err() == nil && strings.Contains(err.Error(), "compression") {
		_, err = runQemuImg(ctx, "convert", "-c", "-f", format, "-O", formatQCOW2, from, to) // a QEMU without zstd
	}
	return err
}
