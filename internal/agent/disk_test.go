package agent

import (
	"errors"
	"strings"
	"testing"
)

func TestAStepIsWarnedBeforeTheDiskIsFull(t *testing.T) {
	t.Parallel()
	disks := map[string][2]uint64{
		"/roomy": {60 << 30, 100 << 30}, "/tight": {4 << 30, 100 << 30}, "/tight/too": {4 << 30, 100 << 30}, "/full": {0, 50 << 30},
	}
	look := func(dir string) (free, total uint64, err error) {
		d, ok := disks[dir]
		if !ok {
			return 0, 0, errors.New("no such folder")
		}
		return d[0], d[1], nil
	}
	got := diskRemarks([]string{"/roomy", "/tight", "", "/tight/too", "/gone", "/full"}, look)
	if len(got) != 2 || !strings.Contains(got[0], "/tight is almost full (4096 MiB of 102400 MiB are free)") || !strings.Contains(got[1], "/full") {
		t.Errorf("%q", got)
	}
}

func TestDiskSpaceIsThatOfTheFolder(t *testing.T) {
	t.Parallel()
	free, total, err := DiskSpace(t.TempDir())
	if err != nil || total == 0 || free > total {
		t.Errorf("%d of %d, %v", free, total, err)
	}
	if _, _, err := DiskSpace(t.TempDir() + "/none"); err == nil {
		t.Error("a folder that is not there has space")
	}
}
