package sqlite_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// begin is when these tests take place.
var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// filled makes a closed store file with sealed rows in it.
func filled(t *testing.T, path string) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path, Seal: testKey(t, 1)})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func fill(t *testing.T, s pool.Store) {
	t.Helper()
	ctx := t.Context()
	if err := s.Configure(ctx, []pool.PoolRow{{Name: "a", Max: 1000}}, begin); err != nil {
		t.Fatal(err)
	}
	for k := range 50 {
		id := fmt.Sprint("i", k)
		if _, err := s.Intend(ctx, pool.Intent{Instance: pool.Instance{ID: id, Name: "n" + id, Pool: "a", Identity: drivers.Identity{
			Machine: id, CAKey: []byte("plain ca key of " + id), Key: []byte("plain tls key of " + id),
			CACert: bytes.Repeat([]byte("plain certificate"), 40), Cert: []byte("plain certificate"),
		}}, Now: begin}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Arrive(ctx, pool.Arrival{ID: "lease-1", Choices: []pool.Choice{{Pool: "a"}}, Waiter: "w", Now: begin}); err != nil {
		t.Fatal(err)
	}
	if err := s.Export(ctx, pool.LeaseKey{ID: "lease-1"}, map[string]string{"TOKEN": "plain exported secret"}, begin); err != nil {
		t.Fatal(err)
	}
}

func sum(t *testing.T, path string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err != nil && strings.Contains(err.Error(), "is a directory") {
		return [32]byte{}
	}
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		// make prepares the path; what it returns is undone at the end.
		make func(t *testing.T, path string)
		seal byte
		want []string
		as   func(error) bool
		// mayChange is set where another runner is at work on the file.
		mayChange bool
	}{
		{
			name: "the directory is missing",
			make: func(t *testing.T, path string) {
				if err := os.Remove(filepath.Dir(path)); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"does not exist", "DRONE_DATABASE_DATASOURCE"},
		},
		{
			name: "the path is a directory",
			make: func(t *testing.T, path string) {
				if err := os.Mkdir(path, 0o755); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"is a directory", "database.sqlite3"},
		},
		{
			name: "the file is not a database",
			make: func(t *testing.T, path string) {
				if err := os.WriteFile(path, bytes.Repeat([]byte("pools:\n- name: x\n"), 400), 0o644); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"not a SQLite database", "left as it is"},
		},
		{
			name: "a page is corrupt",
			make: func(t *testing.T, path string) {
				filled(t, path)
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				for page := 3; page < len(b)/4096; page++ {
					copy(b[page*4096:], bytes.Repeat([]byte{0xa5}, 200))
				}
				if err := os.WriteFile(path, b, 0o644); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"damaged", "restore a copy"},
		},
		{
			name: "another program has it locked",
			make: func(t *testing.T, path string) {
				filled(t, path)
				db, err := sqlite.RawWriter(path)
				if err != nil {
					t.Fatal(err)
				}
				db.SetMaxOpenConns(1)
				if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = db.Close() })
			},
			want: []string{"locked by another process", "stop"},
		},
		{
			name:      "another runner has it open",
			make:      func(t *testing.T, path string) { opened(t, sqlite.Options{Path: path}) },
			want:      []string{"in use by another runner", "process " + strconv.Itoa(os.Getpid()), ".lock"},
			mayChange: true,
		},
		{
			name: "a newer runner wrote it",
			make: func(t *testing.T, path string) {
				filled(t, path)
				execute(t, path, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1); UPDATE meta SET compat = 998")
			},
			want: []string{"version 999", "at least 998", "newer"},
		},
		{
			name: "another program's database",
			make: func(t *testing.T, path string) {
				execute(t, path, "CREATE TABLE instances (instance_id TEXT)")
			},
			want: []string{"another program", "left as it is"},
		},
		{
			name: "the seal key is another",
			make: filled,
			seal: 2,
			want: []string{testKey(t, 1).ID(), testKey(t, 2).ID(), store.KeyEnv},
			as:   func(err error) bool { _, ok := errors.AsType[*store.KeyError](err); return ok },
		},
		{
			name: "the seal key is missing",
			make: filled,
			want: []string{testKey(t, 1).ID(), store.KeyEnv},
			as:   func(err error) bool { _, ok := errors.AsType[*store.KeyError](err); return ok },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "d", "database.sqlite3")
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			tt.make(t, path)
			before := sum(t, path)
			o := sqlite.Options{Path: path}
			if tt.as == nil {
				o.Seal = testKey(t, 1)
			} else if tt.seal != 0 {
				o.Seal = testKey(t, tt.seal)
			}
			// The bound is Open's own; the generous one here is for a busy
			// machine.
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			s, err := sqlite.Open(ctx, o)
			if err == nil {
				_ = s.Close()
				t.Fatal("it opened")
			}
			if ctx.Err() != nil {
				t.Error("it did not end by itself")
			}
			for _, part := range append(tt.want, path) {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error does not say %q:\n%v", part, err)
				}
			}
			if tt.as == nil && !errors.Is(err, pool.ErrUnavailable) || tt.as != nil && !tt.as(err) {
				t.Errorf("error is of another kind: %v", err)
			}
			if !tt.mayChange && sum(t, path) != before {
				t.Error("the file was changed")
			}
		})
	}
}

func execute(t *testing.T, path, text string) {
	t.Helper()
	db, err := sqlite.RawWriter(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(text); err != nil {
		t.Fatal(err)
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "database.sqlite3")
	opened(t, sqlite.Options{Path: path})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := sqlite.Open(ctx, sqlite.Options{Path: path}); !errors.Is(err, pool.ErrUnavailable) {
		t.Errorf("error is %v", err)
	}
}

func TestOpenAgainAfterClose(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "strange name ?#%20&.sqlite3")
	filled(t, path)
	s := opened(t, sqlite.Options{Path: path})
	i, err := s.Instance(t.Context(), "i7")
	if err != nil || string(i.Identity.Key) != "plain tls key of i7" {
		t.Fatalf("instance %+v, %v", i, err)
	}
	if files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); err != nil || len(files) > 4 {
		t.Errorf("files are %v, %v", files, err)
	}
}

func TestSealKeyMayChangeWhileNothingIsSealed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "database.sqlite3")
	for _, k := range []byte{1, 2} {
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path, Seal: testKey(t, k)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeyID(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "database.sqlite3")
	check := func(want string) {
		t.Helper()
		if id, err := sqlite.KeyID(t.Context(), path); err != nil || id != want {
			t.Errorf("key id %q, %v; want %q", id, err, want)
		}
	}
	check("")
	if _, err := os.Stat(path); err == nil {
		t.Error("asking for the key id made a file")
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	check("")
	s := opened(t, sqlite.Options{Path: path})
	check("") // nothing is sealed yet
	fill(t, s)
	check(testKey(t, 1).ID())
	if err := os.WriteFile(filepath.Join(dir, "text"), bytes.Repeat([]byte("text"), 2000), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.KeyID(t.Context(), filepath.Join(dir, "text")); !errors.Is(err, pool.ErrUnavailable) {
		t.Errorf("key id of a text: %v", err)
	}
}

// TestNothingPlainInTheFiles greps what a copy of the database would give away.
func TestNothingPlainInTheFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "database.sqlite3")
	s := opened(t, sqlite.Options{Path: path})
	fill(t, s)
	look := func() {
		t.Helper()
		files, err := filepath.Glob(path + "*")
		if err != nil {
			t.Fatal(err)
		}
		seen := false
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			seen = seen || bytes.Contains(b, []byte("lease-1"))
			for _, secret := range []string{"plain ca key", "plain tls key", "plain exported secret"} {
				if bytes.Contains(b, []byte(secret)) {
					t.Errorf("%s contains %q", f, secret)
				}
			}
		}
		if !seen {
			t.Error("the search does not find what is there in the clear")
		}
	}
	look()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	look()
}

// TestSchema keeps the tables and indexes as they are. A released migration is
// never edited, so this file only grows by new ones.
func TestSchema(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "database.sqlite3")
	opened(t, sqlite.Options{Path: path})
	golden(t, "schema.sql", schema(t, raw(t, path)))
}

func schema(t *testing.T, db *sql.DB) string {
	t.Helper()
	rows, err := db.Query(`SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY tbl_name, type DESC, name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var b strings.Builder
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		b.WriteString(text + ";\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
