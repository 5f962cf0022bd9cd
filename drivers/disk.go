package drivers

import (
	"crypto/sha256"
	"encoding/hex"
)

// disksFolder is where linux machines have their persistent disks, firstDisk
// the name under which gitspaces expect the first.
const (
	disksFolder = "/mnt/disks/"
	firstDisk   = "mountdevcontainer"
)

// DiskLabel is a persistent disk's name as its file system bears it: at most 16
// bytes, which is what ext4 takes, and the same for the same disk.
func DiskLabel(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "gs-" + hex.EncodeToString(sum[:6])
}

// DiskFolder is where a linux machine has the i-th of its persistent disks,
// counted from 0, on every kind of driver.
func DiskFolder(i int, name string) string {
	if i == 0 {
		return disksFolder + firstDisk
	}
	return disksFolder + DiskLabel(name)
}
