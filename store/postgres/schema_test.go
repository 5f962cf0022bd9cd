package postgres_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/store/internal/core"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// TestDialectsHaveTheSameTables compares what is in the databases once all
// migrations have run: tables, columns in their order, whether they may be null,
// and indexes by name and columns.
func TestDialectsHaveTheSameTables(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	opened(t, dsn)
	pg, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close()
	path := filepath.Join(t.TempDir(), "database.sqlite3")
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Which library it is depends on the build.
	library := "sqlite3"
	if !slices.Contains(sql.Drivers(), library) {
		library = "sqlite"
	}
	lite, err := sql.Open(library, path)
	if err != nil {
		t.Fatal(err)
	}
	defer lite.Close()

	const versions = "goose_db_version"
	columns := map[string][]string{
		"sqlite": texts(t, lite, `SELECT m.name || '.' || printf('%02d', c.cid) || ' ' || c.name || CASE WHEN c."notnull" OR c.pk THEN ' not null' ELSE '' END
			FROM sqlite_master AS m, pragma_table_info(m.name) AS c
			WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name <> '`+versions+`'`),
		"postgres": texts(t, pg, `SELECT table_name || '.' || to_char(ordinal_position - 1, 'FM00') || ' ' || column_name || CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END
			FROM information_schema.columns WHERE table_schema = current_schema() AND table_name <> '`+versions+`'`),
	}
	if diff := cmp.Diff(columns["sqlite"], columns["postgres"]); diff != "" {
		t.Errorf("columns differ (-sqlite +postgres):\n%s", diff)
	}
	// Those that keys bring along have names of the dialect's own.
	indexes := map[string][]string{
		"sqlite": texts(t, lite, `SELECT i.name || ' (' || (SELECT group_concat(x.name || CASE x."desc" WHEN 1 THEN ' DESC' ELSE '' END, ', ')
			FROM (SELECT * FROM pragma_index_xinfo(i.name) WHERE key = 1 ORDER BY seqno) AS x) || ')' || CASE WHEN i.sql LIKE '%WHERE%' THEN ' partial' ELSE '' END
			FROM sqlite_master AS i WHERE i.type = 'index' AND i.sql IS NOT NULL`),
		"postgres": texts(t, pg, `SELECT c.relname || ' (' || (SELECT string_agg(pg_get_indexdef(x.indexrelid, k, true) || CASE WHEN x.indoption[k - 1] & 1 = 1 THEN ' DESC' ELSE '' END, ', ' ORDER BY k)
			FROM generate_series(1, x.indnkeyatts) AS k) || ')' || CASE WHEN x.indpred IS NOT NULL THEN ' partial' ELSE '' END
			FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid JOIN pg_class AS r ON r.oid = x.indrelid
			WHERE c.relnamespace = current_schema()::regnamespace AND r.relname <> '`+versions+`'
			AND NOT EXISTS (SELECT 1 FROM pg_constraint AS p WHERE p.conindid = x.indexrelid)`),
	}
	if diff := cmp.Diff(indexes["sqlite"], indexes["postgres"]); diff != "" {
		t.Errorf("indexes differ (-sqlite +postgres):\n%s", diff)
	}
	if len(columns["sqlite"]) < 100 || len(indexes["sqlite"]) < 15 {
		t.Errorf("%d columns and %d indexes were compared", len(columns["sqlite"]), len(indexes["sqlite"]))
	}

	// A copy has them all.
	tables := map[string]bool{}
	for _, c := range columns["postgres"] {
		name, _, _ := strings.Cut(c, ".")
		tables[name] = true
	}
	for _, name := range core.Tables() {
		if !tables[name] {
			t.Errorf("copies have table %s, the store has not", name)
		}
		delete(tables, name)
	}
	if len(tables) > 0 {
		t.Errorf("tables are in no copy: %v", tables)
	}
}

// texts is a column of texts, sorted.
func texts(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(fmt.Errorf("%s: %w", query, err))
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}
