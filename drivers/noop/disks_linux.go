package noop

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// The disks of machines that are processes are one file beside the pools'
// directories, changed under a lock and replaced as a whole.
const (
	disksDir  = ".disks"
	disksFile = "disks.json"
)

// onShelf runs a change of the disks, if there is anything to change.
func (p *processes) onShelf(ctx context.Context, needed bool, change func(shelf) error) error {
	if !needed {
		return nil
	}
	dir := filepath.Join(p.root, disksDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	lock, err := lockPath(ctx, filepath.Join(dir, ".lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	s, err := p.shelf()
	if err != nil {
		return err
	}
	if err := change(s); err != nil {
		return err
	}
	file := filepath.Join(dir, disksFile)
	if len(s) > 0 {
		return writeJSON(file, s)
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (p *processes) shelf() (shelf, error) {
	s := shelf{}
	err := readJSON(filepath.Join(p.root, disksDir, disksFile), &s)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
}

// hasDisks says whether there were ever disks here.
func (p *processes) hasDisks() bool {
	_, err := os.Stat(filepath.Join(p.root, disksDir, disksFile))
	return err == nil
}

// there says whether a machine exists; one that cannot be looked at does.
func (p *processes) there(machine string) bool {
	ok, err := p.exists(machine)
	return ok || err != nil
}

func (p *processes) disks(context.Context) ([]drivers.Disk, error) {
	s, err := p.shelf()
	if err != nil {
		return nil, err
	}
	all := s.list()
	for i, d := range all {
		if d.AttachedTo != "" && !p.there(d.AttachedTo) {
			all[i].AttachedTo = "" // a crash between the machine's end and its disk's release
		}
	}
	return all, nil
}

func (p *processes) destroyDisk(ctx context.Context, name string) error {
	return p.onShelf(ctx, p.hasDisks(), func(s shelf) error { return s.remove(name, p.there) })
}
