package agentclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// outputChunk is how much output is copied at a time.
const outputChunk = 16 << 10

// Output copies a step's output from offset on until the step has ended. A
// connection that breaks is made anew and goes on where it broke. A refusal is
// final, unless it says "later" (429, 503); so is an error of w.
func (c *Client) Output(ctx context.Context, t pool.Target, step string, offset int64, w io.Writer) (int64, error) {
	l := c.link(t)
	h := history{op: "stream_output", at: hostPort(t)}
	buf := make([]byte, outputChunk)
	for b := c.backoff(); ; {
		n, err := c.stream(ctx, l, t, step, offset, w, buf)
		offset += n
		if err == nil {
			return offset, nil
		}
		a, refused := errors.AsType[*pool.AgentError](err)
		if hopeless(err) || refused && a.Status != http.StatusTooManyRequests && a.Status != http.StatusServiceUnavailable {
			return offset, err
		}
		if ctx.Err() != nil {
			return offset, h.end(ctx)
		}
		if n > 0 {
			b.reset()
		}
		h.note(err)
		c.again(ctx, t, "stream_output", err)
		if b.wait(ctx) != nil {
			return offset, h.end(ctx)
		}
	}
}

// stream copies what one connection carries and returns its length.
func (c *Client) stream(ctx context.Context, l *link, t pool.Target, step string, offset int64, w io.Writer, buf []byte) (int64, error) {
	body, err := json.Marshal(agentapi.StreamOutputRequest{ID: step, Offset: offset})
	if err != nil {
		return 0, final{err}
	}
	k, _, err := l.get(ctx, c, t)
	if err != nil {
		return 0, err
	}
	resp, err := c.send(ctx, k, t, request{op: "stream_output", method: http.MethodPost, path: agentapi.PathStream, body: body})
	if err != nil {
		return 0, err
	}
	defer k.leave()
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxMessage)) // what there is of it
		if err := refusal("stream_output", resp.StatusCode, text); err != nil {
			return 0, err
		}
		return 0, final{fmt.Errorf("agent stream_output: %d is no answer with output", resp.StatusCode)}
	}
	out := &sink{w: w}
	n, err := io.CopyBuffer(out, onlyReader{resp.Body}, buf)
	switch {
	case out.err != nil:
		return n, final{fmt.Errorf("write the output of step %s: %w", step, out.err)}
	case err != nil:
		return n, c.broken(ctx, k, t, err)
	}
	return n, nil
}

// sink remembers an error of its writer, to tell it from one of the connection.
type sink struct {
	w   io.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.err = err
	return n, err
}

// onlyReader hides WriteTo, which would not use the buffer.
type onlyReader struct{ io.Reader }
