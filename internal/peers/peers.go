// Package peers decides by address who may call a listener of ours: programs
// of this host, containers on its bridges, and whom the operator names.
//
// It knows addresses only. Tokens, certificates and machines that may never
// call are its callers' business.
package peers

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Variable is the environment variable that adds to who may call; every
// refusal names it.
const Variable = "DRONE_HTTP_ALLOW"

// Interface is one network interface of this host or container.
type Interface struct {
	Name string
	// Kind is the kernel driver behind it: "bridge", "veth", "macvlan", the
	// name of a card's driver, or "" if it cannot be known.
	Kind string
	// Subnets are its addresses with their masks.
	Subnets []netip.Prefix
}

// Config is what a List is made from.
type Config struct {
	// Extra are the networks of DRONE_HTTP_ALLOW.
	Extra []netip.Prefix
	// Interfaces lists the interfaces of the network this process lives in.
	// Nil: the real ones.
	Interfaces func() ([]Interface, error)
	// Container says whether this process runs in a container.
	Container bool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// List decides by address who may call. Loopback may, and the networks
// containers reach this process over: in a container its own bridge networks,
// on a host those of Docker's and Podman's bridges. Config.Extra adds to that.
// It is safe for concurrent use.
type List struct {
	c  Config
	mu sync.Mutex
	// local are the networks found, read at the time of read.
	local []netip.Prefix
	read  time.Time
}

// rereadAfter bounds how often unknown peers make us look for new networks: a
// compose project's network may be younger than this process.
const rereadAfter = time.Second

// New makes a list. The zero Config allows what a host allows.
func New(c Config) *List {
	if c.Interfaces == nil {
		c.Interfaces = Interfaces
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &List{c: c}
}

// Open lists the networks of Config.Extra that let everybody in, for a notice
// at the start.
func (l *List) Open() []netip.Prefix {
	var open []netip.Prefix
	for _, p := range l.c.Extra {
		if p.Bits() == 0 {
			open = append(open, p)
		}
	}
	return open
}

// Local lists the networks found on the interfaces, as last read.
func (l *List) Local() []netip.Prefix {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.local)
}

// BeyondLoopback says whether anybody but this host may call at all.
func (l *List) BeyondLoopback() bool {
	return len(l.c.Extra) > 0 || len(l.networks(netip.Addr{})) > 0
}

// Check returns nil if the peer may call, else an error for its eyes that says
// what to do.
func (l *List) Check(peer netip.Addr) error {
	peer = Plain(peer)
	switch {
	case !peer.IsValid():
		return errors.New("the address of the caller is not known, so it may not call this runner; see " + Variable)
	case peer.IsLoopback(), Contains(l.c.Extra, peer), Contains(l.networks(peer), peer):
		return nil
	}
	return fmt.Errorf("%s may not call this runner; if it should, add its address or network to %s", peer, Variable)
}

// Plain is the address without what only its carrier needs: a zone, and the
// IPv6 form of an IPv4 address.
func Plain(peer netip.Addr) netip.Addr { return peer.Unmap().WithZone("") }

// networks returns the local networks, read again if peer is in none of those
// known and the last look is a while ago. If looking fails, what was known
// stays.
func (l *List) networks(peer netip.Addr) []netip.Prefix {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.c.Now()
	if Contains(l.local, peer) || (!l.read.IsZero() && now.Sub(l.read) < rereadAfter) {
		return l.local
	}
	l.read = now
	all, err := l.c.Interfaces()
	if err != nil {
		return l.local
	}
	l.local = nil
	for _, i := range all {
		ours := i.Kind == "bridge" && isContainerBridge(i.Name)
		if l.c.Container && i.Kind == "veth" {
			ours = true
		}
		if !ours {
			continue
		}
		for _, p := range i.Subnets {
			if !p.Addr().IsLinkLocalUnicast() {
				l.local = append(l.local, p.Masked())
			}
		}
	}
	return l.local
}

// Contains says whether one of the networks has the peer.
func Contains(networks []netip.Prefix, peer netip.Addr) bool {
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(peer) })
}

// isContainerBridge knows how Docker, Podman and nerdctl name their bridges.
// Other bridges may carry the local network (a hypervisor's br0) or machines
// (libvirt's virbr0), and are not trusted. It is no pattern, because the agent
// in a machine would compile it at every start.
func isContainerBridge(name string) bool {
	if name == "docker_gwbridge" {
		return true
	}
	if id, ok := strings.CutPrefix(name, "br-"); ok {
		return len(id) == 12 && strings.Trim(id, "0123456789abcdef") == ""
	}
	for _, prefix := range []string{"docker", "podman", "cni-podman", "nerdctl"} {
		if n, ok := strings.CutPrefix(name, prefix); ok {
			return n != "" && strings.Trim(n, "0123456789") == ""
		}
	}
	return false
}

// Parse reads the items of DRONE_HTTP_ALLOW: addresses and CIDRs. Spaces
// around an item and empty items do no harm. Every bad item is named.
func Parse(items []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	var bad []string
	for _, item := range items {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		if p, err := netip.ParsePrefix(item); err == nil {
			if p.Addr().Is4In6() && p.Bits() >= 96 {
				p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
			}
			prefixes = append(prefixes, p.Masked())
			continue
		}
		if addr, err := netip.ParseAddr(item); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			prefixes = append(prefixes, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		bad = append(bad, fmt.Sprintf("%q", item))
	}
	if len(bad) > 0 {
		return nil, fmt.Errorf("%s: %s: not an address or network such as 10.0.0.7 or 10.0.0.0/24", Variable, strings.Join(bad, ", "))
	}
	return prefixes, nil
}
