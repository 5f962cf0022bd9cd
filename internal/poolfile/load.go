package poolfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// MaxBytes is how large a pool file may be.
const MaxBytes = 1 << 20

// Options changes what Parse and Load accept.
type Options struct {
	// Strict makes errors of what is probably a mistake though a server can
	// start with it: unknown keys and numbers that are not used as written.
	Strict bool
	// Dir is where paths in the file are looked for when they are not found
	// from the working directory. Load takes the file's own directory if it
	// is empty; Parse then leaves paths as they are.
	Dir string
	// CheckOnly takes types whose machines cannot be made yet, with a warning:
	// the file is looked at and not served.
	CheckOnly bool
	// FreeAge and BusyAge are the program's maximum ages, which a pool's own
	// are checked against. Zero: 72 and 24 hours.
	FreeAge, BusyAge time.Duration
}

// Load reads and parses the file at path. A file that cannot be read is a
// finding like any other, without a line.
func Load(path string, regs []drivers.Registration, o Options) (pool.Config, Findings) {
	data, problem := read(path)
	if problem != "" {
		return pool.Config{}, Findings{{File: path, Severity: Error, Message: problem}}
	}
	if o.Dir == "" {
		o.Dir = filepath.Dir(path)
	}
	return Parse(path, data, regs, o)
}

// read returns at most one byte more than a pool file may have, or what kept
// it from being read.
func read(path string) (data []byte, problem string) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, unreadable(err)
	}
	if info.IsDir() {
		return nil, "is a directory; give the path of the file in it"
	}
	data, err = io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, unreadable(err)
	}
	return data, ""
}

func unreadable(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "no such file; give its path with --pool, examples/pool.yml is one to begin with"
	case errors.Is(err, fs.ErrPermission):
		return "permission denied; let the user who runs this read it"
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	return fmt.Sprintf("cannot be read: %v", err)
}

// find is where a path named in the file is: as it is, from the working
// directory, or else from dir if it exists only there.
func find(path, dir string) string {
	if filepath.IsAbs(path) || dir == "" {
		return path
	}
	if _, err := os.Stat(path); err == nil {
		return path
	}
	beside := filepath.Join(dir, path)
	if _, err := os.Stat(beside); err == nil {
		return beside
	}
	return path
}
