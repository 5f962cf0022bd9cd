package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/vm-runner/drone-runner-aws/pool"
)

const (
	// gatherFor is how long announcements are gathered before they are sent: a
	// burst is one message, and what waits for it waits a little.
	gatherFor = 2 * time.Millisecond
	// announceWait bounds one sending; what could not be sent is dropped.
	announceWait = 2 * time.Second
	// maxPending is how many topics wait at most; more become the empty one.
	maxPending = 1000
	// maxPayload is below the 8000 bytes that
	// https://www.postgresql.org/docs/current/sql-notify.html allows.
	maxPayload = 7900
	// quietFor is how long a listener hears nothing before it asks whether the
	// connection still lives, and aliveWait how long it waits for the answer.
	quietFor  = 15 * time.Second
	aliveWait = 5 * time.Second
	// firstReconnect and lastReconnect bound the pause before another try.
	firstReconnect = 50 * time.Millisecond
	lastReconnect  = 5 * time.Second
)

// notifier sends and hears announcements. NOTIFY takes a lock of the whole
// server until its transaction has committed, so it never is part of an
// operation's: one goroutine sends what has gathered, on its own.
type notifier struct {
	b      *backend
	cfg    *pgx.ConnConfig
	sender string

	mu      sync.Mutex
	pending []string
	closed  bool
	// wake holds one signal that something is pending.
	wake    chan struct{}
	sending bool
	// life ends with the store; running are its goroutines and listeners.
	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup
}

var _ pool.Notifier = (*Store)(nil)

func newNotifier(ctx context.Context, b *backend, cfg *pgx.ConnConfig) *notifier {
	var id [8]byte
	// Read never fails; see crypto/rand.
	_, _ = rand.Read(id[:])
	n := &notifier{b: b, cfg: cfg, sender: hex.EncodeToString(id[:]), wake: make(chan struct{}, 1)}
	n.life, n.end = context.WithCancel(context.WithoutCancel(ctx))
	return n
}

// Announce implements pool.Notifier. It neither waits nor fails: topics that
// cannot be sent are dropped.
func (s *Store) Announce(topics ...string) { s.notes.announce(topics) }

// Listen implements pool.Notifier. f is called from one goroutine, with the
// empty topic after each connecting, the first included. It returns nil when
// ctx ends, and an error that wraps pool.ErrUnavailable when the store is
// closed.
func (s *Store) Listen(ctx context.Context, f func(topic string)) error {
	return s.notes.listen(ctx, f)
}

func (n *notifier) announce(topics []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	for _, t := range topics {
		if !utf8.ValidString(t) || len(encodeNote(n.sender, []string{t})) > maxPayload {
			t = "" // says too much, but nothing wrong
		}
		if !slices.Contains(n.pending, t) {
			n.pending = append(n.pending, t)
		}
	}
	if len(n.pending) > maxPending {
		n.pending = []string{""}
	}
	if len(n.pending) == 0 {
		return
	}
	if !n.sending {
		n.sending = true
		n.running.Go(n.send)
	}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// send is the goroutine that sends what was announced.
func (n *notifier) send() {
	gather := time.NewTimer(0)
	defer gather.Stop()
	<-gather.C
	for {
		select {
		case <-n.life.Done():
			// What was announced last may be that a pool is free.
			n.flush()
			return
		case <-n.wake:
		}
		gather.Reset(gatherFor)
		select {
		case <-n.life.Done():
		case <-gather.C:
		}
		n.flush()
	}
}

func (n *notifier) flush() {
	n.mu.Lock()
	topics := n.pending
	n.pending = nil
	n.mu.Unlock()
	for _, payload := range packNotes(n.sender, topics) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(n.life), announceWait)
		_, err := n.b.db.ExecContext(ctx, `SELECT pg_notify($1, $2)`, n.b.channel, payload)
		cancel()
		if err != nil {
			n.b.log.Debug("announcement not sent; the others look at their next tick", "err", err)
			return
		}
	}
}

// encodeNote is the payload that carries topics.
func encodeNote(sender string, topics []string) string {
	// Marshal of strings does not fail.
	b, _ := json.Marshal(append([]string{sender}, topics...))
	return string(b)
}

// packNotes puts topics, each of which fits, into as few payloads as there must be.
func packNotes(sender string, topics []string) []string {
	var out []string
	for len(topics) > 0 {
		k := 1
		for size := len(encodeNote(sender, topics[:1])); k < len(topics); k++ {
			// A topic costs its own text, and a comma instead of two brackets.
			size += len(encodeNote(topics[k], nil)) - 1
			if size > maxPayload {
				break
			}
		}
		out = append(out, encodeNote(sender, topics[:k]))
		topics = topics[k:]
	}
	return out
}

func (n *notifier) listen(ctx context.Context, f func(string)) error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return errClosed
	}
	n.running.Add(1)
	n.mu.Unlock()
	defer n.running.Done()

	caller := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.life, cancel)()
	pause := firstReconnect
	for {
		begun := time.Now()
		err := n.hear(ctx, f)
		switch {
		case caller.Err() != nil:
			return nil
		case ctx.Err() != nil:
			return errClosed
		}
		if time.Since(begun) > lastReconnect {
			pause = firstReconnect
		}
		n.b.log.Warn("no announcements of other replicas are heard; connecting again", "err", n.b.explain(err))
		t := time.NewTimer(pause/2 + mathrand.N(pause))
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
		pause = min(2*pause, lastReconnect)
	}
}

// hear listens on one connection until it fails or ctx ends.
func (n *notifier) hear(ctx context.Context, f func(string)) error {
	connecting, cancel := context.WithTimeout(ctx, aliveWait)
	defer cancel()
	conn, err := pgx.ConnectConfig(connecting, n.cfg.Copy())
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // nothing is lost with it
	}()
	if _, err := conn.Exec(connecting, `LISTEN `+pgx.Identifier{n.b.channel}.Sanitize()); err != nil {
		return err
	}
	f("")
	for {
		note, err := n.next(ctx, conn)
		if err != nil {
			return err
		}
		var words []string
		if json.Unmarshal([]byte(note), &words) != nil || len(words) == 0 {
			f("") // of a program that writes them in another way
			continue
		}
		if words[0] == n.sender {
			continue
		}
		for _, topic := range words[1:] {
			f(topic)
		}
	}
}

// next waits for a message. While there is none it makes sure that the server
// is still there: a connection that was cut off silently would hear nothing
// for ever.
func (n *notifier) next(ctx context.Context, conn *pgx.Conn) (string, error) {
	for {
		quiet, cancel := context.WithTimeout(ctx, quietFor)
		note, err := conn.WaitForNotification(quiet)
		cancel()
		if err == nil {
			return note.Payload, nil
		}
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return "", err
		}
		alive, cancel := context.WithTimeout(ctx, aliveWait)
		err = conn.Ping(alive)
		cancel()
		if err != nil {
			return "", err
		}
	}
}

// close ends sending and listening, and waits for both.
func (n *notifier) close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.end()
	n.running.Wait()
}

// channelOf names the channel of a schema: channels belong to the database.
func channelOf(schema string) string {
	h := fnv.New64a()
	_, _ = h.Write([]byte(schema)) // never fails
	return fmt.Sprintf("drone_runner_%016x", h.Sum64())
}
