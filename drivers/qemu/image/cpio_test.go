package image

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

func TestCPIOIsByteForByteTheGoldenArchive(t *testing.T) {
	t.Parallel()
	t1 := tree{}
	t1.file("/init", 0o755, []byte("#!/bin/sh\n"))
	t1.file("etc/a/b/c", 0o644, []byte("odd"))
	t1.link("bin/sh", "/bin/busybox")
	t1.char("dev/console", 0o600, 5, 1)
	t1.dir("tmp", 0o1777)
	t1.file("empty", 0o600, nil)
	var got bytes.Buffer
	if err := t1.writeTo(&got); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "small.cpio")
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("archive differs from %s:\n%q", golden, got.String())
	}
}

// FuzzAr reads broken archives: no panic, and no member outside of them.
func FuzzAr(f *testing.F) {
	f.Add([]byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"))
	f.Add([]byte("!<arch>\nx               0           0     0     100644  -4        `\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		members, err := arMembers(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for _, m := range members {
			if m.offset < 0 || m.size < 0 || m.offset+m.size > int64(len(data)) {
				t.Errorf("member %+v outside of %d bytes", m, len(data))
			}
		}
	})
}

// FuzzControl reads whatever apt may print.
func FuzzControl(f *testing.F) {
	f.Add([]byte("Package: x\nVersion: 1\nDescription: a\n b\n\nPackage: y\n"))
	f.Fuzz(func(_ *testing.T, data []byte) { parseControl(data) })
}
