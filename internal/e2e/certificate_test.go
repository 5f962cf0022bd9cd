//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

const oneOnDemand = `
version: "1"
instances:
  - name: local
    default: true
    type: qemu
    pool: 0
    limit: 2
    platform: {os: linux}
    spec: {image: tiny, address_range: RANGE}
`

const (
	// birth is how long ago the gitspace's runner believes to live: short of the
	// hour after which a machine in use is looked at next, so that the renewal
	// comes while the next runner serves.
	birth = time.Hour - 12*time.Second
	// shortLife is how long its certificate is good for from then on: a quarter
	// of an hour from now, which is less than a third of its life.
	shortLife = 75 * time.Minute
)

// TestACertificateIsRenewedOverTheLiveChannel: the certificate of a machine that
// has been in use for an hour nears its end. The runner gives the machine a new
// one while a step runs in it; connections that exist go on, new ones are shown
// the new leaf, the step ends well, and a runner that is killed and started
// again reaches the machine. Machine, agent and runner are real ones; only the
// hour is not.
func TestACertificateIsRenewedOverTheLiveChannel(t *testing.T) {
	t.Parallel()
	r := newRunner(t, oneOnDemand)
	old := r.setupInThePast("gs-1", time.Now().Add(-birth))
	kept := dial(t, old)
	if got := kept.health(); got.reused {
		t.Fatal("the first call went over a connection that was there")
	}
	was := leafShownBy(t, old)
	if left := time.Until(was.NotAfter); left <= 0 || left > shortLife-birth {
		t.Fatalf("the machine was made with a certificate that is good for another %s", left)
	}

	r.start()
	long := make(chan stepAnswer, 1)
	go func() {
		var out stepAnswer
		a, err := r.post(t.Context(), "/step", stepBody("gs-1", "long", `until [ -e /tmp/renewed ]; do sleep 0.2; done; echo lived on`, nil))
		if err == nil && a.status == http.StatusOK {
			err = json.Unmarshal(a.body, &out)
		}
		if err != nil || a.status != http.StatusOK {
			out.Error = fmt.Sprintf("status %d: %v: %s", a.status, err, a.body)
		}
		long <- out
	}()
	r.waitRenewed("gs-1")

	now := leafShownBy(t, old)
	if bytes.Equal(now.Raw, was.Raw) || time.Until(now.NotAfter) < 1000*24*time.Hour {
		t.Errorf("new connections are shown a certificate until %s, the old one was until %s", now.NotAfter, was.NotAfter)
	}
	if got := kept.health(); !got.reused || !bytes.Equal(got.shown.Raw, was.Raw) {
		t.Errorf("the connection of before does not serve on: %+v", got)
	}
	select {
	case s := <-long:
		t.Fatalf("the step that runs did not live through the renewal: %+v", s)
	default:
	}
	if s := r.step("gs-1", "release", `touch /tmp/renewed`, nil); s.ExitCode != 0 {
		t.Errorf("a step after the renewal: %+v", s)
	}
	select {
	case s := <-long:
		if !s.Exited || s.ExitCode != 0 || s.Error != "" || !strings.Contains(r.output("gs-1", "long"), "lived on") {
			t.Errorf("the step that ran meanwhile: %+v, output %q", s, r.output("gs-1", "long"))
		}
	case <-time.After(time.Minute):
		t.Fatal("the step that ran meanwhile has no end")
	}

	r.kill()
	r.start()
	if s := r.step("gs-1", "after", "true", nil); !s.Exited || s.ExitCode != 0 {
		t.Errorf("a step after the runner's restart: %+v", s)
	}
	var again setupAnswer
	r.must(http.StatusOK, "/setup", gitspaceSetup("gs-1")).json(t, &again)
	var info struct {
		TLSCert []byte `json:"tls_cert"`
	}
	if err := json.Unmarshal(again.Info, &info); err != nil {
		t.Fatal(err)
	}
	told, err := tls.X509KeyPair(info.TLSCert, keyOf(t, again.Info))
	if err != nil || !bytes.Equal(told.Leaf.Raw, now.Raw) {
		t.Errorf("the caller is not told the certificate the machine has: %v", err)
	}
	r.must(http.StatusOK, "/destroy", map[string]any{"id": "gs-1", "storage_cleanup_type": "DELETE"})
	r.audit()
}

func gitspaceSetup(id string) map[string]any {
	return map[string]any{
		"id": id, "pool_id": "local", "gitspace_agent_config": map[string]any{"ports": []int{8089}},
		"setup_request": buildSetup("")["setup_request"],
	}
}

func keyOf(t *testing.T, info json.RawMessage) []byte {
	t.Helper()
	var out struct {
		TLSKey []byte `json:"tls_key"`
	}
	if err := json.Unmarshal(info, &out); err != nil {
		t.Fatal(err)
	}
	return out.TLSKey
}

// setupInThePast makes a gitspace as a runner would have made it at a moment in
// the past whose certificates are short-lived, and stops that runner: the
// program's own engine, store, driver and client, with another clock.
func (r *runner) setupInThePast(id string, begun time.Time) pool.Target {
	r.t.Helper()
	off := time.Until(begun)
	log := slog.New(slog.NewTextHandler(r.log, nil))
	seal, err := store.LoadKey(store.KeyConfig{Dir: r.dir})
	if err != nil {
		r.t.Fatal(err)
	}
	st, err := sqlite.Open(r.t.Context(), sqlite.Options{Path: filepath.Join(r.dir, "database.sqlite3"), Seal: seal, Log: log})
	if err != nil {
		r.t.Fatal(err)
	}
	cfg, found := poolfile.Load(filepath.Join(r.dir, "pool.yml"), []drivers.Registration{qemu.Registration}, poolfile.Options{})
	if found.Errors() > 0 {
		r.t.Fatalf("pool.yml: %v", found)
	}
	agent := agentclient.New(agentclient.Config{Log: log})
	m, err := pool.New(r.t.Context(), pool.ManagerConfig{
		Store: st, Agent: agent, Pools: cfg.Pools, Solo: true, NamePrefix: "runner", ServerName: "runner", Log: log,
		Timeouts: pool.Timeouts{Certificate: shortLife},
		Now:      func() time.Time { return time.Now().Add(off) },
		Open: func(p pool.PoolConfig) (pool.Opened, error) {
			d, err := qemu.Registration.New(drivers.Options{
				Pool: p.Name, Platform: p.Platform, Config: p.Spec, DataDir: r.dir, Limit: p.Max, Log: log,
			})
			if err != nil {
				return pool.Opened{}, err
			}
			client := drivers.NewClient(d, drivers.ClientOptions{Pool: p.Name, Type: qemu.Registration.Name, Log: log})
			return pool.Opened{Client: client, Local: true, Concurrency: max(2, runtime.NumCPU())}, nil
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	running, stop := context.WithCancel(r.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(running) }()
	body, err := json.Marshal(buildSetup("")["setup_request"])
	if err != nil {
		r.t.Fatal(err)
	}
	got, err := m.Setup(r.t.Context(), pool.SetupRequest{ID: id, Kind: pool.Gitspace, Pools: []string{"local"}, Body: body})
	stop()
	if err := errors.Join(err, <-ended, agent.Close(), st.Close()); err != nil {
		r.t.Fatal(err)
	}
	return got.Instance.Target()
}

// waitRenewed waits until the runner says that it has renewed the certificate
// of a lease's machine.
func (r *runner) waitRenewed(lease string) {
	r.t.Helper()
	r.eventually(2*time.Minute, "certificate_renewed", func() error {
		var events struct {
			Events []struct {
				Lease, Reason, Message string
			} `json:"events"`
		}
		if err := r.get("/v1/events?pool=local", &events); err != nil {
			return err
		}
		for _, e := range events.Events {
			if e.Lease == lease && e.Reason == "certificate_renewed" {
				r.t.Log(e.Message)
				return nil
			}
		}
		return fmt.Errorf("events %+v", events.Events)
	})
}

// caller is somebody who talks to a machine's agent over one connection.
type caller struct {
	t      *testing.T
	url    string
	client *http.Client
}

func tlsOf(t *testing.T, m pool.Target) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(m.Identity.Cert, m.Identity.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(m.Identity.CACert)
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: m.Identity.ServerName}
}

func addressOf(m pool.Target) string { return net.JoinHostPort(m.Address, strconv.Itoa(m.Port)) }

func dial(t *testing.T, m pool.Target) *caller {
	t.Helper()
	c := &caller{t, "https://" + addressOf(m), &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: tlsOf(t, m)}}}
	t.Cleanup(c.client.CloseIdleConnections)
	return c
}

// answered is how a question for health was answered.
type answered struct {
	reused bool
	shown  *x509.Certificate
}

func (c *caller) health() answered {
	c.t.Helper()
	var out answered
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { out.reused = i.Reused }}
	ctx, cancel := context.WithTimeout(httptrace.WithClientTrace(c.t.Context(), trace), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/healthz", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	res, err := c.client.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		c.t.Fatalf("healthz: %s, %v", res.Status, err)
	}
	out.shown = res.TLS.PeerCertificates[0]
	return out
}

// leafShownBy is what the machine shows on a connection made now, to somebody
// who has the machine's first certificates.
func leafShownBy(t *testing.T, m pool.Target) *x509.Certificate {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := (&tls.Dialer{Config: tlsOf(t, m)}).DialContext(ctx, "tcp", addressOf(m))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
}
