//go:build !no_amazon

package amazon

import (
	"context"
	"time"
)

// memo remembers what was looked up, so that many who need it at once ask
// once. Errors are not remembered.
type memo[T any] struct {
	// turn lets one look things up at a time.
	turn chan struct{}
	kept map[string]kept[T]
}

type kept[T any] struct {
	value T
	until time.Time
}

// mostKept bounds a memo: what requests can name is theirs to choose.
const mostKept = 256

func newMemo[T any]() memo[T] {
	return memo[T]{turn: make(chan struct{}, 1), kept: map[string]kept[T]{}}
}

// get is what is remembered of a key, else what look finds, which is kept for a
// time.
func (m *memo[T]) get(ctx context.Context, key string, keep time.Duration, look func() (T, error)) (T, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
	now := time.Now()
	if k, ok := m.kept[key]; ok && now.Before(k.until) {
		return k.value, nil
	}
	value, err := look()
	if err != nil {
		return value, err
	}
	if len(m.kept) >= mostKept {
		clear(m.kept)
	}
	m.kept[key] = kept[T]{value, now.Add(keep)}
	return value, nil
}

// forget has a key looked up again.
func (m *memo[T]) forget(ctx context.Context, key string) {
	select {
	case m.turn <- struct{}{}:
		delete(m.kept, key)
		<-m.turn
	case <-ctx.Done():
	}
}
