package agentclient

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/pool"
)

var (
	errForgotten = errors.New("the machine was forgotten meanwhile")
	errReplaced  = errors.New("the machine has moved or got another identity meanwhile")
	errClosed    = errors.New("the client is closed")
)

// link is where one machine's connection is kept. It has at most one that is
// shared, and at most one dial at a time.
type link struct {
	mu      sync.Mutex
	target  [sha256.Size]byte
	conn    *conn
	dialing chan struct{} // closed when the dial under way has ended
	gone    error
	// ended marks a connection to a machine whose certificate has ended.
	ended bool
}

func (c *Client) link(t pool.Target) *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return &link{gone: errClosed}
	}
	l, ok := c.links[t.Instance]
	if !ok {
		l = new(link)
		c.links[t.Instance] = l
	}
	return l
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = errForgotten
	if l.conn != nil {
		l.conn.fail(errForgotten)
		l.conn = nil
	}
}

func hostPort(t pool.Target) string {
	return net.JoinHostPort(t.Address, strconv.Itoa(t.Port))
}

// sameTarget identifies the far end: a machine that moved or got another
// identity is another one. The key of its CA is what a renewal leaves as it is.
func sameTarget(t pool.Target) [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n", hostPort(t), t.Identity.ServerName) // a hash never fails
	if len(t.Identity.CAKey) > 0 {
		h.Write(t.Identity.CAKey)
	} else {
		h.Write(t.Identity.CACert)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// get returns a usable connection and whether it was kept from before.
func (l *link) get(ctx context.Context, c *Client, t pool.Target) (k *conn, kept bool, err error) {
	want := sameTarget(t)
	for {
		l.mu.Lock()
		if l.gone != nil {
			defer l.mu.Unlock()
			return nil, false, final{l.gone}
		}
		if k := l.conn; k != nil {
			switch {
			case l.target != want:
				k.fail(errReplaced)
			case k.dead():
				k.fail(io.EOF)
			case k.cc.Available() > 0:
				l.mu.Unlock()
				return k, true, nil
			default:
				// It takes no more calls, because the agent is going or has
				// as many as it wants, but those it has may end in peace.
				k.retire()
			}
			l.conn = nil
		}
		if wait := l.dialing; wait != nil {
			l.mu.Unlock()
			select {
			case <-wait:
				continue // whoever dialled may have failed for want of time
			case <-ctx.Done():
				return nil, false, context.Cause(ctx)
			}
		}
		done := make(chan struct{})
		l.dialing = done
		l.mu.Unlock()

		k, err := c.dial(ctx, t, l.ended)

		l.mu.Lock()
		l.dialing = nil
		close(done)
		if err == nil && l.gone != nil {
			err = final{l.gone}
			k.fail(l.gone)
		}
		if err == nil && k.shared {
			l.target, l.conn = want, k
		}
		l.mu.Unlock()
		if err != nil {
			return nil, false, err
		}
		return k, false, nil
	}
}

// conn is one connection. With HTTP/2 it is shared by all calls to its
// machine; an agent that speaks only HTTP/1.1 gets one connection per call.
type conn struct {
	cc     *http.ClientConn
	tls    *tls.Conn
	addr   string
	shared bool

	mu       sync.Mutex
	answered bool
	inFlight int
	retired  bool
	timer    *time.Timer
	cause    error
}

// fail closes the connection; calls on it end with cause.
func (k *conn) fail(cause error) {
	k.mu.Lock()
	if k.cause == nil {
		k.cause = cause
	}
	if k.timer != nil {
		k.timer.Stop()
	}
	k.mu.Unlock()
	k.cc.Close() // nobody could do anything about an error
}

// why is the reason of a failed call: the connection's own end if it had one.
func (k *conn) why(err error) error {
	k.mu.Lock()
	cause := k.cause
	k.mu.Unlock()
	switch {
	case cause != nil:
		return cause
	case k.cc.Err() == nil:
		return err
	}
	// HTTP/2 forgets why a connection ended before its first answer. TLS does
	// not: what the other side said last is what every further read returns.
	_ = k.tls.SetReadDeadline(time.Unix(1, 0)) // fails if it is closed, and then no read waits
	_, said := k.tls.Read(make([]byte, 1))
	if refused(said) {
		return said
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.answered {
		// What it said may be lost: a reset overtakes it.
		return fmt.Errorf("it hung up right after the handshake, as an agent does that refuses our certificate: %w", err)
	}
	return err
}

// heard notes an answer, whatever it says.
func (k *conn) heard() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answered = true
}

// retire lets the connection end with the last call on it.
func (k *conn) retire() {
	k.mu.Lock()
	k.retired = true
	idle := k.inFlight == 0
	k.mu.Unlock()
	if idle {
		k.fail(io.EOF)
	}
}

// dead says whether the connection can carry nothing more.
func (k *conn) dead() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cause != nil || k.cc.Err() != nil
}

// alone says whether no call is under way.
func (k *conn) alone() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.inFlight == 0
}

// enter and leave count the calls under way. While there are any, the
// connection is probed; an idle one is left alone, since its machine may be
// paused.
func (k *conn) enter(c *Client) {
	if !k.shared {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.inFlight++
	if k.inFlight > 1 || k.cause != nil {
		return
	}
	if k.timer == nil {
		k.timer = time.AfterFunc(c.cfg.ProbeFirst, func() { c.probe(k) })
		return
	}
	k.timer.Reset(c.cfg.ProbeFirst)
}

func (k *conn) leave() {
	if !k.shared {
		k.fail(io.EOF)
		return
	}
	k.mu.Lock()
	k.inFlight--
	idle := k.inFlight == 0
	if idle && k.timer != nil {
		k.timer.Stop()
	}
	over := idle && k.retired
	k.mu.Unlock()
	if over {
		k.fail(io.EOF)
	}
}

// probe asks for health beside the calls that wait. Any answer proves the
// connection; none in time ends it, and the calls start over on a new one. A
// long poll over a path that has silently gone would otherwise wait for ever.
func (c *Client) probe(k *conn) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.probes.Add(1)
	c.mu.Unlock()
	defer c.probes.Done()

	if k.cc.Err() == nil && k.cc.Available() == 0 {
		// No place for a probe: it would wait for one and blame the connection.
		// TCP's own keep-alive has to do.
		k.rearm(c)
		return
	}
	// It belongs to the connection, not to one of its calls.
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.ProbeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+k.addr+agentapi.PathHealth, nil)
	if err != nil {
		k.fail(err)
		return
	}
	resp, err := k.cc.RoundTrip(req)
	if err != nil {
		if !k.alone() { // else whoever waited is gone, and the machine may be paused
			k.fail(fmt.Errorf("the connection to %s is dead: no answer to a probe: %w", k.addr, err))
		}
		return
	}
	resp.Body.Close()
	k.rearm(c)
}

// rearm sets the time of the next probe, if anything waits.
func (k *conn) rearm(c *Client) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.inFlight > 0 && k.cause == nil {
		k.timer.Reset(c.cfg.ProbeEvery)
	}
}

// dialled is what a dial finds in its context and leaves there.
type dialled struct {
	target pool.Target
	ended  bool
	conn   *tls.Conn
}

type dialledKey struct{}

// dial makes a connection within DialTimeout. ended takes the machine's own
// certificate for good although it has ended.
func (c *Client) dial(ctx context.Context, t pool.Target, ended bool) (*conn, error) {
	if t.Address == "" {
		// Without it the dial would reach this host.
		return nil, fmt.Errorf("machine %s has no address yet", t.Instance)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.DialTimeout, errSlow("connecting to "+hostPort(t), c.cfg.DialTimeout))
	defer cancel()
	d := &dialled{target: t, ended: ended}
	cc, err := c.transport.NewClientConn(context.WithValue(ctx, dialledKey{}, d), "https", hostPort(t))
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, explain(err, t)
	}
	return &conn{cc: cc, tls: d.conn, addr: hostPort(t), shared: d.conn.ConnectionState().NegotiatedProtocol == "h2"}, nil
}

// connectTries are how long the first tries of a TCP connection may take. A
// local machine's forwarded port has room for one connection that waits, and
// the kernel repeats a dropped request only after a second.
var connectTries = [...]time.Duration{300 * time.Millisecond, time.Second, 3 * time.Second}

func (c *Client) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	d, ok := ctx.Value(dialledKey{}).(*dialled)
	if !ok {
		return nil, errors.New("dial without a target")
	}
	conf, err := tlsConfig(d.target)
	if err == nil && d.ended {
		err = trustEnded(conf)
	}
	if err != nil {
		return nil, final{err}
	}
	raw, err := c.connect(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, conf)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	d.conn = conn
	return conn, nil
}

func (c *Client) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	for _, limit := range connectTries {
		try, cancel := context.WithTimeout(ctx, limit)
		raw, err := c.dialer.DialContext(try, network, addr)
		timedOut := try.Err() != nil
		cancel()
		if err == nil || !timedOut || ctx.Err() != nil {
			return raw, err
		}
	}
	return c.dialer.DialContext(ctx, network, addr)
}

func tlsConfig(t pool.Target) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(t.Identity.Cert, t.Identity.Key)
	if err != nil {
		return nil, fmt.Errorf("identity of %s: %w", t.Instance, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(t.Identity.CACert) {
		return nil, fmt.Errorf("identity of %s: its CA is no certificate", t.Instance)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   t.Identity.ServerName,
		RootCAs:      roots,
		Certificates: []tls.Certificate{pair},
		NextProtos:   []string{"h2", "http/1.1"},
	}, nil
}
