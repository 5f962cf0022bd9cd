package gce

import (
	"container/heap"
	"time"
)

// event is something that happens at a time, unless the resource it belongs to
// has changed otherwise before then.
type event struct {
	at  time.Time
	seq int
	do  func(at time.Time)
}

// agenda holds what is going to happen, the next first.
type agenda struct {
	events []*event
	seq    int
}

func (a *agenda) Len() int { return len(a.events) }

func (a *agenda) Less(i, j int) bool {
	if x, y := a.events[i], a.events[j]; !x.at.Equal(y.at) {
		return x.at.Before(y.at)
	}
	return a.events[i].seq < a.events[j].seq
}

func (a *agenda) Swap(i, j int) { a.events[i], a.events[j] = a.events[j], a.events[i] }

func (a *agenda) Push(e any) { a.events = append(a.events, e.(*event)) }

func (a *agenda) Pop() any {
	last := len(a.events) - 1
	e := a.events[last]
	a.events[last], a.events = nil, a.events[:last]
	return e
}

func (a *agenda) add(at time.Time, do func(at time.Time)) {
	a.seq++
	heap.Push(a, &event{at: at, seq: a.seq, do: do})
}

// run carries out what is due at now, in the order of its time.
func (a *agenda) run(now time.Time) {
	for len(a.events) > 0 && !a.events[0].at.After(now) {
		e, _ := heap.Pop(a).(*event)
		e.do(e.at)
	}
}

// next is when the next event is.
func (a *agenda) next() (time.Time, bool) {
	if len(a.events) == 0 {
		return time.Time{}, false
	}
	return a.events[0].at, true
}
