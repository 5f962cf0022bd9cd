//go:build !no_google

package google

import (
	"context"
	"sync"
	"time"
)

// answers remembers for a while what the cloud says of things that hardly ever
// change, by their path, and asks once for all who need one at the same time. The
// zero value remembers nothing yet. It is safe for concurrent use.
type answers[T any] struct {
	mu    sync.Mutex
	known map[string]answered[T]
	// asked are the questions under way.
	asked map[string]*question[T]
}

type answered[T any] struct {
	answer T
	at     time.Time
}

// question is one whose answer serves everybody who has it meanwhile.
type question[T any] struct {
	done   chan struct{}
	answer T
	err    error
	// left: who asked has gone, and the error says nothing of the thing.
	left bool
}

// How long answers are remembered, and how many.
const (
	answersFor  = time.Hour
	mostAnswers = 256
)

// of is the answer about a path, by ask if it is not known. Errors are not
// remembered.
func (m *answers[T]) of(ctx context.Context, path string, ask func(context.Context) (T, error)) (T, error) {
	for {
		m.mu.Lock()
		if known, ok := m.known[path]; ok && time.Since(known.at) < answersFor {
			m.mu.Unlock()
			return known.answer, nil
		}
		q := m.asked[path]
		if q == nil {
			q = &question[T]{done: make(chan struct{})}
			if m.asked == nil {
				m.asked = map[string]*question[T]{}
			}
			m.asked[path] = q
			m.mu.Unlock()
			q.answer, q.err = ask(ctx)
			q.left = ctx.Err() != nil
			m.end(path, q)
			return q.answer, q.err
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			var none T
			return none, context.Cause(ctx)
		case <-q.done:
		}
		if !q.left {
			return q.answer, q.err
		}
	}
}

// end gives a question's answer to those who wait, and to those to come.
func (m *answers[T]) end(path string, q *question[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.asked, path)
	if q.err == nil {
		if m.known == nil || len(m.known) >= mostAnswers {
			m.known = map[string]answered[T]{}
		}
		m.known[path] = answered[T]{q.answer, time.Now()}
	}
	close(q.done)
}
