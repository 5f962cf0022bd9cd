package drivers

import (
	"fmt"
	"net/netip"
	"strings"
)

// IngressVariable names the networks from which this runner calls agents, as a
// list of addresses and CIDRs: what a rule of a firewall or a security group that
// a driver makes lets in.
const IngressVariable = "RUNNER_AGENT_INGRESS"

// ParseIngress reads such a list, blank entries left out. Everybody is refused: a
// port that is open to the world is nothing a runner makes.
func ParseIngress(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		r, err := netip.ParsePrefix(text)
		if a, addrErr := netip.ParseAddr(text); addrErr == nil {
			r, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: %s: %q is neither an address nor a network; write CIDRs such as 10.0.0.0/8, separated by commas", ErrInvalid, IngressVariable, text)
		case r.Bits() == 0:
			return nil, fmt.Errorf("%w: %s: %s is everybody; name the addresses this runner calls from", ErrInvalid, IngressVariable, text)
		}
		out = append(out, r.Masked())
	}
	return out, nil
}
