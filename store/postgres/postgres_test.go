package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/postgres"
)

var begin = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// TestMigrationsAreAlike compares the dialects' migrations: same numbers, same
// tables, columns and indexes; only types and SQLite's table options differ.
func TestMigrationsAreAlike(t *testing.T) {
	t.Parallel()
	theirs, err := filepath.Glob("../sqlite/migrations*/*.sql")
	if err != nil || len(theirs) == 0 {
		t.Fatal(theirs, err)
	}
	for _, path := range theirs {
		lite, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pg, err := os.ReadFile(strings.TrimPrefix(path, "../sqlite/"))
		if err != nil {
			t.Fatal(err)
		}
		common := strings.NewReplacer(
			" WITHOUT ROWID, STRICT", "", " STRICT", "", "INTEGER PRIMARY KEY AUTOINCREMENT", "IDENTITY",
			"BIGINT  PRIMARY KEY GENERATED ALWAYS AS IDENTITY", "IDENTITY", ` COLLATE "C"`, "", "BIGINT", "INTEGER", "BYTEA", "BLOB",
		)
		words := func(b []byte) []string {
			var out []string
			for _, line := range strings.Split(common.Replace(string(b)), "\n") {
				out = append(out, strings.Join(strings.Fields(line), " "))
			}
			return out
		}
		if diff := cmp.Diff(words(lite), words(pg)); diff != "" {
			t.Errorf("%s differs (-sqlite +postgres):\n%s", filepath.Base(path), diff)
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	s := opened(t, dsn)
	no := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	no(s.Configure(t.Context(), []pool.PoolRow{{Name: "a", Max: 5}}, begin))
	_, err := s.Intend(t.Context(), pool.Intent{Instance: pool.Instance{ID: "i", Name: "n", Pool: "a", Identity: drivers.Identity{Key: []byte("k")}}, Now: begin})
	no(err)
	if id, err := postgres.KeyID(t.Context(), dsn); err != nil || id != testKey(t, 1).ID() {
		t.Errorf("key id %q, %v", id, err)
	}
	if id, err := postgres.KeyID(t.Context(), schemaDSN(t)); err != nil || id != "" {
		t.Errorf("key id of an empty database %q, %v", id, err)
	}
	for _, seal := range []*store.Sealer{nil, testKey(t, 2)} {
		_, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Seal: seal})
		if key, ok := errors.AsType[*store.KeyError](err); !ok || key.Want != testKey(t, 1).ID() {
			t.Errorf("with key %v: %v", seal, err)
		}
	}
	for _, bad := range []string{"postgres://u:hunter2@127.0.0.1:1/x?connect_timeout=1", "postgres://u:hunter2@[::bad/x", "host='unclosed password=hunter2"} {
		_, err := postgres.Open(t.Context(), postgres.Options{DSN: bad})
		if !errors.Is(err, pool.ErrUnavailable) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error is %v", err)
		}
	}
	db, err := sql.Open("pgx", dsn)
	no(err)
	defer db.Close()
	_, err = db.ExecContext(t.Context(), `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)`)
	no(err)
	_, err = db.ExecContext(t.Context(), `UPDATE meta SET compat = 998`)
	no(err)
	_, err = postgres.Open(t.Context(), postgres.Options{DSN: dsn, Seal: testKey(t, 1)})
	if !errors.Is(err, pool.ErrUnavailable) || !strings.Contains(err.Error(), "version 999") || !strings.Contains(err.Error(), "newer") {
		t.Errorf("a newer schema: %v", err)
	}
}

// TestTheFirstReplicasSealKeyCounts: also before anything is sealed with it,
// since that replica may be about to.
func TestTheFirstReplicasSealKeyCounts(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	opened(t, dsn)
	if id, err := postgres.KeyID(t.Context(), dsn); err != nil || id != testKey(t, 1).ID() {
		t.Errorf("key id %q, %v", id, err)
	}
	_, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Seal: testKey(t, 2)})
	key, ok := errors.AsType[*store.KeyError](err)
	if !ok || key.Want != testKey(t, 1).ID() || key.Have != testKey(t, 2).ID() {
		t.Errorf("a replica with another key: %v", err)
	}
	opened(t, dsn)
}

// TestReplicas shares one database among several stores that start at once.
func TestReplicas(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	stores := make([]*postgres.Store, 3)
	var wg sync.WaitGroup
	for k := range stores {
		wg.Go(func() {
			s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Seal: testKey(t, 1)})
			if err != nil {
				t.Error(err)
				return
			}
			stores[k] = s
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	defer func() {
		for _, s := range stores {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}()
	ctx := t.Context()
	if err := stores[0].Configure(ctx, []pool.PoolRow{{Name: "a", Max: 5}}, begin); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	made, given := 0, map[string]string{}
	for k := range 60 {
		wg.Go(func() {
			s := stores[k%len(stores)]
			id := fmt.Sprint("i", k)
			_, err := s.Intend(ctx, pool.Intent{Instance: pool.Instance{ID: id, Name: id, Pool: "a"}, Now: begin})
			if errors.Is(err, pool.ErrLimit) {
				return
			}
			if err == nil {
				mu.Lock()
				made++
				mu.Unlock()
				_, err = s.Accepted(ctx, pool.Acceptance{ID: id, Now: begin})
			}
			if err == nil {
				_, _, err = s.Proven(ctx, pool.Proof{ID: id, Now: begin})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made != 5 {
		t.Errorf("%d machines were made at a limit of 5", made)
	}
	for k := range 60 {
		wg.Go(func() {
			g, err := stores[k%len(stores)].Arrive(ctx, pool.Arrival{ID: fmt.Sprint("l", k), Choices: []pool.Choice{{Pool: "a"}}, Waiter: "w", Now: begin})
			if err != nil {
				t.Error(err)
				return
			}
			if g.Instance != nil {
				mu.Lock()
				defer mu.Unlock()
				if other, twice := given[g.Instance.ID]; twice {
					t.Errorf("%s was given to %s and %s", g.Instance.ID, other, g.Lease.ID)
				}
				given[g.Instance.ID] = g.Lease.ID
			}
		})
	}
	wg.Wait()
	if len(given) != 5 {
		t.Errorf("%d machines were given, want 5", len(given))
	}
}

// TestAMigrationThatLosesADeadlockIsRunAgain: runners at work lock the same
// tables in another order than a migration does.
func TestAMigrationThatLosesADeadlockIsRunAgain(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	first, err := os.ReadFile(filepath.Join("migrations", "00001_tables.sql"))
	if err != nil {
		t.Fatal(err)
	}
	worker, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer worker.Close(context.WithoutCancel(t.Context()))
	run := func(text string) {
		t.Helper()
		if _, err := worker.Exec(t.Context(), text, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	run(string(first))
	run(`CREATE TABLE goose_db_version (id integer PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, version_id bigint NOT NULL,
		is_applied boolean NOT NULL, tstamp timestamp NOT NULL DEFAULT now());
		INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, true), (1, true)`)
	// The migration alters meta first and lease_choices later. Of the two it is
	// the one that looks for a deadlock, and so the one that loses.
	run(`SET deadlock_timeout = '1h'`)
	run(`BEGIN; LOCK TABLE lease_choices IN ROW EXCLUSIVE MODE`)
	opening := make(chan error, 1)
	go func() {
		s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn + "&deadlock_timeout=2000", Seal: testKey(t, 1)})
		if err == nil {
			err = s.Close()
		}
		opening <- err
	}()
	watch, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	for waits := 0; waits == 0; {
		if err := watch.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_locks
			WHERE NOT granted AND relation = 'lease_choices'::regclass`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-opening:
			t.Fatalf("the migration did not wait: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	run(`UPDATE meta SET probed = 5; COMMIT`)
	if err := <-opening; err != nil {
		t.Fatal(err)
	}
	var version, probed int
	if err := watch.QueryRowContext(t.Context(), `SELECT max(version_id), max(probed) FROM goose_db_version, meta`).Scan(&version, &probed); err != nil || version < 2 || probed != 5 {
		t.Errorf("version %d, probed %d, %v", version, probed, err)
	}
}
