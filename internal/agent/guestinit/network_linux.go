package guestinit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// withSocket calls do with a socket for configuring interfaces.
func withSocket(do func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(do(fd), unix.Close(fd))
}

// linkUp brings an interface up.
func linkUp(name string) error {
	return withSocket(func(fd int) error {
		ifr, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
			return fmt.Errorf("flags of %s: %w", name, err)
		}
		ifr.SetUint16(ifr.Uint16() | unix.IFF_UP | unix.IFF_RUNNING)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
			return fmt.Errorf("bring %s up: %w", name, err)
		}
		return nil
	})
}

// configureNetwork gives the first network card its address ("10.0.2.15/24")
// and, if there is one, the way out. Without an address it does nothing.
func configureNetwork(address, gateway string) error {
	if address == "" {
		return nil
	}
	prefix, err := parsePrefix(address)
	if err != nil {
		return fmt.Errorf("network address: %w", err)
	}
	name, err := firstCard()
	if err != nil {
		return err
	}
	if err := setAddress(name, prefix); err != nil {
		return err
	}
	if err := linkUp(name); err != nil {
		return err
	}
	if gateway == "" {
		return nil
	}
	return addDefaultRoute(gateway)
}

func parsePrefix(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	if !p.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("%s is not an IPv4 address", text)
	}
	return p, nil
}

const (
	// cardPatience is how long the system may take to load a card's driver.
	cardPatience = 20 * time.Second
	cardPause    = 20 * time.Millisecond
)

// awaitCard waits until there is a network card.
func awaitCard(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cardPatience)
	defer cancel()
	for {
		_, err := firstCard()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(cardPause):
		}
	}
}

func firstCard() (string, error) {
	all, err := net.Interfaces()
	if err != nil {
		return "", fmt.Errorf("network cards: %w", err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 && len(i.HardwareAddr) > 0 {
			return i.Name, nil
		}
	}
	return "", errors.New("there is no network card; is its module in " + modulesFile + "?")
}

func setAddress(name string, p netip.Prefix) error {
	mask := net.CIDRMask(p.Bits(), 32)
	addr := p.Addr().As4()
	return withSocket(func(fd int) error {
		for _, set := range []struct {
			what    string
			request uint
			value   []byte
		}{
			{"address", unix.SIOCSIFADDR, addr[:]},
			{"network mask", unix.SIOCSIFNETMASK, mask},
		} {
			ifr, err := unix.NewIfreq(name)
			if err != nil {
				return err
			}
			if err := ifr.SetInet4Addr(set.value); err != nil {
				return err
			}
			if err := unix.IoctlIfreq(fd, set.request, ifr); err != nil {
				return fmt.Errorf("%s of %s: %w", set.what, name, err)
			}
		}
		return nil
	})
}

// rtentry is the kernel's struct of a route on 64 bits.
type rtentry struct {
	_                  uint64
	dst, gateway, mask unix.RawSockaddrInet4
	flags              uint16
	_                  [3]uint16
	_                  [2]uint64
	metric             int16
	_                  [3]uint16
	dev, mtu, window   uint64
	irtt               uint16
	_                  [3]uint16
}

func addDefaultRoute(gateway string) error {
	via, err := netip.ParseAddr(gateway)
	if err != nil || !via.Is4() {
		return fmt.Errorf("gateway %q is not an IPv4 address", gateway)
	}
	inet := unix.RawSockaddrInet4{Family: unix.AF_INET}
	r := rtentry{dst: inet, gateway: inet, mask: inet, flags: unix.RTF_UP | unix.RTF_GATEWAY}
	r.gateway.Addr = via.As4()
	return withSocket(func(fd int) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r)))
		if errno != 0 && errno != unix.EEXIST {
			return fmt.Errorf("route by %s: %w", gateway, errno)
		}
		return nil
	})
}
