package ec2

import (
	"slices"
	"time"
)

// thing is what is common to all that can be made.
type thing struct {
	id   string
	seq  int // in the order of making
	tags map[string]string
	// seen is when lists and calls begin to know it.
	seen time.Time
}

func (t *thing) common() *thing { return t }

type commoner interface{ common() *thing }

// shelf keeps things in the order of their making. The zero value is empty.
type shelf[T commoner] struct {
	byID  map[string]T
	order []T
}

func (s *shelf[T]) put(t T) {
	if s.byID == nil {
		s.byID = map[string]T{}
	}
	s.byID[t.common().id] = t
	s.order = append(s.order, t)
}

func (s *shelf[T]) drop(id string) {
	delete(s.byID, id)
	s.order = slices.DeleteFunc(s.order, func(t T) bool { return t.common().id == id })
}

// get is the thing, if calls know it by now.
func (s *shelf[T]) get(id string, now time.Time) (T, bool) {
	t, ok := s.byID[id]
	if !ok || t.common().seen.After(now) {
		var none T
		return none, false
	}
	return t, true
}

// visible are the things that lists know by now.
func (s *shelf[T]) visible(now time.Time) []T {
	return slices.DeleteFunc(slices.Clone(s.order), func(t T) bool { return t.common().seen.After(now) })
}

// thing makes what is common, unseen for a while.
func (c *Cloud) thing(prefix string, tags map[string]string) thing {
	id := c.id(prefix)
	return thing{id: id, seq: c.made, tags: tags, seen: c.now.Add(c.between(c.o.Times.Seen, "seen", id))}
}
