package interop_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// existingAgent is an existing agent as seen from outside, with all its traps. It
// runs nothing: steps end when they are told to, or at once.
type existingAgent struct {
	t    *testing.T
	srv  *httptest.Server
	over chan struct{} // closed at the end of the test

	mu        sync.Mutex
	setUp     bool
	destroyed bool
	steps     map[string]*existingStep
	seen      []string // requests, as they came
	fell      []string // traps that somebody fell into
	// held are the steps that end only when released; the others end at once.
	held map[string]bool
	// answers are the results of steps, by id; success if there is none.
	answers map[string]string
}

type existingStep struct {
	detach bool
	hangs  bool // for ever, whoever polls
	ended  bool
	newest chan struct{} // of the pollers; only this one is woken
}

func newExistingAgent(t *testing.T, id drivers.Identity) *existingAgent {
	t.Helper()
	a := &existingAgent{t: t, over: make(chan struct{}), steps: map[string]*existingStep{}, held: map[string]bool{}, answers: map[string]string{}}
	pair, err := tls.X509KeyPair(id.Cert, id.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(id.CACert)
	a.srv = httptest.NewUnstartedServer(http.HandlerFunc(a.serve))
	a.srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots}
	a.srv.EnableHTTP2 = true
	a.srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	a.srv.StartTLS()
	t.Cleanup(func() {
		close(a.over)
		a.srv.CloseClientConnections()
		a.srv.Close()
	})
	return a
}

func (a *existingAgent) addr() *net.TCPAddr { return a.srv.Listener.Addr().(*net.TCPAddr) }

// trap notes what a caller should not have done.
func (a *existingAgent) trap(format string, args ...any) {
	a.fell = append(a.fell, fmt.Sprintf(format, args...))
}

func (a *existingAgent) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // its caller has gone
	}
	path := strings.TrimSuffix(r.URL.Path, "/")
	a.note(r, path, body)
	switch r.Method + " " + path {
	case "GET /healthz":
		a.answer(w, http.StatusOK, `{"version":"dev","ok":true}`)
	case "POST /setup":
		a.setup(w, body)
	case "POST /start_step":
		a.start(w, body)
	case "POST /poll_step":
		a.poll(w, body)
	case "POST /suspend":
		a.answer(w, http.StatusOK, `{}`)
	case "POST /destroy":
		a.destroy(w, body)
	default:
		http.NotFound(w, r)
	}
}

// note keeps what is worth comparing of a request. Health is asked for as often
// as a runner likes.
func (a *existingAgent) note(r *http.Request, path string, body []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if path == "/healthz" && len(a.seen) > 0 {
		return
	}
	line := r.Method + " " + r.URL.RequestURI()
	for _, name := range []string{"Content-Type", "Accept", "Accept-Encoding", "User-Agent"} {
		if v := r.Header.Get(name); v != "" {
			line += " | " + name + ": " + v
		}
	}
	a.seen = append(a.seen, line+"\n"+string(body))
}

func (a *existingAgent) answer(w http.ResponseWriter, status int, body string) {
	var v any
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		a.t.Errorf("script: %s: %v", body, err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache, private, max-age=0")
	w.WriteHeader(status)
	text, _ := json.MarshalIndent(v, "", "  ") // it was just read
	_, _ = w.Write(append(text, '\n'))         // whoever asked may be gone
}

func (a *existingAgent) refuse(w http.ResponseWriter, status int, text string) {
	a.answer(w, status, fmt.Sprintf(`{"error_msg":%q}`, text))
}

func (a *existingAgent) setup(w http.ResponseWriter, body []byte) {
	var req struct {
		Envs map[string]string `json:"envs"`
		MTLS struct {
			Cert string `json:"client_cert"`
		} `json:"mtls_config"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		a.refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if req.MTLS.Cert != "" && req.Envs == nil {
		a.trap("setup with a client pair and without envs: it crashes")
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	a.setUp, a.destroyed = true, false
	a.answer(w, http.StatusOK, `{}`)
}

func (a *existingAgent) start(w http.ResponseWriter, body []byte) {
	var req struct {
		ID          string            `json:"id"`
		Stage       string            `json:"stage_runtime_id"`
		Environment map[string]string `json:"environment"`
		Dir         string            `json:"working_dir"`
		Detach      bool              `json:"detach"`
		Process     struct {
			Kill     bool `json:"kill_process_on_context_cancel"`
			Terms    int  `json:"kill_process_max_sigterm_attempts"`
			Interval int  `json:"kill_process_retry_interval_secs"`
		} `json:"process_config"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		a.refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if req.ID == "" {
		a.refuse(w, http.StatusBadRequest, "ID needs to be set")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.steps[req.ID] == nil {
		s := &existingStep{detach: req.Detach, ended: !a.held[req.ID]}
		for what, bad := range map[string]bool{
			"before the first setup": !a.setUp, "without environment": len(req.Environment) == 0, "with stage_runtime_id": req.Stage != "",
		} {
			if bad {
				a.trap("step %s: its poll hangs for ever", what)
				s.hangs = true
			}
		}
		if p := req.Process; p.Kill && p.Terms > 0 && p.Interval <= 0 {
			a.trap("step killed without an interval: it crashes")
		}
		if req.Dir == "" {
			a.trap("step without working_dir: it searches the whole file system")
		}
		a.steps[req.ID] = s
	}
	a.answer(w, http.StatusOK, `{}`)
}

// poll wakes the newest poller alone, and does not notice that one has gone.
func (a *existingAgent) poll(w http.ResponseWriter, body []byte) {
	var req struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(body, &req); err != nil || req.ID == "" {
		a.refuse(w, http.StatusBadRequest, "ID needs to be set")
		return
	}
	a.mu.Lock()
	s := a.steps[req.ID]
	if s == nil {
		a.mu.Unlock()
		a.refuse(w, http.StatusBadRequest, "Step has not started")
		return
	}
	if s.detach && !s.hangs {
		a.mu.Unlock()
		a.answer(w, http.StatusOK, `{}`)
		return
	}
	var woken chan struct{} // never, unless there is one
	if !s.ended || s.hangs {
		woken = make(chan struct{})
		s.newest = woken
		if s.hangs {
			woken = nil
		}
		a.mu.Unlock()
		select {
		case <-woken:
		case <-a.over:
			return
		}
	} else {
		a.mu.Unlock()
	}
	a.mu.Lock()
	text := a.answers[req.ID]
	a.mu.Unlock()
	if text == "" {
		text = `{"exited":true,"optimization_state":"DISABLED"}`
	}
	a.answer(w, http.StatusOK, text)
}

// end ends a step that was held.
func (a *existingAgent) end(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.steps[id]
	s.ended = true
	if s.newest != nil {
		close(s.newest)
		s.newest = nil
	}
}

// polled says whether somebody waits for a step.
func (a *existingAgent) polled(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.steps[id] != nil && a.steps[id].newest != nil
}

func (a *existingAgent) destroy(w http.ResponseWriter, body []byte) {
	if len(body) == 0 {
		a.refuse(w, http.StatusBadRequest, "EOF")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.setUp || a.destroyed {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	a.destroyed = true
	a.answer(w, http.StatusOK, `{"os_stats":{"total_mem_mb":24105.5,"cpu_cores":2}}`)
}
