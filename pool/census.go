package pool

// census tells which runs of the program live, from the signs of life they
// leave in the store. It compares what one look saw with what the next one
// sees, so clocks that differ between hosts do not matter, and counts looks, so
// neither does a time in which the store, or this process, stood still. The
// zero value is ready; it is used by one goroutine.
type census struct{ seen map[string]sign }

type sign struct {
	last   int64 // of the sign of life, in the leaver's own milliseconds
	missed int   // looks since then
}

// deadAfter is how many looks in a row without a new sign of life make a run
// count as dead. Looks come at the pace of heartbeats.
const deadAfter = 3

// look takes in what the store has and returns the runs that are not known to
// be dead, self among them. A run seen for the first time may live.
func (c *census) look(all []Lifetime, self string) (living []string) {
	now := make(map[string]sign, len(all))
	living = append(living, self)
	for _, l := range all {
		s := sign{last: l.To.UnixMilli()}
		if before, known := c.seen[l.Incarnation]; known && before.last == s.last {
			s.missed = min(before.missed+1, deadAfter)
		}
		now[l.Incarnation] = s
		if l.Incarnation != self && s.missed < deadAfter {
			living = append(living, l.Incarnation)
		}
	}
	c.seen = now
	return living
}
