package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// Client calls one runner. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// maxAnswer bounds what is read of one answer; logs are streamed instead.
const maxAnswer = 64 << 20

// Option changes how a client is made.
type Option func(*Client)

// WithHTTPClient uses c instead of a client of one's own. It must not follow
// redirects or have a timeout shorter than a step.
func WithHTTPClient(c *http.Client) Option { return func(cl *Client) { cl.http = c } }

// New makes a client for a runner at "http://host:port" or
// "unix:///path/to/admin.sock". It calls nothing yet.
func New(target string, opts ...Option) (*Client, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("runner address %q: %w", target, err)
	}
	// No overall timeout: a setup or a step may take hours.
	t := &http.Transport{MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute}
	dialer := net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}
	c := &Client{http: &http.Client{Transport: t}}
	switch {
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		c.base = strings.TrimSuffix(target, "/")
		t.DialContext = dialer.DialContext
	case u.Scheme == "unix" && u.Host == "" && u.Path != "":
		c.base = "http://admin"
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", u.Path)
		}
	default:
		return nil, fmt.Errorf("runner address %q: want http://host:port or unix:///path/to/%s", target, "admin.sock")
	}
	for _, o := range opts {
		o(c)
	}
	return c, nil
}

// Close drops idle connections. The client can be used again.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is an answer that says no.
type Error struct {
	// Status is the HTTP status, Code /v1's word for the failure ("" from the
	// delegate API), Message the text for people.
	Status  int
	Code    string
	Message string
	// RetryAfter says when asking again may help, 0 that it will not.
	RetryAfter time.Duration

	body []byte
}

// Error gives the message, or without one the status.
func (e *Error) Error() string {
	if e.Message != "" {
		return e.Message
	}
	return fmt.Sprintf("status %d %s", e.Status, http.StatusText(e.Status))
}

// NotFound says whether err is an answer that there is no such thing.
func NotFound(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status == http.StatusNotFound
}

// do sends a request and returns a 2xx answer; its body is the caller's to
// close. All else is an *Error, or what went wrong on the way.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", path, err)
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, payload)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
		// Every call of this API may be repeated. Without a value the header is
		// not sent, but has net/http repeat by itself what met a connection that
		// the runner was just closing (see http.Transport).
		req.Header["Idempotency-Key"] = nil
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, failure(resp)
}

// failure reads either shape of an error.
func failure(resp *http.Response) error {
	e := &Error{Status: resp.StatusCode}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return e // the status is what is known
	}
	e.body = raw
	var both struct {
		Error   api.ErrorDetail `json:"error"`
		Message string          `json:"error_msg"`
	}
	if json.Unmarshal(raw, &both) != nil {
		e.Message = strings.TrimSpace(string(raw[:min(len(raw), 500)]))
		return e
	}
	e.Code, e.Message = both.Error.Code, both.Error.Message
	e.RetryAfter = time.Duration(both.Error.RetryAfterMS) * time.Millisecond
	if e.Message == "" {
		e.Message = both.Message
	}
	return e
}

// call sends in, if it is not nil, and decodes the answer into out, if that is
// not nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read answer of %s: %w", path, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("answer of %s: %w", path, err)
	}
	return nil
}
