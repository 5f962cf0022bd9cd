package agent

import "golang.org/x/sys/windows"

// DiskSpace is how many bytes of the disk that holds dir this user may still
// fill, and how many it has.
func DiskSpace(dir string) (free, total uint64, err error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, 0, err
	}
	err = windows.GetDiskFreeSpaceEx(name, &free, &total, nil)
	return free, total, err
}
