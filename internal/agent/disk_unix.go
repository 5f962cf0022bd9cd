//go:build unix

package agent

import "golang.org/x/sys/unix"

// DiskSpace is how many bytes of the disk that holds dir this user may still
// fill, and how many it has.
func DiskSpace(dir string) (free, total uint64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return s.Bavail * uint64(s.Bsize), s.Blocks * uint64(s.Bsize), nil
}
