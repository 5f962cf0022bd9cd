package sqlite_test

import (
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/store/internal/core"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, diff)
	}
}

// raw is a second look at an open store's file.
func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sqlite.Raw(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// plan is how SQLite would run a statement, a line per step.
func plan(t *testing.T, db *sql.DB, text string) string {
	t.Helper()
	args := make([]any, 0, 40)
	for n := 1; strings.Contains(text, fmt.Sprintf("$%d", n)); n++ {
		args = append(args, "")
	}
	rows, err := db.Query("EXPLAIN QUERY PLAN "+text, args...)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		b.WriteString("    " + detail + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestPlans keeps what a statement looks at: through which index, and that it
// is no scan. The plans do not depend on what is in the tables, since nothing
// ever analyses them.
func TestPlans(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "database.sqlite3")
	opened(t, sqlite.Options{Path: path})
	db := raw(t, path)
	var b strings.Builder
	for s := core.Stmt(0); s < core.NumStmts; s++ {
		text := core.Portable()[s]
		p := plan(t, db, text)
		fmt.Fprintf(&b, "%s\n%s", strings.Join(strings.Fields(text), " "), p)
		if strings.Contains(p, "SCAN instances\n") || strings.Contains(p, "SCAN leases\n") || strings.Contains(p, "SCAN events\n") ||
			strings.Contains(p, "SCAN tombstones\n") || strings.Contains(p, "SCAN lease_choices\n") {
			if s != core.AnySealed {
				t.Errorf("%s\nscans a table:\n%s", text, p)
			}
		}
	}
	golden(t, "plans.txt", b.String())
}

// TestStatementsArePortable checks what SQLite's libraries need of a text: its
// parameters first appear in their order.
func TestStatementsArePortable(t *testing.T) {
	t.Parallel()
	for s, text := range core.Portable() {
		if text == "" {
			t.Errorf("statement %d has no text", s)
		}
		seen := 0
		for at := 0; at < len(text); at++ {
			if text[at] != '$' {
				continue
			}
			n := 0
			for at++; at < len(text) && text[at] >= '0' && text[at] <= '9'; at++ {
				n = 10*n + int(text[at]-'0')
			}
			if n > seen+1 {
				t.Errorf("$%d comes before $%d in %s", n, seen+1, text)
			}
			seen = max(seen, n)
		}
	}
}
