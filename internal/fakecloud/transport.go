package fakecloud

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// ErrLost is what a client of a [Transport] gets when the fake has dropped the
// connection: whether the call had an effect is not known.
var ErrLost = errors.New("connection reset by the cloud")

// Transport is an http.RoundTripper that calls a handler in the caller's own
// goroutine. Unlike a loopback socket it does not keep the clock of a test's
// bubble from running. A handler that panics with http.ErrAbortHandler, as one
// does that drops its connection, makes the call fail with [ErrLost]. It is
// safe for concurrent use if the handler is.
type Transport struct {
	Handler http.Handler
}

// Client is an HTTP client that reaches nothing but h.
func Client(h http.Handler) *http.Client { return &http.Client{Transport: Transport{Handler: h}} }

// RoundTrip implements http.RoundTripper.
func (t Transport) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	ctx := r.Context()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	in := r.Clone(ctx)
	in.RequestURI = r.URL.RequestURI()
	in.RemoteAddr = "in-process"
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	defer in.Body.Close()
	w := &answer{header: http.Header{}}
	defer func() {
		if p := recover(); p == http.ErrAbortHandler { //nolint:errorlint // net/http compares so too
			if resp, err = nil, ctx.Err(); err == nil {
				err = ErrLost
			}
		} else if p != nil {
			panic(p)
		}
	}()
	t.Handler.ServeHTTP(w, in)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return w.response(r), nil
}

// answer keeps what a handler writes.
type answer struct {
	header http.Header
	sent   http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status, a.sent = status, a.header.Clone()
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(b)
}

func (a *answer) response(r *http.Request) *http.Response {
	a.WriteHeader(http.StatusOK)
	if a.sent.Get("Content-Length") == "" {
		a.sent.Set("Content-Length", strconv.Itoa(a.body.Len()))
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", a.status, http.StatusText(a.status)), StatusCode: a.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.sent, Body: io.NopCloser(bytes.NewReader(a.body.Bytes())), ContentLength: int64(a.body.Len()), Request: r,
	}
}
