package hostrunner

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
)

// served is a runner that Serve serves.
type served struct {
	addr  string
	stop  context.CancelFunc
	ended chan error
}

func serve(t *testing.T, r *Runner, l Listener) *served {
	t.Helper()
	var err error
	if l.Listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	s := &served{addr: l.Addr().String(), stop: stop, ended: make(chan error, 1)}
	go func() { s.ended <- r.Serve(ctx, l) }()
	t.Cleanup(stop)
	return s
}

func newServed(t *testing.T, l Listener) *served {
	t.Helper()
	r, err := New(t.Context(), Config{
		DataDir: filepath.Join(t.TempDir(), "data"), Docker: func(context.Context) error { return nil },
		Facts: func() (Facts, error) { return Facts{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, r, l)
}

func TestMutualTLSDemandsACertificateOfTheCA(t *testing.T) {
	t.Parallel()
	const name = "drone"
	ours, err := agent.NewCertificates(name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	others, err := agent.NewCertificates(name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	conf, err := MutualTLS(ours.CACert, ours.Cert, ours.Key)
	if err != nil {
		t.Fatal(err)
	}
	s := newServed(t, Listener{TLS: conf})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ours.CACert)
	for who, c := range map[string]struct {
		cert, key []byte
		version   uint16
		want      bool
	}{
		"nobody":           {nil, nil, tls.VersionTLS13, false},
		"another CA's":     {others.Cert, others.Key, tls.VersionTLS13, false},
		"the CA's":         {ours.Cert, ours.Key, tls.VersionTLS13, true},
		"the CA's, of old": {ours.Cert, ours.Key, tls.VersionTLS12, false},
	} {
		config := &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12, MaxVersion: c.version}
		if c.cert != nil {
			pair, err := tls.X509KeyPair(c.cert, c.key)
			if err != nil {
				t.Fatal(err)
			}
			// Whatever the server asks for.
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+s.addr+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err == nil {
			_ = res.Body.Close() // nothing is read
		}
		client.CloseIdleConnections()
		if (err == nil) != c.want {
			t.Errorf("%s: %v", who, err)
		}
	}
	s.stop()
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	for _, bad := range [][3][]byte{{nil, ours.Cert, ours.Key}, {ours.CACert, nil, ours.Key}, {ours.CACert, ours.Cert, others.Key}} {
		if _, err := MutualTLS(bad[0], bad[1], bad[2]); err == nil {
			t.Error("certificates that do not fit are taken")
		}
	}
}

func TestTheDeadlineOfADrainEndsStepsAndTellsTheirCallers(t *testing.T) {
	t.Parallel()
	s := newServed(t, Listener{Drain: 100 * time.Millisecond})
	url := "http://" + s.addr
	if a, err := request(t.Context(), http.MethodPost, url+"/setup", `{"id":"st1","setup_request":{}}`); err != nil || a.status != 200 {
		t.Fatalf("%+v, %v", a, err)
	}
	told := make(chan answer, 1)
	go func() {
		a, err := request(t.Context(), http.MethodPost, url+"/step", shell("st1", "s", "sleep 300"))
		if err != nil {
			a.body = err.Error()
		}
		told <- a
	}()
	eventually(t, "the step runs", func() bool {
		a, err := request(t.Context(), http.MethodGet, url+PathStatus, "")
		return err == nil && strings.Contains(a.body, `"busy": 1`)
	})
	s.stop()
	if a := <-told; a.status != 200 || a.step(t).ExitCode == 0 {
		t.Errorf("the step's caller is told %d %s", a.status, a.body)
	}
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	if _, err := request(t.Context(), http.MethodGet, url+"/healthz", ""); err == nil {
		t.Error("it still listens")
	}
}

func TestAListenerThatBreaksEndsTheRunner(t *testing.T) {
	t.Parallel()
	r, err := New(t.Context(), Config{DataDir: filepath.Join(t.TempDir(), "data")})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Serve(t.Context(), Listener{Listener: ln}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v", err)
	}
}
