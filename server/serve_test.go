package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

// running is a server on a real loopback listener.
type running struct {
	addr, url string
	stop      context.CancelFunc
	ended     chan error
}

func serve(t *testing.T, c server.Config) *running {
	t.Helper()
	l, err := server.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &running{addr: l.Addr().String(), url: "http://" + l.Addr().String(), stop: stop, ended: make(chan error, 1)}
	s := newServer(t, c)
	go func() { r.ended <- s.Serve(ctx, l, nil) }()
	t.Cleanup(func() {
		stop()
		select {
		case <-r.ended:
		default:
			if err := within(t, r.ended, "end of the server"); err != nil {
				t.Errorf("serve: %v", err)
			}
		}
	})
	return r
}

// post sends a request in the background.
func (r *running) post(ctx context.Context, t *testing.T, path, body string) <-chan answer {
	t.Helper()
	out := make(chan answer, 1)
	req, err := http.NewRequestWithContext(ctx, "POST", r.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			out <- answer{err: err}
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		out <- answer{resp.StatusCode, string(b), err}
	}()
	return out
}

type answer struct {
	status int
	body   string
	err    error
}

const stepBody = `{"stage_runtime_id":"st1","start_step_request":{"id":"s1"}}`

// blocking is a service whose steps run until they are let go or cut off.
func blocking() (f *fake, begun, release chan struct{}, seen chan error) {
	begun, release, seen = make(chan struct{}, 8), make(chan struct{}), make(chan error, 8)
	return &fake{step: func(ctx context.Context, _ pool.StepRequest) (json.RawMessage, error) {
		begun <- struct{}{}
		select {
		case <-release:
			return json.RawMessage(`{"exited":true}`), nil
		case <-ctx.Done():
			seen <- context.Cause(ctx)
			return nil, fmt.Errorf("step s1: %w", ctx.Err())
		}
	}}, begun, release, seen
}

func TestAStopWaitsForARunningStep(t *testing.T) {
	t.Parallel()
	f, begun, release, _ := blocking()
	r := serve(t, server.Config{Service: f, Grace: time.Minute})
	step := r.post(t.Context(), t, "/step", stepBody)
	within(t, begun, "step")
	r.stop()
	waitRefused(t, r.addr)
	select {
	case err := <-r.ended:
		t.Fatalf("ended while a step ran: %v", err)
	default:
	}
	close(release)
	if a := within(t, step, "answer"); a.err != nil || a.status != 200 || a.body != "{\"exited\":true}\n" {
		t.Errorf("got %+v", a)
	}
	if err := within(t, r.ended, "end"); err != nil {
		t.Errorf("a clean stop returned %v", err)
	}
	r.ended <- nil
}

// waitRefused waits until nobody listens on addr.
func waitRefused(t *testing.T, addr string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for time.Now().Before(deadline) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		conn.Close()
	}
	t.Fatal("still accepting 2 min after the stop")
}

func TestAStopCutsOffWhatOutlivesItsDeadline(t *testing.T) {
	t.Parallel()
	f, begun, _, seen := blocking()
	r := serve(t, server.Config{Service: f, Grace: 50 * time.Millisecond})
	step := r.post(t.Context(), t, "/step", stepBody)
	within(t, begun, "step")
	r.stop()
	if cause := within(t, seen, "cut"); !strings.Contains(cause.Error(), "the runner is stopping") {
		t.Errorf("cause %v", cause)
	}
	a := within(t, step, "answer")
	if want := "the runner is stopping; ask again with the same id"; a.status != 500 || !strings.Contains(a.body, want) {
		t.Errorf("got %+v, want 500 with %q", a, want)
	}
	if err := within(t, r.ended, "end"); err != nil {
		t.Errorf("got %v, want nil after a stop", err)
	}
	r.ended <- nil
}

func TestACallerThatHangsUpCancelsItsRequest(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(conn net.Conn){
		"a body of known length": func(conn net.Conn) {
			fmt.Fprintf(conn, "POST /step HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(stepBody), stepBody)
		},
		"a chunked body with a tail": func(conn net.Conn) {
			fmt.Fprintf(conn, "POST /step HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n4\r\ntail\r\n0\r\n\r\n", len(stepBody), stepBody)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, begun, _, seen := blocking()
			r := serve(t, server.Config{Service: f})
			conn, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			send(conn)
			within(t, begun, "step")
			conn.Close()
			if cause := within(t, seen, "cancellation"); cause == nil {
				t.Error("no cause")
			}
		})
	}
}

func TestBodiesOverTheLimitAreNotRead(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var lengths []int
	f := &fake{step: func(_ context.Context, r pool.StepRequest) (json.RawMessage, error) {
		body, err := r.Body(nil)
		mu.Lock()
		defer mu.Unlock()
		lengths = append(lengths, len(body))
		return json.RawMessage(`{}`), err
	}}
	r := serve(t, server.Config{Service: f})
	frame := func(n int) string {
		return `{"stage_runtime_id":"st1","start_step_request":{"id":"s1","x":"` + strings.Repeat("x", n) + `"}}`
	}
	const want413 = "{\"error_msg\":\"the request body is larger than 32 MiB\"}\n"

	t.Run("40 MB of known length", func(t *testing.T) {
		// Only the header is sent: the answer must come without the body.
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /setup HTTP/1.1\r\nHost: x\r\nContent-Length: 40000000\r\n\r\n{")
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
		var got bytes.Buffer
		_, _ = io.Copy(&got, conn)
		if !strings.HasPrefix(got.String(), "HTTP/1.1 413 ") || !strings.HasSuffix(got.String(), want413) {
			t.Errorf("got %q", got.String())
		}
	})
	t.Run("40 MB in chunks", func(t *testing.T) {
		for name, body := range map[string]string{"in one value": frame(40 << 20), "behind the value": frame(1) + strings.Repeat(" ", 40<<20)} {
			w := exchangeChunked(t, r, body)
			if w.err == nil && (w.status != 413 || w.body != want413) {
				t.Errorf("%s: %d %.100q", name, w.status, w.body)
			}
		}
	})
	t.Run("16 MB are served", func(t *testing.T) {
		if a := within(t, r.post(t.Context(), t, "/step", frame(16<<20)), "answer"); a.status != 200 {
			t.Errorf("got %d %.200q %v", a.status, a.body, a.err)
		}
	})
	mu.Lock()
	defer mu.Unlock()
	if len(lengths) != 1 || lengths[0] < 16<<20 {
		t.Errorf("the engine saw bodies of %v bytes, want the one of 16 MiB", lengths)
	}
}

func exchangeChunked(t *testing.T, r *running, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url+"/step", struct{ io.Reader }{strings.NewReader(body)})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return answer{err: err} // the cut may beat the answer
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return answer{status: resp.StatusCode, body: string(b)}
}

func TestGzipIsNotUndone(t *testing.T) {
	t.Parallel()
	h := newServer(t, server.Config{Service: delegateFake()}).Handler()
	resp := exchange(t, h, "POST", "/setup", "\x1f\x8b\x08\x00compressed")
	if body := bodyOf(t, resp); resp.StatusCode != 400 || !strings.Contains(body, `invalid character '\\x1f'`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestAPanicIsAnAnswerAndALogLine(t *testing.T) {
	t.Parallel()
	var out syncBuffer
	s := newServer(t, server.Config{Log: slog.New(slog.NewJSONHandler(&out, nil)), Service: &fake{
		destroy: func(context.Context, pool.DestroyRequest) error {
			var none *pool.Lease
			return errors.New(none.ID)
		},
	}})
	resp := exchange(t, s.Handler(), "POST", "/destroy", `{"id":"x"}`)
	body := bodyOf(t, resp)
	if resp.StatusCode != 500 || !strings.Contains(body, `"error_msg": "internal error; the runner's log has it under request `+resp.Header.Get("X-Request-Id")) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if log := out.String(); !strings.Contains(log, "nil pointer dereference") || !strings.Contains(log, "serve_test.go") {
		t.Errorf("the log has no stack: %s", log)
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestAccessLog(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ method, target, body, level string }{
		{"POST", "/setup", `{"id":"st1","pool_id":"linux"}`, "INFO"},
		{"POST", "/destroy", `{"id":"refused"}`, "ERROR"},
		{"POST", "/destroy", `{}`, "INFO"},
		{"POST", "/pool_owner?pool=linux", "", "DEBUG"},
		{"GET", "/readyz", "", "DEBUG"},
		{"GET", "/v1/pools", "", "DEBUG"},
		{"GET", "/healthz", "", ""},
		{"GET", "/metrics", "", ""},
	} {
		var out syncBuffer
		s := newServer(t, server.Config{
			Log:     slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
			Service: delegateFake(), Progress: server.LogSink(slog.New(slog.DiscardHandler)),
		})
		exchange(t, s.Handler(), tc.method, tc.target, tc.body)
		var line struct{ Level, Msg, Request string }
		_ = json.Unmarshal([]byte(out.String()), &line)
		if line.Level != tc.level || (tc.level != "" && line.Msg != "request") {
			t.Errorf("%s %s: log %q, want one line at %q", tc.method, tc.target, out.String(), tc.level)
		}
		if strings.Contains(out.String(), "CAKEY") {
			t.Errorf("%s %s: a key is in the log", tc.method, tc.target)
		}
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	h := newServer(t, server.Config{Service: delegateFake()}).Handler()
	for sent, kept := range map[string]bool{"abc-123": true, "": false, "with space": false, "line\nbreak": false, strings.Repeat("x", 200): false} {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", "/healthz", nil)
		r.Header["X-Request-Id"] = []string{sent}
		w := newRecorder()
		h.ServeHTTP(w, r)
		got := w.Header().Get("X-Request-Id")
		if (got == sent) != kept || got == "" {
			t.Errorf("sent %q, got %q", sent, got)
		}
	}
}

func TestMachinesAreKeptOutWhileServing(t *testing.T) {
	t.Parallel()
	i := machine() // at 10.0.3.7
	local := machine()
	local.Address = "127.0.0.1"
	s := newServer(t, server.Config{
		Service: &fake{list: func(q pool.InstanceQuery) ([]pool.Instance, error) {
			if !q.Live {
				return nil, errors.New("want live machines only")
			}
			return []pool.Instance{i, local, {}}, nil
		}},
		Allow: server.NewAllowList(server.AllowConfig{Extra: prefixes("10.0.0.0/8")}),
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, nil, nil) }()
	from := func(peer string) int {
		r, _ := http.NewRequestWithContext(t.Context(), "POST", "/destroy", strings.NewReader(`{"id":"x"}`))
		r.RemoteAddr = peer + ":1000"
		w := newRecorder()
		s.Handler().ServeHTTP(w, r)
		return w.Code
	}
	deadline := time.Now().Add(2 * time.Minute)
	for from("10.0.3.7") != http.StatusForbidden {
		if time.Now().After(deadline) {
			t.Fatal("a live machine may call")
		}
	}
	for _, peer := range []string{"10.0.3.8", "127.0.0.1"} {
		if got := from(peer); got != http.StatusOK {
			t.Errorf("%s: %d, want 200", peer, got)
		}
	}
	stop()
	if err := within(t, ended, "end"); err != nil {
		t.Error(err)
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	t.Parallel()
	l, err := server.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = server.Listen(t.Context(), l.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "another program uses this port; stop it or set DRONE_HTTP_BIND") {
		t.Errorf("got %v", err)
	}
}

// FuzzBodies: whatever a caller sends is answered, never with a panic, and an
// error is one JSON document.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `[]`, `{"id":"a","pool_id":"p"}`, `{"stage_runtime_id":"a","start_step_request":{"id":"s"}}`,
		`{"id":"a","pool_id":"p","setup_request":{"volumes":[{"temp":null}],"envs":{"A":1}}}`, `{"id":1e999}`,
		`{"id":"a","pool_id":"p","instance_info":{"port":-1,"tls_cert":"LS0tLS1CRUdJTg=="}}`,
	} {
		for route := range 4 {
			f.Add(route, []byte(seed))
		}
	}
	routes := []string{"/setup", "/step", "/destroy", "/suspend"}
	volumes, _ := server.ParseVolumes([]string{"/c:/c"})
	s := server.New(server.Config{Service: delegateFake(), Pools: testPools, Edits: server.Edits{Volumes: volumes}})
	f.Fuzz(func(t *testing.T, route int, body []byte) {
		resp := exchange(t, s.AdminHandler(), "POST", routes[uint(route)%4], string(body))
		text := bodyOf(t, resp)
		if strings.Contains(text, "internal error") {
			t.Fatalf("a panic: %s", text)
		}
		if resp.StatusCode == 200 {
			return
		}
		var failure struct {
			Message string `json:"error_msg"`
		}
		if err := json.Unmarshal([]byte(text), &failure); err != nil || failure.Message == "" {
			t.Fatalf("%d %q: %v", resp.StatusCode, text, err)
		}
	})
}
