package pool_test

import (
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// proxied is a spec whose machines have one of these proxies: the first, and
// the second in zone z2.
type proxied struct{ proxies []string }

func (p *proxied) Proxies() []string { return p.proxies }

func (p *proxied) Proxy(_ string, zones []string) string {
	if slices.Contains(zones, "z2") {
		return p.proxies[1]
	}
	return p.proxies[0]
}

// BootOptions makes it a spec of machines with boot scripts.
func (p *proxied) BootOptions() (drivers.BootOptions, error) { return drivers.BootOptions{}, nil }

// scripts notes what boot scripts were asked for.
type scripts struct {
	mu   sync.Mutex
	seen []pool.BootRequest
}

func (s *scripts) Render(b pool.BootRequest) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, b)
	return []byte("#!/bin/sh\n"), nil
}

func TestABootScriptIsForTheMachinesOwnProxy(t *testing.T) {
	inBubble(t, func(t *testing.T, e *engine) {
		asked := &scripts{}
		e.boot = asked
		e.behindProxies("http://a:1", "http://b:2")
		e.pools[0].min = 1
		e.start()
		got := e.setup("b").Instance
		if len(asked.seen) == 0 || asked.seen[0].Proxy != "http://a:1" || got.Proxy != "http://a:1" || !got.ProxyCA {
			t.Errorf("%s has %q, its authority %t; scripts %+v", got.Name, got.Proxy, got.ProxyCA, asked.seen)
		}
	})
}

// behindProxies gives the pool's machines proxies.
func (e *engine) behindProxies(proxies ...string) {
	e.pools[0].tune = func(c *pool.PoolConfig) { c.Spec = &proxied{proxies} }
}

// fitted is a Fit that notes the proxies of the machines it is done for.
func fitted(seen *[]string) pool.Fit {
	return func(body json.RawMessage, on pool.Instance) (json.RawMessage, error) {
		*seen = append(*seen, on.Proxy)
		return body, nil
	}
}

func TestAMachineKeepsTheProxyItWasMadeWith(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		e.zones = true
		e.behindProxies("http://a:1", "http://b:2")
		e.start()
		var seen []string
		r := e.space("g", "home")
		r.Want.Zone, r.Fit = "z2", fitted(&seen)
		first := e.mustSetup(r).Instance
		s := step("g", "s")
		s.Fit = fitted(&seen)
		if _, err := e.m.Step(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		e.behindProxies("http://new:1", "http://new:2")
		e.restart()
		if err := e.m.Suspend(t.Context(), pool.SuspendRequest{Lease: "g", Instance: first.Name}); err != nil {
			t.Fatal(err)
		}
		if got := e.mustSetup(r).Instance.Proxy; got != "http://b:2" {
			t.Errorf("resumed it has %s", got)
		}
		r.Reset, r.Known = true, knownOf(first)
		if got := e.mustSetup(r).Instance.Proxy; got != "http://new:2" {
			t.Errorf("the machine in its place has %s", got)
		}
		if diff := cmp.Diff([]string{"http://b:2", "http://b:2", "http://b:2", "http://new:2"}, seen); diff != "" {
			t.Errorf("proxies that bodies were fitted to (-want +got):\n%s", diff)
		}
	})
}

func TestAMachineWithoutARowHasAProxyOfItsPool(t *testing.T) {
	for name, c := range map[string]struct{ said, want string }{
		"what its caller was told":                        {"http://b:2", "http://b:2"},
		"not what its caller makes up":                    {"http://evil:1", "http://a:1"},
		"what such a machine would have, told of nothing": {"", "http://a:1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			inSpaces(t, func(t *testing.T, e *engine) {
				e.behindProxies("http://a:1", "http://b:2")
				e.start()
				first := e.mustSetup(e.space("g", "home")).Instance
				e.lose(dir)
				r := e.space("g", "home")
				r.Known = knownOf(first)
				r.Known.Proxy = c.said
				if got := e.mustSetup(r).Instance; got.Name != first.Name || got.Proxy != c.want {
					t.Errorf("%s has %s, want %s with %s", got.Name, got.Proxy, first.Name, c.want)
				}
			})
		})
	}
}

func TestABodyThatDoesNotFitIsInvalid(t *testing.T) {
	inSpaces(t, func(t *testing.T, e *engine) {
		e.start()
		e.setup("b")
		s := step("b", "s")
		unfit := errors.New("too tight")
		s.Fit = func(json.RawMessage, pool.Instance) (json.RawMessage, error) { return nil, unfit }
		if _, err := e.m.Step(t.Context(), s); !errors.Is(err, pool.ErrInvalid) || !errors.Is(err, unfit) {
			t.Errorf("got %v", err)
		}
	})
}
