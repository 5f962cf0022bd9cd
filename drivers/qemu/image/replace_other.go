//go:build !linux

package image

import (
	"errors"
	"io/fs"
	"os"
)

// replaceDir puts the folder from at the place of to; what was there is at
// from afterwards. Other systems cannot swap two folders in one step.
func replaceDir(from, to string) error {
	old := from + ".old"
	if err := os.Rename(to, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return os.RemoveAll(old)
}
