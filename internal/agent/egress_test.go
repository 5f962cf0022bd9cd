//go:build unix

package agent_test

import (
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// fetchVariable makes the test's program one that gets an address, through the
// proxy of its environment, and prints what it is answered.
const fetchVariable = "RUNNER_TEST_FETCH"

func fetch(address string) int {
	res, err := http.Get(address)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer res.Body.Close()
	if _, err := io.Copy(os.Stdout, res.Body); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// wayOut is a proxy that lets known users through to one server, and that
// server.
type wayOut struct {
	proxy, ca string // the proxy's address, and a file with the server's authority

	mu   sync.Mutex
	seen []string // who was let through, and who was not
}

func newWayOut(t *testing.T, users map[string]string) *wayOut {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "the world outside") // who asks looks at it
	}))
	t.Cleanup(server.Close)
	o := &wayOut{ca: filepath.Join(t.TempDir(), "ca.pem")}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(o.ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := strings.CutPrefix(r.Header.Get("Proxy-Authorization"), "Basic ")
		who, err := base64.StdEncoding.DecodeString(raw)
		name, password, _ := strings.Cut(string(who), ":")
		o.mu.Lock()
		o.seen = append(o.seen, name)
		o.mu.Unlock()
		if err != nil || r.Method != http.MethodConnect || users[name] == "" || users[name] != password {
			http.Error(w, "who are you?", http.StatusProxyAuthRequired)
			return
		}
		tunnel(w, server.Listener.Addr().String())
	}))
	t.Cleanup(proxy.Close)
	o.proxy = proxy.URL
	return o
}

// tunnel carries a connection to an address until both its ends are done.
func tunnel(w http.ResponseWriter, to string) {
	inner, err := net.Dial("tcp", to)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer inner.Close()
	outer, rest, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer outer.Close()
	_, _ = io.WriteString(outer, "HTTP/1.1 200 Connected\r\n\r\n") // the reads tell
	go func() { _, _ = io.Copy(inner, rest); _ = inner.(*net.TCPConn).CloseWrite() }()
	_, _ = io.Copy(outer, inner) // until the server is done
}

// fetching is a step that gets the server's answer.
func (o *wayOut) fetching(t *testing.T, id string) agentapi.StartStepRequest {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := sh(id, "")
	s.Run = agentapi.RunConfig{Entrypoint: []string{self}}
	// A name, since nobody goes through a proxy to loopback.
	s.Environment = map[string]string{fetchVariable: "https://example.com/", "SSL_CERT_FILE": o.ca}
	return s
}

func TestEachStageGoesOutByItsOwnProxyAndUser(t *testing.T) {
	t.Parallel()
	const hard = "p@ss:w/o rd%?#ü"
	o := newWayOut(t, map[string]string{"alice": hard, "bob": "hunter2", "carol": "tea time"})
	before := slices.Sorted(slices.Values(os.Environ()))
	alice, bob := newRig(t, plainEnvironment), newRig(t, plainEnvironment)
	alice.setup(agentapi.SetupRequest{EgressPolicy: &agentapi.EgressPolicy{ProxyURL: o.proxy, Username: "alice", Password: hard}})
	bob.setup(agentapi.SetupRequest{EgressPolicy: &agentapi.EgressPolicy{ProxyURL: o.proxy, Username: "bob", Password: "hunter2"}})
	carol := o.fetching(t, "carol")
	carol.EgressPolicy = &agentapi.EgressPolicy{Username: "carol", Password: "tea time"}
	for name, run := range map[string]func() (*rig, agentapi.StartStepRequest){
		"one stage":                           func() (*rig, agentapi.StartStepRequest) { return alice, o.fetching(t, "same") },
		"another one with a step of that id":  func() (*rig, agentapi.StartStepRequest) { return bob, o.fetching(t, "same") },
		"a step with a user of its own":       func() (*rig, agentapi.StartStepRequest) { return bob, carol },
		"a step whose caller names the proxy": func() (*rig, agentapi.StartStepRequest) { return alice, o.named(t) },
	} {
		r, s := run()
		if res := r.run(s); res.ExitCode != 0 || r.output(s.ID) != "the world outside" {
			t.Errorf("%s: %+v, %q", name, res, r.output(s.ID))
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	slices.Sort(o.seen)
	if diff := cmp.Diff([]string{"alice", "alice", "bob", "carol"}, o.seen); diff != "" {
		t.Errorf("users the proxy has seen (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, slices.Sorted(slices.Values(os.Environ()))); diff != "" {
		t.Errorf("the agent's own environment has changed:\n%s", diff)
	}
}

// named is a step that names the proxy without a user, as runners do that know
// nothing of the stage's.
func (o *wayOut) named(t *testing.T) agentapi.StartStepRequest {
	s := o.fetching(t, "named")
	s.Environment["HTTPS_PROXY"], s.Environment["https_proxy"] = o.proxy, o.proxy
	return s
}

// plainEnvironment keeps proxies of whoever runs the tests out of steps.
func plainEnvironment(o *agent.Options) { o.Env = []string{"PATH=" + os.Getenv("PATH")} }

func TestAProxysPasswordIsMaskedInEverySpelling(t *testing.T) {
	t.Parallel()
	const password = "p@ss w/rd%"
	r := newRig(t, plainEnvironment)
	r.setup(agentapi.SetupRequest{EgressPolicy: &agentapi.EgressPolicy{ProxyURL: "http://proxy.example.com:3128", Username: "ci", Password: password}})
	s := sh("tell", `env; echo "$PLAIN"; echo "Proxy-Authorization: Basic $BASIC"; echo 'p%40ss+w%2Frd%25'`)
	s.Environment = map[string]string{"PLAIN": password, "BASIC": base64.StdEncoding.EncodeToString([]byte("ci:" + password))}
	r.run(s)
	out := r.output("tell")
	for _, bad := range []string{password, "p%40ss", s.Environment["BASIC"]} {
		if strings.Contains(out, bad) {
			t.Errorf("%q stands in the output:\n%s", bad, out)
		}
	}
	if !strings.Contains(out, "HTTPS_PROXY=http://ci:**************@proxy.example.com:3128\n") {
		t.Errorf("the proxy itself is not to be read:\n%s", out)
	}
}

func TestWhatStepsAreToldOfTheirProxy(t *testing.T) {
	t.Parallel()
	const p = "http://proxy.example.com:3128"
	all := func(proxy, no string) map[string]string {
		env := map[string]string{"HTTP_PROXY": proxy, "HTTPS_PROXY": proxy, "http_proxy": proxy, "https_proxy": proxy}
		if no != "" {
			env["NO_PROXY"], env["no_proxy"] = no, no
		}
		return env
	}
	r := newRig(t, plainEnvironment)
	for i, tt := range []struct {
		name        string
		stage, step *agentapi.EgressPolicy
		envs, own   map[string]string
		want        map[string]string
	}{
		{name: "nothing without a policy", want: map[string]string{}},
		{name: "nothing of a policy without a proxy", stage: &agentapi.EgressPolicy{Username: "u", Password: "secret"}, want: map[string]string{}},
		{name: "six variables", stage: &agentapi.EgressPolicy{ProxyURL: p, NoProxy: "localhost,.internal"}, want: all(p, "localhost,.internal")},
		{name: "a proxy of the step's own, without the stage's user", stage: &agentapi.EgressPolicy{ProxyURL: p, Username: "u", Password: "stage-secret"}, step: &agentapi.EgressPolicy{ProxyURL: "https://other.example.com"}, want: all("https://other.example.com", "")},
		{name: "a step's list of whom to reach directly", stage: &agentapi.EgressPolicy{ProxyURL: p, NoProxy: "a"}, step: &agentapi.EgressPolicy{NoProxy: "b"}, want: all(p, "b")},
		{name: "a policy of a step alone", step: &agentapi.EgressPolicy{ProxyURL: p}, want: all(p, "")},
		{
			name: "the pipeline's own, in either spelling, of stage and step", stage: &agentapi.EgressPolicy{ProxyURL: p, NoProxy: "a"},
			envs: map[string]string{"http_proxy": "http://mine.example.com"}, own: map[string]string{"NO_PROXY": "mine"},
			want: map[string]string{"http_proxy": "http://mine.example.com", "HTTPS_PROXY": p, "https_proxy": p, "NO_PROXY": "mine"},
		},
		{
			name: "an empty value turns it off", stage: &agentapi.EgressPolicy{ProxyURL: p}, own: map[string]string{"HTTP_PROXY": "", "HTTPS_PROXY": ""},
			want: map[string]string{},
		},
	} {
		r.setup(agentapi.SetupRequest{EgressPolicy: tt.stage, Envs: tt.envs})
		s := sh(fmt.Sprintf("s%d", i), `env | grep -i '_proxy=' || true`)
		s.EgressPolicy, s.Environment = tt.step, tt.own
		r.run(s)
		got := map[string]string{}
		for line := range strings.Lines(r.output(s.ID)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			got[name] = value
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestAProxyThatIsNoneIsRefusedWithoutItsPassword(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, address := range []string{"ftp://u:hunter2@p", "http://", "proxy:3128", "http://u:hunter2@p:x"} {
		for path, body := range map[string]string{
			agentapi.PathSetup:     `{"egress_policy":{"proxy_url":"` + address + `"}}`,
			agentapi.PathStartStep: `{"id":"s","egress_policy":{"proxy_url":"` + address + `"}}`,
		} {
			a := r.post(path, body)
			if a.status != http.StatusBadRequest || !strings.Contains(a.body, "http://host:port") || strings.Contains(a.body, "hunter2") {
				t.Errorf("%s with %s: %d %s", path, address, a.status, a.body)
			}
		}
	}
}
