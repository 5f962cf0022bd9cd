//go:build linux

package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// allocLockName is the lock under which addresses and user ids are given out.
const allocLockName = ".alloc.lock"

// allocate gives a machine an address and, as root, a user id, and makes its
// folder; no machine and no error mean that it exists by now. The folders are the record: what is in one is taken, until it is
// removed. The lock keeps goroutines and processes from choosing the same.
func (d *Driver) allocate(ctx context.Context, m meta, userData string) (*machine, func(), error) {
	lock, err := lockFile(ctx, filepath.Join(d.machinesDir(), allocLockName), os.O_CREATE)
	if err != nil {
		return nil, nil, fmt.Errorf("choose an address: %w", err)
	}
	defer lock.Close()
	taken, uids, err := d.taken()
	if err != nil {
		return nil, nil, fmt.Errorf("choose an address: %w", err)
	}
	address, err := chooseAddress(d.addresses, m.Name, func(a netip.Addr) bool { return !taken[a] && canListen(ctx, a) })
	if err != nil {
		return nil, nil, err
	}
	m.Address = address.String()
	if d.asRoot {
		uid, err := chooseUID(d.uids, m.Name, uids)
		if err != nil {
			return nil, nil, err
		}
		m.UID = &uid
	}
	return d.make(ctx, m, userData)
}

// taken reads the addresses and user ids of all machines.
func (d *Driver) taken() (map[netip.Addr]bool, map[uint32]bool, error) {
	entries, err := os.ReadDir(d.machinesDir())
	if err != nil {
		return nil, nil, err
	}
	addresses, uids := map[netip.Addr]bool{}, map[uint32]bool{}
	for _, e := range entries {
		if !nameRE.MatchString(e.Name()) {
			continue
		}
		m, err := d.open(e.Name())
		if errors.Is(err, drivers.ErrNotFound) {
			continue
		}
		if err != nil {
			// Unreadable: its address is unknown, but if it lives it cannot
			// be listened on.
			d.log.Warn("machine folder is unreadable", "instance", e.Name(), "err", err)
			continue
		}
		if a, err := netip.ParseAddr(m.Address); err == nil {
			addresses[a] = true
		}
		if m.UID != nil {
			uids[*m.UID] = true
		}
	}
	return addresses, uids, nil
}

// usable is the first address of a range to give out and how many there are.
// The first and last of a network are left alone.
func usable(p netip.Prefix) (first netip.Addr, n int) {
	n = 1 << (32 - p.Bits())
	if n <= 2 {
		return p.Addr(), n
	}
	return p.Addr().Next(), n - 2
}

// chooseAddress finds a free address, beginning at a place that follows from
// the name, so that one just freed is not the next one used.
func chooseAddress(p netip.Prefix, name string, free func(netip.Addr) bool) (netip.Addr, error) {
	first, n := usable(p)
	base := binary.BigEndian.Uint32(first.AsSlice())
	start := spread(name, n)
	for i := range n {
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], base+uint32((start+i)%n))
		if a := netip.AddrFrom4(raw); free(a) {
			return a, nil
		}
	}
	return netip.Addr{}, &drivers.CapacityError{Err: fmt.Errorf("all %d addresses of address_range %s are in use", n, p)}
}

// chooseUID finds a free user id in the same way; the last is for templates.
func chooseUID(r uidRange, name string, taken map[uint32]bool) (uint32, error) {
	n := r.machines()
	start := spread(name, n)
	for i := range n {
		if uid := r.first + uint32((start+i)%n); !taken[uid] {
			return uid, nil
		}
	}
	return 0, &drivers.CapacityError{Err: fmt.Errorf("all %d user ids of uid_range %d-%d are in use", n, r.first, r.last)}
}

func spread(name string, n int) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return int(h.Sum64() % uint64(n))
}

// canListen says whether nothing on this host uses the address, such as a
// machine of another runner with the same range.
func canListen(ctx context.Context, a netip.Addr) bool {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(a.String(), strconv.Itoa(guestlink.AgentPort)))
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}
