package logservice_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice"
	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice/logservicetest"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
)

const (
	account = "acc/1 & co"
	token   = "LOGTOKEN"
	// key is as hostile as a key may be.
	key = "acc/pipeline:1/level0:a&b=c d+é"
)

// rig is a client and its service, in a bubble of fake time.
type rig struct {
	*logservicetest.Service
	client *logservice.Client
	log    *buffer
}

// inBubble runs test with a service that is reached without sockets.
func inBubble(t *testing.T, change func(*logservice.Config), test func(t *testing.T, r *rig)) {
	t.Helper()
	testbubble.Run(t, func(t *testing.T) {
		s := logservicetest.New(t, account, token, "http://"+logservicetest.StoreHost)
		r := &rig{Service: s, log: &buffer{}}
		cfg := logservice.Config{
			URL: "http://" + logservicetest.Host + "/base/", AccountID: account, Token: token,
			Dial: s.InMemory(t), Log: logger(r.log),
		}
		if change != nil {
			change(&cfg)
		}
		var err error
		if r.client, err = logservice.New(cfg); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.client.Close)
		test(t, r)
		if text := r.log.String(); strings.Contains(text, token) || strings.Contains(text, "c2lnbmVk") {
			t.Errorf("a secret is in the log: %s", text)
		}
	})
}

// newClient makes a client that ends with the test.
func newClient(t *testing.T, cfg logservice.Config) *logservice.Client {
	t.Helper()
	client, err := logservice.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func logger(b *buffer) *slog.Logger { return slog.New(slog.NewTextHandler(b, nil)) }

// serverTLS asks for a client certificate and takes any.
func serverTLS() *tls.Config { return &tls.Config{ClientAuth: tls.RequestClientCert} }

// clientPair makes a certificate that signs itself, and its key, as PEM.
func clientPair(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

// write adds text to a log.
func write(s *logservice.Stream, text string) {
	_, _ = s.Write([]byte(text)) // never fails
}

// finish ends a log and returns how long its client was busy with it.
func finish(s *logservice.Stream) time.Duration {
	began := time.Now()
	s.End()
	<-s.Done()
	return time.Since(began)
}

func (r *rig) wantOps(t *testing.T, want ...logservicetest.Op) {
	t.Helper()
	if got := r.Ops(key); !slices.Equal(got, want) {
		t.Errorf("calls %v, want %v", got, want)
	}
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// heap is how much memory is in use, in bytes.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
