package agent

import (
	"context"
	"io"
)

// Printed is what a step has printed, from a byte offset on. It is safe for
// concurrent use.
type Printed struct {
	spool  *spool
	offset int64
}

// Printed returns what a step has printed, from a byte offset on. It fails for a
// step this run has not started, with [ErrNotStarted], and for an offset beyond the
// end.
func (a *Agent) Printed(id string, offset int64) (*Printed, error) {
	st, _ := a.find(id)
	if st == nil {
		return nil, ErrNotStarted
	}
	if err := st.spool.check(offset); err != nil {
		return nil, err
	}
	return &Printed{spool: st.spool, offset: offset}, nil
}

// CopyTo writes it to w, and calls flush after each piece; with follow also what
// the step prints from then on, until it ends. A reader that is slow, or goes,
// does not hold up the step.
func (p *Printed) CopyTo(ctx context.Context, w io.Writer, follow bool, flush func()) error {
	return p.spool.stream(ctx, w, p.offset, follow, flush)
}
