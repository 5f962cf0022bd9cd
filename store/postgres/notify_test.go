package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store/postgres"
)

// ear is a listener of a store, and what it has heard.
type ear struct {
	mu     sync.Mutex
	topics []string
	news   chan struct{}
	ended  chan error
}

func listening(ctx context.Context, t *testing.T, s *postgres.Store) *ear {
	t.Helper()
	e := &ear{news: make(chan struct{}, 1), ended: make(chan error, 1)}
	go func() {
		e.ended <- s.Listen(ctx, func(topic string) {
			e.mu.Lock()
			e.topics = append(e.topics, topic)
			e.mu.Unlock()
			select {
			case e.news <- struct{}{}:
			default:
			}
		})
	}()
	e.until(t, "it is connected", func(heard []string) bool { return slices.Contains(heard, "") })
	return e
}

func (e *ear) heard() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.topics)
}

func (e *ear) until(t *testing.T, what string, ok func([]string) bool) {
	t.Helper()
	late := time.After(30 * time.Second)
	for !ok(e.heard()) {
		select {
		case <-e.news:
		case <-late:
			t.Fatalf("not in 30 s: %s; heard %q", what, e.heard())
		}
	}
}

func (e *ear) hears(t *testing.T, topic string) {
	t.Helper()
	e.until(t, fmt.Sprintf("topic %.40q", topic), func(heard []string) bool { return slices.Contains(heard, topic) })
}

func TestAnnouncementsReachTheOthersAndNotOneself(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	a, b := opened(t, dsn), opened(t, dsn)
	other := opened(t, schemaDSN(t))
	atA, atB, elsewhere := listening(t.Context(), t, a), listening(t.Context(), t, b), listening(t.Context(), t, other)
	odd := "with \"quotes\", \nnewlines, \x00 and ünïcode"
	a.Announce("pool/a", "lease/1", "pool/a", odd)
	for _, topic := range []string{"pool/a", "lease/1", odd} {
		atB.hears(t, topic)
	}
	b.Announce("pool/b")
	atA.hears(t, "pool/b")
	other.Announce("x")
	other.Announce("pool/a")
	// What went before has arrived when what came after has.
	for _, topic := range atA.heard() {
		if topic != "" && topic != "pool/b" {
			t.Errorf("it heard its own %q", topic)
		}
	}
	if n := len(slices.DeleteFunc(atB.heard(), func(s string) bool { return s != "pool/a" })); n != 1 {
		t.Errorf("a topic announced twice at once was heard %d times", n)
	}
	if heard := elsewhere.heard(); len(heard) != 1 {
		t.Errorf("another schema's store heard %q", heard)
	}
}

func TestAnnouncementsAreSplitAndBounded(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	a, b := opened(t, dsn), opened(t, dsn)
	atB := listening(t.Context(), t, b)
	var topics []string
	for k := range 200 {
		topics = append(topics, fmt.Sprintf("%03d/%s", k, strings.Repeat("ü", 100)))
	}
	a.Announce(topics...)
	for _, topic := range topics {
		atB.hears(t, topic)
	}
	before := len(atB.heard())
	a.Announce(strings.Repeat("x", 9000), "\xff", "short")
	atB.hears(t, "short")
	if got := atB.heard()[before:]; !slices.Equal(got, []string{"", "short"}) {
		t.Errorf("topics too long for a message were heard as %.60q", got)
	}
}

func TestListenersReconnect(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	a, b := opened(t, dsn), opened(t, dsn)
	atB := listening(t.Context(), t, b)
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for round := range 2 {
		connections := len(slices.DeleteFunc(atB.heard(), func(s string) bool { return s != "" }))
		var killed int
		// Its last statement names the channel, which is this schema's own.
		if err := db.QueryRowContext(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE query LIKE 'LISTEN%' || $1 || '%' AND pid <> pg_backend_pid()`, postgres.Channel(b)).Scan(&killed); err != nil {
			t.Fatal(err)
		}
		if killed != 1 {
			t.Fatalf("%d connections were killed", killed)
		}
		atB.until(t, "it is connected again", func(heard []string) bool {
			return len(slices.DeleteFunc(heard, func(s string) bool { return s != "" })) > connections
		})
		topic := fmt.Sprint("after kill ", round)
		a.Announce(topic)
		atB.hears(t, topic)
	}
}

func TestListeningEndsWithItsContextOrTheStore(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	s := opened(t, dsn)
	ctx, cancel := context.WithCancel(t.Context())
	first, second := listening(ctx, t, s), listening(t.Context(), t, s)
	cancel()
	if err := <-first.ended; err != nil {
		t.Errorf("its context ended: %v", err)
	}
	peer := listening(t.Context(), t, opened(t, dsn))
	s.Announce("last words")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-second.ended; !errors.Is(err, pool.ErrUnavailable) {
		t.Errorf("the store was closed: %v", err)
	}
	peer.hears(t, "last words")
	s.Announce("nobody sends this")
	if err := s.Listen(t.Context(), func(string) {}); !errors.Is(err, pool.ErrUnavailable) {
		t.Errorf("listening to a closed store: %v", err)
	}
}

func TestAnnouncingNeverWaits(t *testing.T) {
	t.Parallel()
	dsn := schemaDSN(t)
	s := opened(t, dsn)
	atPeer := listening(t.Context(), t, opened(t, dsn))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for k := range 5000 {
			s.Announce(fmt.Sprint("topic ", k))
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("5000 announcements took 30 s")
	}
	s.Announce("end")
	atPeer.until(t, "the end, or that something was missed after it", func(heard []string) bool {
		return slices.Contains(heard, "end") || len(heard) > 1 && heard[len(heard)-1] == ""
	})
}

// TestAStoppedProcessKeepsNoPool: what another replica locked in a transaction
// that does not go on is given up by the server.
func TestAStoppedProcessKeepsNoPool(t *testing.T) {
	t.Parallel()
	s := opened(t, schemaDSN(t))
	ctx := t.Context()
	if err := s.Configure(ctx, []pool.PoolRow{{Name: "a", Max: 1}}, begin); err != nil {
		t.Fatal(err)
	}
	first, err := s.Hold(ctx, "a", "replica-1", time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	stopped := make(chan error, 1)
	locked := make(chan struct{})
	go func() { stopped <- postgres.Stall(ctx, s, first.Pool, locked, release) }()
	<-locked
	second, err := s.Hold(ctx, "a", "replica-2", time.Minute)
	if err != nil || second.Generation != first.Generation+1 {
		t.Errorf("hold %+v, %v", second, err)
	}
	close(release)
	if err := <-stopped; err == nil {
		t.Error("the stalled transaction committed")
	}
}
