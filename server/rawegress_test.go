package server_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

const proxy = "http://proxy.example.com:3128"

// behind is a machine whose way out is the proxy.
func behind(os string) pool.Instance { return pool.Instance{OS: os, Proxy: proxy} }

// trusting is one that has the certificate of the proxy's authority.
func trusting(os string) pool.Instance { return pool.Instance{OS: os, Proxy: proxy, ProxyCA: true} }

// six are the variables of a proxy and of whom to reach without it.
func six(address, direct string) map[string]string {
	env := map[string]string{"HTTP_PROXY": address, "http_proxy": address, "HTTPS_PROXY": address, "https_proxy": address}
	if direct != "" {
		env["NO_PROXY"], env["no_proxy"] = direct, direct
	}
	return env
}

func with(env map[string]string, more ...string) map[string]string {
	for i := 0; i < len(more); i += 2 {
		env[more[i]] = more[i+1]
	}
	return env
}

func TestStepsBehindAProxy(t *testing.T) {
	t.Parallel()
	ca := server.Egress{NoProxy: "localhost,.internal", BundleVars: []string{"SSL_CERT_FILE", "GIT_SSL_CAINFO"}, CAVars: []string{"NODE_EXTRA_CA_CERTS"}}
	type step struct {
		Environment map[string]string `json:"environment"`
		Secrets     []string          `json:"secrets"`
		Volumes     []struct{ Name, Path string }
	}
	for name, tt := range map[string]struct {
		egress server.Egress
		on     pool.Instance
		in     string
		want   step
	}{
		"a machine that goes out by itself": {ca, pool.Instance{OS: "linux"}, `{"environment":{"A":"1"}}`, step{Environment: map[string]string{"A": "1"}}},
		"a host step":                       {server.Egress{}, behind("linux"), `{"environment":{"A":"1"}}`, step{Environment: with(six(proxy, ""), "A", "1")}},
		"a host step that trusts the proxy": {ca, trusting("linux"), `{}`, step{Environment: with(
			six(proxy, "localhost,.internal"), "HARNESS_CA_PATH", "/etc/harness-certs/ca.crt", "HARNESS_CA_BUNDLE", "/etc/harness-certs/ca-bundle.crt",
			"SSL_CERT_FILE", "/etc/harness-certs/ca-bundle.crt", "GIT_SSL_CAINFO", "/etc/harness-certs/ca-bundle.crt", "NODE_EXTRA_CA_CERTS", "/etc/harness-certs/ca.crt",
		)}},
		"one on windows": {server.Egress{}, trusting("windows"), `{}`, step{Environment: with(
			six(proxy, ""), "HARNESS_CA_PATH", `C:\harness-certs\ca.crt`, "HARNESS_CA_BUNDLE", `C:\harness-certs\ca-bundle.crt`,
		)}},
		"a step that brings its own": {
			ca, trusting("linux"),
			`{"environment":{"http_proxy":"http://mine","NO_PROXY":"","SSL_CERT_FILE":"/mine","GIT_SSL_CAINFO":"/mine","NODE_EXTRA_CA_CERTS":"/mine","HARNESS_CA_PATH":"/mine"}}`,
			step{Environment: map[string]string{
				"http_proxy": "http://mine", "NO_PROXY": "", "HTTPS_PROXY": proxy, "https_proxy": proxy,
				"SSL_CERT_FILE": "/mine", "GIT_SSL_CAINFO": "/mine", "NODE_EXTRA_CA_CERTS": "/mine", "HARNESS_CA_PATH": "/mine", "HARNESS_CA_BUNDLE": "/etc/harness-certs/ca-bundle.crt",
			}},
		},
		"a user and a password that an address cannot hold as they are": {
			server.Egress{},
			behind("linux"), `{"secrets":["x"],"egress_policy":{"username":"a b","Password":"p@s/s:%"}}`,
			step{
				Environment: six("http://a%20b:p%40s%2Fs%3A%25@proxy.example.com:3128", ""), Secrets: []string{"x", "p@s/s:%", "a%20b:p%40s%2Fs%3A%25"},
			},
		},
		"a policy of the step's own": {
			server.Egress{NoProxy: "localhost"}, behind("linux"), `{"egress_policy":{"proxy_url":"https://other:1","no_proxy":"b"}}`, step{Environment: six("https://other:1", "b")},
		},
		"a container mounts the certificates": {
			server.Egress{},
			trusting("linux"), `{"image":"i","volumes":[{"name":"v","path":"/v"}]}`,
			step{
				Environment: with(six(proxy, ""), "HARNESS_CA_PATH", "/etc/harness-certs/ca.crt", "HARNESS_CA_BUNDLE", "/etc/harness-certs/ca-bundle.crt"),
				Volumes: []struct{ Name, Path string }{
					{"v", "/v"},
					{"ca-crt3520102439", "/etc/harness-certs/ca.crt"},
					{"ca-bundle-crt2421208924", "/etc/harness-certs/ca-bundle.crt"},
				},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := server.Edits{Egress: tt.egress}.FitStep(json.RawMessage(tt.in), tt.on)
			if err != nil {
				t.Fatal(err)
			}
			var got step
			if err := json.Unmarshal(raw, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestSetupsBehindAProxy(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		egress server.Egress
		on     pool.Instance
		in     string
		want   string
	}{
		"a machine that goes out by itself": {server.Egress{}, pool.Instance{}, `{ "a":1}`, `{ "a":1}`},
		"no policy of the caller's":         {server.Egress{NoProxy: "localhost"}, behind("linux"), `{"a":1}`, `{"a":1,"egress_policy":{"proxy_url":"` + proxy + `","no_proxy":"localhost"}}`},
		"a user of the caller's":            {server.Egress{}, behind("linux"), `{"Egress_Policy":{"username":"u"}}`, `{"egress_policy":{"username":"u","proxy_url":"` + proxy + `"}}`},
		"a proxy of the caller's stays":     {server.Egress{NoProxy: "x"}, behind("linux"), `{"egress_policy":{"proxy_url":"http://o","no_proxy":"n"}}`, `{"egress_policy":{"proxy_url":"http://o","no_proxy":"n"}}`},
		"the certificates as volumes": {
			server.Egress{}, trusting("linux"), `{}`, `{"egress_policy":{"proxy_url":"` + proxy + `"},"volumes":[` +
				`{"host":{"id":"ca-crt3520102439","name":"ca-crt3520102439","path":"/etc/harness-certs/ca.crt","read_only":true}},` +
				`{"host":{"id":"ca-bundle-crt2421208924","name":"ca-bundle-crt2421208924","path":"/etc/harness-certs/ca-bundle.crt","read_only":true}}]}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := server.Edits{Egress: tt.egress}.FitSetup(json.RawMessage(tt.in), tt.on)
			if err != nil || string(got) != tt.want {
				t.Errorf("got %s, %v\nwant %s", got, err, tt.want)
			}
		})
	}
}

func TestAPolicyThatIsNoneIsRefusedWithoutItsPassword(t *testing.T) {
	t.Parallel()
	for _, in := range []string{`[]`, `{"egress_policy":[]}`, `{"egress_policy":{"proxy_url":"http://u:hunter2@p:x"}}`, `{"egress_policy":{"proxy_url":"nowhere"}}`} {
		if got, err := (server.Edits{}).FitStep(json.RawMessage(in), behind("linux")); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	if got, err := (server.Edits{}).FitSetup(json.RawMessage(`{"egress_policy":[]}`), behind("linux")); err == nil {
		t.Errorf("setup: %s", got)
	}
}

// What the engine is handed is fitted to the machine that it finds, and the
// answer names the machine's proxy.
func TestRequestsAreFittedToTheirMachine(t *testing.T) {
	t.Parallel()
	var bodies []string
	m := machine()
	m.Proxy = proxy
	keep := func(fit pool.Fit, body json.RawMessage) {
		out, err := fit(body, m)
		if err != nil {
			t.Error(err)
		}
		bodies = append(bodies, string(out))
	}
	s := newServer(t, server.Config{Service: &fake{
		setup: func(_ context.Context, r pool.SetupRequest) (pool.SetupResult, error) {
			keep(r.Fit, r.Body)
			return pool.SetupResult{Instance: m}, nil
		},
		step: func(_ context.Context, r pool.StepRequest) (json.RawMessage, error) {
			body, err := r.Body(nil)
			keep(r.Fit, body)
			return json.RawMessage(`{}`), err
		},
	}})
	answer := bodyOf(t, exchange(t, s.Handler(), "POST", "/setup", `{"id":"a","pool_id":"p"}`))
	exchange(t, s.Handler(), "POST", "/step", `{"stage_runtime_id":"a","start_step_request":{"id":"s"}}`)
	if !strings.Contains(answer, `"proxy_url":"`+proxy+`"`) {
		t.Errorf("answer %s", answer)
	}
	if len(bodies) != 2 || !strings.Contains(bodies[0], proxy) || !strings.Contains(bodies[1], `"HTTPS_PROXY":"`+proxy) {
		t.Errorf("bodies %q", bodies)
	}
}
