package agentclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/pool"
)

const (
	// maxAnswer bounds an answer that is held in memory.
	maxAnswer = 32 << 20
	// maxMessage bounds the agent's own text in an error.
	maxMessage = 8 << 10
)

// request is one call, to be sent once or again and again.
type request struct {
	op, method, path string
	body             []byte
	// try bounds one try, firstTry one on a kept connection. Zero: no bound.
	try, firstTry time.Duration
	// anyBody takes a success whatever it says.
	anyBody bool
	// use names what a setup is for, "" if it is not said.
	use string
}

// final marks an error that no repetition helps.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// silentError is a refusal without any text.
type silentError struct{ pool.AgentError }

func (e *silentError) Unwrap() error { return &e.AgentError }

type slowError struct {
	what  string
	limit time.Duration
}

func (e *slowError) Error() string {
	return fmt.Sprintf("%s took longer than %v", e.what, e.limit)
}

// Is keeps it a time-out for callers.
func (e *slowError) Is(target error) bool { return target == context.DeadlineExceeded }

func errSlow(what string, limit time.Duration) error { return &slowError{what, limit} }

// hopeless says that repeating the call cannot help.
func hopeless(err error) bool {
	if a, ok := errors.AsType[*pool.AgentError](err); ok {
		return a.Final()
	}
	_, ok := errors.AsType[final](err)
	return ok
}

// send sends a request on a connection. Whoever gets an answer closes its body
// and leaves the connection. Only a transport that fails is an error here.
func (c *Client) send(ctx context.Context, k *conn, t pool.Target, r request) (*http.Response, error) {
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, "https://"+k.addr+r.path, body)
	if err != nil {
		return nil, final{err}
	}
	if r.use != "" {
		req.Header.Set(agentapi.HeaderUse, url.QueryEscape(r.use))
	}
	k.enter(c) //nolint:contextcheck // its probes belong to the connection, not to one of its calls
	resp, err := k.cc.RoundTrip(req)
	if err != nil {
		defer k.leave()
		return nil, c.broken(ctx, k, t, err)
	}
	k.heard()
	return resp, nil
}

// broken names why a connection failed a call.
func (c *Client) broken(ctx context.Context, k *conn, t pool.Target, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return explain(k.why(err), t)
}

// once is one call, with a second try on a new connection if the first was on
// one kept from before that has turned out dead. All calls may be made twice:
// the agent's are idempotent.
func (c *Client) once(ctx context.Context, l *link, t pool.Target, r request) ([]byte, error) {
	body, stale, err := c.attempt(ctx, l, t, r)
	if stale && ctx.Err() == nil {
		body, _, err = c.attempt(ctx, l, t, r)
	}
	return body, err
}

// attempt is one call on one connection. It says whether it failed because
// that was kept from before and is dead.
func (c *Client) attempt(ctx context.Context, l *link, t pool.Target, r request) (body []byte, stale bool, err error) {
	k, kept, err := l.get(ctx, c, t)
	if err != nil {
		return nil, false, err
	}
	limit := r.try
	if kept && r.firstTry > 0 {
		limit = r.firstTry
	}
	if limit > 0 {
		slow := errSlow("agent "+r.op, limit)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, slow)
		defer cancel()
		defer func() {
			// A kept connection that is silent for longer than it takes to make
			// a new one is given up, unless other calls wait on it: then the
			// probe decides.
			if errors.Is(err, slow) && limit == r.firstTry && k.alone() {
				k.fail(slow)
			}
			stale = err != nil && kept && k.dead()
		}()
	} else {
		defer func() { stale = err != nil && kept && k.dead() }()
	}

	resp, err := c.send(ctx, k, t, r)
	if err != nil {
		return nil, false, err
	}
	defer k.leave()
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, false, c.broken(ctx, k, t, err)
	}
	if len(data) > maxAnswer {
		return nil, false, final{fmt.Errorf("agent %s: the answer is longer than %d MiB", r.op, maxAnswer>>20)}
	}
	if err := refusal(r.op, resp.StatusCode, data); err != nil {
		return nil, false, err
	}
	if resp.StatusCode != http.StatusNoContent && !r.anyBody && !json.Valid(data) {
		return nil, false, fmt.Errorf("agent %s: %w (%d with %d bytes)", r.op, errNotJSON, resp.StatusCode, len(data))
	}
	return data, false, nil
}

var errNotJSON = errors.New("the answer is not JSON")

// refusal is the error of an answer that says no, with the agent's own text.
func refusal(op string, status int, body []byte) error {
	if status >= 200 && status < 300 {
		return nil
	}
	e := pool.AgentError{Op: op, Status: status}
	text := strings.TrimSpace(string(body[:min(len(body), maxMessage)]))
	if text == "" {
		e.Message = http.StatusText(status)
		return &silentError{e}
	}
	e.Message = text
	var said agentapi.Error
	if json.Unmarshal(body, &said) == nil && said.Message != "" {
		e.Message = said.Message
	}
	return &e
}

// repeat makes a call until it succeeds, cannot succeed, or ctx ends, and then
// tells the last that was heard of the agent.
func (c *Client) repeat(ctx context.Context, t pool.Target, r request) error {
	l := c.link(t)
	h := history{op: r.op, at: hostPort(t)}
	for b := c.backoff(); ; {
		_, err := c.once(ctx, l, t, r)
		if err == nil || hopeless(err) {
			return err
		}
		if ctx.Err() != nil {
			return h.end(ctx)
		}
		h.note(err)
		c.again(ctx, t, r.op, err)
		if b.wait(ctx) != nil {
			return h.end(ctx)
		}
	}
}

func (c *Client) again(ctx context.Context, t pool.Target, op string, err error) {
	c.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "agent call is tried again",
		slog.String("op", op), slog.String("instance", t.Instance), slog.Any("err", err))
}

// history is what a series of failed tries has learnt.
type history struct {
	op, at string
	tries  int
	answer *pool.AgentError
	last   error
}

func (h *history) note(err error) {
	h.tries++
	h.last = err
	if a, ok := errors.AsType[*pool.AgentError](err); ok {
		h.answer = a
	}
}

// end is the error when time is up. The agent's own words come first, then
// what came after them, and only then that time is up.
func (h *history) end(ctx context.Context) error {
	cause := context.Cause(ctx)
	if h.last == nil {
		return fmt.Errorf("agent %s at %s: %w", h.op, h.at, cause)
	}
	if _, ok := errors.AsType[*pool.AgentError](h.last); h.answer != nil && !ok {
		return fmt.Errorf("%w; then %w; gave up after %s: %w", h.answer, h.last, tries(h.tries), cause)
	}
	return fmt.Errorf("%w; gave up after %s: %w", h.last, tries(h.tries), cause)
}

func tries(n int) string {
	if n == 1 {
		return "1 try"
	}
	return fmt.Sprintf("%d tries", n)
}

// backoff is the wait between tries: growing by two thirds, spread by a fifth,
// so that the callers of a machine that comes back do not come all at once.
type backoff struct {
	first, next, max time.Duration
}

func (c *Client) backoff() *backoff {
	return &backoff{first: c.cfg.RetryMin, next: c.cfg.RetryMin, max: c.cfg.RetryMax}
}

func (b *backoff) reset() { b.next = b.first }

func (b *backoff) wait(ctx context.Context) error {
	d := time.Duration(float64(b.next) * (0.8 + 0.4*rand.Float64()))
	b.next = min(b.next*5/3, b.max)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
