package agent

import (
	"encoding/base64"
	"errors"
	"net/url"
	"slices"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// egress is the proxy that steps of one stage go out through, nil if they go
// out by themselves. It is given to steps in their environment and nowhere
// else: neither the agent nor another stage's steps know of it.
type egress struct {
	proxy   *url.URL // with its user
	noProxy string
}

// errProxy does not quote the address, which may have a password.
var errProxy = errors.New("egress_policy.proxy_url is no address of a proxy; write http://host:port or https://host:port")

// newEgress reads the policy of a stage, or of a step in it, whose own members
// win. A stage's user goes to the stage's proxy only.
func newEgress(stage, step *agentapi.EgressPolicy) (*egress, error) {
	var p agentapi.EgressPolicy
	if stage != nil {
		p = *stage
	}
	if step != nil {
		if step.ProxyURL != "" && step.ProxyURL != p.ProxyURL {
			p.ProxyURL, p.Username, p.Password = step.ProxyURL, "", ""
		}
		if step.Username != "" || step.Password != "" {
			p.Username, p.Password = step.Username, step.Password
		}
		if step.NoProxy != "" {
			p.NoProxy = step.NoProxy
		}
	}
	if p.ProxyURL == "" {
		return nil, nil
	}
	u, err := url.Parse(p.ProxyURL)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, badRequest{errProxy}
	}
	if p.Username != "" || p.Password != "" {
		u.User = url.UserPassword(p.Username, p.Password)
	}
	return &egress{proxy: u, noProxy: p.NoProxy}, nil
}

// proxyVariables are where programs look for a proxy, in the spelling that the
// other, lower-case one follows.
var proxyVariables = []string{"HTTP_PROXY", "HTTPS_PROXY"}

const noProxyVariable = "NO_PROXY"

// lay adds the proxy to a step's environment: both spellings of each variable,
// unless the pipeline has set one of them. Where a variable names this proxy
// without a user, it gets the user.
func (e *egress) lay(env map[string]string) {
	if e == nil {
		return
	}
	address := e.proxy.String()
	for _, name := range proxyVariables {
		setBoth(env, name, address)
		for _, spelling := range []string{name, strings.ToLower(name)} {
			if e.isNamedBy(env[spelling]) {
				env[spelling] = address
			}
		}
	}
	if e.noProxy != "" {
		setBoth(env, noProxyVariable, e.noProxy)
	}
}

func setBoth(env map[string]string, name, value string) {
	lower := strings.ToLower(name)
	_, upperSet := env[name]
	_, lowerSet := env[lower]
	if !upperSet && !lowerSet {
		env[name], env[lower] = value, value
	}
}

// isNamedBy says whether an address is this proxy's, without a user.
func (e *egress) isNamedBy(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.User == nil && u.Scheme == e.proxy.Scheme && strings.EqualFold(u.Host, e.proxy.Host)
}

// secrets are the texts that give the proxy's password away in output: as it
// is, as it stands in an address, and as programs show it when they are asked
// to tell what they send.
func (e *egress) secrets() []string {
	if e == nil {
		return nil
	}
	password, _ := e.proxy.User.Password()
	if password == "" {
		return nil
	}
	user := e.proxy.User.Username()
	escaped := strings.TrimPrefix(url.UserPassword("", password).String(), ":")
	all := []string{
		password, escaped, url.QueryEscape(password), url.PathEscape(password),
		base64.StdEncoding.EncodeToString([]byte(user + ":" + password)),
	}
	slices.Sort(all)
	return slices.Compact(all)
}
