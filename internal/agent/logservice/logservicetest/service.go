// Package logservicetest is a log service for tests, and the object store its
// signed links lead to. Both keep what they get in memory, are strict about the
// protocol, and misbehave on request.
package logservicetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Op is a call of the protocol.
type Op string

// The calls.
const (
	Open   Op = "open"   // POST /stream
	Write  Op = "write"  // PUT /stream
	Close  Op = "close"  // DELETE /stream
	Upload Op = "upload" // POST /blob
	Link   Op = "link"   // POST /blob/link/upload
	Put    Op = "put"    // PUT of the link
)

// Call is a request that came, whatever it was answered.
type Call struct {
	Op     Op
	Key    string
	Query  string // as it was sent
	Header http.Header
	Body   string
	At     time.Time
}

// Fault is a way to misbehave. Of Status, Hang and Cut one counts.
type Fault struct {
	// Times is how many calls it befalls; 0: all.
	Times int
	// After is how long the answer takes.
	After time.Duration
	// Status is answered, with Text as its message; nothing is done.
	Status int
	Text   string
	// Hang answers nothing until the caller leaves.
	Hang bool
	// Cut closes the connection.
	Cut bool
	// Late does what was asked before it misbehaves.
	Late bool
}

// Line is a line of a log.
type Line struct {
	Level string          `json:"level"`
	Pos   int             `json:"pos"`
	Out   string          `json:"out"`
	Time  time.Time       `json:"time"`
	Args  json.RawMessage `json:"args"`
}

// Log is what the service has of one key.
type Log struct {
	// Opens and Closes count the calls that succeeded.
	Opens, Closes int
	// Snapshot is set if the close asked for one.
	Snapshot bool
	// Lines are those of the live stream.
	Lines []Line
	// Blobs are the uploads that succeeded.
	Blobs []string
}

// Live is the text of the live stream.
func (l Log) Live() string { return text(l.Lines) }

// Kept is the text of the last upload.
func (l Log) Kept() string { return text(l.Blob()) }

// Blob is the lines of the last upload.
func (l Log) Blob() []Line {
	var lines []Line
	if len(l.Blobs) == 0 {
		return nil
	}
	for one := range strings.Lines(l.Blobs[len(l.Blobs)-1]) {
		var line Line
		if err := json.Unmarshal([]byte(one), &line); err != nil {
			line.Out = err.Error()
		}
		lines = append(lines, line)
	}
	return lines
}

func text(lines []Line) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.Out)
	}
	return b.String()
}

// Service is the log service of one account. Make one with [New]; its methods
// are safe for concurrent use.
type Service struct {
	account, token string

	mu       sync.Mutex
	links    string // the base of signed links
	logs     map[string]*Log
	streams  map[string]bool // open
	faults   map[Op][]Fault
	calls    []Call
	problems []string
}

// Signature is the proof in each signed link.
const Signature = "X-Signature=c2lnbmVk%2Fby"

// New makes a service for one account, whose links lead to base, for example
// "http://store.test". A test that is given as t fails if a client breaks the
// rules.
func New(t testing.TB, account, token, base string) *Service {
	s := &Service{
		account: account, token: token, links: base,
		logs: make(map[string]*Log), streams: make(map[string]bool), faults: make(map[Op][]Fault),
	}
	t.Cleanup(func() {
		for _, p := range s.Problems() {
			t.Errorf("log service: %s", p)
		}
	})
	return s
}

// Fail adds a fault to those of op. They come one after the other.
func (s *Service) Fail(op Op, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[op] = append(s.faults[op], f)
}

// Heal ends all faults.
func (s *Service) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.faults)
}

// OpenElsewhere opens a stream as another program would.
func (s *Service) OpenElsewhere(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams[key] = true
}

// Log returns what there is of a key.
func (s *Service) Log(key string) Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := *s.log(key)
	l.Lines, l.Blobs = slices.Clone(l.Lines), slices.Clone(l.Blobs)
	return l
}

// IsOpen says whether a stream is open.
func (s *Service) IsOpen(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[key]
}

// Calls returns all calls so far, in order; with a key those of that log.
func (s *Service) Calls(key string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var of []Call
	for _, c := range s.calls {
		if key == "" || c.Key == key {
			of = append(of, c)
		}
	}
	return of
}

// Ops are the calls of a log by name.
func (s *Service) Ops(key string) []Op {
	var ops []Op
	for _, c := range s.Calls(key) {
		ops = append(ops, c.Op)
	}
	return ops
}

// Problems are the rules that a client has broken.
func (s *Service) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.problems)
}

func (s *Service) log(key string) *Log {
	l := s.logs[key]
	if l == nil {
		l = &Log{}
		s.logs[key] = l
	}
	return l
}

func (s *Service) problem(format string, args ...any) {
	s.problems = append(s.problems, fmt.Sprintf(format, args...))
}

// ServeHTTP is the service, below any path.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op, known := operationOf(r)
	if !known {
		http.NotFound(w, r)
		return
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	s.mu.Lock()
	switch {
	case err != nil:
		s.problem("%s: query %q: %v", op, r.URL.RawQuery, err)
	case q.Get("accountID") != s.account:
		s.problem("%s: account %q", op, q.Get("accountID"))
	case r.Header.Get("X-Harness-Token") != s.token:
		s.problem("%s: token %q", op, r.Header.Get("X-Harness-Token"))
	case r.Header.Get("Content-Encoding") != "":
		s.problem("%s: compressed", op)
	}
	s.mu.Unlock()
	s.serve(w, r, op, q.Get("key"), func(body []byte) any { return s.apply(op, q, body) })
}

func operationOf(r *http.Request) (Op, bool) {
	at := func(method, path string) bool { return r.Method == method && strings.HasSuffix(r.URL.Path, path) }
	switch {
	case at(http.MethodPost, "/blob/link/upload"):
		return Link, true
	case at(http.MethodPost, "/blob"):
		return Upload, true
	case at(http.MethodPost, "/stream"):
		return Open, true
	case at(http.MethodPut, "/stream"):
		return Write, true
	case at(http.MethodDelete, "/stream"):
		return Close, true
	}
	return "", false
}

// Store is the object store behind the links.
func (s *Service) Store() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, err := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), "/bucket/"))
		s.mu.Lock()
		switch {
		case err != nil:
			s.problem("put: path %q: %v", r.URL.EscapedPath(), err)
		case r.Method != http.MethodPut:
			s.problem("put: method %s", r.Method)
		case r.URL.RawQuery != Signature:
			s.problem("put: query %q is not the link's", r.URL.RawQuery)
		case len(r.Header.Values("X-Harness-Token")) > 0:
			s.problem("put: the token went to the object store")
		}
		s.mu.Unlock()
		s.serve(w, r, Put, key, func(body []byte) any { return s.apply(Put, url.Values{"key": {key}}, body) })
	})
}

// serve writes the call down, and does it or misbehaves.
func (s *Service) serve(w http.ResponseWriter, r *http.Request, op Op, key string, do func([]byte) any) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller is gone
	}
	s.mu.Lock()
	s.calls = append(s.calls, Call{Op: op, Key: key, Query: r.URL.RawQuery, Header: r.Header.Clone(), Body: string(body), At: time.Now()})
	f := s.nextFault(op)
	s.mu.Unlock()

	if f.After > 0 {
		select {
		case <-time.After(f.After):
		case <-r.Context().Done():
			return
		}
	}
	var answer any
	if healthy := f.Status == 0 && !f.Hang && !f.Cut; healthy || f.Late {
		answer = do(body)
	}
	switch {
	case f.Hang:
		<-r.Context().Done()
	case f.Cut:
		panic(http.ErrAbortHandler)
	case f.Status != 0:
		w.Header().Set("Location", "http://elsewhere.test/") // for redirects
		w.WriteHeader(f.Status)
		_ = json.NewEncoder(w).Encode(map[string]string{"error_msg": f.Text}) // the caller may be gone
	case answer != nil:
		_ = json.NewEncoder(w).Encode(answer) // likewise
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Service) nextFault(op Op) Fault {
	pending := s.faults[op]
	if len(pending) == 0 {
		return Fault{}
	}
	f := pending[0]
	if f.Times == 1 {
		s.faults[op] = pending[1:]
	}
	pending[0].Times = max(0, f.Times-1)
	return f
}

// apply does what a call asks for and returns what it answers, if anything.
func (s *Service) apply(op Op, q url.Values, body []byte) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := q.Get("key")
	l := s.log(key)
	switch op {
	case Open:
		if len(body) > 0 {
			s.problem("open of %s: body %q", key, body)
		}
		s.streams[key] = true
		l.Opens++
	case Write:
		if !s.streams[key] {
			s.problem("write to %s, which is not open", key)
		}
		l.Lines = append(l.Lines, s.lines(key, body)...)
	case Close:
		if !s.streams[key] {
			s.problem("close of %s, which is not open", key)
		}
		delete(s.streams, key)
		l.Closes++
		l.Snapshot = q.Get("snapshot") == "true"
	case Link:
		return map[string]any{"link": s.links + "/bucket/" + url.PathEscape(key) + "?" + Signature, "expires": 600}
	case Upload, Put:
		l.Blobs = append(l.Blobs, string(body))
	}
	return nil
}

// lines reads the body of a write, which has one form only.
func (s *Service) lines(key string, body []byte) []Line {
	var raw []json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil || len(raw) == 0 || !bytes.HasSuffix(body, []byte("]\n")) {
		s.problem("write to %s: %.80q is no array of lines and a newline (%v)", key, body, err)
		return nil
	}
	lines := make([]Line, len(raw))
	for i, one := range raw {
		if err := json.Unmarshal(one, &lines[i]); err != nil {
			s.problem("write to %s: line %.80q: %v", key, one, err)
		}
		if l := lines[i]; l.Level != "info" || string(l.Args) != "null" || l.Time.IsZero() {
			s.problem("write to %s: line %.80q lacks a member", key, one)
		}
	}
	return lines
}
