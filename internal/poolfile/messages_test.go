package poolfile_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
)

// TestMessages reads the pool.yml of every file in testdata/messages and
// compares what is said about it when serving (want) and under a strict check
// (strict) with the rest of that file.
func TestMessages(t *testing.T) {
	t.Parallel()
	messages(t, "testdata/messages", 50, registrations(), poolfile.Options{})
}

// TestDocumentedFiles reads complete files as they are documented or generated
// elsewhere with all types of the program; want is what a check says.
func TestDocumentedFiles(t *testing.T) {
	t.Parallel()
	messages(t, "testdata/documented", 9, builtIn(), poolfile.Options{CheckOnly: true})
}

// messages compares the findings of the files in dir, of which there are at
// least so many, with what stands in them.
func messages(t *testing.T, dir string, least int, regs []drivers.Registration, o poolfile.Options) {
	files, err := filepath.Glob(dir + "/*.txtar")
	if err != nil || len(files) < least {
		t.Fatalf("%d files, error %v; want at least %d", len(files), err, least)
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
			for _, run := range []struct {
				name string
				o    poolfile.Options
			}{{"want", o}, {"strict", poolfile.Options{Strict: true, CheckOnly: true}}} {
				config, found := poolfile.Parse("pool.yml", data, regs, run.o)
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
				out.Files = append(out.Files, txtar.File{Name: run.name, Data: b.Bytes()})
			}
			golden(t, file, txtar.Format(&out))
		})
	}
}
