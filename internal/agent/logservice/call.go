package logservice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// operation is one call of the protocol.
type operation struct {
	name   string
	method string
	path   string
	// limit bounds all tries together, body and answer included.
	limit time.Duration
	// again is how long after the first try others may begin; 0: there is one.
	again time.Duration
	// extra goes at the end of the query.
	extra string
	// reads says that what a success says matters, not only that it is one.
	reads bool
}

// The protocol, with the limits of existing agents.
var (
	opOpen   = operation{name: "open", method: http.MethodPost, path: "/stream", limit: 30 * time.Second, again: 10 * time.Second}
	opWrite  = operation{name: "write", method: http.MethodPut, path: "/stream", limit: 15 * time.Second}
	opUpload = operation{name: "upload", method: http.MethodPost, path: "/blob", limit: 60 * time.Second, again: 60 * time.Second}
	opLink   = operation{name: "ask for a link", method: http.MethodPost, path: "/blob/link/upload", limit: 10 * time.Second, again: 10 * time.Second, reads: true}
	opPut    = operation{name: "upload to the link", method: http.MethodPut, limit: 60 * time.Second, again: 60 * time.Second}
	opClose  = operation{name: "close", method: http.MethodDelete, path: "/stream", limit: 15 * time.Second}
	// opLeave closes a stream somebody else has opened.
	opLeave = operation{name: "close", method: http.MethodDelete, path: "/stream", limit: 15 * time.Second, extra: "&snapshot=true"}
)

// firstPause comes before the second try; each later one is half as long again.
const firstPause = 500 * time.Millisecond

const tokenHeader = "X-Harness-Token"

// Bounds of what is read of an answer and shown of an error, in bytes.
const (
	maxAnswer  = 64 << 10
	maxMessage = 200
)

// statusError is a refusal.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("answered %d", e.status)
	}
	return fmt.Sprintf("answered %d: %s", e.status, e.text)
}

// final says whether trying again is of no use: the service is there and does
// not want it.
func final(err error) bool {
	refused, ok := errors.AsType[*statusError](err)
	return ok && refused.status < http.StatusInternalServerError
}

// call does an operation on the service's log named key.
func (c *Client) call(ctx context.Context, op operation, key string, body []byte) ([]byte, error) {
	// Escaped, which existing agents do not do: a key may hold anything.
	query := "?accountID=" + url.QueryEscape(c.cfg.AccountID) + "&key=" + url.QueryEscape(key) + op.extra
	return c.try(ctx, op, strings.TrimSuffix(c.cfg.URL, "/")+op.path+query, body)
}

// try sends a request until it succeeds, is refused, or its time is over.
func (c *Client) try(ctx context.Context, op operation, target string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, op.limit, fmt.Errorf("no answer in %s", op.limit))
	defer cancel()
	last := time.Now().Add(op.again)
	for pause := firstPause; ; pause += pause / 2 {
		answer, err := c.once(ctx, op, target, body)
		if err == nil {
			return answer, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", op.name, context.Cause(ctx))
		}
		if final(err) || !time.Now().Add(pause).Before(last) {
			return nil, fmt.Errorf("%s: %w", op.name, err)
		}
		// A tenth more or less, so that many logs do not come back at once.
		wait := pause - pause/10 + rand.N(pause/5)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", op.name, err)
		case <-time.After(wait):
		}
	}
}

// once sends a request with its whole body and returns what a success says.
func (c *Client) once(ctx context.Context, op operation, target string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, op.method, target, bytes.NewReader(body))
	if err != nil {
		return nil, withoutURL(err)
	}
	client := c.store
	if req.URL.Scheme == c.base.Scheme && req.URL.Host == c.base.Host {
		client = c.service
	}
	if op.path != "" { // the service itself; a link has its own proof in it
		req.Header.Set(tokenHeader, c.cfg.Token)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, withoutURL(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if res.StatusCode < http.StatusOK || res.StatusCode >= http.StatusMultipleChoices {
		return nil, &statusError{status: res.StatusCode, text: message(answer)}
	}
	if err != nil && op.reads {
		return nil, err
	}
	return answer, nil
}

// message is what an error's body says, short and on one line.
func message(body []byte) string {
	var known struct {
		Text string `json:"error_msg"`
	}
	text := string(body)
	if json.Unmarshal(body, &known) == nil && known.Text != "" {
		text = known.Text
	}
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "")
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "..."
	}
	return text
}

// withoutURL drops the URL from an error of net/http: a signed link is as good
// as a password.
func withoutURL(err error) error {
	if known, ok := errors.AsType[*url.Error](err); ok {
		return known.Err
	}
	return err
}

// upload gives the service the whole log.
func (c *Client) upload(ctx context.Context, key string, blob []byte) error {
	if c.cfg.Indirect {
		_, err := c.call(ctx, opUpload, key, blob)
		return err
	}
	answer, err := c.call(ctx, opLink, key, nil)
	if err != nil {
		return err
	}
	var given struct {
		Link string `json:"link"`
	}
	if err := json.Unmarshal(answer, &given); err != nil {
		return fmt.Errorf("%s: %w", opLink.name, err)
	}
	link, err := url.Parse(given.Link)
	if err != nil {
		return fmt.Errorf("%s: %w", opLink.name, withoutURL(err))
	}
	if link.Host == "" || link.Scheme != "http" && link.Scheme != "https" {
		return fmt.Errorf("%s: the answer has no link", opLink.name)
	}
	_, err = c.try(ctx, opPut, given.Link, blob)
	return err
}
