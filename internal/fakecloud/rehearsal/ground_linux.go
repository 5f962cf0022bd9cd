package rehearsal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/boot"
)

// AgentPort is where machines answer.
const AgentPort = 9079

// Options say what machines find.
type Options struct {
	// Network has the machines' addresses, inside 127.0.0.0/8.
	Network netip.Prefix
	// Served are the addresses machines can download from, and the files behind
	// them.
	Served map[string]string
	// Ended is told of a machine that has shut itself down. It may be nil.
	Ended func(key string)
	// Log is never nil.
	Log *slog.Logger
}

// Machine is what a cloud boots.
type Machine struct {
	// Key names it for ever.
	Key      string
	UserData []byte
	Disks    []Disk
}

// Disk is a disk that outlives machines. What it holds is kept by its ID.
type Disk struct {
	ID string
	// Device is its path in the machine.
	Device string
}

// Ground has the machines that run. Its methods return at once and are carried
// out in the order of their calls for each machine; they are safe for concurrent
// use.
type Ground struct {
	o    Options
	base string
	ctx  context.Context // the machines'; ended by Close
	stop context.CancelFunc

	mu       sync.Mutex
	closed   bool
	machines map[string]*seat
	given    map[string]netip.Addr
	last     netip.Addr
	wg       sync.WaitGroup
}

// seat is a machine's place: what is to be done with it, in order.
type seat struct {
	orders chan func(*seat)
	addr   netip.Addr

	// Of the goroutine that carries out the orders.
	machine *boot.Machine
	disks   map[string]string // ids by device
	on      bool
	ended   chan struct{} // stops who watches the machine
	front   net.Listener
}

// New makes an empty ground.
func New(o Options) (*Ground, error) {
	if !o.Network.IsValid() || !o.Network.Addr().IsLoopback() || o.Network.Bits() > 24 {
		return nil, fmt.Errorf("network %s: want one inside 127.0.0.0/8 with at least 256 addresses, such as 127.88.0.0/16", o.Network)
	}
	base, err := os.MkdirTemp("", "rehearsal")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Ground{
		o: o, base: base, ctx: ctx, stop: stop, machines: map[string]*seat{}, given: map[string]netip.Addr{}, last: o.Network.Masked().Addr(),
	}, nil
}

// Address is where a machine answers: the same for ever, given when first
// asked. It is not valid when there are no more.
func (g *Ground) Address(key string) netip.Addr {
	g.mu.Lock()
	defer g.mu.Unlock()
	if addr, ok := g.given[key]; ok {
		return addr
	}
	next := g.last.Next()
	if !g.o.Network.Contains(next) {
		return netip.Addr{}
	}
	g.last, g.given[key] = next, next
	return next
}

// Boot switches a machine on, or boots it again.
func (g *Ground) Boot(m Machine) {
	g.order(m.Key, func(s *seat) {
		if err := g.boot(s, m); err != nil {
			g.o.Log.Error("machine does not boot", "machine", m.Key, "err", err)
		}
	})
}

// Attach gives a machine a disk, which shows at once if it is on, and at every
// boot. One that it has already is no error.
func (g *Ground) Attach(key string, d Disk) {
	g.order(key, func(s *seat) {
		if err := g.attach(s, d); err != nil {
			g.o.Log.Error("machine is not given its disk", "machine", key, "disk", d.ID, "device", d.Device, "err", err)
			return
		}
		g.o.Log.Info("machine is given a disk", "machine", key, "disk", d.ID, "device", d.Device)
	})
}

func (g *Ground) attach(s *seat, d Disk) error {
	if s.machine == nil {
		return errors.New("there is no machine")
	}
	if s.disks[d.Device] == d.ID {
		return nil
	}
	file, folder, err := g.makeDisk(d)
	if err != nil {
		return err
	}
	if err := s.machine.Attach(g.ctx, d.Device, file, folder); err != nil {
		return err
	}
	s.disks[d.Device] = d.ID
	return nil
}

// makeDisk makes what is behind a disk, unless it is there.
func (g *Ground) makeDisk(d Disk) (file, folder string, err error) {
	file, folder = g.disk(d.ID)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", "", err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", "", err
	}
	return file, folder, errors.Join(f.Truncate(diskMB<<20), f.Close())
}

// Sleep stops a machine's processors, its memory is kept; Wake lets it go on.
func (g *Ground) Sleep(key string) {
	g.order(key, func(s *seat) { g.note(key, "suspended", s.each((*boot.Machine).Freeze)) })
}

// Wake is the end of a Sleep.
func (g *Ground) Wake(key string) {
	g.order(key, func(s *seat) { g.note(key, "resumed", s.each((*boot.Machine).Thaw)) })
}

// Halt switches a machine off. Its own disk is kept.
func (g *Ground) Halt(key string) {
	g.order(key, func(s *seat) { g.note(key, "switched off", s.off()) })
}

// Gone ends a machine, with its own disk.
func (g *Ground) Gone(key string) {
	g.order(key, func(s *seat) { g.note(key, "gone", s.remove()) })
}

// Console is what a machine has written, over all boots.
func (g *Ground) Console(key string) string {
	got := make(chan string, 1)
	if !g.order(key, func(s *seat) {
		text := ""
		if s.machine != nil {
			text = s.machine.Console()
		}
		got <- text
	}) {
		return ""
	}
	select {
	case text := <-got:
		return text
	case <-g.ctx.Done():
		return ""
	}
}

// Close ends every machine and removes what disks hold.
func (g *Ground) Close() error {
	g.mu.Lock()
	g.closed = true
	for _, s := range g.machines {
		close(s.orders)
	}
	g.mu.Unlock()
	g.stop()
	g.wg.Wait()
	return os.RemoveAll(g.base)
}

func (g *Ground) note(key, what string, err error) {
	if err != nil {
		g.o.Log.Error("machine is not "+what, "machine", key, "err", err) //nolint:sloglint // one of four texts
		return
	}
	g.o.Log.Info("machine is "+what, "machine", key) //nolint:sloglint // likewise
}

// order hands an order to a machine's goroutine, which it starts if need be. It
// says whether it was taken.
func (g *Ground) order(key string, do func(*seat)) bool {
	addr := g.Address(key)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	s := g.machines[key]
	if s == nil {
		s = &seat{orders: make(chan func(*seat), 64), addr: addr}
		g.machines[key] = s
		g.wg.Go(func() {
			for do := range s.orders {
				do(s)
			}
			if err := s.remove(); err != nil {
				g.o.Log.Error("machine is not removed", "machine", key, "err", err)
			}
		})
	}
	s.orders <- do
	return true
}

func (g *Ground) disk(id string) (file, folder string) {
	name := strings.NewReplacer("/", "_", "..", "_").Replace(id)
	return filepath.Join(g.base, name+".disk"), filepath.Join(g.base, name)
}

// diskMB is how large the files behind disks are: they hold a file system's
// head, and what is in it lies in a folder.
const diskMB = 16

func (g *Ground) boot(s *seat, m Machine) error {
	if s.machine == nil {
		o := boot.Options{UserData: m.UserData, Served: g.o.Served, Docker: true, Disks: map[string]string{}, Volumes: map[string]string{}, Store: g.base}
		s.disks = map[string]string{}
		for _, d := range m.Disks {
			file, folder, err := g.makeDisk(d)
			if err != nil {
				return err
			}
			o.Disks[d.Device], o.Volumes[d.Device], s.disks[d.Device] = file, folder, d.ID
		}
		machine, err := boot.Start(g.ctx, o)
		if err != nil {
			return err
		}
		s.machine = machine
	} else {
		s.unwatch()
		if err := s.machine.Reboot(g.ctx); err != nil {
			return err
		}
	}
	s.on = true
	g.watch(s, m.Key)
	if s.front == nil {
		l, err := (&net.ListenConfig{}).Listen(g.ctx, "tcp", netip.AddrPortFrom(s.addr, AgentPort).String())
		if err != nil {
			return err
		}
		s.front = l
		machine := s.machine
		g.wg.Go(func() { g.forward(l, machine) })
	}
	g.o.Log.Info("machine boots", "machine", m.Key, "address", s.addr)
	return nil
}

// watch tells the cloud of a machine that ends by itself.
func (g *Ground) watch(s *seat, key string) {
	off, enough := s.machine.Off(), make(chan struct{})
	s.ended = enough
	if g.o.Ended == nil {
		return
	}
	g.wg.Go(func() {
		select {
		case <-enough:
		case <-g.ctx.Done():
		case <-off:
			select {
			case <-enough: // it was switched off
			default:
				g.o.Ended(key)
			}
		}
	})
}

func (s *seat) unwatch() {
	if s.ended != nil {
		close(s.ended)
		s.ended = nil
	}
}

func (s *seat) each(do func(*boot.Machine) error) error {
	if s.machine == nil || !s.on {
		return nil
	}
	return do(s.machine)
}

func (s *seat) off() error {
	if s.machine == nil || !s.on {
		return nil
	}
	s.unwatch()
	s.on = false
	return s.machine.PowerOff()
}

func (s *seat) remove() error {
	if s.machine == nil {
		return nil
	}
	s.unwatch()
	var err error
	if s.front != nil {
		err = s.front.Close()
		s.front = nil
	}
	err = errors.Join(err, s.machine.Stop())
	s.machine, s.on = nil, false
	return err
}

// dialTime is how long a machine may take to accept a connection.
const dialTime = 2 * time.Second

// forward brings connections to the machine's address into it.
func (g *Ground) forward(l net.Listener, m *boot.Machine) {
	for {
		outer, err := l.Accept()
		if err != nil {
			return // closed
		}
		g.wg.Go(func() {
			defer func() { _ = outer.Close() }() // both ends are done with it
			ctx, cancel := context.WithTimeout(g.ctx, dialTime)
			inner, err := m.Dial(ctx)
			cancel()
			if err != nil {
				return // nobody listens in there yet
			}
			defer func() { _ = inner.Close() }() // likewise
			defer context.AfterFunc(g.ctx, func() { _ = errors.Join(outer.Close(), inner.Close()) })()
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = io.Copy(inner, outer) // until one of them ends
				half(inner)
			}()
			_, _ = io.Copy(outer, inner) // likewise
			half(outer)
			<-done
		})
	}
}

// half says that nothing more will be written.
func half(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite() // or it is closed already
	}
}
