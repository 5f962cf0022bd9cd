package hostrunner

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// uses counts which files and folders of the host stages share, so that the
// end of one does not take them from another. It is safe for concurrent use.
type uses struct {
	mu     sync.Mutex
	by     map[string]int
	remove map[string]bool
}

func newUses() *uses { return &uses{by: make(map[string]int), remove: make(map[string]bool)} }

// add counts one stage's use of paths; those in removes go with the last one.
func (u *uses) add(paths, removes []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, p := range paths {
		u.by[p]++
	}
	for _, p := range removes {
		u.remove[p] = true
	}
}

// release ends one stage's use and returns what is to be removed now.
func (u *uses) release(paths []string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var gone []string
	for _, p := range paths {
		if u.by[p]--; u.by[p] > 0 {
			continue
		}
		delete(u.by, p)
		if u.remove[p] {
			delete(u.remove, p)
			gone = append(gone, p)
		}
	}
	return gone
}

// hostPaths are the files and folders of the host a setup names, and those of
// them that are to be removed at the end: the files that are not there yet, and
// the folders the caller wants removed. The stage's own folder is neither, and
// no root folder is ever removed.
func hostPaths(setup *agentapi.SetupRequest, harness *agentapi.HostVolume) (used, removed []string) {
	seen := make(map[string]bool)
	add := func(path string, remove bool) {
		path = filepath.Clean(agent.HostPath(path))
		if !filepath.IsAbs(path) || filepath.Dir(path) == path || seen[path] {
			return
		}
		seen[path] = true
		used = append(used, path)
		if remove {
			removed = append(removed, path)
		}
	}
	for _, f := range setup.Files {
		if f.IsDir {
			continue
		}
		_, err := os.Lstat(agent.HostPath(f.Path))
		add(f.Path, errors.Is(err, fs.ErrNotExist))
	}
	for _, v := range setup.Volumes {
		if v.Host != nil && v.Host != harness {
			add(v.Host.Path, v.Host.Remove)
		}
	}
	return used, removed
}
