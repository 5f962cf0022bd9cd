package server

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/peers"
)

// AllowConfig is what an AllowList is made from.
type AllowConfig struct {
	// Extra are the networks of DRONE_HTTP_ALLOW.
	Extra []netip.Prefix
	// Interfaces lists the interfaces of the network this process lives in.
	// Nil: the real ones.
	Interfaces func() ([]peers.Interface, error)
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
	*peers.List
	leased func(netip.Addr) bool
	mu     sync.Mutex
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

// NewAllowList makes a list. The zero AllowConfig allows what a host allows.
func NewAllowList(c AllowConfig) *AllowList {
	if c.Leased == nil {
		c.Leased = func(netip.Addr) bool { return false }
	}
	return &AllowList{
		List:   peers.New(peers.Config{Extra: c.Extra, Interfaces: c.Interfaces, Container: c.Container, Now: c.Now}),
		leased: c.Leased,
		ranges: slices.Clone(machineRanges),
	}
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

// Check returns nil if the peer may call, else an error for its eyes that says
// what to do.
func (a *AllowList) Check(peer netip.Addr) error {
	plain := peers.Plain(peer)
	if a.isMachine(plain) || plain.IsValid() && !plain.IsLoopback() && a.leased(plain) {
		return machineError(plain)
	}
	return a.List.Check(plain)
}

func (a *AllowList) isMachine(peer netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.machines[peer] || peer != hostLoopback && peers.Contains(a.ranges, peer)
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

func machineError(peer netip.Addr) error {
	return fmt.Errorf("%s is a machine of this runner and may never call it, whatever DRONE_HTTP_ALLOW says", peer)
}
