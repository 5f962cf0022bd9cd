package postgres_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store/postgres"
)

// session is somebody else's connection to a database, and its process there.
func session(t *testing.T, dsn, application string) (*sql.Conn, int) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("application_name", application)
	u.RawQuery = q.Encode()
	db, err := sql.Open("pgx", u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var pid int
	if err := conn.QueryRowContext(t.Context(), `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return conn, pid
}

func execute(t *testing.T, conn *sql.Conn, text string) {
	t.Helper()
	if _, err := conn.ExecContext(t.Context(), text); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// told is a log that tells when a text is in it.
type told struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *told) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *told) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// A migration whose tables somebody has locked gives up soon, names them, and
// has changed nothing; when they are gone it works.
func TestAMigrationThatGetsNoLockSaysWhoHasIt(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, os.DirFS("migrations"), goose.WithDisableGlobalRegistry(true), goose.WithTableName("goose_db_version"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	// What the next migrations change somebody has only read, and gone for lunch.
	reader, pid := session(t, dsn, "lunch")
	execute(t, reader, `BEGIN; SELECT count(*) FROM instances; SELECT count(*) FROM leases; SELECT count(*) FROM pools; SELECT count(*) FROM meta`)
	const wait = 500 * time.Millisecond
	log := &told{}
	options := postgres.Options{DSN: dsn, Seal: testKey(t, 1), Log: slog.New(slog.NewTextHandler(log, nil))}.Within(wait)
	begun := time.Now()
	s, err := postgres.Open(t.Context(), options)
	if err == nil {
		t.Fatal("opened although its tables are locked", s.Close())
	}
	if !errors.Is(err, pool.ErrUnavailable) {
		t.Errorf("%v is not that the store is unavailable", err)
	}
	for _, part := range []string{"migrate from version 1", fmt.Sprintf("process %d (", pid), "lunch", "idle in transaction", "let it finish or end it"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
	if !log.has(fmt.Sprintf("process %d", pid)) {
		t.Errorf("the first try did not say who is in the way: %s", &log.text)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("that took %s", took)
	}
	if v, err := p.GetDBVersion(t.Context()); err != nil || v != 1 {
		t.Errorf("the schema has version %d, %v; want it unchanged", v, err)
	}
	execute(t, reader, `ROLLBACK`)
	if s, err = postgres.Open(t.Context(), options); err != nil {
		t.Fatalf("when the lock is free: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A runner that finds another one changing the tables waits for its turn, says
// for whom, and stops when it is told to.
func TestARunnerThatWaitsForItsTurnToMigrateSaysForWhom(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	other, pid := session(t, dsn, "another runner")
	execute(t, other, `SELECT pg_advisory_lock(`+postgres.MigrationKey+`)`)
	waited := func(ctx context.Context) <-chan error {
		log := &told{}
		options := postgres.Options{DSN: dsn, Seal: testKey(t, 1), Log: slog.New(slog.NewTextHandler(log, nil))}.Within(300 * time.Millisecond)
		done := make(chan error, 1)
		go func() {
			s, err := postgres.Open(ctx, options)
			if err == nil {
				err = s.Close()
			}
			done <- err
		}()
		for !log.has(fmt.Sprintf("process %d (", pid)) {
			select {
			case err := <-done:
				t.Fatalf("it did not wait: %v; it said %s", err, &log.text)
			case <-t.Context().Done():
				t.Fatal("nothing was said")
			case <-time.After(10 * time.Millisecond):
			}
		}
		return done
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := waited(ctx)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("told to stop: %v", err)
	}
	done = waited(t.Context())
	execute(t, other, `SELECT pg_advisory_unlock(`+postgres.MigrationKey+`)`)
	if err := <-done; err != nil {
		t.Errorf("when its turn has come: %v", err)
	}
}
