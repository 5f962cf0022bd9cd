//go:build linux

package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// page is the unit in which empty memory is left out of a file.
const page = 4096

// ram is the memory of a template, sealed: QEMUs of any user may map it
// privately and nobody, root included, can change it.
type ram struct {
	template string
	file     *os.File
}

// keptRAMs is how many templates' memory a driver keeps loaded: one for the
// pool's own recipe and one for requests that ask for another size.
const keptRAMs = 2

// newRAM makes an empty memory of size bytes.
func newRAM(name string, size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memory for %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(fmt.Errorf("memory for %s: %w", name, err), f.Close())
	}
	return f, nil
}

// sealedRAM returns the memory of a template for one start of QEMU; the caller
// closes it.
func (d *Driver) sealedRAM(t *template) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := slices.IndexFunc(d.memory, func(r ram) bool { return r.template == t.key })
	if at < 0 {
		f, err := loadRAM(t)
		if err != nil {
			return nil, err
		}
		if len(d.memory) == keptRAMs {
			_ = d.memory[0].file.Close() // those who use it have their own descriptor
			d.memory = slices.Delete(d.memory, 0, 1)
		}
		d.memory = append(d.memory, ram{t.key, f})
		at = len(d.memory) - 1
	}
	r := d.memory[at]
	d.memory = append(slices.Delete(d.memory, at, at+1), r)
	fd, err := unix.FcntlInt(r.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), r.file.Name()), nil
}

func loadRAM(t *template) (*os.File, error) {
	in, err := os.Open(t.file(ramFile))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	f, err := newRAM("template-"+t.key, int64(t.MemoryMB)*mib)
	if err != nil {
		return nil, err
	}
	err = copyPages(f, in, int64(t.MemoryMB)*mib)
	if err == nil {
		const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load memory of template %s: %w", t.key, err), f.Close())
	}
	return f, nil
}

// copyPages copies size bytes but neither holes nor empty pages, so that to is
// no larger than what is in it.
func copyPages(to, from *os.File, size int64) error {
	buf := make([]byte, 64*page)
	empty := make([]byte, page)
	for at := int64(0); at < size; {
		start, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(from.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = start; at < end; {
			n, err := from.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if n == 0 {
				return io.ErrUnexpectedEOF
			}
			for i := 0; i < n; i += page {
				p := buf[i:min(i+page, n)]
				if bytes.Equal(p, empty[:len(p)]) {
					continue
				}
				if _, err := to.WriteAt(p, at+int64(i)); err != nil {
					return err
				}
			}
			at += int64(n)
		}
	}
	return nil
}
