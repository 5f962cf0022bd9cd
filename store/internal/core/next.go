//go:build nextschema

package core

import (
	"errors"
	"io/fs"
	"slices"
)

// Both is the files of two folders, as if they were one.
type Both [2]fs.FS

// Open implements fs.FS for files.
func (b Both) Open(name string) (fs.File, error) {
	f, err := b[0].Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return b[1].Open(name)
	}
	return f, err
}

// ReadDir implements fs.ReadDirFS.
func (b Both) ReadDir(name string) ([]fs.DirEntry, error) {
	first, err := fs.ReadDir(b[0], name)
	if err != nil {
		return nil, err
	}
	second, err := fs.ReadDir(b[1], name)
	return slices.Concat(first, second), err
}
