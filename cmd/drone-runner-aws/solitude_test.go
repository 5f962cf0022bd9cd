package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// signs are the signs of life in a database.
type signs struct {
	mu  sync.Mutex
	all map[string]pool.Lifetime
}

func (s *signs) Lifetimes(context.Context) ([]pool.Lifetime, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []pool.Lifetime
	for _, l := range s.all {
		all = append(all, l)
	}
	return all, nil
}

func (s *signs) beat(incarnation string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.all[incarnation]
	if !ok {
		l = pool.Lifetime{Incarnation: incarnation, From: now}
	}
	l.To = now
	s.all[incarnation] = l
}

// live beats until ctx ends, by a clock that is off by skew.
func (s *signs) live(ctx context.Context, incarnation string, skew time.Duration) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		s.beat(incarnation, time.Now().Add(skew))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func alone(s *signs) *solitude {
	return &solitude{incarnation: "mine-2", mark: "mine", store: s, log: slog.New(slog.DiscardHandler)}
}

func TestARunnerWaitsForOthersOnItsDatabase(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		// last is when the other gave its last sign of life; lives says that
		// it gives more.
		other string
		last  time.Duration
		lives bool
		waits time.Duration
		fails bool
	}{
		{name: "nobody was ever here"},
		{name: "the other is long gone", other: "theirs-1", last: time.Hour},
		{name: "the other was killed three seconds ago", other: "theirs-1", last: 3 * time.Second, waits: 27 * time.Second},
		{name: "the other lives", other: "theirs-1", lives: true, waits: 36 * time.Second, fails: true},
		{name: "it was this runner's own last run, a moment ago", other: "mine-1", last: time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &signs{all: map[string]pool.Lifetime{}}
				if tc.other != "" {
					s.beat(tc.other, time.Now().Add(-tc.last))
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tc.lives {
					go s.live(ctx, tc.other, 0)
				}
				begun := time.Now()
				err := alone(s).await(t.Context())
				if got := errors.Is(err, errOthers); got != tc.fails || (err != nil) != tc.fails {
					t.Errorf("got %v, want an error: %v", err, tc.fails)
				}
				if tc.fails && !strings.Contains(err.Error(), tc.other) {
					t.Errorf("%v does not name the other", err)
				}
				if waited := time.Since(begun); waited != tc.waits {
					t.Errorf("waited %s, want %s", waited, tc.waits)
				}
			})
		})
	}
}

func TestOfTwoRunnersOnOneDatabaseTheSecondEnds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		other string
		skew  time.Duration
		ends  bool
	}{
		{"the other was first, by its clock", "theirs-1", -time.Hour, true},
		{"the other came second", "theirs-1", time.Hour, false},
		{"both began in the same instant: names decide", "a-1", 0, true},
		{"both began in the same instant, the other's name is later", "theirs-1", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &signs{all: map[string]pool.Lifetime{}}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
				defer cancel()
				go s.live(ctx, "mine-2", 0)
				go s.live(ctx, tc.other, tc.skew)
				s.beat("dead-1", time.Now().Add(-2*time.Hour)) // no sign of life, only a memory
				synctest.Wait()
				err := alone(s).watch(ctx)
				if got := errors.Is(err, errOthers); got != tc.ends || (err != nil) != tc.ends {
					t.Errorf("got %v, want an end: %v", err, tc.ends)
				}
				if tc.ends && ctx.Err() != nil {
					t.Error("it took five minutes to see the other")
				}
			})
		})
	}
}

func TestMarkOfADataDirectory(t *testing.T) {
	t.Parallel()
	mark := func(dir string) string {
		t.Helper()
		m, err := runnerMark(dir)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	one, two := t.TempDir(), t.TempDir()
	first := mark(one)
	if again := mark(one); again != first {
		t.Errorf("the mark does not last: %s, then %s", first, again)
	}
	if first == mark(two) {
		t.Error("two folders have one mark")
	}
	copied := t.TempDir()
	id, err := os.ReadFile(filepath.Join(one, markFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, markFile), id, 0o600); err != nil {
		t.Fatal(err)
	}
	if first == mark(copied) {
		t.Error("a copy passes for the original")
	}
	if _, err := runnerMark(filepath.Join(one, "nosuch")); err == nil {
		t.Error("a folder that is not there has a mark")
	}
}
