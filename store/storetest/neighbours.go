package storetest

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store/internal/core"
)

// TablePlace is a place whose tables a test changes as a newer runner would.
type TablePlace interface {
	Place
	// Try opens the store with a log, or says why it cannot; the caller closes it.
	Try(t testing.TB, log *slog.Logger) (pool.Store, error)
	// Execute runs one statement beside the store.
	Execute(t testing.TB, statement string)
}

// Upgrade does at a place what a runner of the version after this one does: it
// runs a migration, of which a program that is built as always knows nothing.
func Upgrade(t testing.TB, at TablePlace, version int64, migration string) {
	t.Helper()
	var lines []string
	for line := range strings.Lines(migration) {
		if !strings.HasPrefix(line, "--") {
			lines = append(lines, line)
		}
	}
	for statement := range strings.SplitSeq(strings.Join(lines, ""), ";") {
		if strings.TrimSpace(statement) != "" {
			at.Execute(t, statement)
		}
	}
	ran(t, at, version)
}

// ran records that a migration has run.
func ran(t testing.TB, at TablePlace, version int64) {
	t.Helper()
	at.Execute(t, fmt.Sprintf(`INSERT INTO %s (version_id, is_applied) VALUES (%d, true)`, core.Versions, version))
}

// Neighbours runs the tests of a program on tables of a newer one; empty makes
// a place without a store. The migration leads to version, the one after the
// program's own, and only adds.
func Neighbours(t *testing.T, version int64, migration string, empty func(t testing.TB) TablePlace) {
	t.Helper()
	for _, tt := range []struct {
		name string
		run  func(h *harness, at TablePlace)
	}{
		{"a program works on tables to which a newer one only added, and says so", func(h *harness, at TablePlace) {
			s, err := at.Try(h, slog.New(slog.DiscardHandler))
			h.no(err)
			h.Store = s
			h.busy()
			before := h.state()
			Upgrade(h, at, version, migration) // while the store is open
			h.equal("what was there", h.state(), before)
			h.active("lease-8", "a")
			before = h.state()
			h.no(s.Close())
			var log bytes.Buffer
			s, err = at.Try(h, slog.New(slog.NewTextHandler(&log, nil)))
			h.no(err)
			defer func() { h.no(s.Close()) }()
			for _, want := range []string{"level=WARN", fmt.Sprintf("schema=%d", version), fmt.Sprintf("program=%d", version-1)} {
				if !strings.Contains(log.String(), want) {
					h.Errorf("the log does not say %q:\n%s", want, log.String())
				}
			}
			h.Store = s
			h.equal("what was there", h.state(), before)
			h.active("lease-9", "a")
			h.end("lease-9")
			h.sound()
		}},
		{"a program does not work on tables that a newer one made too new for it", func(h *harness, at TablePlace) {
			ran(h, at, version)
			at.Execute(h, fmt.Sprintf(`UPDATE meta SET compat = %d`, version))
			_, err := at.Try(h, slog.New(slog.DiscardHandler))
			h.is(err, pool.ErrUnavailable)
			for _, want := range []string{fmt.Sprintf("version %d", version), fmt.Sprintf("at least %d", version), fmt.Sprintf("up to %d", version-1), "newer runner"} {
				if err == nil || !strings.Contains(err.Error(), want) {
					h.Errorf("the error does not say %q: %v", want, err)
				}
			}
		}},
		{"a program as old as the tables allow works on them", func(h *harness, at TablePlace) {
			at.Execute(h, fmt.Sprintf(`UPDATE meta SET compat = %d`, version-1))
			ran(h, at, version)
			s, err := at.Try(h, slog.New(slog.DiscardHandler))
			h.no(err)
			h.no(s.Close())
		}},
		{"a program copies no tables of which it does not know all", func(h *harness, at TablePlace) {
			Upgrade(h, at, version, migration)
			_, err := at.Backup(h.ctx, &bytes.Buffer{}, h.now)
			h.is(err, pool.ErrUnavailable)
			if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("version %d", version)) || !strings.Contains(err.Error(), "newer runner") {
				h.Errorf("the error is %v", err)
			}
		}},
		{"a restored store is for the programs of its own tables, not of the copy's", func(h *harness, at TablePlace) {
			at.Execute(h, `UPDATE meta SET compat = 999`)
			copied := h.copied(at)
			to := empty(h)
			_, err := to.Restore(h.ctx, bytes.NewReader(copied), false, later)
			h.no(err)
			ran(h, to, version)
			s, err := to.Try(h, slog.New(slog.DiscardHandler))
			h.no(err)
			h.no(s.Close())
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			at := empty(t)
			h := &harness{T: t, ctx: t.Context(), now: start}
			// Made, and closed: not every store can be open twice.
			s, err := at.Try(h, slog.New(slog.DiscardHandler))
			h.no(err)
			h.no(s.Close())
			tt.run(h, at)
		})
	}
}
