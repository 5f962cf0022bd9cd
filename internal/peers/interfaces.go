package peers

import (
	"fmt"
	"net"
	"net/netip"
	"os"
)

// Interfaces lists this host's, or container's, interfaces that are up.
func Interfaces() ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var list []Interface
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		one := Interface{Name: i.Name, Kind: interfaceKind(i.Name)}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				one.Subnets = append(one.Subnets, p)
			}
		}
		list = append(list, one)
	}
	return list, nil
}

// InContainer says whether this process runs in a container with files of its
// own, as Docker, Podman and Kubernetes start them.
func InContainer() bool {
	for _, mark := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(mark); err == nil {
			return true
		}
	}
	return os.Getenv("KUBERNETES_SERVICE_HOST") != ""
}
