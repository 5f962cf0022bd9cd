package google

import (
	"fmt"
	"hash/fnv"
	"net/url"
	"slices"
	"strings"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// networkOf is the network a machine is made in: of those whose zones the
// machine may be in, the one its name decides for, so that a call that is
// repeated asks for the same.
func networkOf(s *Spec, spec drivers.Spec) Network {
	if len(s.Networks) == 0 {
		return Network{Network: s.Network, Subnetwork: s.Subnetwork, Tags: s.Tags}
	}
	wanted := spec.Zones
	if spec.Zone != "" {
		wanted = []string{spec.Zone}
	}
	var fit []Network
	for _, n := range s.Networks {
		if len(n.Zones) == 0 || len(wanted) == 0 || slices.ContainsFunc(n.Zones, func(z string) bool { return slices.Contains(wanted, z) }) {
			fit = append(fit, n)
		}
	}
	if len(fit) == 0 {
		fit = s.Networks
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(spec.Name)) // a hash takes all
	return fit[int(h.Sum32()%uint32(len(fit)))]
}

// Proxy is the address of the proxy of a machine; see [drivers.Proxied].
func (s *Spec) Proxy(name string, zones []string) string {
	if !s.EgressControl {
		return ""
	}
	return bare(networkOf(s, drivers.Spec{Name: name, Zones: zones}).ProxyURL)
}

// Proxies are those of all networks, each once; see [drivers.Proxied].
func (s *Spec) Proxies() []string {
	var all []string
	for _, n := range s.Networks {
		if proxy := bare(n.ProxyURL); s.EgressControl && proxy != "" && !slices.Contains(all, proxy) {
			all = append(all, proxy)
		}
	}
	return all
}

func bare(proxy string) string { return strings.TrimSuffix(proxy, "/") }

// checkEgress says what is wrong with a way out through proxies: with
// egress_control each network has one, and without it none has an effect.
func checkEgress(s *Spec, out *drivers.Problems) {
	switch {
	case !s.EgressControl:
	case len(s.Networks) == 0:
		out.Errorf("egress_control", "needs the address of a proxy; give networks, each with network, subnetwork and proxy_url")
	case !s.PrivateIP:
		out.Warnf("egress_control", "machines have public addresses, so that steps can go around the proxy; set private_ip, and let only the proxy out of the network")
	}
	for i, n := range s.Networks {
		path := fmt.Sprintf("networks[%d].proxy_url", i)
		switch {
		case n.ProxyURL == "" && s.EgressControl:
			out.Errorf(path, "missing; with egress_control each network has a proxy")
		case n.ProxyURL == "":
		case !s.EgressControl:
			out.Warnf(path, "has no effect without egress_control: true")
		default:
			if why := badProxy(n.ProxyURL); why != "" {
				out.Errorf(path, "%s; write http://host:port or https://host:port", why)
			}
		}
	}
}

// badProxy says what keeps an address from being a proxy's, "" if nothing does.
// It is written into scripts and into URLs that get a user's name, so it is
// plain. It is not quoted, since it may have a password.
func badProxy(address string) string {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return "is no address"
	case u.Scheme != "http" && u.Scheme != "https":
		return "is no address of an http or https proxy"
	case u.User != nil:
		return "has a user or a password, which belong to each stage (egress_policy)"
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "has a path, which a proxy's address has not"
	case !plainHost(u.Host):
		return "has a host of other characters than letters, digits and .-:[]"
	}
	return ""
}

func plainHost(host string) bool {
	return !slices.ContainsFunc([]byte(host), func(c byte) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == ':' || c == '[' || c == ']')
	})
}
