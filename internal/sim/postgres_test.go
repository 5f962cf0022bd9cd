package sim

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/testhost"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/postgres"
)

// TestSimulationOnPostgres runs the same seeds on a real server, always with
// two replicas. A goroutine that waits for the server only makes fake time
// stand still.
func TestSimulationOnPostgres(t *testing.T) {
	dsn := os.Getenv("TEST_POSTGRES_DSN")
	if dsn == "" {
		testhost.Lacks(t, "no Postgres: set TEST_POSTGRES_DSN, see docs/testing.md")
	}
	var schemas atomic.Int64
	runSeeds(t, "TestSimulationOnPostgres", *simSeeds, func(ctx context.Context, _ string) (pool.Store, *sql.DB, error) {
		return storePostgres(ctx, dsn, fmt.Sprintf("sim_%d_%d", os.Getpid(), schemas.Add(1)))
	}, bite{plan: func(p *plan) { p.replicas, p.jumps, p.concurrent, p.restore = 2, 0, true, "" }})
}

// storePostgres makes a schema of its own on a server, which is dropped when
// the witness has closed its database.
func storePostgres(ctx context.Context, dsn, schema string) (pool.Store, *sql.DB, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, nil, err
	}
	admin, err := sql.Open("pgx", dsn)
	if err != nil {
		return nil, nil, err
	}
	defer admin.Close()
	if _, err := admin.ExecContext(ctx, "CREATE SCHEMA "+schema); err != nil {
		return nil, nil, err
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	sealer, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		return nil, nil, err
	}
	st, err := postgres.Open(ctx, postgres.Options{DSN: u.String(), Seal: sealer})
	if err != nil {
		return nil, nil, err
	}
	db, err := sql.Open("pgx", u.String())
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(2)
	return &fakeClocked{Store: st, db: db, until: map[string]tenancy{}, schema: schema}, db, nil
}

// fakeClocked gives holds on pools fake time: by the server's clock, which
// goes on at its own pace, a replica that died would hold its pools for hours
// of ours.
type fakeClocked struct {
	pool.Store
	db     *sql.DB
	schema string

	mu    sync.Mutex
	until map[string]tenancy
}

type tenancy struct {
	replica string
	until   time.Time
}

// longer is how many times longer than asked the server keeps a hold, so that
// it never ends before ours does.
const longer = 10_000

// Hold implements pool.Store.
func (f *fakeClocked) Hold(ctx context.Context, name, replica string, ttl time.Duration) (pool.Hold, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	have := f.until[name]
	if have.replica != replica {
		if left := have.until.Sub(now); left > 0 {
			return pool.Hold{}, &pool.HeldError{Pool: name, Holder: have.replica, Until: have.until, Left: left}
		}
		if _, err := f.db.ExecContext(ctx, `UPDATE pools SET held_until = 0 WHERE name = $1`, name); err != nil {
			return pool.Hold{}, err
		}
	}
	h, err := f.Store.Hold(ctx, name, replica, longer*ttl)
	if err != nil {
		return h, err
	}
	h.Until = now.Add(ttl)
	f.until[name] = tenancy{replica, h.Until}
	return h, nil
}

// Unhold implements pool.Store.
func (f *fakeClocked) Unhold(ctx context.Context, h pool.Hold) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.Store.Unhold(ctx, h); err != nil {
		return err
	}
	if f.until[h.Pool].replica == h.Replica {
		delete(f.until, h.Pool)
	}
	return nil
}

// Close implements pool.Store. The schema stays: the server is the tests' own.
func (f *fakeClocked) Close() error { return f.Store.Close() }
