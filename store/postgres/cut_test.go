package postgres_test

import (
	"database/sql"
	"fmt"
	"sync"
	"testing"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// The server, or something between, closes every connection that is kept open:
// the next operations are done on others, and nobody is told.
func TestConnectionsThatWereClosedAreReplacedUnseen(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("cut-%p", t)
	s := opened(t, schemaDSN(t)+"&application_name="+name)
	db, err := sql.Open("pgx", schemaDSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	many := func(op func() error) {
		t.Helper()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := op(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	cut := 0
	for range 5 {
		many(func() error { return s.Configure(t.Context(), []pool.PoolRow{{Name: "a", Max: 5}}, begin) })
		var killed int
		if err := db.QueryRowContext(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1`, name).Scan(&killed); err != nil {
			t.Fatal(err)
		}
		cut += killed
		many(func() error { return s.Configure(t.Context(), []pool.PoolRow{{Name: "a", Max: 6}}, begin) })
		if err := db.QueryRowContext(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1`, name).Scan(&killed); err != nil {
			t.Fatal(err)
		}
		cut += killed
		many(func() error {
			_, err := s.Snapshot(t.Context(), "a", 1, begin)
			return err
		})
	}
	if cut < 10 {
		t.Errorf("only %d connections were closed", cut)
	}
}
