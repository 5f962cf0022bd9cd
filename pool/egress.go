package pool

import (
	"slices"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// proxyOf is the proxy of a machine that is to be made of a tenancy, in a zone
// or, if that is open, in one of the flavour's; "" if it has none.
func proxyOf(tn *tenancy, name, zone string, zones []string) string {
	spec, ok := tn.cfg.Spec.(drivers.Proxied)
	if !ok {
		return ""
	}
	if zone != "" {
		zones = []string{zone}
	}
	return spec.Proxy(name, zones)
}

// proxyOfKnown is the proxy of a machine that a caller describes: the one it
// was told once, if that is one of the pool's, else the one a machine like that
// would have.
func proxyOfKnown(tn *tenancy, k KnownInstance, name, zone string) string {
	if spec, ok := tn.cfg.Spec.(drivers.Proxied); ok && slices.Contains(spec.Proxies(), k.Proxy) {
		return k.Proxy
	}
	return proxyOf(tn, name, zone, nil)
}
