package pool

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

func TestACloudDestroysNothingWithoutAPermit(t *testing.T) {
	t.Parallel()
	c := cloud{drivers.NewClient(nil, drivers.ClientOptions{})} // any call would panic
	held := permitRow(Instance{Name: "m", State: Warm, Held: true}, evidence{Why: ReasonExpired}, noon)
	for name, p := range map[string]permit{"the zero permit": {}, "one that was refused": held} {
		if err := c.Destroy(t.Context(), p); !errors.Is(err, errNoPermit) {
			t.Errorf("%s: destroy: %v", name, err)
		}
		if err := c.DestroyDisks(t.Context(), p); !errors.Is(err, errNoPermit) {
			t.Errorf("%s: destroy disks: %v", name, err)
		}
	}
	kept := permit{granted: true, disks: drivers.Keep}
	if err := c.DestroyDisks(t.Context(), kept); !errors.Is(err, errNoPermit) {
		t.Errorf("a permit that keeps disks: %v", err)
	}
}

// The compiler keeps other packages from making permits; this keeps the
// engine's own files from it, and from the driver's calls behind the gate.
func TestOnlyTheGateMakesPermitsAndCallsTheDriver(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range files {
		name := f.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				if id, ok := n.Type.(*ast.Ident); ok && id.Name == "permit" && len(n.Elts) > 0 {
					seen++
					if name != "permit.go" {
						t.Errorf("%s makes a permit by hand", set.Position(n.Pos()))
					}
				}
			case *ast.CallExpr:
				sel, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || (sel.Sel.Name != "Destroy" && sel.Sel.Name != "DestroyDisks") {
					return true
				}
				if on, ok := sel.X.(*ast.SelectorExpr); ok && (on.Sel.Name == "Client" || on.Sel.Name == "opened") {
					seen++
					if name != "permit.go" {
						t.Errorf("%s calls a driver past the gate", set.Position(n.Pos()))
					}
				}
			}
			return true
		})
	}
	if seen != 4 {
		t.Errorf("found %d permits and calls of drivers, want the 4 of permit.go: this test looks past them", seen)
	}
}
