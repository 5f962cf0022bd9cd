package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// reconnect is the first wait after a log broke off; it doubles up to
// maxReconnect and starts again when something was read.
const (
	reconnect    = 100 * time.Millisecond
	maxReconnect = 5 * time.Second
)

// StepLog copies a step's output from a byte offset to w: what there is, or
// with follow everything until the step has ended. It returns the next offset,
// also beside an error. With follow a log that breaks off is read on from
// there until ctx ends, so nothing is lost or doubled over a restart of the
// runner; an answer that says no, a w that fails, and a runner that was never
// reached end it.
func (c *Client) StepLog(ctx context.Context, lease, step string, offset int64, follow bool, w io.Writer) (int64, error) {
	wait, reached := reconnect, false
	for {
		next, err := c.stepLog(ctx, lease, step, offset, follow, &reached, w)
		if next > offset {
			wait = reconnect
		}
		offset = next
		if err == nil || !follow || !reached || ctx.Err() != nil || !brokenOff(err) {
			return offset, err
		}
		select {
		case <-ctx.Done():
			return offset, err
		case <-time.After(wait):
		}
		wait = min(2*wait, maxReconnect)
	}
}

// writeError is a failure of the reader's side.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// brokenOff says that reading on may help.
func brokenOff(err error) bool {
	if _, ours := errors.AsType[writeError](err); ours {
		return false
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.RetryAfter > 0
	}
	return true
}

func (c *Client) stepLog(ctx context.Context, lease, step string, offset int64, follow bool, reached *bool, w io.Writer) (int64, error) {
	q := query(map[string]string{"offset": number(offset), "follow": yes(follow)})
	resp, err := c.do(ctx, http.MethodGet, resource(q, "leases", lease, "steps", step, "log"), nil)
	if _, answered := errors.AsType[*Error](err); answered || err == nil {
		*reached = true
	}
	if err != nil {
		return offset, err
	}
	defer resp.Body.Close()
	out := &counter{w: w}
	_, err = io.Copy(out, resp.Body)
	offset += out.n
	if out.err != nil {
		return offset, writeError{out.err}
	}
	if err != nil {
		return offset, fmt.Errorf("read log of step %s: %w", step, err)
	}
	next, err := strconv.ParseInt(resp.Trailer.Get(api.NextOffsetTrailer), 10, 64)
	if err != nil {
		return offset, fmt.Errorf("log of step %s broke off at byte %d", step, offset)
	}
	return next, nil
}

// counter counts what w took, and keeps its error apart from the network's.
type counter struct {
	w   io.Writer
	n   int64
	err error
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.err = err
	return n, err
}
