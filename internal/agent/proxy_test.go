package agent

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

func TestWhichProxyARequestTakes(t *testing.T) {
	t.Parallel()
	const proxy = "http://proxy.test:3128"
	for _, c := range []struct {
		name, to, except string
		direct           bool
	}{
		{"without exceptions", "https://logs.test/x", "", false},
		{"an exception of everything", "https://logs.test", " * ", true},
		{"the host", "https://LOGS.test", "other.test, Logs.Test", true},
		{"the domain of the host", "https://a.logs.test", "logs.test", true},
		{"a domain that is the end of the name only", "https://mylogs.test", "logs.test", false},
		{"what is below a domain", "https://a.logs.test", ".logs.test", true},
		{"what is below a domain, not the domain", "https://logs.test", ".logs.test", false},
		{"the same with a star", "https://a.logs.test", "*.logs.test", true},
		{"the port", "https://logs.test", "logs.test:443", true},
		{"another port", "https://logs.test:8443", "logs.test:443", false},
		{"an address", "http://10.0.0.7", "10.0.0.7", true},
		{"an address of version 6", "http://[fd00::7]:80", "[fd00::7]:80", true},
		{"a network", "http://10.0.0.7", "10.0.0.0/8", true},
		{"another network", "http://11.0.0.7", "10.0.0.0/8", false},
		{"an address is below no domain", "http://10.0.0.7", "7", false},
		{"this machine", "http://127.0.0.2:9", "", true},
		{"this machine by name", "http://localhost:9", "", true},
		{"commas with nothing between", "http://logs.test", ",, ,", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			u, err := url.Parse(c.to)
			if err != nil {
				t.Fatal(err)
			}
			got, err := proxies{http: "proxy.test:3128", https: proxy, except: c.except}.choose(&http.Request{URL: u})
			if err != nil {
				t.Fatal(err)
			}
			if (got == nil) != c.direct || got != nil && got.String() != proxy {
				t.Errorf("proxy %v, want direct: %t", got, c.direct)
			}
		})
	}
	for _, bad := range []string{"http://u:secret@h\x7f", "http://"} {
		if _, err := (proxies{http: bad}).choose(&http.Request{URL: &url.URL{Scheme: "http", Host: "h"}}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

func TestProxiesOfAStage(t *testing.T) {
	t.Parallel()
	env := []string{"HTTPS_PROXY=agent", "no_proxy=agent.test"}
	for _, c := range []struct {
		name string
		req  agentapi.SetupRequest
		want proxies
	}{
		{"those of the agent", agentapi.SetupRequest{}, proxies{https: "agent", except: "agent.test"}},
		{
			"those of its variables",
			agentapi.SetupRequest{Envs: map[string]string{"http_proxy": "stage", "NO_PROXY": "x"}},
			proxies{http: "stage", https: "agent", except: "x"},
		},
		{
			"that of its policy, but for what its variables name",
			agentapi.SetupRequest{
				Envs:         map[string]string{"http_proxy": "http://stage:1"},
				EgressPolicy: &agentapi.EgressPolicy{ProxyURL: "http://egress:1", Username: "u", Password: "p/w", NoProxy: "y"},
			},
			proxies{http: "http://stage:1", https: "http://u:p%2Fw@egress:1", except: "y"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := stageProxies(&c.req, env); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
