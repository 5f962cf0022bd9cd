package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// However much is written in a row, with readers beside it, the log begins anew
// again and again, long before a commit would have to copy it.
func TestTheLogStaysShortWhileTheWriterIsBusy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "database.sqlite3")
	s := inner(t, sqlite.Options{Path: path}, nil)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := s.Events(t.Context(), pool.EventQuery{Limit: 3}); err != nil {
					t.Errorf("read: %v", err)
					return
				}
			}
		}
	})
	// About 6 pages a time, 100 MB in all: more than the backstop.
	text := fmt.Sprintf("%08000d", 7)
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for k := range 1000 {
				err := s.Note(t.Context(), pool.Event{At: now, Pool: "p", Reason: "test", Message: fmt.Sprintf("%d %d %s", w, k, text)})
				if err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	log, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	// The log keeps the size it had once, so this is the longest it was.
	if most := int64(sqlite.BackstopPages * 4096 * 9 / 10); log.Size() > most {
		t.Errorf("the log grew to %d MB, want less than %d", log.Size()>>20, most>>20)
	}
	t.Logf("the log grew to %d MB", log.Size()>>20)
}
