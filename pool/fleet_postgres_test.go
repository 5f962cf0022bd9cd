package pool_test

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/testhost"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/postgres"
)

// onPostgres opens a store in a schema of its own on the tests' server. A
// goroutine that waits for the server only makes the bubble's time stand still.
func onPostgres(t *testing.T, _ string, sealer *store.Sealer) (pool.Store, error) {
	dsn := os.Getenv("TEST_POSTGRES_DSN")
	if dsn == "" {
		testhost.Lacks(t, "no Postgres: set TEST_POSTGRES_DSN, see docs/testing.md")
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, err
	}
	admin, err := sql.Open("pgx", dsn)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	schema := fmt.Sprintf("fleet_%d", os.Getpid())
	for _, text := range []string{"DROP SCHEMA IF EXISTS " + schema + " CASCADE", "CREATE SCHEMA " + schema} {
		if _, err := admin.ExecContext(t.Context(), text); err != nil {
			return nil, err
		}
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	st, err := postgres.Open(t.Context(), postgres.Options{DSN: u.String(), Seal: sealer})
	if err != nil {
		return nil, err
	}
	return longHolds{st}, nil
}

// longHolds keeps a pool a replica's although the server's clock goes on while
// the bubble's stands still. Who renews too late by the bubble's clock notices
// that itself.
type longHolds struct{ pool.Store }

func (l longHolds) Hold(ctx context.Context, name, replica string, ttl time.Duration) (pool.Hold, error) {
	return l.Store.Hold(ctx, name, replica, 10_000*ttl)
}
