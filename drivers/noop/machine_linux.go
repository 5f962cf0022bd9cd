package noop

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// The descriptors a child is started with.
const (
	lockFD  = 3
	readyFD = 4
)

// MachineMain is the life of a child process: it takes its identity from
// standard input, an address of 127.78.0.0/16, and serves a pretend agent
// there from the end of its boot delay until ctx ends or it is killed.
// SIGUSR1 suspends it, SIGUSR2 wakes it. The program that is started as
// "noop-machine --dir DIR" calls it with that directory.
func MachineMain(ctx context.Context, dir string) error {
	// Held until the process ends: it is what "alive" means. No child of this
	// process may inherit it, and the answer's pipe neither.
	syscall.CloseOnExec(lockFD)
	syscall.CloseOnExec(readyFD)
	ready := os.NewFile(readyFD, "ready")
	if ready == nil {
		return errors.New("a noop machine is started by the noop driver, not by hand")
	}
	m, err := openMachine(dir, os.Stdin)
	if err != nil {
		fmt.Fprintf(ready, "%v\n", err) // nobody else could be told
		return err
	}
	defer m.listener.Close()
	return m.run(ctx, ready)
}

// child is one machine, seen from inside.
type child struct {
	dir      string
	meta     meta
	listener net.Listener
	gate     *gate
	server   *http.Server
	state    state
}

func openMachine(dir string, input io.Reader) (*child, error) {
	c := &child{dir: dir}
	if err := readJSON(filepath.Join(dir, metaFile), &c.meta); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(input).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("read the identity: %w", err)
	}
	var msg startMessage
	if err := json.Unmarshal(line, &msg); err != nil {
		return nil, fmt.Errorf("read the identity: %w", err)
	}
	pair, err := tls.X509KeyPair(msg.Identity.Cert, msg.Identity.Key)
	if err != nil {
		return nil, fmt.Errorf("take the identity: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(msg.Identity.CACert) {
		return nil, errors.New("take the identity: its CA is no certificate")
	}
	c.listener, err = listenSomewhere(c.meta.Name)
	if err != nil {
		return nil, err
	}
	addr := c.listener.Addr().(*net.TCPAddr)
	c.state = state{PID: os.Getpid(), Phase: phaseBooting, Address: addr.IP.String(), Port: addr.Port}
	c.gate = &gate{Listener: c.listener, conns: make(map[net.Conn]bool)}
	c.server = &http.Server{
		Handler:           newAgent(c.meta.StepTime),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(os.Stderr, "", 0),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
		},
	}
	return c, nil
}

// listenSomewhere takes the first free address of 127.78.0.0/16 after the one
// the name points to. The kernel decides, so nothing races for an address,
// neither with another runner on this host nor with a restart.
func listenSomewhere(name string) (net.Listener, error) {
	h := fnv.New32a()
	_, _ = io.WriteString(h, name) // a hash never fails to be written
	const addresses = 1 << 16
	first := h.Sum32() % addresses
	var last error
	for i := range uint32(addresses) {
		n := (first + i) % addresses
		x, y := byte(n>>8), byte(n)
		if y == 0 || y == 255 {
			continue // some programs take these for a network's own
		}
		l, err := net.Listen("tcp4", net.JoinHostPort(net.IPv4(127, 78, x, y).String(), strconv.Itoa(agentPort)))
		if err == nil {
			return l, nil
		}
		if last = err; !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("every address of 127.78.0.0/16 is taken: %w", last)
}

func (c *child) enter(phase string) error {
	c.state.Phase = phase
	fmt.Printf("%s is %s at %s\n", c.meta.Name, phase, net.JoinHostPort(c.state.Address, strconv.Itoa(c.state.Port)))
	return writeJSON(filepath.Join(c.dir, stateFile), c.state)
}

func (c *child) run(ctx context.Context, ready io.WriteCloser) error {
	// Before the state is written, which tells others where to send signals.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	defer signal.Stop(signals)
	if err := c.enter(phaseBooting); err != nil {
		return err
	}
	// A runner that is gone by now does not read it, and the machine goes on:
	// the write fails with EPIPE, since only 1 and 2 raise a signal in Go.
	_, _ = io.WriteString(ready, "ok\n")
	if err := ready.Close(); err != nil {
		return err
	}

	served := make(chan error, 1)
	go func() { served <- c.server.ServeTLS(c.gate, "", "") }()
	defer func() {
		c.server.Close()
		<-served //nolint:errcheck // http.ErrServerClosed
	}()
	boot := time.NewTimer(c.meta.BootDelay)
	defer boot.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case err := <-served:
			served <- err
			return err
		case <-boot.C:
			c.gate.open()
			err = c.enter(phaseRunning)
		case s := <-signals:
			switch {
			case s == syscall.SIGUSR1 && c.state.Phase != phaseSuspended:
				boot.Stop()
				c.gate.shut()
				err = c.enter(phaseSuspended)
			case s == syscall.SIGUSR2 && c.state.Phase == phaseSuspended:
				boot.Reset(c.meta.BootDelay)
				err = c.enter(phaseBooting)
			}
		}
		if err != nil {
			return err
		}
	}
}

// gate lets nobody in while the machine is not running: the address stays
// taken, and whoever connects is hung up on, as by a host that forwards a port
// of a guest that does not listen.
type gate struct {
	net.Listener
	mu     sync.Mutex
	opened bool
	conns  map[net.Conn]bool
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g.mu.Lock()
		if g.opened {
			g.conns[conn] = true
			g.mu.Unlock()
			return &gated{Conn: conn, gate: g}, nil
		}
		g.mu.Unlock()
		conn.Close()
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = true
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = false
	for conn := range g.conns {
		conn.Close()
	}
	clear(g.conns)
}

type gated struct {
	net.Conn
	gate *gate
}

func (c *gated) Close() error {
	c.gate.mu.Lock()
	delete(c.gate.conns, c.Conn)
	c.gate.mu.Unlock()
	return c.Conn.Close()
}
