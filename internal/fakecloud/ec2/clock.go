package ec2

import (
	"container/heap"
	"time"
)

// event is something that is due at a time.
type event struct {
	at  time.Time
	seq int // of those due at once, the one planned first comes first
	do  func()
}

// queue is a heap of events by their time.
type queue struct {
	events []event
	seq    int
}

func (q *queue) Len() int { return len(q.events) }

func (q *queue) Less(i, j int) bool {
	a, b := q.events[i], q.events[j]
	if a.at.Equal(b.at) {
		return a.seq < b.seq
	}
	return a.at.Before(b.at)
}

func (q *queue) Swap(i, j int) { q.events[i], q.events[j] = q.events[j], q.events[i] }

func (q *queue) Push(x any) { q.events = append(q.events, x.(event)) }

func (q *queue) Pop() any {
	last := len(q.events) - 1
	e := q.events[last]
	q.events = q.events[:last]
	return e
}

// after plans do for later; it finds c.now at the time it was due.
func (c *Cloud) after(d time.Duration, do func()) {
	c.due.seq++
	heap.Push(&c.due, event{c.now.Add(d), c.due.seq, do})
}

// settle carries out what is due by now, each at its own time.
func (c *Cloud) settle(now time.Time) {
	for len(c.due.events) > 0 && !c.due.events[0].at.After(now) {
		e := heap.Pop(&c.due).(event)
		c.now = e.at
		e.do()
	}
	c.now = now
}
