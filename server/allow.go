package server

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// NetInterface is one network interface of this host or container.
type NetInterface struct {
	Name string
	// Kind is the kernel driver behind it: "bridge", "veth", "macvlan", the
	// name of a card's driver, or "" if it cannot be known.
	Kind string
	// Subnets are its addresses with their masks.
	Subnets []netip.Prefix
}

// AllowConfig is what an AllowList is made from.
type AllowConfig struct {
	// Extra are the networks of DRONE_HTTP_ALLOW.
	Extra []netip.Prefix
	// Interfaces lists the interfaces of the network this process lives in.
	// Nil: the real ones.
	Interfaces func() ([]NetInterface, error)
	// Container says whether this process runs in a container.
	Container bool
	// Leased says whether an address is a live machine's, which may never
	// call, beside those a Server finds itself while it serves. It must answer
	// at once. It is not asked for the loopback addresses other programs of
	// this host call from. Nil: no other machine.
	Leased func(netip.Addr) bool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// AllowList decides by address who may call. Loopback may, and the networks
// containers reach this process over: in a container its own bridge networks,
// on a host those of Docker's and Podman's bridges. DRONE_HTTP_ALLOW adds to
// that. Machines of this runner may never call, whatever it says.
// It is safe for concurrent use.
type AllowList struct {
	c  AllowConfig
	mu sync.Mutex
	// local are the networks found, read at the time of read.
	local []netip.Prefix
	read  time.Time
	// ranges are the networks of local machines, machines the addresses of
	// live machines elsewhere, as the server last saw them.
	ranges   []netip.Prefix
	machines map[netip.Addr]bool
}

// hostLoopback is the address programs of this host call from. It is never
// taken for a machine's, whatever network a pool was given.
var hostLoopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// machineRanges are the networks local machines have if the pool file says
// nothing else. A machine with a way out would reach this API through its
// host's loopback.
var machineRanges = []netip.Prefix{
	netip.MustParsePrefix("127.77.0.0/16"),
	netip.MustParsePrefix("127.78.0.0/16"),
}

// rereadAfter bounds how often unknown peers make us look for new networks: a
// compose project's network may be younger than this process.
const rereadAfter = time.Second

// containerBridge is how Docker, Podman and nerdctl name their bridges. Other
// bridges may carry the local network (a hypervisor's br0) or machines
// (libvirt's virbr0), and are not trusted.
var containerBridge = regexp.MustCompile(`^(docker[0-9]+|docker_gwbridge|br-[0-9a-f]{12}|podman[0-9]+|cni-podman[0-9]+|nerdctl[0-9]+)$`)

// NewAllowList makes a list. The zero AllowConfig allows what a host allows.
func NewAllowList(c AllowConfig) *AllowList {
	if c.Interfaces == nil {
		c.Interfaces = Interfaces
	}
	if c.Leased == nil {
		c.Leased = func(netip.Addr) bool { return false }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &AllowList{c: c, ranges: slices.Clone(machineRanges)}
}

// AddMachines adds a network of local machines: nothing in it may call, but for
// 127.0.0.1, which is this host.
func (a *AllowList) AddMachines(network netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if network = network.Masked(); !slices.Contains(a.ranges, network) {
		a.ranges = append(a.ranges, network)
	}
}

// Open lists the networks of DRONE_HTTP_ALLOW that let everybody in, for a
// notice at the start.
func (a *AllowList) Open() []netip.Prefix {
	var open []netip.Prefix
	for _, p := range a.c.Extra {
		if p.Bits() == 0 {
			open = append(open, p)
		}
	}
	return open
}

// Local lists the networks found on the interfaces, as last read.
func (a *AllowList) Local() []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.local)
}

// Check returns nil if the peer may call, else an error for its eyes that says
// what to do.
func (a *AllowList) Check(peer netip.Addr) error {
	peer = peer.Unmap().WithZone("")
	if !peer.IsValid() {
		return fmt.Errorf("the address of the caller is not known, so it may not call this runner; see DRONE_HTTP_ALLOW")
	}
	if a.isMachine(peer) {
		return machineError(peer)
	}
	if peer.IsLoopback() {
		return nil
	}
	if a.c.Leased(peer) {
		return machineError(peer)
	}
	if contains(a.c.Extra, peer) || contains(a.networks(peer), peer) {
		return nil
	}
	return fmt.Errorf("%s may not call this runner; if it should, add its address or network to DRONE_HTTP_ALLOW", peer)
}

func (a *AllowList) isMachine(peer netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.machines[peer] || peer != hostLoopback && contains(a.ranges, peer)
}

// setMachines replaces the addresses of live machines. What is no address, or
// a loopback one, is no machine that could be told apart from this host.
func (a *AllowList) setMachines(addresses []string) {
	machines := make(map[netip.Addr]bool, len(addresses))
	for _, text := range addresses {
		if addr, err := netip.ParseAddr(text); err == nil && !addr.Unmap().IsLoopback() {
			machines[addr.Unmap().WithZone("")] = true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.machines = machines
}

// beyondLoopback says whether anybody but this host may call at all.
func (a *AllowList) beyondLoopback() bool {
	return len(a.c.Extra) > 0 || len(a.networks(netip.Addr{})) > 0
}

func machineError(peer netip.Addr) error {
	return fmt.Errorf("%s is a machine of this runner and may never call it, whatever DRONE_HTTP_ALLOW says", peer)
}

// networks returns the local networks, read again if peer is in none of those
// known and the last look is a while ago. If looking fails, what was known
// stays.
func (a *AllowList) networks(peer netip.Addr) []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.c.Now()
	if contains(a.local, peer) || (!a.read.IsZero() && now.Sub(a.read) < rereadAfter) {
		return a.local
	}
	a.read = now
	all, err := a.c.Interfaces()
	if err != nil {
		return a.local
	}
	a.local = nil
	for _, i := range all {
		ours := i.Kind == "bridge" && containerBridge.MatchString(i.Name)
		if a.c.Container && i.Kind == "veth" {
			ours = true
		}
		if !ours {
			continue
		}
		for _, p := range i.Subnets {
			if !p.Addr().IsLinkLocalUnicast() {
				a.local = append(a.local, p.Masked())
			}
		}
	}
	return a.local
}

func contains(prefixes []netip.Prefix, peer netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(peer) })
}

// ParseAllow reads the items of DRONE_HTTP_ALLOW: addresses and CIDRs. Spaces
// around an item and empty items do no harm. Every bad item is named.
func ParseAllow(items []string) ([]netip.Prefix, error) {
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
		return nil, fmt.Errorf("DRONE_HTTP_ALLOW: %s: not an address or network such as 10.0.0.7 or 10.0.0.0/24", strings.Join(bad, ", "))
	}
	return prefixes, nil
}
