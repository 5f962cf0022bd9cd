package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

var _ pool.Witness = witnessFile("")

func TestWitnessRemembersTheLastTime(t *testing.T) {
	t.Parallel()
	w := witnessOf(filepath.Join(t.TempDir(), databaseFile))
	if seen, err := w.Seen(); err != nil || !seen.IsZero() {
		t.Fatalf("before the first: %s, %v", seen, err)
	}
	first := time.Date(2026, 3, 4, 5, 6, 7, 8e6, time.UTC)
	for _, at := range []time.Time{first, first.Add(10 * time.Second)} {
		if err := w.Saw(at); err != nil {
			t.Fatal(err)
		}
		if seen, err := w.Seen(); err != nil || !seen.Equal(at) {
			t.Errorf("saw %s, got %s, %v", at, seen, err)
		}
	}
	files, err := os.ReadDir(filepath.Dir(string(w)))
	if err != nil || len(files) != 1 {
		t.Errorf("files left: %v, %v", files, err)
	}
}

func TestWitnessThatCannotBeReadNamesItself(t *testing.T) {
	t.Parallel()
	w := witnessOf(filepath.Join(t.TempDir(), databaseFile))
	if err := os.WriteFile(string(w), []byte("noon"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Seen(); err == nil || !strings.Contains(err.Error(), string(w)) {
		t.Errorf("error %v, want one that names %s", err, w)
	}
}
