package server

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// poolSentinels is every Err… of the pool package; the test below compares the
// names with its source, so that a new one cannot be forgotten here.
var poolSentinels = map[string]error{
	"ErrNotFound": pool.ErrNotFound, "ErrConflict": pool.ErrConflict, "ErrLimit": pool.ErrLimit,
	"ErrClosed": pool.ErrClosed, "ErrRetired": pool.ErrRetired, "ErrHeld": pool.ErrHeld, "ErrDestroyedFirst": pool.ErrDestroyedFirst,
	"ErrLost": pool.ErrLost, "ErrInvalid": pool.ErrInvalid, "ErrNotYet": pool.ErrNotYet, "ErrDisk": pool.ErrDisk,
	"ErrUnavailable": pool.ErrUnavailable, "ErrForeign": pool.ErrForeign,
}

func TestEverySentinelHasAStatus(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "../pool/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.VAR {
			continue
		}
		for _, spec := range gen.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				if !strings.HasPrefix(name.Name, "Err") {
					continue
				}
				found++
				sentinel, known := poolSentinels[name.Name]
				if !known {
					t.Errorf("pool.%s is new: give it a row in statuses, and name it here", name.Name)
					continue
				}
				if _, ok := statusOf(fmt.Errorf("wrapped: %w", sentinel)); !ok {
					t.Errorf("pool.%s has no row in statuses", name.Name)
				}
			}
		}
	}
	if found != len(poolSentinels) {
		t.Errorf("found %d sentinels in pool/errors.go, this test names %d", found, len(poolSentinels))
	}
}

func TestStatusRowsAreWhole(t *testing.T) {
	t.Parallel()
	codes := map[string]bool{}
	for _, s := range statuses {
		if s.code == "" || codes[s.code] || s.v1 < 400 || s.step < 400 || http.StatusText(s.v1) == "" {
			t.Errorf("row of %v is incomplete or its code is taken: %+v", s.err, s)
		}
		codes[s.code] = true
	}
}

func TestOnlyStepsSay404(t *testing.T) {
	t.Parallel()
	for name, err := range poolSentinels {
		for _, route := range []string{api.PathSetup, api.PathStep, api.PathDestroy, api.PathSuspend, api.PathPoolOwner} {
			want := http.StatusInternalServerError
			if name == "ErrNotFound" && route == api.PathStep {
				want = http.StatusNotFound
			}
			if got, body, bare := delegateError(route, fmt.Errorf("x: %w", err)); got != want || body.Code != want || bare {
				t.Errorf("%s on %s: %d (code %d, bare %t), want %d", name, route, got, body.Code, bare, want)
			}
		}
	}
}

func TestWhatNobodyForesawIsNotShownUnderV1(t *testing.T) {
	t.Parallel()
	status, body := v1Error("r1", errors.New("password=hunter2"))
	if status != 500 || body.Error.Code != "internal" || strings.Contains(body.Error.Message, "hunter2") || !strings.Contains(body.Error.Message, "r1") {
		t.Errorf("%d %+v", status, body)
	}
}

func TestNotFoundBehindALostMachineIsLost(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("%w: %w", &pool.LostError{Lease: "l", Instance: "i", Cause: "c"}, pool.ErrNotFound)
	if got, _, _ := delegateError(api.PathStep, err); got != 500 {
		t.Errorf("got %d, want 500", got)
	}
}
