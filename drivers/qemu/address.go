//go:build linux

package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// allocLockName is the lock under which addresses, user ids and disks are given
// out.
const allocLockName = ".alloc.lock"

// allocate gives a machine an address, the disks it names and, as root, a user
// id, and makes its folder; no machine and no error mean that it exists by now.
// The folders are the record: what is in one is taken, until it is removed. The
// lock keeps goroutines and processes from choosing the same.
func (d *Driver) allocate(ctx context.Context, m meta, userData string) (*machine, func(), error) {
	lock, err := d.lockAllocation(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer lock.Close()
	used, err := d.inUse()
	if err != nil {
		return nil, nil, err
	}
	if err := used.free(m.Name, m.Disks...); err != nil {
		return nil, nil, err
	}
	for _, name := range m.Disks {
		if _, err := d.openDisk(name); err != nil {
			return nil, nil, err // deleted since it was found or made
		}
	}
	address, err := chooseAddress(d.addresses, m.Name, func(a netip.Addr) bool { return !used.addresses[a] && canListen(ctx, a) })
	if err != nil {
		return nil, nil, err
	}
	m.Address = address.String()
	if d.asRoot {
		uid, err := chooseUID(d.uids, m.Name, used.uids)
		if err != nil {
			return nil, nil, err
		}
		m.UID = &uid
	}
	return d.make(ctx, m, userData)
}

// lockAllocation waits for the right to give out what a machine has one of.
func (d *Driver) lockAllocation(ctx context.Context) (*os.File, error) {
	lock, err := lockFile(ctx, filepath.Join(d.machinesDir(), allocLockName), os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("what machines have: %w", err)
	}
	return lock, nil
}

// inUse is what the machines of a data directory have.
type inUse struct {
	addresses map[netip.Addr]bool
	uids      map[uint32]bool
	disks     map[string]string // the machine that has it, by the disk's name
	// unreadable is a machine's folder without a readable record, "" if all have
	// one. What it has is unknown.
	unreadable string
}

// inUse reads the records of all machines.
func (d *Driver) inUse() (inUse, error) {
	entries, err := os.ReadDir(d.machinesDir())
	if err != nil {
		return inUse{}, fmt.Errorf("what machines have: %w", err)
	}
	used := inUse{addresses: map[netip.Addr]bool{}, uids: map[uint32]bool{}, disks: map[string]string{}}
	for _, e := range entries {
		if !nameRE.MatchString(e.Name()) {
			continue
		}
		m, err := d.open(e.Name())
		if err != nil {
			path := filepath.Join(d.machinesDir(), e.Name())
			if _, serr := os.Stat(path); errors.Is(serr, fs.ErrNotExist) {
				continue // destroyed meanwhile
			}
			// Its address is unknown, but if it lives it cannot be listened on.
			d.log.Warn("machine folder is unreadable", "driver", "qemu", "instance", e.Name(), "err", err)
			used.unreadable = path
			continue
		}
		if a, err := netip.ParseAddr(m.Address); err == nil {
			used.addresses[a] = true
		}
		if m.UID != nil {
			used.uids[*m.UID] = true
		}
		for _, name := range m.Disks {
			used.disks[name] = m.Name
		}
	}
	return used, nil
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
