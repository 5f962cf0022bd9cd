//go:build unix

package agent_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
)

// anyError is in the text of every error: a client that is refused in TLS 1.3
// learns it from an alert or, if it writes first, from a broken connection.
const anyError = ":"

// clientTLS is what the rig's own client uses, changed.
func (r *rig) clientTLS(change func(*tls.Config)) *tls.Config {
	r.t.Helper()
	t, ok := clientOf(r.t, r.certs, true).Transport.(*http.Transport)
	if !ok {
		r.t.Fatal("no transport")
	}
	conf := t.TLSClientConfig.Clone()
	change(conf)
	return conf
}

// get makes one health request over a new connection.
func (r *rig) get(conf *tls.Config, h2 bool) (*http.Response, error) {
	r.t.Helper()
	transport := &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: h2}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/healthz", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(io.Discard, res.Body)
	return res, errors.Join(err, res.Body.Close())
}

func TestWhoMayConnect(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stranger, err := agent.NewCertificates(serverName, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	strangerPair, err := tls.X509KeyPair(stranger.Cert, stranger.Key)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name    string
		change  func(*tls.Config)
		h2      bool
		want    string // protocol
		wantErr string
	}{
		{name: "the pair, with HTTP/2", change: func(*tls.Config) {}, h2: true, want: "HTTP/2.0"},
		{name: "the pair, with HTTP/1.1", change: func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, want: "HTTP/1.1"},
		{name: "the pair, without ALPN", change: func(c *tls.Config) { c.NextProtos = nil }, want: "HTTP/1.1"},
		{name: "no certificate", change: func(c *tls.Config) { c.Certificates = nil }, wantErr: anyError},
		{name: "a certificate of another CA", change: func(c *tls.Config) {
			// Sent although the server does not ask for its issuer.
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &strangerPair, nil }
		}, wantErr: anyError},
		{name: "TLS 1.2", change: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, wantErr: "protocol version"},
		{name: "a client that expects another name", change: func(c *tls.Config) { c.ServerName = "drone" }, wantErr: "not drone"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			res, err := r.get(r.clientTLS(c.change), c.h2)
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Errorf("error %v, want %q", err, c.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != http.StatusOK || res.Proto != c.want {
				t.Errorf("%s %s, want %s", res.Proto, res.Status, c.want)
			}
		})
	}
}

func TestPlainHTTPOnTheTLSPort(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(text, []byte("HTTP/1.0 400 ")) || !bytes.Contains(text, []byte("Client sent an HTTP request to an HTTPS server.")) {
		t.Errorf("answer %q", text)
	}
}

// TestCertificateShapesOfOtherPrograms serves with pairs other programs have
// made, as a machine known only from its row might have.
func TestCertificateShapesOfOtherPrograms(t *testing.T) {
	t.Parallel()
	organisation := pkix.Name{Organization: []string{"drone.vm.generated"}}
	cases := []struct {
		name    string
		rsa     bool
		pkcs8   bool
		ca      func(*x509.Certificate)
		leaf    func(*x509.Certificate)
		refused string
	}{
		{name: "an existing runner's: equal subjects, no key id, no extended usage", ca: func(c *x509.Certificate) {
			c.Subject, c.KeyUsage = organisation, x509.KeyUsageKeyEncipherment|x509.KeyUsageDigitalSignature|x509.KeyUsageKeyAgreement|x509.KeyUsageCertSign
		}, leaf: func(c *x509.Certificate) {
			c.Subject, c.KeyUsage = organisation, x509.KeyUsageKeyEncipherment|x509.KeyUsageDigitalSignature|x509.KeyUsageKeyAgreement
		}},
		{name: "RSA, as older versions had", rsa: true},
		{name: "PKCS#8 key", pkcs8: true},
		{name: "both extended usages", leaf: func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		}},
		{name: "serverAuth alone", leaf: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, refused: anyError},
		{name: "expired", leaf: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, refused: "expired"},
		{name: "a common name only", leaf: func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, serverName }, refused: "use SANs instead"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			certs := makePair(t, c.rsa, c.pkcs8, c.ca, c.leaf)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			a, err := agent.New(agent.Options{SharedDir: dir + "/e", StateDir: dir + "/s", Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			conf, err := a.TLSConfig(certs.CACert, certs.Cert, certs.Key)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- a.Serve(ctx, ln, conf) }()
			defer func() {
				cancel()
				if err := <-served; err != nil {
					t.Error(err)
				}
			}()
			r := &rig{t: t, certs: certs, url: "https://" + ln.Addr().String()}
			_, err = r.get(r.clientTLS(func(*tls.Config) {}), true)
			if c.refused == "" && err != nil {
				t.Errorf("refused: %v", err)
			}
			if c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("error %v, want %q", err, c.refused)
			}
		})
	}
}

func makePair(t *testing.T, useRSA, pkcs8 bool, changeCA, changeLeaf func(*x509.Certificate)) *agent.Certificates {
	t.Helper()
	newKey := func() (private, public any) {
		if useRSA {
			k, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			return k, k.Public()
		}
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k, k.Public()
	}
	base := func(n int64) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(n), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	}
	ca, leaf := base(1), base(2)
	ca.IsCA, ca.BasicConstraintsValid = true, true
	leaf.DNSNames = []string{serverName}
	if changeCA != nil {
		changeCA(ca)
	}
	if changeLeaf != nil {
		changeLeaf(leaf)
	}
	caKey, caPublic := newKey()
	key, public := newKey()
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caPublic, caKey)
	if err != nil {
		t.Fatal(err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, public, caKey)
	if err != nil {
		t.Fatal(err)
	}
	block := &pem.Block{}
	switch k := key.(type) {
	case *rsa.PrivateKey:
		block.Type, block.Bytes = "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k)
	case *ecdsa.PrivateKey:
		block.Type = "EC PRIVATE KEY"
		if block.Bytes, err = x509.MarshalECPrivateKey(k); err != nil {
			t.Fatal(err)
		}
	}
	if pkcs8 {
		block.Type = "PRIVATE KEY"
		if block.Bytes, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			t.Fatal(err)
		}
	}
	return &agent.Certificates{
		CACert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}),
		Cert:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leafDER}),
		Key:    pem.EncodeToMemory(block),
	}
}

func TestTLSConfigNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	good, err := agent.NewCertificates(serverName, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a, err := agent.New(agent.Options{SharedDir: dir + "/e", StateDir: dir + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.TLSConfig([]byte("x"), good.Cert, good.Key); err == nil || !strings.Contains(err.Error(), "CA certificate") {
		t.Errorf("broken CA: %v", err)
	}
	if _, err := a.TLSConfig(good.CACert, good.Cert, good.CAKey); err == nil || !strings.Contains(err.Error(), "server certificate") {
		t.Errorf("key of another certificate: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
