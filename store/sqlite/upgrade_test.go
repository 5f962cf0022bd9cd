package sqlite_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// old makes a database as a runner whose schema was version 1 left it: two
// machines, one of them warm, and a lease that waits.
func old(t *testing.T, path string) {
	t.Helper()
	first, err := os.ReadFile(filepath.Join("migrations", "00001_tables.sql"))
	if err != nil {
		t.Fatal(err)
	}
	execute(t, path, string(first)+`;
		CREATE TABLE goose_db_version (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		version_id INTEGER NOT NULL,
		is_applied INTEGER NOT NULL,
		tstamp TIMESTAMP DEFAULT (datetime('now'))
	);
		INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, 1), (1, 1);
		UPDATE meta SET controller = 'us', born = 1;
		INSERT INTO pools (name, driver, scope, min, max, spec_hash, last_spec, platform, counted, updated) VALUES ('a', 'noop', 's', 1, 5, 'r1', '{"v":1}', '', 2, 1);
		INSERT INTO instances SELECT 'i' || k, 'n' || k, 'a', 'noop', 's', state, 'build', 'default', 'default', 'shape', 'r1', '', '', '', '', '', 0, '', '', 0,
			'', '', '', 0, 0, k, 1, 1, 0, 1, 0, '', '', 0, 0, 0 FROM (SELECT 1 AS k, 'warm' AS state UNION SELECT 2, 'booting');
		INSERT INTO leases VALUES (7, 'l', 1, 'build', 'waiting', 'w', '', '[{"pool":"a","shape":"other"}]', '', '', 1, 0, 0, 0, 1, 1, 1, '', '', '', '', 0, 0, 0, 0);
		INSERT INTO lease_choices (pool, seq, ord, shape, zone, no_claim, need_until) VALUES ('a', 7, 0, 'other', '', 0, 0);`)
}

// TestUpgradeFromSchema1 brings an old database up and works on it.
func TestUpgradeFromSchema1(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "database.sqlite3")
	old(t, path)
	works(t.Context(), t, opened(t, sqlite.Options{Path: path}))
	golden(t, "schema.sql", schema(t, raw(t, path)))
}

func works(ctx context.Context, t *testing.T, s pool.Store) {
	t.Helper()
	no := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := s.Controller(ctx, "run", begin)
	no(err)
	if c.ID != "us" || !c.Restored.IsZero() {
		t.Errorf("controller is %+v", c)
	}
	snapshot, err := s.Snapshot(ctx, "a", 5, begin)
	no(err)
	if snapshot.Counted != 2 || len(snapshot.Waiting) != 1 || len(snapshot.Drifted) != 0 || snapshot.Gate != (pool.Gate{}) {
		t.Errorf("snapshot is %+v", snapshot)
	}
	g, err := s.Arrive(ctx, pool.Arrival{ID: "new", Choices: []pool.Choice{{Pool: "a", Shape: "shape"}}, Waiter: "w", Now: begin})
	no(err)
	if !g.Claimed || g.Instance.ID != "i1" {
		t.Errorf("grant is %+v", g)
	}
	before, err := s.Pools(ctx)
	no(err)
	if len(before) != 1 || string(before[0].LastSpec) != `{"v":1}` {
		t.Errorf("the pool was stored as %+v", before)
	}
	// The old lease's choice is one of the default flavour.
	no(s.ConfigurePool(ctx, pool.PoolRow{Name: "a", Max: 5, SpecHash: "r1", Flavours: []pool.FlavourRow{{Max: 2}}}, begin))
	rows, err := s.Pools(ctx)
	no(err)
	want := []pool.FlavourRow{{Tenant: "default", Variant: "default", Max: 2, Counted: 2}}
	if diff := cmp.Diff(want, rows[0].Flavours); diff != "" {
		t.Errorf("flavours differ (-want +got):\n%s", diff)
	}
	n, err := s.Position(ctx, pool.LeaseKey{ID: "l"}, "a", 5)
	no(err)
	if n != 1 {
		t.Errorf("position is %d", n)
	}
	drift, err := s.Recount(ctx)
	no(err)
	if len(drift) > 0 {
		t.Errorf("counters drifted: %+v", drift)
	}
}

// TestMigrationsOnlyAddOrSaySo: a runner of the version before goes on working
// on a database that a newer one has brought up, unless the migration says that
// it does not.
func TestMigrationsOnlyAddOrSaySo(t *testing.T) {
	t.Parallel()
	for _, dialect := range []string{".", "../postgres"} {
		files, err := filepath.Glob(filepath.Join(dialect, "migrations*", "*.sql"))
		if err != nil || len(files) < 4 {
			t.Fatal(files, err)
		}
		for _, path := range files[1:] {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			takes, says := "", false
			for line := range strings.Lines(string(b)) {
				for _, word := range []string{"DROP TABLE", "DROP COLUMN", "RENAME", "ALTER COLUMN"} {
					if strings.Contains(line, word) {
						takes = line
					}
				}
				if strings.Contains(line, "ADD COLUMN") && !strings.Contains(line, "DEFAULT") {
					takes = line
				}
				says = says || strings.Contains(line, "UPDATE meta SET compat = ")
			}
			if takes != "" && !says {
				t.Errorf("%s does not say UPDATE meta SET compat, but older programs cannot work with: %s", path, takes)
			}
			if says && takes == "" {
				t.Errorf("%s shuts older programs out and takes nothing away", path)
			}
		}
	}
}
