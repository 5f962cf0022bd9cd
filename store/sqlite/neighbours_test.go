//go:build !nextschema

package sqlite_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/pressly/goose/v3"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
	"github.com/vm-runner/drone-runner-aws/store/storetest"
)

func (f file) Try(t testing.TB, log *slog.Logger) (pool.Store, error) {
	return sqlite.Open(t.Context(), sqlite.Options{Path: string(f), Seal: testKey(t, 1), Log: log})
}

func (f file) Execute(t testing.TB, statement string) {
	t.Helper()
	db, err := sqlite.RawWriter(string(f))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		t.Fatal(err)
	}
}

// next is the migration of the version after this one, and its number.
func next(t *testing.T) (version int64, migration string) {
	t.Helper()
	files, err := filepath.Glob("migrations_next/*.sql")
	if err != nil || len(files) != 1 {
		t.Fatalf("migrations of the next version are %v, %v; want one", files, err)
	}
	version, err = goose.NumericComponent(files[0])
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return version, string(b)
}

// TestTheNextSchemaIsInNoRelease: a program that is built as always has the
// migrations of this version, and the next one follows on them.
func TestTheNextSchemaIsInNoRelease(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("migrations/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	var last int64
	for _, f := range files {
		v, err := goose.NumericComponent(f)
		if err != nil {
			t.Fatal(err)
		}
		last = max(last, v)
	}
	got, err := sqlite.Newest()
	if err != nil || got != last {
		t.Errorf("the program's schema has version %d, %v; the newest migration has %d", got, err, last)
	}
	if version, _ := next(t); version != last+1 {
		t.Errorf("the next version's migration has number %d, want %d", version, last+1)
	}
}

// TestNeighbours works on tables that a newer runner has changed.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	version, migration := next(t)
	storetest.Neighbours(t, version, migration, func(t testing.TB) storetest.TablePlace { return file(filepath.Join(t.TempDir(), "database.sqlite3")) })
}

// TestStoreOnTheNextSchema is the whole contract for a runner at work while a
// newer one changes the tables under it.
func TestStoreOnTheNextSchema(t *testing.T) {
	t.Parallel()
	version, migration := next(t)
	storetest.Run(t, func(t testing.TB) pool.Store {
		at := file(filepath.Join(t.TempDir(), "database.sqlite3"))
		s := at.Open(t)
		storetest.Upgrade(t, at, version, migration)
		return s
	})
}
