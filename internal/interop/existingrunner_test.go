//go:build unix

package interop_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
)

// ourAgent is our agent, listening with the certificates an existing runner
// makes for a machine: one pair for both sides.
type ourAgent struct {
	addr string
	conf *tls.Config // of a caller
	work string
}

func newOurAgent(t *testing.T) *ourAgent {
	t.Helper()
	certs, err := agent.NewCertificates("drone", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return newOurAgentWith(t, "drone", certs.CACert, certs.Cert, certs.Key)
}

func newOurAgentWith(t *testing.T, name string, ca, cert, key []byte) *ourAgent {
	t.Helper()
	dir := t.TempDir()
	a, err := agent.New(agent.Options{
		SharedDir: filepath.Join(dir, "engine"), StateDir: filepath.Join(dir, "state"),
		Env: []string{"PATH=" + os.Getenv("PATH")}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	conf, err := a.TLSConfig(ca, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, ln, conf) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	return &ourAgent{
		addr: ln.Addr().String(), work: work,
		conf: &tls.Config{MinVersion: tls.VersionTLS13, ServerName: name, RootCAs: roots, Certificates: []tls.Certificate{pair}},
	}
}

// call is one request as an existing runner makes it.
type call struct{ name, method, path, body string }

// Parts of the bodies that existing runners encode whether they are empty or not.
const (
	setupRest = `"network":{"id":"n"},"log_config":{"sanitize_config":{}},"ti_config":{},"mtls_config":{},"vm_image_config":{}`
	stepRest  = `"run_test":{},"run_test_v2":{},"log_config":{"sanitize_config":{}},"ti_config":{},"mtls_config":{},"annotations_config":{},` +
		`"test_report":{"junit":{}},"mount_docker_socket":null,"delete_temp_step_files":false,"step_status":{},"process_config":{}`
)

func stepBody(id, more, script string) string {
	return `{"id":"` + id + `",` + more + `"log_drone":false,"working_dir":"WORK","run":{"commands":["` + script + `"],"entrypoint":["sh","-c"],"binary":{}},` + stepRest + `}`
}

// stage is the life of one stage, with the repetitions of a client that retries
// blindly, in the order they would come.
func stage() []call {
	step := func(name, id, more, script string) []call {
		start := call{name, "POST", "/start_step", stepBody(id, more, script)}
		again := start
		again.name += ", and again"
		return []call{start, again, {name + ", its result", "POST", "/poll_step", `{"id":"` + id + `"}`}}
	}
	calls := []call{
		{"health", "GET", "/healthz?connectivity_check_duration_seconds=3", ""},
		{"health with a slash", "GET", "/healthz/", ""},
		{"a destroy before any setup", "POST", "/destroy", `{}`},
		{"setup", "POST", "/setup", `{"envs":{"A":"b","CI":"true"},"secrets":["hunter2"],` + setupRest + `}`},
		{"setup, and again", "POST", "/setup", `{"envs":{"A":"b","CI":"true"},"secrets":["hunter2"],` + setupRest + `}`},
	}
	calls = append(calls, step("a step with an output", "q", `"environment":{"FOO":"bar"},"output_vars":["OUT1"],`, `echo $FOO $A hunter2; export OUT1=value1`)...)
	calls = append(calls, call{"its result once more", "POST", "/poll_step/", `{"id":"q"}`})
	calls = append(calls, step("a step that fails", "f", `"environment":{"FOO":"bar"},`, "exit 7")...)
	calls = append(calls, step("a step without environment, of a stage", "bare", `"stage_runtime_id":"st1",`, "true")...)
	calls = append(calls, step("a step that takes too long", "slow", `"timeout":1,`, "sleep 300")...)
	calls = append(calls, step("a service", "svc", `"detach":true,`, "sleep 300")...)
	calls = append(calls, step("a step that exports", "exp", "", `echo EXPORTED=1 > $DRONE_ENV`)...)
	return append(calls, []call{
		{"a step of the daemon's", "POST", "/start_step", `{"id":"d","name":"d","kind":"Run","log_key":"d","log_drone":true,"timeout":14400,"environment":{"A":"1"},` +
			`"working_dir":"WORK","run":{"commands":["echo hi; printf 'no newline'"],"entrypoint":["sh","-c"],"binary":{}},` + stepRest + `}`},
		{"the daemon's poll", "POST", "/poll_step", `{"id":"d"}`},
		{"the daemon's stream", "POST", "/stream_output", `{"id":"d","offset":0}`},
		{"the stream from an offset", "POST", "/stream_output", `{"id":"d","offset":3}`},
		{"the stream from beyond the end", "POST", "/stream_output", `{"id":"d","offset":300}`},
		{"keys in odd cases", "POST", "/start_step", `{"ID":"odd","Log_Drone":true,"WORKING_DIR":"WORK","Run":{"EntryPoint":["true"]}}`},
		{"its result", "POST", "/poll_step", `{"Id":"odd"}`},
		{"a step nobody has started", "POST", "/poll_step", `{"id":"nobody"}`},
		{"a step without an id", "POST", "/start_step", `{}`},
		{"a broken body", "POST", "/setup", `{bad`},
		{"destroy", "POST", "/destroy", `{"lite_engine_path":"/var/log/lite-engine.log","stage_runtime_id":"st1"}`},
		{"destroy, and again", "POST", "/destroy", `{"lite_engine_path":"/var/log/lite-engine.log","stage_runtime_id":"st1"}`},
		{"a result after the destroy", "POST", "/poll_step", `{"id":"q"}`},
		{"an unknown route", "GET", "/nothing", ""},
	}...)
}

// raw is the request as its bytes.
func (a *ourAgent) raw(c call) string {
	body := strings.ReplaceAll(c.body, "WORK", a.work)
	if body != "" {
		body += "\n" // as existing clients end it
	}
	head := c.method + " " + c.path + " HTTP/1.1\r\nHost: " + a.addr + "\r\nUser-Agent: Go-http-client/1.1\r\n"
	if c.method == http.MethodPost {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	return head + "Accept-Encoding: gzip\r\n\r\n" + body
}

func (a *ourAgent) dial(t *testing.T) *tls.Conn {
	t.Helper()
	conf := a.conf.Clone()
	conf.NextProtos = []string{"http/1.1"}
	c, err := (&tls.Dialer{Config: conf}).DialContext(within(t), "tcp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*tls.Conn)
}

var (
	dateLine = regexp.MustCompile(`(?m)^Date: .*$`)
	osStats  = regexp.MustCompile(`(?s)"os_stats": \{.*\n  \}`)
	docker   = regexp.MustCompile(`"docker": "\w+"`)
	lengths  = regexp.MustCompile(`(?m)^Content-Length: \d+\r?\n`)
)

// plain takes out of an answer what is another one each time.
func (a *ourAgent) plain(text string) string {
	text = dateLine.ReplaceAllString(strings.ReplaceAll(text, "\r\n", "\n"), "Date: …")
	text = strings.NewReplacer(a.work, "WORK", a.addr, "HOST").Replace(text)
	text = docker.ReplaceAllString(text, `"docker": "…"`) // as the host is
	return osStats.ReplaceAllString(text, `"os_stats": {…}`)
}

// An existing runner's requests, byte for byte, and our agent's answers: those
// an existing agent gives, or the better ones where those are its defects.
func TestOurAgentBehindAnExistingRunner(t *testing.T) {
	t.Parallel()
	a := newOurAgent(t)
	conn := a.dial(t)
	defer conn.Close()
	in := bufio.NewReader(conn)
	var all strings.Builder
	for _, c := range stage() {
		raw := a.raw(c)
		if _, err := io.WriteString(conn, raw); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		res.Body.Close()
		var head bytes.Buffer
		if err := res.Header.WriteSubset(&head, map[string]bool{"Content-Length": true}); err != nil {
			t.Fatal(err)
		}
		sent := lengths.ReplaceAllString(strings.ReplaceAll(raw, "\r\n", "\n"), "Content-Length: …\n")
		fmt.Fprintf(&all, "== %s\n%s\n-- %s\n%s\n%s\n", c.name, strings.TrimSuffix(a.plain(sent), "\n"), res.Status, strings.TrimSuffix(a.plain(head.String()), "\n"), a.plain(string(body)))
	}
	golden(t, "from-existing-runner.txt", all.String())
}

// The same over HTTP/2, which existing runners use where they can, has the same
// answers.
func TestOurAgentAnswersAlikeOverBothProtocols(t *testing.T) {
	t.Parallel()
	answers := func(h2 bool) []string {
		a := newOurAgent(t)
		transport := &http.Transport{TLSClientConfig: a.conf, ForceAttemptHTTP2: h2}
		defer transport.CloseIdleConnections()
		var all []string
		for _, c := range stage() {
			body := strings.ReplaceAll(c.body, "WORK", a.work)
			req, err := http.NewRequestWithContext(within(t), c.method, "https://"+a.addr+c.path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			res, err := transport.RoundTrip(req)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			text, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			res.Body.Close()
			if res.ProtoMajor == 2 != h2 {
				t.Errorf("%s: answered with %s", c.name, res.Proto)
			}
			all = append(all, fmt.Sprintf("%s: %d %s %s", c.name, res.StatusCode, res.Header.Get("Content-Type"), a.plain(string(text))))
		}
		return all
	}
	one, two := answers(false), answers(true)
	for i := range one {
		if one[i] != two[i] {
			t.Errorf("HTTP/1.1 %s\nHTTP/2 %s", one[i], two[i])
		}
	}
}

// A client that hangs up in the middle of a poll finds the result when it comes
// again, and so does everybody who polls at once.
func TestAPollerThatHangsUpKeepsNobodyFromTheResult(t *testing.T) {
	t.Parallel()
	a := newOurAgent(t)
	gate := filepath.Join(a.work, "gate")
	ask := func(c call) string {
		conn := a.dial(t)
		defer conn.Close()
		if _, err := io.WriteString(conn, a.raw(c)); err != nil {
			t.Error(err)
			return ""
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Error(err)
			return ""
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Error(err)
		}
		return string(body)
	}
	ask(call{"setup", "POST", "/setup", `{` + setupRest + `}`})
	ask(call{"start", "POST", "/start_step", stepBody("long", "", "while ! [ -e "+gate+" ]; do sleep 0.02; done; exit 3")})
	poll := call{"poll", "POST", "/poll_step", `{"id":"long"}`}
	for range 3 {
		conn := a.dial(t)
		if _, err := io.WriteString(conn, a.raw(poll)); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got := make(chan string, 3)
	for range cap(got) {
		go func() { got <- ask(poll) }()
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range cap(got) {
		if body := <-got; !strings.Contains(body, `"exit_code": 3`) {
			t.Errorf("a poll is answered %q", body)
		}
	}
}
