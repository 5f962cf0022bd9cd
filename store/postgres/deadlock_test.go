package postgres_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/vm-runner/drone-runner-aws/store/postgres"
	"github.com/vm-runner/drone-runner-aws/store/storetest"
)

// codes counts the transactions that were run again, by the server's code.
type codes struct {
	slog.Handler
	mu sync.Mutex
	n  map[string]int
}

func (c *codes) Enabled(context.Context, slog.Level) bool { return true }

func (c *codes) Handle(_ context.Context, r slog.Record) error {
	if r.Message != postgres.RaceLost {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "code" {
			c.n[a.Value.String()]++
		}
		return true
	})
	return nil
}

// TestOperationsDoNotDeadlock: operations lock rows in one order, so the server
// has hardly ever to end one of them after its deadlock_timeout. One that is
// ended so is run again; a few may be, of the hundreds that contend here, where
// a lease that is ended and one that is handed a machine change places.
func TestOperationsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	for range 3 {
		c := &codes{Handler: slog.DiscardHandler, n: map[string]int{}}
		s, err := postgres.Open(t.Context(), postgres.Options{DSN: schemaDSN(t), Seal: testKey(t, 1), Log: slog.New(c)})
		if err != nil {
			t.Fatal(err)
		}
		storetest.Contend(t, s)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		const deadlock, mostDeadlocks = "40P01", 2
		if n := c.n[deadlock]; n > mostDeadlocks {
			t.Errorf("%d transactions had locked each other, more than %d", n, mostDeadlocks)
		}
		t.Logf("run again, by code: %v", c.n)
	}
}

func TestAnEndingThatMeetsABeginningTakesItsMachineToo(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Seal: testKey(t, 1), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mine, pid := session(t, dsn, "stalls a machine")
	looks, _ := session(t, dsn, "looks on")
	storetest.EndMeetsABeginning(t, s, func(instance string) (stalled, release func()) {
		execute(t, mine, `BEGIN`)
		execute(t, mine, `SELECT 1 FROM instances WHERE id = '`+instance+`' FOR UPDATE`)
		stalled = func() {
			for waits := 0; waits == 0; {
				err := looks.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))`, pid).Scan(&waits)
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		return stalled, func() { execute(t, mine, `COMMIT`) }
	})
}
