package image

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// The file types of a cpio entry, as in stat(2).
const (
	modeDir     = 0o040000
	modeRegular = 0o100000
	modeSymlink = 0o120000
	modeChar    = 0o020000
)

// cpioAlign is what the kernel's unpacker and cpio(1) pad an archive to.
const cpioAlign = 512

// entry is one file of an initramfs. For a symbolic link data is its target.
type entry struct {
	path         string
	mode         uint32 // type and permissions
	major, minor uint32 // of a device
	data         []byte
}

// tree collects entries by path; a later one replaces an earlier one, and
// missing parent folders are made 0755.
type tree map[string]entry

func (t tree) dir(p string, perm uint32) { t.put(entry{path: p, mode: modeDir | perm}) }

func (t tree) file(p string, perm uint32, data []byte) {
	t.put(entry{path: p, mode: modeRegular | perm, data: data})
}

func (t tree) link(p, target string) {
	t.put(entry{path: p, mode: modeSymlink | 0o777, data: []byte(target)})
}

func (t tree) char(p string, perm, major, minor uint32) {
	t.put(entry{path: p, mode: modeChar | perm, major: major, minor: minor})
}

func (t tree) put(e entry) {
	e.path = strings.TrimPrefix(path.Clean("/"+e.path), "/")
	for d := path.Dir(e.path); d != "."; d = path.Dir(d) {
		if _, ok := t[d]; !ok {
			t[d] = entry{path: d, mode: modeDir | 0o755}
		}
	}
	t[e.path] = e
}

// writeTo writes the tree as a "newc" cpio archive, sorted by path, with zero
// times and owner root, so that equal trees give equal bytes.
func (t tree) writeTo(w io.Writer) error {
	c := &counter{w: w}
	entries := make([]entry, 0, len(t))
	for _, e := range t {
		entries = append(entries, e)
	}
	// A folder sorts before what is in it: its path is a prefix.
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	for i, e := range entries {
		if err := c.entry(uint32(i+1), e); err != nil {
			return fmt.Errorf("write %s: %w", e.path, err)
		}
	}
	if err := c.entry(0, entry{path: "TRAILER!!!"}); err != nil {
		return fmt.Errorf("write trailer: %w", err)
	}
	return c.pad(cpioAlign)
}

// counter knows how much was written, for the padding.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (c *counter) pad(to int64) error {
	if rest := c.n % to; rest != 0 {
		_, err := c.Write(make([]byte, to-rest))
		return err
	}
	return nil
}

// entry writes header, name and data; the format is described in the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst.
func (c *counter) entry(ino uint32, e entry) error {
	links := 1
	if e.mode&modeDir == modeDir && e.mode&modeRegular != modeRegular {
		links = 2
	}
	_, err := fmt.Fprintf(c, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		ino, e.mode, 0 /* uid */, 0 /* gid */, links, 0 /* mtime */, len(e.data),
		0, 0 /* device of the file system */, e.major, e.minor, len(e.path)+1, 0 /* checksum, unused */)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(c, e.path+"\x00"); err != nil {
		return err
	}
	if err := c.pad(4); err != nil {
		return err
	}
	if _, err := c.Write(e.data); err != nil {
		return err
	}
	return c.pad(4)
}
