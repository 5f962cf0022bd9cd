package sqlite_test

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// taken is a connection that has the writers' lock of a file.
func taken(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sqlite.RawWriter(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // if the test has not
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return db
}

// Connections of the store itself have the lock at times, to read the log's
// index again that a commit was just writing.
func TestAnotherConnectionThatHasTheLockForAMomentFailsNothing(t *testing.T) {
	testbubble.Run(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "database.sqlite3")
		s := inner(t, sqlite.Options{Path: path}, nil)
		db := taken(t, path)
		answer := make(chan error, 1)
		go func() { answer <- note(t.Context(), s, "waits") }()
		<-time.After(100 * time.Millisecond)
		select {
		case err := <-answer:
			t.Fatalf("answered while another connection has the lock: %v", err)
		default:
		}
		if _, err := db.Exec("ROLLBACK"); err != nil {
			t.Fatal(err)
		}
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if !noted(t, s)["waits"] {
			t.Error("what was answered is not there")
		}
	})
}

func TestALockThatStaysKeepsOnlyTheFirstOperationWaiting(t *testing.T) {
	testbubble.Run(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "database.sqlite3")
		s := inner(t, sqlite.Options{Path: path}, nil)
		db := taken(t, path)
		began := time.Now()
		for range 3 {
			err := note(t.Context(), s, "lost")
			if err == nil || !strings.Contains(err.Error(), "locked by another process") {
				t.Fatalf("got %v, want who has the lock", err)
			}
		}
		if took := time.Since(began); took < time.Second || took > 1100*time.Millisecond {
			t.Errorf("three operations took %s, want a second for all of them", took)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		for _, reason := range []string{"one", "two"} {
			if err := note(t.Context(), s, reason); err != nil {
				t.Fatalf("after the lock was let go: %v", err)
			}
		}
	})
}
