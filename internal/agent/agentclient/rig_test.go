package agentclient_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// rig is an agent of the test's own behind a network that can be broken.
type rig struct {
	t      testing.TB
	id     drivers.Identity
	target pool.Target
	net    *network

	mu    sync.Mutex
	calls map[string]int
}

// rigOptions changes what an ordinary agent would be.
type rigOptions struct {
	shown   *drivers.Identity // what the server shows in place of what the client expects
	http1   bool
	streams int // most at a time on one connection
}

func identity(t testing.TB, name string) drivers.Identity {
	t.Helper()
	id, err := pool.NewIdentity(name, name, "runner.example", nil, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func serverTLS(t testing.TB, id drivers.Identity, protocols ...string) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(id.Cert, id.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(id.CACert)
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots, NextProtos: protocols,
	}
}

func newRig(t testing.TB, o rigOptions, routes map[string]http.HandlerFunc) *rig {
	t.Helper()
	r := &rig{t: t, id: identity(t, "m1"), calls: make(map[string]int)}
	shown := r.id
	if o.shown != nil {
		shown = *o.shown
	}
	protocols := []string{"h2", "http/1.1"}
	if o.http1 {
		protocols = []string{"http/1.1"}
	}
	mux := http.NewServeMux()
	for path, h := range routes {
		mux.HandleFunc(path, func(w http.ResponseWriter, req *http.Request) {
			r.mu.Lock()
			r.calls[path]++
			r.mu.Unlock()
			h(w, req)
		})
	}
	if routes["/healthz"] == nil {
		mux.HandleFunc("/healthz", say(200, `{"version":"dev","ok":true}`))
	}
	srv := &http.Server{
		Handler: mux, TLSConfig: serverTLS(t, shown, protocols...), ErrorLog: log.New(io.Discard, "", 0),
		ReadHeaderTimeout: time.Minute, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: o.streams},
	}
	if o.http1 {
		srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	ln := listen(t)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.ServeTLS(ln, "", "") // its end is the test's
	}()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
	r.net = newNetwork(t, ln.Addr().String())
	r.target = r.net.target(r.id)
	return r
}

func (r *rig) count(path string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.calls[path]
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// say answers with a fixed text.
func say(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// inTurn gives the first call the first answer and so on; the last stays.
func inTurn(answers ...http.HandlerFunc) http.HandlerFunc {
	var mu sync.Mutex
	n := 0
	return func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		h := answers[min(n, len(answers)-1)]
		n++
		mu.Unlock()
		h(w, req)
	}
}

// hang never answers, until its caller goes.
func hang(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }

// cut ends the connection without an answer.
func cut(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func bodyOf(t testing.TB, req *http.Request, into any) {
	t.Helper()
	if err := json.NewDecoder(req.Body).Decode(into); err != nil {
		t.Errorf("%s: body: %v", req.URL.Path, err)
	}
}

// network forwards connections and can be broken: frozen, when nothing passes
// and nothing is lost, as by a paused machine; blackholed, when connections
// made so far never carry anything again; or cut, when they are reset.
type network struct {
	t    testing.TB
	ln   net.Listener
	to   string
	wg   sync.WaitGroup
	mu   sync.Mutex
	held *sync.Cond
	all  map[*wire]bool
	made int
	ice  bool
}

type wire struct {
	client, server net.Conn
	hole           bool // guarded by network.mu
}

func newNetwork(t testing.TB, to string) *network {
	n := &network{t: t, ln: listen(t), to: to, all: make(map[*wire]bool)}
	n.held = sync.NewCond(&n.mu)
	n.wg.Add(1)
	go n.run()
	t.Cleanup(func() {
		n.ln.Close()
		n.thaw()
		n.cutAll()
		n.wg.Wait()
	})
	return n
}

func (n *network) target(id drivers.Identity) pool.Target {
	addr := n.ln.Addr().(*net.TCPAddr)
	return pool.Target{Instance: id.Machine, Address: addr.IP.String(), Port: addr.Port, Identity: id, OS: "linux"}
}

func (n *network) run() {
	defer n.wg.Done()
	for {
		c, err := n.ln.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", n.to)
		if err != nil {
			c.Close()
			continue
		}
		w := &wire{client: c, server: s}
		n.mu.Lock()
		n.all[w] = true
		n.made++
		n.mu.Unlock()
		n.wg.Add(2)
		go n.copy(w, c, s)
		go n.copy(w, s, c)
	}
}

func (n *network) copy(w *wire, from, to net.Conn) {
	defer n.wg.Done()
	buf := make([]byte, 8<<10)
	for {
		k, err := from.Read(buf)
		n.mu.Lock()
		for n.ice || w.hole {
			if !n.all[w] {
				break
			}
			n.held.Wait()
		}
		n.mu.Unlock()
		if k > 0 {
			if _, werr := to.Write(buf[:k]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			n.drop(w)
			return
		}
	}
}

func (n *network) drop(w *wire) {
	w.client.Close()
	w.server.Close()
	n.mu.Lock()
	delete(n.all, w)
	n.held.Broadcast()
	n.mu.Unlock()
}

func (n *network) freeze() { n.mu.Lock(); n.ice = true; n.mu.Unlock() }
func (n *network) thaw()   { n.mu.Lock(); n.ice = false; n.held.Broadcast(); n.mu.Unlock() }

func (n *network) wires() []*wire {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*wire
	for w := range n.all {
		all = append(all, w)
	}
	return all
}

func (n *network) blackhole() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for w := range n.all {
		w.hole = true
	}
}

func (n *network) cutAll() {
	for _, w := range n.wires() {
		if tcp, ok := w.client.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset, not a farewell
		}
		n.drop(w)
	}
}

func (n *network) connections() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.made
}

// hasty is a configuration in which nothing takes long, for tests.
func hasty() agentclient.Config {
	return agentclient.Config{
		FirstTry: 300 * time.Millisecond, ProbeFirst: 50 * time.Millisecond, ProbeEvery: 50 * time.Millisecond,
		ProbeTimeout: 2 * time.Second, RetryMin: 2 * time.Millisecond, RetryMax: 20 * time.Millisecond,
	}
}

func newClient(t testing.TB, cfg agentclient.Config) *agentclient.Client {
	t.Helper()
	c := agentclient.New(cfg)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("never happened: %s", what)
		case <-tick.C:
		}
	}
}
