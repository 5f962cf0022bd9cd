package archtest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/vm-runner/drone-runner-aws"

// root is the top of the repository.
const root = "../.."

// skipped hold what a build or a run leaves behind. In a worktree .git is a file.
var skipped = []string{".git", ".run", "bin", "dist", "node_modules"}

// files lists every file of the tree, relative to its top, with slashes.
func files(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if slices.Contains(skipped, rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			all = append(all, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// goFile is one parsed Go file.
type goFile struct {
	name string
	pkg  string
	test bool
	file *ast.File
	fset *token.FileSet
	// imports are the import paths.
	imports []string
}

func (f goFile) at(n ast.Node) string { return f.fset.Position(n.Pos()).String() }

// goFiles parses the tree once for all tests.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	parseOnce.Do(func() { parsed = parseTree(t) })
	if len(parsed) == 0 {
		t.Fatal("the tree could not be parsed, see the first test that tried")
	}
	return parsed
}

var (
	parseOnce sync.Once
	parsed    []goFile
)

func parseTree(t *testing.T) []goFile {
	t.Helper()
	var all []goFile
	for _, name := range files(t) {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "testdata/") {
			continue
		}
		fset := token.NewFileSet()
		src, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		syntax, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		f := goFile{name: name, pkg: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), file: syntax, fset: fset}
		for _, i := range syntax.Imports {
			f.imports = append(f.imports, strings.Trim(i.Path.Value, `"`))
		}
		all = append(all, f)
	}
	return all
}
