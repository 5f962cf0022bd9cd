package hostrunner

import (
	"fmt"
	"runtime"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
)

// HostFacts looks at this host; the disk is the one that holds dir.
func HostFacts(dir string) (Facts, error) {
	f := Facts{CPUs: runtime.GOMAXPROCS(0)} // knows the limits of a container
	var err error
	if f.MemoryTotal, f.MemoryAvailable, err = memory(); err != nil {
		return Facts{}, fmt.Errorf("memory: %w", err)
	}
	if f.DiskFree, _, err = agent.DiskSpace(dir); err != nil {
		return Facts{}, fmt.Errorf("disk of %s: %w", dir, err)
	}
	return f, nil
}
