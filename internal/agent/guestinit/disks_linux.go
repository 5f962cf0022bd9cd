package guestinit

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

const (
	// blocksDir is where the kernel lists disks.
	blocksDir = "/sys/block"
	// diskFileSystem is what the host makes on a persistent disk. With discard
	// the host gets back the space of files that are deleted.
	diskFileSystem, diskOptions = "ext4", "discard"
	// diskPatience is how long all disks together may take to appear: their driver
	// is loaded before the identity comes, so they are there. It ends before a host
	// asks anew, which would not hear the answer to what it asked before.
	diskPatience = 10 * time.Second
	diskPause    = 20 * time.Millisecond
)

// mountDisks mounts a machine's persistent disks. It can be called again after
// it has failed: what is mounted stays so. A disk is mounted as it is; nothing
// is ever written to one that has no file system.
func mountDisks(ctx context.Context, disks []guestlink.Disk, log *slog.Logger) error {
	end := time.Now().Add(diskPatience)
	for _, d := range disks {
		if mounted(d.Folder) {
			continue
		}
		device, err := awaitDisk(ctx, blocksDir, d.Serial, time.Until(end))
		if err == nil {
			err = os.MkdirAll(d.Folder, 0o755)
		}
		if err == nil {
			err = unix.Mount(device, d.Folder, diskFileSystem, 0, diskOptions)
		}
		if err != nil {
			return fmt.Errorf("mount persistent disk %s at %s: %w", d.Serial, d.Folder, err)
		}
		log.Info("persistent disk is mounted", "disk", d.Serial, "device", device, "at", d.Folder)
	}
	return nil
}

// awaitDisk waits until a disk with a serial number is listed below dir, and
// returns its device.
func awaitDisk(ctx context.Context, dir, serial string, patience time.Duration) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("no disk has the serial number %s; is there a virtio-blk device with it, and the module virtio_blk?", serial))
	defer cancel()
	for {
		if name, ok := findDisk(dir, serial); ok {
			return filepath.Join("/dev", name), nil
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-time.After(diskPause):
		}
	}
}

// findDisk returns the name of the disk with a serial number.
func findDisk(dir, serial string) (string, bool) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "serial"))
	if err != nil {
		return "", false
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.Trim(string(text), " \n\x00") == serial {
			return filepath.Base(filepath.Dir(file)), true
		}
	}
	return "", false
}

// flush writes what the kernel keeps in memory of files to their disks.
func flush() error {
	unix.Sync()
	return nil
}
