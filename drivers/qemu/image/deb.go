package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// arMagic begins every ar archive, and so every .deb.
const arMagic = "!<arch>\n"

// arHeader is the size of the header before each member of an ar archive.
const arHeader = 60

// member is one file of an ar archive: its name and where its data lies.
type member struct {
	name         string
	offset, size int64
}

// arMembers reads the table of an ar archive, without its data.
func arMembers(r io.ReaderAt, size int64) ([]member, error) {
	magic := make([]byte, len(arMagic))
	if _, err := r.ReadAt(magic, 0); err != nil || string(magic) != arMagic {
		return nil, errors.New("not a Debian package (no ar header)")
	}
	var members []member
	for at := int64(len(arMagic)); at < size; {
		head := make([]byte, arHeader)
		if _, err := r.ReadAt(head, at); err != nil {
			return nil, fmt.Errorf("ar header at byte %d: %w", at, err)
		}
		if head[58] != '`' || head[59] != '\n' {
			return nil, fmt.Errorf("ar header at byte %d: broken end mark", at)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(head[48:58])), 10, 64)
		if err != nil || n < 0 || n > size-at-arHeader {
			return nil, fmt.Errorf("ar header at byte %d: bad size %q", at, head[48:58])
		}
		name := strings.TrimSuffix(strings.TrimSpace(string(head[:16])), "/")
		members = append(members, member{name: name, offset: at + arHeader, size: n})
		at += arHeader + n + n%2
	}
	return members, nil
}

// walkDeb calls visit for every regular file in the package, its name without
// the leading "./". The reader is valid during the call only.
func walkDeb(ctx context.Context, file string, visit func(name string, r io.Reader) error) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	members, err := arMembers(f, info.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, m := range members {
		if suffix, ok := strings.CutPrefix(m.name, "data.tar"); ok {
			data := io.NewSectionReader(f, m.offset, m.size)
			err := decompress(ctx, suffix, data, func(r io.Reader) error { return walkTar(r, visit) })
			if err != nil {
				return fmt.Errorf("unpack %s: %w", file, err)
			}
			return nil
		}
	}
	return fmt.Errorf("%s: no data.tar in the package", file)
}

func walkTar(r io.Reader, visit func(name string, r io.Reader) error) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := visit(strings.TrimPrefix(h.Name, "./"), t); err != nil {
			return err
		}
	}
}

// errNoDecompressor is wrapped when the program for a compression is missing.
var errNoDecompressor = errors.New("no program to decompress with")

// decompress hands the plain bytes of r to use. The standard library has gzip;
// xz and zstd are left to the programs of these names.
func decompress(ctx context.Context, suffix string, r io.Reader, use func(io.Reader) error) error {
	switch suffix {
	case "":
		return use(r)
	case ".gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return err
		}
		return use(z)
	case ".xz":
		return pipe(ctx, "xz", "xz-utils", r, use)
	case ".zst":
		return pipe(ctx, "zstd", "zstd", r, use)
	default:
		return fmt.Errorf("unknown compression %q", suffix)
	}
}

// pipe runs "program -dc" over r and gives use its output. A use that stops
// early ends the program; one that fails decides the error.
func pipe(ctx context.Context, program, debian string, r io.Reader, use func(io.Reader) error) error {
	path, err := exec.LookPath(program)
	if err != nil {
		return fmt.Errorf("%w: %s is not installed; install the package %s", errNoDecompressor, program, debian)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-dc")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = r, &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	useErr := use(out)
	if useErr == nil {
		_, useErr = io.Copy(io.Discard, out) // what follows the end mark of a tar
	} else {
		cancel()
	}
	waitErr := cmd.Wait()
	if useErr != nil {
		return useErr
	}
	if waitErr != nil {
		return fmt.Errorf("%s: %w: %s", program, waitErr, strings.TrimSpace(stderr.String()))
	}
	return nil
}
