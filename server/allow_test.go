package server_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/peers"
	"github.com/vm-runner/drone-runner-aws/server"
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// hostInterfaces is a host on a local network, with a hypervisor's bridge that
// carries it, Docker's bridges, machines' bridge, and a container's far end.
func hostInterfaces() ([]peers.Interface, error) {
	return []peers.Interface{
		{Name: "lo", Kind: "", Subnets: prefixes("127.0.0.1/8", "::1/128")},
		{Name: "eth0", Kind: "virtio_net", Subnets: prefixes("192.168.1.20/24")},
		{Name: "br0", Kind: "bridge", Subnets: prefixes("192.168.2.20/24")},
		{Name: "virbr0", Kind: "bridge", Subnets: prefixes("192.168.122.1/24")},
		{Name: "docker0", Kind: "bridge", Subnets: prefixes("172.17.0.1/16", "fe80::1/64")},
		{Name: "br-0123456789ab", Kind: "bridge", Subnets: prefixes("172.20.0.1/16", "fd00:1::1/64")},
		{Name: "br-notours", Kind: "bridge", Subnets: prefixes("172.21.0.1/16")},
		{Name: "docker1", Kind: "dummy", Subnets: prefixes("172.22.0.1/16")},
		{Name: "ve-machine", Kind: "veth", Subnets: prefixes("10.9.0.1/24")},
	}, nil
}

// containerInterfaces is a container on one bridge network and one macvlan,
// which is the local network itself.
func containerInterfaces() ([]peers.Interface, error) {
	return []peers.Interface{
		{Name: "eth0", Kind: "veth", Subnets: prefixes("172.18.0.5/16")},
		{Name: "eth1", Kind: "macvlan", Subnets: prefixes("192.168.1.77/24")},
	}, nil
}

func TestWhoMayCall(t *testing.T) {
	t.Parallel()
	leased := netip.MustParseAddr("10.1.0.17")
	extra, err := peers.Parse([]string{" 10.1.0.0/24 ", "203.0.113.9", "", "2001:db8::/32", "::ffff:198.51.100.0/120"})
	if err != nil {
		t.Fatal(err)
	}
	isLeased := func(a netip.Addr) bool { return a == leased || a.IsLoopback() }
	lists := map[string]*server.AllowList{
		"host":      server.NewAllowList(server.AllowConfig{Interfaces: hostInterfaces, Extra: extra, Leased: isLeased}),
		"container": server.NewAllowList(server.AllowConfig{Interfaces: containerInterfaces, Container: true, Leased: isLeased}),
		"host network": server.NewAllowList(server.AllowConfig{Interfaces: func() ([]peers.Interface, error) {
			all, err := hostInterfaces()
			return all[:len(all)-1], err
		}, Container: true}),
		"open":   server.NewAllowList(server.AllowConfig{Interfaces: hostInterfaces, Extra: prefixes("0.0.0.0/0"), Leased: isLeased}),
		"broken": server.NewAllowList(server.AllowConfig{Interfaces: func() ([]peers.Interface, error) { return nil, errors.New("no netlink") }}),
	}
	for _, tc := range []struct {
		list, peer, why string
		want            bool
	}{
		{"host", "127.0.0.1", "loopback", true},
		{"host", "127.0.0.5", "loopback is a network", true},
		{"host", "::1", "loopback", true},
		{"host", "::ffff:127.0.0.1", "loopback in IPv6 clothes", true},
		{"host", "127.77.3.4", "a local machine", false},
		{"host", "::ffff:127.78.3.4", "a local machine in IPv6 clothes", false},
		{"host", "172.17.0.9", "a container on docker0", true},
		{"host", "::ffff:172.17.0.9", "a container on docker0, on a dual-stack listener", true},
		{"host", "172.20.3.3", "a container of a compose project", true},
		{"host", "fd00:1::9", "a container over IPv6", true},
		{"host", "fe80::9%eth0", "link-local addresses are no container's", false},
		{"host", "192.168.1.21", "a neighbour on the local network", false},
		{"host", "192.168.2.21", "a neighbour behind a hypervisor's bridge", false},
		{"host", "192.168.122.9", "a virtual machine of somebody's", false},
		{"host", "172.21.0.9", "a bridge that only looks like Docker's", false},
		{"host", "172.22.0.9", "an interface that is no bridge", false},
		{"host", "10.9.0.9", "the far end of a veth on a host", false},
		{"host", "10.1.0.16", "named by a network", true},
		{"host", "10.1.0.17", "a leased machine, although its network is named", false},
		{"host", "203.0.113.9", "named by address", true},
		{"host", "203.0.113.8", "its neighbour", false},
		{"host", "2001:db8::1", "named over IPv6", true},
		{"host", "198.51.100.7", "named in IPv6 clothes", true},
		{"container", "172.18.0.9", "a delegate on the same bridge network", true},
		{"container", "172.17.0.9", "another bridge", false},
		{"container", "192.168.1.21", "the local network behind a macvlan", false},
		{"host network", "192.168.1.21", "the local network of the host whose network it shares", false},
		{"host network", "172.17.0.9", "Docker's bridge in a container that shares the host's network", true},
		{"open", "8.8.8.8", "opened knowingly", true},
		{"open", "10.1.0.17", "opened, but a leased machine", false},
		{"open", "127.77.0.1", "opened, but a local machine", false},
		{"broken", "172.17.0.9", "interfaces cannot be read", false},
		{"broken", "127.0.0.1", "interfaces cannot be read", true},
	} {
		err := lists[tc.list].Check(netip.MustParseAddr(tc.peer))
		if got := err == nil; got != tc.want {
			t.Errorf("%s: %s (%s): allowed %v (%v), want %v", tc.list, tc.peer, tc.why, got, err, tc.want)
		}
		if err != nil && !strings.Contains(err.Error(), "DRONE_HTTP_ALLOW") {
			t.Errorf("%s: %s: %v does not name DRONE_HTTP_ALLOW", tc.list, tc.peer, err)
		}
	}
	if err := lists["open"].Check(netip.Addr{}); err == nil {
		t.Error("a peer without an address was allowed")
	}
	if diff := cmp.Diff("0.0.0.0/0", lists["open"].Open()[0].String()); diff != "" || len(lists["host"].Open()) != 0 {
		t.Errorf("open networks: %s %v", diff, lists["host"].Open())
	}
}

func TestNetworksOfPoolsMayNotCall(t *testing.T) {
	t.Parallel()
	a := server.NewAllowList(server.AllowConfig{Interfaces: hostInterfaces, Extra: prefixes("0.0.0.0/0")})
	for _, p := range prefixes("127.77.192.0/18", "127.99.3.0/24", "127.0.0.0/16", "127.99.3.7/24") {
		a.AddMachines(p)
	}
	for _, tc := range []struct {
		peer, why string
		want      bool
	}{
		{"127.99.3.9", "in the network of a pool", false},
		{"::ffff:127.99.3.9", "the same in IPv6 clothes", false},
		{"127.99.4.9", "beside it", true},
		{"127.77.1.1", "in the network machines have by default", false},
		{"127.78.1.1", "in that of pretend machines", false},
		{"127.0.0.1", "this host, though a pool claims its address", true},
		{"127.0.0.2", "in a network too large for its own good", false},
		{"::1", "this host over IPv6", true},
	} {
		if err := a.Check(netip.MustParseAddr(tc.peer)); (err == nil) != tc.want {
			t.Errorf("%s (%s): got %v, want allowed %v", tc.peer, tc.why, err, tc.want)
		}
	}
}

func TestANetworkThatComesLaterIsFound(t *testing.T) {
	t.Parallel()
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	var have []peers.Interface
	reads := 0
	a := server.NewAllowList(server.AllowConfig{
		Interfaces: func() ([]peers.Interface, error) { reads++; return have, nil },
		Now:        func() time.Time { return now },
	})
	peer := netip.MustParseAddr("172.20.0.9")
	for range 100 {
		if a.Check(peer) == nil {
			t.Fatal("allowed before its network was there")
		}
	}
	if reads != 1 {
		t.Errorf("%d looks at the interfaces for 100 strangers in one instant, want 1", reads)
	}
	have = []peers.Interface{{Name: "br-0123456789ab", Kind: "bridge", Subnets: prefixes("172.20.0.1/16")}}
	now = now.Add(2 * time.Second)
	if err := a.Check(peer); err != nil {
		t.Errorf("refused although its network is there now: %v", err)
	}
	if diff := cmp.Diff("172.20.0.0/16", a.Local()[0].String()); diff != "" {
		t.Error(diff)
	}
}

func TestBadAllowItemsAreNamed(t *testing.T) {
	t.Parallel()
	_, err := peers.Parse([]string{"10.0.0.0/33", "10.0.0.1", "host", "fe80::1%eth0"})
	want := `DRONE_HTTP_ALLOW: "10.0.0.0/33", "host", "fe80::1%eth0": not an address or network such as 10.0.0.7 or 10.0.0.0/24`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestInterfacesOfThisHost(t *testing.T) {
	t.Parallel()
	all, err := peers.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		for _, p := range i.Subnets {
			if p.Addr() == netip.MustParseAddr("127.0.0.1") {
				return
			}
		}
	}
	t.Errorf("no interface with 127.0.0.1 in %+v", all)
}
