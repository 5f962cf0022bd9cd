package postgres_test

import (
	"database/sql"
	"encoding/json"
	"testing"

	"github.com/vm-runner/drone-runner-aws/store/internal/core"
	"github.com/vm-runner/drone-runner-aws/store/postgres"
)

// visits counts the rows that the server reads for a statement, those it throws
// away included.
func visits(t *testing.T, db *sql.DB, text string, args ...any) int {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	var out []byte
	if err := tx.QueryRowContext(t.Context(), "EXPLAIN (ANALYZE, FORMAT JSON) "+text, args...).Scan(&out); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	type node struct {
		Type    string  `json:"Node Type"`
		Rows    float64 `json:"Actual Rows"`
		Loops   float64 `json:"Actual Loops"`
		Removed float64 `json:"Rows Removed by Filter"`
		Checked float64 `json:"Rows Removed by Index Recheck"`
		Plans   []node  `json:"Plans"`
	}
	var plans []struct{ Plan node }
	if err := json.Unmarshal(out, &plans); err != nil {
		t.Fatal(err)
	}
	var count func(n node) float64
	count = func(n node) float64 {
		sum := (n.Rows + n.Removed + n.Checked) * n.Loops
		for _, p := range n.Plans {
			sum += count(p)
		}
		return sum
	}
	return int(count(plans[0].Plan))
}

// TestRowsVisitedDoNotGrow: what a request's statements read is the same in
// small and large pools, among machines that sleep and leases that wait, and
// beside many old rows.
func TestRowsVisitedDoNotGrow(t *testing.T) {
	t.Parallel()
	cost := func(warm, asleep, waiting, old int) map[string]int {
		dsn := schemaDSN(t)
		opened(t, dsn)
		db, err := sql.Open("pgx", dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		fill := func(text string, args ...any) {
			t.Helper()
			if _, err := db.ExecContext(t.Context(), text, args...); err != nil {
				t.Fatal(err)
			}
		}
		fill(`INSERT INTO pools (name, driver, scope, min, max, spec_hash, last_spec, platform, updated, flavours)
			VALUES ('a', '', '', 0, 100000, '', '', '', 0, 1)`)
		fill(`INSERT INTO flavours (pool, tenant, variant, max) VALUES ('a', 'default', 'big', 5)`)
		for state, n := range map[string]int{"warm": warm, "hibernated": asleep, "gone": old, "leased": warm} {
			bound := 0
			if state == "leased" {
				bound = 1
			}
			fill(`INSERT INTO instances SELECT $1 || k, $1 || k, 'a', '', '', $1, 'build', 'default', 'default', 's', '', '', '', '', '', '', 0, '', '', 0,
				'', '', CASE WHEN $1 IN ('gone', 'leased') THEN 'old' || k ELSE '' END, 1, 0, k, 1, 1000 + k, 0, 1, 0, '', '', 0, 0, $3
				FROM generate_series(1, $2::bigint) AS k`, state, n, bound)
		}
		fill(`INSERT INTO leases OVERRIDING SYSTEM VALUE SELECT k, 'old' || k, 1, 'build', 'ended', '', '', '', 'a', 'gone' || k, 1, 1, 1, 1, 1, 1, 0, '', '', '', '', 0, 0, 0, 0
			FROM generate_series(1, $1::bigint) AS k`, old)
		fill(`INSERT INTO leases OVERRIDING SYSTEM VALUE SELECT 1000000 + k, 'new' || k, 1, 'build', 'waiting', 'w', '', '', '', '', 1, 1, 1, 1, 1, 1, 5000, '', '', '', '', 0, 0, 0, 0
			FROM generate_series(1, $1::bigint) AS k`, waiting)
		fill(`INSERT INTO lease_choices (pool, seq, ord, shape, zone, no_claim, need_until, tenant, variant)
			SELECT 'a', 1000000 + k, 0, 'other', '', 0, 0, 'default', CASE k % 2 WHEN 0 THEN 'big' ELSE 'default' END
			FROM generate_series(1, $1::bigint) AS k`, waiting)
		fill(`ALTER TABLE leases ALTER COLUMN seq RESTART WITH 10000000`)
		fill(`ANALYZE`)
		text := postgres.Statements()
		claim := func(shape string) int {
			return visits(t, db, text[core.ClaimFree], 1, 1, "l", 1, "build", "a", shape, "", 1, "")
		}
		atOnce := func(shape string) int {
			return visits(t, db, core.ArriveAtOnce, 1, 1, "l", 1, "build", "a", shape, "", 1, "l", "w", "", "", 1, "", 1)
		}
		out := map[string]int{
			"claim":            claim("s"),
			"arrive at once":   atOnce("s"),
			"arrive in vain":   atOnce("nothing"),
			"claim of nothing": claim("nothing"),
			"match":            visits(t, db, text[core.MatchWaiter], "a", "other", 1, ""),
			"match of nothing": visits(t, db, text[core.MatchWaiter], "a", "s", 1, ""),
			"ahead":            visits(t, db, text[core.CountAhead], "a", 1<<40, 5),
			"ahead of flavour": visits(t, db, text[core.CountAheadOfFlavour], "a", "default", "big", 1<<40, 5),
			"due":              visits(t, db, text[core.SelectDueInstances], "a", 500, 10),
			"due leases":       visits(t, db, text[core.SelectDueLeases], 500, 10),
			"join":             visits(t, db, text[core.LockLatestLease], "new1"),
		}
		fill(`UPDATE instances SET state = 'failed' WHERE state = 'warm'`)
		out["claim of one that sleeps"] = claim("s")
		return out
	}
	small := cost(10, 10, 10, 0)
	for what, n := range small {
		// The smallest tables are read whole, which is cheaper there.
		if n > 100 {
			t.Errorf("%s: %d rows are visited in the smallest of stores", what, n)
		}
	}
	for name, other := range map[string]map[string]int{
		"1,000 machines": cost(1000, 1000, 1000, 0), "10,000 machines": cost(10_000, 10_000, 10_000, 0),
		"100,000 old rows": cost(1000, 1000, 1000, 100_000),
	} {
		for what, n := range other {
			if n > max(small[what], 12) {
				t.Errorf("%s with %s: %d rows are visited, %d in a small store", what, name, n, small[what])
			}
		}
		t.Logf("%s: %v, small: %v", name, other, small)
	}
}
