package agent

import (
	"io"
	"sync"
)

// output is where a step's text goes: through the masks into the spool, and to
// a log service if the step has one. Text that may be the beginning of a secret
// waits for what follows it, however long that takes. Safe for concurrent use;
// text written after close is dropped.
type output struct {
	mu       sync.Mutex
	mask     *masker   // nil: no secrets
	patterns *patterns // nil: none
	spool    *spool
	log      io.Writer // nil: no log service; neither fails nor waits
	masked   []byte
	settled  []byte
	inLine   bool // the text so far does not end with a newline
	closed   bool
}

var _ io.Writer = (*output)(nil)

// Write never fails.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.writeLocked(p)
	return len(p), nil
}

// line writes whole lines of the agent's own, on lines of their own.
func (o *output) line(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.inLine {
		text = "\n" + text
	}
	o.writeLocked([]byte(text))
}

func (o *output) writeLocked(p []byte) {
	if o.closed || len(p) == 0 {
		return
	}
	o.inLine = p[len(p)-1] != '\n'
	if o.mask != nil {
		o.masked = o.mask.mask(o.masked[:0], p)
		p = o.masked
	}
	if o.patterns != nil {
		o.settled = o.patterns.mask(o.settled[:0], p)
		p = o.settled
	}
	o.emit(p)
}

func (o *output) emit(p []byte) {
	if len(p) == 0 {
		return
	}
	_, _ = o.spool.Write(p) // never fails
	if o.log != nil {
		_, _ = o.log.Write(p) // never fails
	}
}

// last returns the end of what was let out, at most n bytes of it.
func (o *output) last(n int) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return nil
	}
	return o.spool.last(n)
}

// close ends the output, text held back included. A second call does nothing.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	o.closed = true
	var rest []byte
	if o.mask != nil {
		rest = o.mask.flush(nil)
	}
	if o.patterns != nil {
		rest = o.patterns.flush(o.patterns.mask(nil, rest))
	}
	o.emit(rest)
	o.spool.end()
}
