package agent

import (
	"strings"
	"testing"
)

func TestDisksAreCountedOnce(t *testing.T) {
	t.Parallel()
	const diskstats = `   7       0 loop0 10 0 999 0 0 0 999 0 0 0 0
   8       0 sda 5 0 100 0 6 0 200 0 0 0 0 0 0 0 0
   8       1 sda1 5 0 90 0 6 0 190 0 0 0 0
 253       0 dm-0 5 0 80 0 6 0 180 0 0 0 0
 259       0 nvme0n1 5 0 1 0 6 0 2 0 0 0 0
   8      16 sdb broken
`
	got := parseDisk(diskstats, func(name string) bool { return !strings.HasSuffix(name, "1") || name == "nvme0n1" })
	if want := (diskUsage{read: 101 * 512, written: 202 * 512}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := readDisk(); err != nil {
		t.Error(err)
	}
}
