package sqlite_test

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
	"github.com/vm-runner/drone-runner-aws/store/storetest"
)

// testKey is a sealer; each byte makes another.
func testKey(t testing.TB, b byte) *store.Sealer {
	t.Helper()
	s, err := store.NewSealer(bytes.Repeat([]byte{b}, store.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// opened opens a store that is closed when the test ends.
func opened(t testing.TB, o sqlite.Options) *sqlite.Store {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "database.sqlite3")
	}
	if o.Seal == nil {
		o.Seal = testKey(t, 1)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := sqlite.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t testing.TB) pool.Store { return opened(t, sqlite.Options{}) })
}
