package agent

import (
	"io"
	"sync"
	"time"
)

// holdFor is how long text that may be the beginning of a secret is held back
// before a reader sees it.
const holdFor = time.Second

// output is where a step's text goes: through the masker into the spool. Safe
// for concurrent use; text written after close is dropped.
type output struct {
	mu     sync.Mutex
	mask   *masker // nil: nothing to mask
	spool  *spool
	buf    []byte
	timer  *time.Timer // flushes the masker, nil while nothing is held
	inLine bool        // the text so far does not end with a newline
	closed bool
}

var _ io.Writer = (*output)(nil)

// Write never fails.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.writeLocked(p)
}

// line writes whole lines of the agent's own, on lines of their own.
func (o *output) line(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inLine {
		text = "\n" + text
	}
	_, _ = o.writeLocked([]byte(text)) // never fails
}

func (o *output) writeLocked(p []byte) (int, error) {
	if o.closed || len(p) == 0 {
		return len(p), nil
	}
	o.inLine = p[len(p)-1] != '\n'
	if o.mask == nil {
		return o.spool.Write(p)
	}
	o.buf = o.mask.mask(o.buf[:0], p)
	o.emit()
	switch {
	case o.mask.holding() && o.timer == nil:
		o.timer = time.AfterFunc(holdFor, o.release)
	case !o.mask.holding() && o.timer != nil:
		o.timer.Stop()
		o.timer = nil
	}
	return len(p), nil
}

// release lets go of what is held back, for readers who wait.
func (o *output) release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.timer == nil {
		return
	}
	o.timer = nil
	o.buf = o.mask.flush(o.buf[:0])
	o.emit()
}

func (o *output) emit() {
	if len(o.buf) > 0 {
		_, _ = o.spool.Write(o.buf) // never fails
	}
}

// close ends the output, text held back included. A second call does nothing.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.closed = true
	if o.timer != nil {
		o.timer.Stop()
	}
	if o.mask != nil {
		o.buf = o.mask.flush(o.buf[:0])
		o.emit()
	}
	o.spool.end()
}
