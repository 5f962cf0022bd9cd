package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/internal/core"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

// childEnv makes the test binary a child that does something else.
const childEnv = "STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	switch what, path, _ := strings.Cut(os.Getenv(childEnv), ":"); what {
	case "claim":
		os.Exit(childClaims(path))
	case "open":
		s, err := sqlite.Open(context.Background(), sqlite.Options{Path: path})
		if err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
		_ = s.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func inner(t *testing.T, o sqlite.Options, fail func() error) *sqlite.Inner {
	t.Helper()
	if o.Path == "" {
		o.Path = filepath.Join(t.TempDir(), "database.sqlite3")
	}
	o.Seal = testKey(t, 1)
	s, err := sqlite.OpenInner(t.Context(), o, fail)
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

// note is an operation that is easily looked for.
func note(ctx context.Context, s pool.Store, reason string) error {
	return s.Note(ctx, pool.Event{At: begin, Reason: reason})
}

func noted(t *testing.T, s pool.Store) map[string]bool {
	t.Helper()
	events, err := s.Events(t.Context(), pool.EventQuery{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, e := range events {
		out[e.Reason] = true
	}
	return out
}

// grouped holds the writer, launches n operations and lets go when all of them
// wait behind it, so that they share a commit. held is the holder's outcome,
// which grouped returns.
func grouped(t *testing.T, s *sqlite.Inner, n int, launch func(), held func() error) error {
	t.Helper()
	started, answer := make(chan struct{}), make(chan error, 1)
	free := make(chan struct{})
	var begun, once sync.Once
	release := func() { once.Do(func() { close(free) }) }
	defer release()
	go func() {
		answer <- s.Write(t.Context(), func(context.Context, core.Tx) error {
			// It may be run again; see core.Backend.
			begun.Do(func() { close(started) })
			<-free
			return held()
		})
	}()
	<-started
	launch()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.Waiting() < n {
		if time.Now().After(deadline) {
			t.Fatalf("only %d of %d operations wait", s.Waiting(), n)
		}
		<-tick.C
	}
	release()
	return <-answer
}

func TestAFailedCommitFailsAllOfItsGroup(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	s := inner(t, sqlite.Options{}, func() error {
		if broken.Load() {
			return errors.New("the disk said no")
		}
		return nil
	})
	if err := note(t.Context(), s, "before"); err != nil {
		t.Fatal(err)
	}
	const n = 20
	errs := make([]error, n)
	var wg sync.WaitGroup
	err := grouped(t, s, n, func() {
		broken.Store(true)
		for k := range n {
			wg.Go(func() {
				if k == 0 {
					// What fails for a reason of its own keeps that.
					_, errs[k] = s.Activate(t.Context(), pool.LeaseKey{ID: "never"}, begin, begin)
					return
				}
				errs[k] = note(t.Context(), s, fmt.Sprint("lost-", k))
			})
		}
	}, func() error { return nil })
	wg.Wait()
	for k, err := range append(errs, err) {
		want := pool.ErrUnavailable
		if k == 0 {
			want = pool.ErrNotFound
		}
		if !errors.Is(err, want) {
			t.Errorf("operation %d was answered %v, want %v", k, err, want)
		}
	}
	if !strings.Contains(errs[1].Error(), "the disk said no") || !strings.Contains(errs[1].Error(), "database.sqlite3") {
		t.Errorf("error names neither cause nor file: %v", errs[1])
	}
	broken.Store(false)
	if err := note(t.Context(), s, "after"); err != nil {
		t.Fatal(err)
	}
	if got := noted(t, s); len(got) != 2 || !got["before"] || !got["after"] {
		t.Errorf("the store has %v", got)
	}
}

func TestAFailingOperationLeavesItsGroupAlone(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"an error": func() error { return pool.ErrConflict },
		"a panic":  func() error { panic("of a test") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := inner(t, sqlite.Options{}, nil)
			const n = 10
			var wg sync.WaitGroup
			if err := grouped(t, s, n, func() {
				for k := range n {
					wg.Go(func() {
						if err := note(t.Context(), s, fmt.Sprint("kept-", k)); err != nil {
							t.Error(err)
						}
					})
				}
			}, fail); err == nil {
				t.Error("the failing operation was answered without error")
			}
			wg.Wait()
			if err := note(t.Context(), s, "after"); err != nil {
				t.Error(err)
			}
			if got := noted(t, s); len(got) != n+1 {
				t.Errorf("the store has %v", got)
			}
		})
	}
}

// TestWhatFailsHalfWayLeavesNothing has operations that change something before
// they fail, among others that share their commit.
func TestWhatFailsHalfWayLeavesNothing(t *testing.T) {
	t.Parallel()
	reason := errors.New("of a test")
	for name, fail := range map[string]func() error{
		"an error of the contract": func() error { return fmt.Errorf("%w: %w", pool.ErrConflict, reason) },
		"another error":            func() error { return reason },
		"a panic":                  func() error { panic(reason) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := inner(t, sqlite.Options{}, nil)
			half := func(k int) error {
				return s.Write(t.Context(), func(ctx context.Context, tx core.Tx) error {
					if _, err := tx.Exec(ctx, core.InsertEvent, int64(1), "", "", "", int64(0), fmt.Sprint("half-", k), ""); err != nil {
						return err
					}
					return fail()
				})
			}
			const n = 24
			var wg sync.WaitGroup
			if err := grouped(t, s, n, func() {
				for k := range n {
					wg.Go(func() {
						if k%3 == 1 {
							if err := half(k); err == nil || !strings.Contains(err.Error(), reason.Error()) {
								t.Errorf("what failed was answered %v", err)
							}
							return
						}
						if err := note(t.Context(), s, fmt.Sprint("kept-", k)); err != nil {
							t.Error(err)
						}
					})
				}
			}, func() error { return nil }); err != nil {
				t.Error(err)
			}
			wg.Wait()
			got := noted(t, s)
			if len(got) != n-n/3 {
				t.Errorf("the store has %v", got)
			}
			for k := range n {
				if kept := got[fmt.Sprint("kept-", k)]; kept != (k%3 != 1) {
					t.Errorf("operation %d is in the store: %t", k, kept)
				}
			}
			events, err := s.Events(t.Context(), pool.EventQuery{})
			if err != nil || len(events) != len(got) {
				t.Errorf("%d events of %d operations, %v", len(events), len(got), err)
			}
		})
	}
}

func TestAnOperationGivenUpBeforeItBeganIsSkipped(t *testing.T) {
	t.Parallel()
	s := inner(t, sqlite.Options{}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	err := grouped(t, s, 1, func() {
		go func() { answer <- note(ctx, s, "given up") }()
	}, func() error {
		cancel()
		// Its caller is answered although the writer is busy.
		if err := <-answer; !errors.Is(err, context.Canceled) {
			return fmt.Errorf("answered %w", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if got := noted(t, s); len(got) != 0 {
		t.Errorf("the store has %v", got)
	}
}

func TestCloseAnswersWhatWaits(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "database.sqlite3")
	s := inner(t, sqlite.Options{Path: path}, nil)
	const n = 30
	var wg sync.WaitGroup
	closed := make(chan error, 1)
	if err := grouped(t, s, n, func() {
		for k := range n {
			wg.Go(func() {
				if err := note(t.Context(), s, fmt.Sprint("drained-", k)); err != nil {
					t.Error(err)
				}
			})
		}
	}, func() error {
		go func() { closed <- s.Close() }()
		return nil
	}); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if got := noted(t, opened(t, sqlite.Options{Path: path})); len(got) != n {
		t.Errorf("the store has %d of %d", len(got), n)
	}
}

func TestAFullDiskIsSaidAndForgotten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "database.sqlite3")
	s := inner(t, sqlite.Options{Path: path}, nil)
	pages := func(text string) {
		t.Helper()
		if err := s.Write(t.Context(), func(ctx context.Context, tx core.Tx) error {
			rows, err := tx.QueryText(ctx, text)
			if err != nil {
				return err
			}
			for rows.Next() {
			}
			return errors.Join(rows.Err(), rows.Close())
		}); err != nil {
			t.Fatal(err)
		}
	}
	pages("PRAGMA max_page_count = 1") // the least that is possible: as many as there are
	var full error
	kept := 0
	for k := range 2000 {
		if full = note(t.Context(), s, fmt.Sprint(k, strings.Repeat("x", 500))); full != nil {
			break
		}
		kept++
	}
	if !errors.Is(full, pool.ErrUnavailable) || !strings.Contains(full.Error(), path) || !strings.Contains(full.Error(), "full") {
		t.Fatalf("error of a full disk: %v", full)
	}
	if got := noted(t, s); len(got) != kept {
		t.Errorf("%d operations were answered, %d are there", kept, len(got))
	}
	pages("PRAGMA max_page_count = 1000000")
	if err := note(t.Context(), s, "after"); err != nil {
		t.Errorf("after there is room again: %v", err)
	}
}

// TestInABubble is what the simulation needs: time that passes only when the
// store is at rest, and nothing left behind after Close.
func TestInABubble(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	seal := testKey(t, 1)
	testbubble.Run(t, func(t *testing.T) {
		for run := range 3 {
			s, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "database.sqlite3"), Seal: seal, Sync: sqlite.SyncOff})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Configure(t.Context(), []pool.PoolRow{{Name: "a", Max: 5}}, time.Now()); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for w := range 4 {
				wg.Go(func() {
					for k := range 25 {
						<-time.After(time.Minute)
						id := fmt.Sprintf("%d-%d-%d", run, w, k)
						if _, err := s.Arrive(t.Context(), pool.Arrival{ID: id, Choices: []pool.Choice{{Pool: "a"}}, Waiter: "w", Now: time.Now()}); err != nil {
							t.Error(err)
						}
						if _, err := s.Snapshot(t.Context(), "a", 5, time.Now()); err != nil {
							t.Error(err)
						}
					}
				})
			}
			begun := time.Now()
			wg.Wait()
			if passed := time.Since(begun); passed != 25*time.Minute {
				t.Errorf("%s passed", passed)
			}
			hold, err := s.Hold(t.Context(), "a", "r", time.Second)
			if err != nil || !hold.Until.Equal(time.Now().Add(time.Second).UTC()) {
				t.Errorf("hold %+v, %v", hold, err)
			}
			<-time.After(2 * time.Second)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// childClaims answers setups for ever and tells each answer.
func childClaims(path string) int {
	ctx := context.Background()
	key, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		return 1
	}
	s, err := sqlite.Open(ctx, sqlite.Options{Path: path, Seal: key})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := s.Configure(ctx, []pool.PoolRow{{Name: "a", Max: 1 << 30}}, begin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	prefix := fmt.Sprint(os.Getpid(), "-")
	var n atomic.Int64
	var out sync.Mutex
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				id := fmt.Sprint(prefix, n.Add(1))
				_, err := s.Arrive(ctx, pool.Arrival{ID: id, Choices: []pool.Choice{{Pool: "a"}}, Waiter: "w", Now: begin})
				if err == nil {
					_, err = s.Intend(ctx, pool.Intent{Instance: pool.Instance{ID: id, Name: id, Pool: "a"}, Lease: pool.LeaseKey{ID: id}, Now: begin})
				}
				if err != nil && !errors.Is(err, pool.ErrLimit) {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				out.Lock()
				fmt.Println(id)
				out.Unlock()
			}
		})
	}
	wg.Wait()
	return 1
}

func TestNoAnsweredOperationIsLostByAKill(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "database.sqlite3")
	var answered []string
	for range 4 {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), childEnv+"=claim:"+path)
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		kill := 20 + rand.IntN(200)
		for n := 0; ; n++ {
			line, err := lines.ReadString('\n')
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				break
			}
			answered = append(answered, strings.TrimSuffix(line, "\n"))
			if n == kill {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		if len(answered) < kill {
			t.Fatalf("the child answered %d operations and ended", len(answered))
		}
	}
	key, err := store.NewSealer(make([]byte, store.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	s := opened(t, sqlite.Options{Path: path, Seal: key})
	for _, id := range answered {
		if _, err := s.Lease(t.Context(), id); err != nil {
			t.Errorf("an answered setup is lost: %v", err)
		}
	}
	if drift, err := s.Recount(t.Context()); err != nil || len(drift) != 0 {
		t.Errorf("counters drifted: %v, %v", drift, err)
	}
	t.Logf("%d answered operations, none lost", len(answered))
}

// TestReadOnlyFile runs as another user where this one may write everything.
func TestReadOnlyFile(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Where the tests are built others may not look.
	b, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	exe = filepath.Join(dir, "child")
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fsModes{"file": {0o777, 0o444}, "directory": {0o555, 0o666}} {
		d := filepath.Join(dir, name)
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(d, "database.sqlite3")
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(path + ".lock")
		if err := errors.Join(os.Chmod(path, mode.file), os.Chmod(d, mode.dir)); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), childEnv+"=open:"+path)
		if os.Getuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
		out, err := cmd.Output()
		if err == nil || !strings.Contains(string(out), path) || !strings.Contains(string(out), "let this user (uid") {
			t.Errorf("read-only %s: %v, said:\n%s", name, err, out)
		}
	}
}

type fsModes struct{ dir, file os.FileMode }
