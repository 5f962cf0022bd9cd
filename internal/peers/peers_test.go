package peers_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/peers"
)

func TestWhichBridgesAreContainers(t *testing.T) {
	t.Parallel()
	subnet := netip.MustParsePrefix("172.20.0.1/16")
	peer := netip.MustParseAddr("172.20.0.9")
	for name, want := range map[string]bool{
		"docker0": true, "docker12": true, "docker_gwbridge": true, "br-0123456789ab": true, "podman0": true, "cni-podman1": true, "nerdctl0": true,
		"docker": false, "docker0x": false, "dockerx": false, "br0": false, "br-0123456789a": false, "br-0123456789abc": false, "br-0123456789aX": false,
		"virbr0": false, "podman": false, "xdocker0": false, "": false,
	} {
		l := peers.New(peers.Config{Interfaces: func() ([]peers.Interface, error) {
			return []peers.Interface{{Name: name, Kind: "bridge", Subnets: []netip.Prefix{subnet}}}, nil
		}})
		err := l.Check(peer)
		if (err == nil) != want {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), peers.Variable) {
			t.Errorf("%q: %v does not name the remedy", name, err)
		}
		if l.BeyondLoopback() != want || len(l.Local()) > 0 != want {
			t.Errorf("%q: beyond loopback %v, networks %v", name, l.BeyondLoopback(), l.Local())
		}
	}
}
