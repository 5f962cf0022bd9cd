package poolfile_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
)

// TestMessages reads the pool.yml of every file in testdata/messages and
// compares what is said about it when serving (want) and under a strict check
// (strict) with the rest of that file.
func TestMessages(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/messages/*.txtar")
	if err != nil || len(files) < 50 {
		t.Fatalf("%d files, error %v; want at least 50", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in := txtar.Parse(raw)
			if len(in.Files) == 0 || in.Files[0].Name != "pool.yml" {
				t.Fatal("the first file is not pool.yml")
			}
			if len(bytes.TrimSpace(in.Comment)) == 0 {
				t.Error("no comment says which situation this is")
			}
			data := bytes.TrimSuffix(in.Files[0].Data, []byte("--no newline--\n"))
			out := txtar.Archive{Comment: in.Comment, Files: in.Files[:1]}
			for _, strict := range []bool{false, true} {
				name := "want"
				if strict {
					name = "strict"
				}
				config, found := poolfile.Parse("pool.yml", data, registrations(), poolfile.Options{Strict: strict})
				if (found.Errors() == 0) != (len(config.Pools) > 0) {
					t.Errorf("%d errors and %d pools", found.Errors(), len(config.Pools))
				}
				var b bytes.Buffer
				if err := found.Print(&b); err != nil {
					t.Fatal(err)
				}
				if b.Len() == 0 {
					b.WriteString("nothing\n")
				}
				out.Files = append(out.Files, txtar.File{Name: name, Data: b.Bytes()})
			}
			golden(t, file, txtar.Format(&out))
		})
	}
}
