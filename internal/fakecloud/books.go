package fakecloud

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"
)

// Thing is something that was made in a fake and costs money while it exists.
type Thing struct {
	// Kind is the fake's word: "instance", "disk", "volume", "firewall", …
	Kind string
	// ID is unique in the fake for ever; Name may come again.
	ID, Name, Zone string
	// Tags are its labels or tags as they were when it was made.
	Tags map[string]string
	// Made and Gone are by the fake's clock; Gone is zero while it exists.
	Made, Gone time.Time
}

// Books are everything a fake ever made, and every call it got: whoever looks
// for leaks looks here. The zero value is empty. They are safe for concurrent
// use.
type Books struct {
	mu     sync.Mutex
	things []Thing
	at     map[string]int // place in things, by kind and id
	calls  map[string]int
}

// Make notes that something exists from now on.
func (b *Books) Make(t Thing) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at == nil {
		b.at = map[string]int{}
	}
	t.Tags = maps.Clone(t.Tags)
	b.at[t.Kind+"\x00"+t.ID] = len(b.things)
	b.things = append(b.things, t)
}

// End notes that it does not exist any more.
func (b *Books) End(kind, id string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i, ok := b.at[kind+"\x00"+id]; ok && b.things[i].Gone.IsZero() {
		b.things[i].Gone = now
	}
}

// Ever is everything that was ever made, in order.
func (b *Books) Ever() []Thing {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.things)
}

// Living is what exists yet, in the order of its making.
func (b *Books) Living() []Thing {
	return slices.DeleteFunc(b.Ever(), func(t Thing) bool { return !t.Gone.IsZero() })
}

// Called counts a call, also one that is refused.
func (b *Books) Called(method string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calls == nil {
		b.calls = map[string]int{}
	}
	b.calls[method]++
}

// Calls are how many calls each operation has got.
func (b *Books) Calls() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.calls)
}

// Total is how many calls there were in all.
func (b *Books) Total() (n int) {
	for _, calls := range b.Calls() {
		n += calls
	}
	return n
}

// ByName sorts things for a report.
func ByName(a, b Thing) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
}
