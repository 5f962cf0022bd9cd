package main

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// dsnEnv names the server of the tests, see scripts/postgres.sh.
const dsnEnv = "TEST_POSTGRES_DSN"

// schemas numbers the schemas of a run.
var schemas atomic.Int64

// emptyDatabase makes an empty schema on the server of the tests.
func emptyDatabase(t *testing.T) env.Secret {
	t.Helper()
	dsn := os.Getenv(dsnEnv)
	if dsn == "" {
		testhost.Lacks(t, "no Postgres: set %s, see docs/testing.md", dsnEnv)
	}
	name := fmt.Sprintf("command_%d_%d", os.Getpid(), schemas.Add(1))
	out, err := exec.CommandContext(t.Context(), "psql", "-q", "-d", dsn, "-c", "CREATE SCHEMA "+name).CombinedOutput()
	if err != nil {
		t.Fatalf("psql: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("psql", "-q", "-d", dsn, "-c", "SET client_min_messages = error", "-c", "DROP SCHEMA "+name+" CASCADE").CombinedOutput(); err != nil {
			t.Errorf("psql: %v\n%s", err, out)
		}
	})
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	return env.Secret(u.String())
}

// TestARunnerOnPostgres serves one stage, ends, and is started again on the
// same data directory, at once and with the same story.
func TestARunnerOnPostgres(t *testing.T) {
	t.Parallel()
	dsn := emptyDatabase(t)
	dir := ""
	start := func() *serving {
		s := serve(t, onePool, func(d *delegate) {
			d.cfg.DatabaseDriver, d.cfg.DatabaseSource = "postgres", dsn
			if dir == "" {
				dir = d.dir
			}
			d.dir = dir
		})
		s.until(t, "healthz", func() bool { return s.api.Healthy(t.Context()) == nil })
		return s
	}
	s := start()
	if _, err := s.api.Setup(t.Context(), api.SetupRequest{ID: "stage", PoolID: "p"}); err != nil {
		t.Fatalf("%v\n%s", err, s.said)
	}
	if err := s.api.Destroy(t.Context(), api.DestroyRequest{ID: "stage"}); err != nil {
		t.Error(err)
	}
	s.stop()
	if err := s.result(t); err != nil {
		t.Fatal(err)
	}

	again := start()
	lease, err := again.api.Lease(t.Context(), "stage")
	if err != nil || lease.State != "ended" {
		t.Errorf("after a restart: %+v, %v", lease, err)
	}
	if strings.Contains(again.said.String(), "another runner") {
		t.Errorf("a restart took its own past for another runner:\n%s", again.said)
	}
	again.stop()
	if err := again.result(t); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir + "/database.sqlite3"); err == nil {
		t.Error("there is a SQLite database too")
	}
}
