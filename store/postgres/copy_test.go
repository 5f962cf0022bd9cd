package postgres_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/postgres"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
	"github.com/vm-runner/drone-runner-aws/store/storetest"
)

// database is a place for the tests of copies.
type database string

func (d database) Open(t testing.TB) pool.Store { return opened(t, string(d)) }

func (d database) Backup(ctx context.Context, w io.Writer, now time.Time) (store.CopyInfo, error) {
	return postgres.Backup(ctx, string(d), w, now)
}

func (d database) Restore(ctx context.Context, r io.Reader, force bool, now time.Time) (string, error) {
	return postgres.Restore(ctx, postgres.RestoreOptions{DSN: string(d), From: r, Force: force, Now: now})
}

func TestCopies(t *testing.T) {
	t.Parallel()
	storetest.Copies(t, func(t testing.TB) storetest.Place { return database(schemaDSN(t)) })
}

// TestCopiesGoFromOneDialectToTheOther takes a store from SQLite to Postgres and
// back.
func TestCopiesGoFromOneDialectToTheOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, last := filepath.Join(dir, "first"), filepath.Join(dir, "last")
	dsn := schemaDSN(t)
	open := func(path string) *sqlite.Store {
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path, Seal: testKey(t, 1)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	s := open(first)
	if err := s.Configure(t.Context(), []pool.PoolRow{{Name: "a", Max: 5}}, begin); err != nil {
		t.Fatal(err)
	}
	want, err := s.Arrive(t.Context(), pool.Arrival{ID: "l", Choices: []pool.Choice{{Pool: "a"}}, Waiter: "w", Now: begin})
	if err != nil {
		t.Fatal(err)
	}
	var one, two bytes.Buffer
	if _, err := sqlite.Backup(t.Context(), first, &one, begin); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Restore(t.Context(), postgres.RestoreOptions{DSN: dsn, From: &one, Now: begin}); err != nil {
		t.Fatal(err)
	}
	if info, err := postgres.Backup(t.Context(), dsn, &two, begin); err != nil || info.Dialect != postgres.Dialect {
		t.Fatal(info, err)
	}
	if _, err := sqlite.Restore(t.Context(), sqlite.RestoreOptions{Path: last, From: &two, Now: begin}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []pool.Store{opened(t, dsn), open(last)} {
		l, err := s.Lease(t.Context(), "l")
		if err != nil || l.Seq != want.Lease.Seq || !l.Arrived.Equal(want.Lease.Arrived) || len(l.Choices) != 1 {
			t.Errorf("lease is %+v, %v", l, err)
		}
	}
}

func TestRestoreIsRefusedWhileARunnerLives(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	s := opened(t, dsn)
	now := time.Now()
	if _, err := s.Controller(t.Context(), "run-1", now.Add(-10*time.Second)); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := postgres.Backup(t.Context(), dsn, &b, now); err != nil {
		t.Fatal(err)
	}
	copied := b.Bytes()
	_, err := postgres.Restore(t.Context(), postgres.RestoreOptions{DSN: dsn, From: bytes.NewReader(copied), Force: true, Now: now})
	if !errors.Is(err, pool.ErrConflict) || !strings.Contains(err.Error(), "run-1") {
		t.Errorf("error is %v", err)
	}
	if _, err := postgres.Restore(t.Context(), postgres.RestoreOptions{DSN: dsn, From: bytes.NewReader(copied), Force: true, Now: now.Add(time.Minute)}); err != nil {
		t.Errorf("a minute later: %v", err)
	}
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var left int
	if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_namespace WHERE nspname LIKE current_schema() || '_restoring_%'`).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d schemas are left over, %v", left, err)
	}
}
