package agent

import (
	"cmp"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// proxies say how the agent itself reaches the services of one stage: addresses
// of proxies, "" for none, and the hosts that are reached without. They are
// compared, so they are texts.
type proxies struct{ http, https, except string }

// stageProxies are those that steps of the stage are told of, in its variables
// or by its egress policy, else the agent's.
func stageProxies(req *agentapi.SetupRequest, env []string) proxies {
	vars := make(map[string]string, len(req.Envs)+2*len(proxyVariables))
	maps.Copy(vars, req.Envs)
	eg, _ := newEgress(req.EgressPolicy, nil) // a setup with a bad one is refused
	eg.lay(vars)
	first := func(upper, lower string) string {
		return cmp.Or(vars[upper], vars[lower], lookup(env, upper), lookup(env, lower))
	}
	return proxies{
		http:   first("HTTP_PROXY", "http_proxy"),
		https:  first("HTTPS_PROXY", "https_proxy"),
		except: first("NO_PROXY", "no_proxy"),
	}
}

// errProxyAddress does not quote the address, which may have a password.
var errProxyAddress = errors.New("the address of the proxy cannot be read; write it as http://host:port")

// choose is the proxy of a request, as [http.Transport] wants it.
func (p proxies) choose(r *http.Request) (*url.URL, error) {
	address := p.http
	if r.URL.Scheme == "https" {
		address = p.https
	}
	if address == "" || p.spares(r.URL) {
		return nil, nil
	}
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, errProxyAddress
	}
	return u, nil
}

// spares says whether a host is reached without a proxy: this machine, and what
// the list of exceptions names as a host, a domain, an address or a network,
// each with or without a port, or as * for everything.
func (p proxies) spares(u *url.URL) bool {
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	ip, err := netip.ParseAddr(host)
	isIP := err == nil
	if host == "localhost" || isIP && ip.Unmap().IsLoopback() {
		return true
	}
	port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	for entry := range strings.SplitSeq(p.except, ",") {
		entry = strings.ToLower(strings.TrimSpace(entry))
		if entry == "*" {
			return true
		}
		if network, err := netip.ParsePrefix(entry); err == nil {
			if isIP && network.Contains(ip.Unmap()) {
				return true
			}
			continue
		}
		if name, only, err := net.SplitHostPort(entry); err == nil {
			if only != port {
				continue
			}
			entry = name
		}
		if other, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil {
			if isIP && other.Unmap() == ip.Unmap() {
				return true
			}
			continue
		}
		if entry == "" || isIP {
			continue
		}
		domain, below := strings.CutPrefix(strings.TrimPrefix(entry, "*"), ".")
		if !below && host == domain || strings.HasSuffix(host, "."+domain) {
			return true
		}
	}
	return false
}
