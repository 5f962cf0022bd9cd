package pool

import (
	"sync"
	"time"
)

// links remembers which agents this process has talked to. Where replicas
// share the work a machine may end by another one's hand, and what the agent's
// client keeps for it here would stay for ever. The zero value is ready; it is
// safe for concurrent use.
type links struct {
	mu sync.Mutex
	m  map[string]link
}

type link struct {
	users int
	last  time.Time
}

// linkIdle is how long a connection nobody uses is kept: calling again only
// costs a new one.
const linkIdle = 10 * time.Minute

// use marks an agent as talked to until the returned function is called.
func (l *links) use(instance string, now func() time.Time) (done func()) {
	l.count(instance, 1, now())
	return func() { l.count(instance, -1, now()) }
}

func (l *links) count(instance string, n int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil {
		l.m = map[string]link{}
	}
	l.m[instance] = link{users: l.m[instance].users + n, last: now}
}

// idle takes out and returns those nobody has used for linkIdle.
func (l *links) idle(now time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for instance, k := range l.m {
		if k.users <= 0 && now.Sub(k.last) > linkIdle {
			out = append(out, instance)
			delete(l.m, instance)
		}
	}
	return out
}
