//go:build e2e && linux

package main

import (
	"net/url"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestE2ENeighbours takes two real runners on one real Postgres, under load, to
// the next version and back. On the way a runner of this version goes on working
// on tables that the next one has changed, and crashes and starts again on
// them. A client tries again only where its connection is refused.
func TestE2ENeighbours(t *testing.T) {
	f := newFleet(t, replicasPool)
	next := filepath.Join(t.TempDir(), "next")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-tags", "nextschema", "-o", next, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the next version: %v\n%s", err, out)
	}
	f.admit(f.start("a"))
	f.admit(f.start("b"))
	old := f.schema()
	f.begin(8)
	begun := time.Now()
	served := f.served.Load()
	during := func(what string) {
		t.Helper()
		settle(t, 2*time.Second)
		// A crash of the one that holds the pool is noticed after ten seconds.
		f.until(15*time.Second, "stages to be served by "+what, func() bool { return f.served.Load() >= served+8 })
		now := f.served.Load()
		t.Logf("%5.1f s: %s: %d stages", time.Since(begun).Seconds(), what, now-served)
		served = now
	}
	replace := func(name, program string) {
		t.Helper()
		r := f.replica(name)
		r.signal(t, syscall.SIGTERM)
		<-r.ended
		f.admit(f.startAs(name, program))
	}
	during("both of this version")

	replace("a", next)
	if got := f.schema(); got != old+1 {
		t.Fatalf("the schema has version %d after the next version's start, want %d", got, old+1)
	}
	during("one of each version")

	b := f.replica("b")
	f.empty(b)
	b.signal(t, syscall.SIGKILL)
	<-b.ended
	f.admit(f.start("b"))
	if said := f.replica("b").said.String(); !strings.Contains(said, "schema is newer than this program") {
		t.Errorf("this version does not say that it works on newer tables:\n%s", said)
	}
	during("this version again after a crash")

	replace("b", next)
	during("both of the next version")
	replace("a", thisProgram)
	during("rolled back by one")
	replace("b", thisProgram)
	during("both of this version, on the next one's tables")

	f.finish()
	t.Logf("%d stages served in %s", f.served.Load(), time.Since(begun).Round(time.Second))
	if got := f.schema(); got != old+1 {
		t.Errorf("the schema has version %d after the roll-back, want %d", got, old+1)
	}
	f.audit()
}

// schema is the version of the store's tables.
func (f *realFleet) schema() int {
	f.t.Helper()
	u, err := url.Parse(f.dsn)
	if err != nil {
		f.t.Fatal(err)
	}
	// To psql a schema is no part of the address.
	q := u.Query()
	tables := q.Get("search_path")
	q.Del("search_path")
	u.RawQuery = q.Encode()
	out, err := exec.CommandContext(f.t.Context(), "psql", "-qtA", "-d", u.String(), "-c", "SELECT max(version_id) FROM "+tables+".goose_db_version").CombinedOutput()
	if err != nil {
		f.t.Fatalf("psql: %v\n%s", err, out)
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		f.t.Fatal(err)
	}
	return version
}
