package hostrunner

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/peers"
)

func TestEachErrorIsOneDocumentWithItsStatus(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	g.setup("st1")
	cases := []struct {
		name, path, body string
		status           int
		message          string
	}{
		{"no JSON", "/setup", `{bad`, 400, "invalid character 'b'"},
		{"an empty body", "/step", ``, 400, "EOF"},
		{"a wrong type", "/setup", `{"id":1}`, 400, "cannot unmarshal number"},
		{"a setup without id", "/setup", `{"setup_request":{}}`, 400, "id not specified"},
		{"a setup that is null", "/setup", `null`, 400, "id not specified"},
		{"a setup with a folder that is none", "/setup", `{"id":"x","setup_request":{"volumes":[{"host":{"id":"harness","path":"relative"}}]}}`, 400, "needs to be an absolute path"},
		{"a step of an unknown stage", "/step", shell("nobody", "s", "true"), 404, "stage id nobody does not exist..."},
		{"a step without stage", "/step", shell("", "s", "true"), 400, "stage_runtime_id not specified"},
		{"a step without id", "/step", shell("st1", "", "true"), 400, "ID needs to be set"},
		{"a step that is not there", "/step", `{"stage_runtime_id":"st1"}`, 400, "ID needs to be set"},
		{"a poll of an unknown step", "/poll_step", `{"id":"nothing"}`, 400, "Step has not started"},
		{"a poll of an unknown stage", "/poll_step", `{"id":"s","stage_runtime_id":"nobody"}`, 404, "stage id nobody does not exist..."},
		{"a poll without id", "/poll_step", `{}`, 400, "ID needs to be set"},
		{"a destroy without id", "/destroy", `{}`, 400, "id not specified"},
		{"a suspend of an unknown stage", "/suspend", `{"stage_runtime_id":"nobody"}`, 404, "stage id nobody does not exist..."},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a := g.call(http.MethodPost, c.path, c.body)
			if got := oneDocument(t, a); a.status != c.status || !strings.Contains(got, c.message) {
				t.Errorf("%d %q, want %d %q", a.status, got, c.status, c.message)
			}
		})
	}
}

func TestMethodsAndPaths(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	cases := []struct {
		method, path string
		status       int
	}{
		{http.MethodGet, "/setup", 405},
		{http.MethodPost, "/healthz", 405},
		{http.MethodHead, "/healthz", 200},
		{http.MethodGet, "/healthz/", 200},
		{http.MethodPost, "/nothing", 404},
		{http.MethodGet, "/", 404},
		{http.MethodPost, "//setup", 404},
	}
	for _, c := range cases {
		a := g.call(c.method, c.path, "{}")
		if a.status != c.status || c.status == 405 && a.header.Get("Allow") == "" {
			t.Errorf("%s %s: %d %v, want %d", c.method, c.path, a.status, a.header, c.status)
		}
	}
}

func TestHealthIsTrueAndShowsNoLog(t *testing.T) {
	t.Parallel()
	var docker atomic.Bool
	ping := func(context.Context) error {
		if docker.Load() {
			return nil
		}
		return &dockerError{"unix:///none", net.ErrClosed}
	}
	read := func(g *rig) (int, map[string]any) {
		a := g.call(http.MethodGet, "/healthz", "")
		var h map[string]any
		if err := json.Unmarshal([]byte(a.body), &h); err != nil {
			t.Fatal(err)
		}
		if _, ok := h["lite_engine_log"]; ok {
			t.Error("a log is shown")
		}
		return a.status, h
	}
	g := newRig(t, func(c *Config) { c.Docker, c.Version = ping, "v9" })
	g.setup("st1")
	status, h := read(g)
	if status != 200 || h["ok"] != false || h["docker_installed"] != false || h["version"] != "v9" || h["stages"] != 1.0 ||
		!strings.Contains(h["problems"].([]any)[0].(string), "Is the docker daemon running?") {
		t.Errorf("without docker: %d %v", status, h)
	}
	docker.Store(true)
	g2 := newRig(t, func(c *Config) { c.Docker = ping })
	if status, h = read(g2); status != 200 || h["docker_installed"] != true || h["ok"] != h["git_installed"] {
		t.Errorf("with docker: %d %v", status, h)
	}
	drained, stop := context.WithCancel(t.Context())
	stop()
	g2.r.Drain(drained)
	if status, h = read(g2); status != 503 || h["state"] != "draining" || h["ok"] != false {
		t.Errorf("draining: %d %v", status, h)
	}
}

func TestARequestThatPanicsTouchesNoOther(t *testing.T) {
	t.Parallel()
	g := newRig(t, func(c *Config) { c.Docker = func(context.Context) error { panic("deliberate") } })
	g.setup("st1")
	a := g.call(http.MethodGet, "/healthz", "")
	if got := oneDocument(t, a); a.status != 500 || !strings.Contains(got, "internal error") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if s := g.run("st1", "s", "export OUT=1"); s.Outputs["OUT"] != "1" {
		t.Errorf("a step afterwards: %+v", s)
	}
	if a := g.call(http.MethodGet, "/healthz", ""); a.status != 500 {
		t.Errorf("the lock of a panic is kept: %d", a.status)
	}
}

func TestWhoMayCall(t *testing.T) {
	t.Parallel()
	g := newRig(t)
	list := peers.New(peers.Config{
		Extra:      []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		Interfaces: func() ([]peers.Interface, error) { return nil, nil },
	})
	cases := []struct {
		name       string
		access     Access
		peer, auth string
		path       string
		status     int
		message    string
	}{
		{"this host", Access{Peers: list}, "127.0.0.1:5", "", PathStatus, 200, ""},
		{"a peer of the list", Access{Peers: list}, "10.1.1.1:5", "", PathStatus, 200, ""},
		{"another peer", Access{Peers: list}, "192.0.2.1:5", "", PathStatus, 403, "DRONE_HTTP_ALLOW"},
		{"another peer asks for what there is not", Access{Peers: list}, "192.0.2.1:5", "", "/x", 403, "DRONE_HTTP_ALLOW"},
		{"another peer asks for health", Access{Peers: list}, "192.0.2.1:5", "", "/healthz", 200, ""},
		{"a peer nobody knows", Access{Peers: list}, "", "", PathStatus, 403, "not known"},
		{"no token", Access{Token: "secret"}, "127.0.0.1:5", "", PathStatus, 401, "RUNNER_HOST_TOKEN"},
		{"a wrong token", Access{Token: "secret"}, "127.0.0.1:5", "Bearer secre", PathStatus, 401, "RUNNER_HOST_TOKEN"},
		{"the token", Access{Token: "secret"}, "192.0.2.1:5", "Bearer secret", PathStatus, 200, ""},
		{"the token as a password", Access{Token: "secret"}, "192.0.2.1:5", "Basic cnVubmVyOnNlY3JldA==", PathStatus, 200, ""},
		{"the token as a user", Access{Token: "secret"}, "192.0.2.1:5", "Basic c2VjcmV0Og==", PathStatus, 401, ""},
		{"the token of a peer that may not call", Access{Token: "secret", Peers: list}, "192.0.2.1:5", "Bearer secret", PathStatus, 403, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, c.path, nil)
			req.RemoteAddr = c.peer
			if c.auth != "" {
				req.Header.Set("Authorization", c.auth)
			}
			rec := httptest.NewRecorder()
			g.r.Handler(c.access).ServeHTTP(rec, req)
			if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.message) || strings.Contains(rec.Body.String(), "secret") {
				t.Errorf("%d %s, want %d %q", rec.Code, rec.Body, c.status, c.message)
			}
		})
	}
}

func TestOnlyLoopbackIsServedWithoutProtection(t *testing.T) {
	t.Parallel()
	allowed := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	cases := []struct {
		bind       string
		token, tls bool
		allow      []netip.Prefix
		want       string
	}{
		{bind: "127.0.0.1:3000"},
		{bind: "[::1]:3000"},
		{bind: "localhost:3000"},
		{bind: ":3000", want: "token (--token-file), mutual TLS (SERVER_INSECURE=false), or whom to let in"},
		{bind: "0.0.0.0:3000", want: "listen on 0.0.0.0:3000"},
		{bind: "[::]:3000", want: "listen on"},
		{bind: "10.0.0.1:3000", want: "DRONE_HTTP_ALLOW"},
		{bind: "localhost.example:3000", want: "listen on"},
		{bind: ":3000", token: true},
		{bind: ":3000", tls: true},
		{bind: ":3000", allow: allowed},
		{bind: "3000", want: "write host:port"},
	}
	for _, c := range cases {
		err := CheckProtection(c.bind, c.token, c.tls, c.allow)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// FuzzBodies: no body makes the runner crash or answer anything but one JSON
// document.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"id":"a"}`, `{"id":"../a","setup_request":{"volumes":[{}]}}`, `{"stage_runtime_id":"a","start_step_request":null}`,
		`{"id":"a","setup_request":{"volumes":[{"host":{"id":"harness","path":""}}],"files":[{}]}}`,
	} {
		f.Add("/step", seed)
		f.Add("/poll_step", seed)
		f.Add("/destroy", seed)
	}
	r, err := New(f.Context(), Config{DataDir: f.TempDir(), Facts: func() (Facts, error) { return Facts{}, nil }, Docker: func(context.Context) error { return nil }})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = r.Close() }) // nothing runs
	h := r.Handler(Access{})
	f.Fuzz(func(t *testing.T, path, body string) {
		if path != "/step" && path != "/poll_step" && path != "/destroy" && path != "/suspend" {
			return
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, strings.NewReader(body)))
		if !json.Valid(rec.Body.Bytes()) || rec.Code >= 500 {
			t.Errorf("%s %q: %d %s", path, body, rec.Code, rec.Body)
		}
	})
}
