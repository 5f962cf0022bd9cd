package agent

import "fmt"

// diskAlmostFull is the part of a disk that must be free, in percent, for a
// step to begin, or to fail, without a warning.
const diskAlmostFull = 5

// diskRemarks warn of disks that are almost full: a step that fails for want of
// space rarely says so. Each folder's disk is looked at; look says how many
// bytes of it are free, of how many.
func diskRemarks(dirs []string, look func(dir string) (free, total uint64, err error)) remarks {
	var notes remarks
	type disk struct{ free, total uint64 }
	seen := make(map[disk]bool) // two folders of one disk are one warning
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		free, total, err := look(dir)
		if err != nil || total == 0 || free >= total/100*diskAlmostFull || seen[disk{free, total}] {
			continue // what cannot be looked at fails the step with a better reason
		}
		seen[disk{free, total}] = true
		notes.add(true, fmt.Sprintf("warning: the disk of %s is almost full (%d MiB of %d MiB are free): steps fail when it is full; remove files or images, or use a larger disk",
			dir, free>>20, total>>20))
	}
	return notes
}
