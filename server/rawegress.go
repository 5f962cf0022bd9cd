package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// Egress is what stages on a machine whose only way out is a proxy are told
// beside its address. A setup gets the proxy in egress_policy; a step gets it in
// the variables HTTP_PROXY and HTTPS_PROXY, with NO_PROXY, each also in lower
// case, with the user and password of the step's own egress_policy, which are
// masked in its output. On a machine that has the certificate of the proxy's
// authority it is told that by HARNESS_CA_PATH and HARNESS_CA_BUNDLE, and containers
// mount it. What a request brings itself stays. The zero value is of use.
type Egress struct {
	// NoProxy names who is reached directly, as NO_PROXY does.
	NoProxy string
	// BundleVars are further variables that get the path of all authorities,
	// CAVars those that get the path of the proxy's alone.
	BundleVars, CAVars []string
}

// Where boot scripts put the certificates of authorities.
const (
	caDirLinux   = "/etc/harness-certs/"
	caDirWindows = `C:\harness-certs\`
	caFile       = "ca.crt"
	bundleFile   = "ca-bundle.crt"
)

func caDir(os string) string {
	if os == "windows" {
		return caDirWindows
	}
	return caDirLinux
}

// certificates are what containers on a machine see of authorities.
func certificates(on pool.Instance) []Volume {
	if !on.ProxyCA {
		return nil
	}
	var all []Volume
	for _, name := range []string{caFile, bundleFile} {
		all = append(all, newVolume(caDir(on.OS)+name, caDir(on.OS)+name, true))
	}
	return all
}

// FitSetup is the seventh edit of a setup, which a machine without a proxy does
// not need; it is a [pool.Fit].
func (e Edits) FitSetup(raw json.RawMessage, on pool.Instance) (json.RawMessage, error) {
	if on.Proxy == "" {
		return raw, nil
	}
	members, err := object(raw)
	if err != nil {
		return nil, fmt.Errorf("setup_request %w", err)
	}
	policy, err := merged(members, "egress_policy")
	if err != nil {
		return nil, fmt.Errorf("setup_request.%w", err)
	}
	for _, m := range [][2]string{{"proxy_url", on.Proxy}, {"no_proxy", e.Egress.NoProxy}} {
		if m[1] != "" && lastText(policy, m[0]) == "" {
			policy = replace(policy, m[0], quote(m[1]))
		}
	}
	members = replace(members, "egress_policy", joinObject(policy))
	if members, err = addVolumes(members, certificates(on)); err != nil {
		return nil, fmt.Errorf("setup_request.%w", err)
	}
	return joinObject(members), nil
}

// FitStep is the same of a step, after the other edits.
func (e Edits) FitStep(raw json.RawMessage, on pool.Instance) (json.RawMessage, error) {
	if on.Proxy == "" {
		return raw, nil
	}
	members, err := object(raw)
	if err != nil {
		return nil, fmt.Errorf("start_step_request %w", err)
	}
	if members, err = e.Egress.step(members, on); err != nil {
		return nil, fmt.Errorf("start_step_request.%w", err)
	}
	return joinObject(members), nil
}

func (g Egress) step(members []member, on pool.Instance) ([]member, error) {
	policy, err := merged(members, "egress_policy")
	if err != nil {
		return nil, err
	}
	address := on.Proxy
	if own := lastText(policy, "proxy_url"); own != "" {
		address = own
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, errors.New("egress_policy.proxy_url is no address") // it may have a password
	}
	noProxy := lastText(policy, "no_proxy")
	if noProxy == "" {
		noProxy = g.NoProxy
	}
	user, password := lastText(policy, "username"), lastText(policy, "password")
	if user != "" || password != "" {
		u.User = url.UserPassword(user, password)
		if members, err = addSecrets(members, password, u.User.String()); err != nil {
			return nil, err
		}
	}
	env, err := merged(members, "environment")
	if err != nil {
		return nil, err
	}
	env = withProxy(env, u.String(), noProxy)
	if on.ProxyCA {
		env = withPaths(env, caDir(on.OS)+caFile, append([]string{"HARNESS_CA_PATH"}, g.CAVars...))
		env = withPaths(env, caDir(on.OS)+bundleFile, append([]string{"HARNESS_CA_BUNDLE"}, g.BundleVars...))
	}
	return addMounts(replace(members, "environment", joinObject(env)), certificates(on))
}

// withProxy adds the variables of a proxy, each in both its spellings, unless
// one of the two is there.
func withProxy(env []member, proxy, noProxy string) []member {
	for _, v := range [][2]string{{"HTTP_PROXY", proxy}, {"HTTPS_PROXY", proxy}, {"NO_PROXY", noProxy}} {
		lower := strings.ToLower(v[0])
		if v[1] != "" && !has(env, v[0]) && !has(env, lower) {
			env = append(env, variable(v[0], v[1]), variable(lower, v[1]))
		}
	}
	return env
}

func withPaths(env []member, path string, names []string) []member {
	for _, name := range names {
		name = string([]rune(name)) // as it reads once it is JSON
		if name != "" && !has(env, name) {
			env = append(env, variable(name, path))
		}
	}
	return env
}

// has says whether there is a variable of exactly this name.
func has(env []member, name string) bool {
	return slices.ContainsFunc(env, func(m member) bool { return m.key == name })
}

func variable(name, value string) member {
	return member{key: name, raw: quote(name), value: quote(value)}
}

// addSecrets has an agent mask texts in a step's output.
func addSecrets(members []member, texts ...string) ([]member, error) {
	return editArray(members, "secrets", func(have [][]byte) [][]byte {
		for _, text := range texts {
			q := quote(text)
			if text != "" && !slices.ContainsFunc(have, func(one []byte) bool { return string(one) == string(q) }) {
				have = append(have, q)
			}
		}
		return have
	})
}
