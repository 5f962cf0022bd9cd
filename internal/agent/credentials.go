package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// credentials are what an agent shows and what it believes. They never change;
// a renewal replaces them.
type credentials struct {
	conf *tls.Config
	leaf *x509.Certificate
	cas  []*x509.Certificate
	// roots are the cas.
	roots *x509.CertPool
}

var errNoTLS = errors.New("this agent serves without certificates")

// TLSConfig is the configuration of the agent's listener: TLS 1.3, one pair,
// and clients that show a certificate of exactly that CA, all PEM. A pair that
// an earlier run of the agent was given in its place is used instead; so is one
// that comes later, for connections made from then on. A machine that gets its
// identity from its host keeps none of it: it is told again after a restart.
func (a *Agent) TLSConfig(caPEM, certPEM, keyPEM []byte) (*tls.Config, error) {
	given, err := newCredentials(caPEM, certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	using, path := given, ""
	if a.opts.Machine == "" {
		path = filepath.Join(a.opts.StateDir, renewedName(given.cas))
		using = a.newer(given, path)
	}
	a.mu.Lock()
	a.creds, a.renewed = using, path
	a.mu.Unlock()
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return a.credentials().conf, nil
		},
	}, nil
}

// newer is what a file has if it may take the place of what was given.
func (a *Agent) newer(given *credentials, path string) *credentials {
	kept, err := readRenewed(path)
	if err == nil {
		err = kept.mayReplace(given)
	}
	switch {
	case err == nil:
		return kept
	case !errors.Is(err, fs.ErrNotExist):
		a.opts.Log.Warn("a renewed certificate is left aside for the one given at start", "file", path, "err", err)
	}
	return given
}

func newCredentials(caPEM, certPEM, keyPEM []byte) (*credentials, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	c := &credentials{leaf: pair.Leaf, roots: x509.NewCertPool()}
	for rest := caPEM; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("CA certificate: %w", err)
		}
		c.cas = append(c.cas, ca)
		c.roots.AddCert(ca)
	}
	if len(c.cas) == 0 {
		return nil, errors.New("CA certificate: no certificate in PEM form")
	}
	c.conf = &tls.Config{
		MinVersion:       tls.VersionTLS13,
		Certificates:     []tls.Certificate{pair},
		ClientCAs:        c.roots, // told to clients that have several certificates
		ClientAuth:       tls.RequireAnyClientCert,
		VerifyConnection: c.admit,
		NextProtos:       []string{"h2", "http/1.1"},
	}
	return c, nil
}

// admit lets in who shows a certificate of the CA. Who shows the machine's own
// is let in whatever the clock says: a machine that slept for years, or whose
// clock is wrong, would else be out of reach for ever. See [Agent.mayOnlyRenew].
func (c *credentials) admit(s tls.ConnectionState) error {
	err := c.verify(s.PeerCertificates, x509.ExtKeyUsageClientAuth, time.Time{})
	if err != nil && bytes.Equal(s.PeerCertificates[0].Raw, c.leaf.Raw) {
		return c.verify(s.PeerCertificates, x509.ExtKeyUsageClientAuth, lastMoment(c.leaf))
	}
	return err
}

// verify checks a chain at a time, the zero time being now.
func (c *credentials) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, at time.Time) error {
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: c.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: at,
	})
	return err
}

// lastMoment is when a certificate is certainly good by its own account.
func lastMoment(c *x509.Certificate) time.Time { return c.NotAfter.Add(-time.Second) }

// mayReplace says what keeps these credentials from taking the place of others:
// they must be of the same machine and good for longer. No clock is asked, since
// the machine's may be wrong.
func (c *credentials) mayReplace(old *credentials) error {
	for _, ca := range c.cas {
		if !slices.ContainsFunc(old.cas, func(o *x509.Certificate) bool {
			return bytes.Equal(o.RawSubjectPublicKeyInfo, ca.RawSubjectPublicKeyInfo)
		}) {
			return errors.New("the certificate is of another CA than this machine's")
		}
	}
	if !slices.Equal(c.leaf.DNSNames, old.leaf.DNSNames) || !slices.EqualFunc(c.leaf.IPAddresses, old.leaf.IPAddresses, net.IP.Equal) {
		return fmt.Errorf("the certificate is for %v %v, this machine's for %v %v", c.leaf.DNSNames, c.leaf.IPAddresses, old.leaf.DNSNames, old.leaf.IPAddresses)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if err := c.verify([]*x509.Certificate{c.leaf}, usage, lastMoment(c.leaf)); err != nil {
			return err
		}
	}
	if !c.leaf.NotAfter.After(old.leaf.NotAfter) {
		return fmt.Errorf("the certificate ends on %s, not later than the one this machine has, on %s",
			c.leaf.NotAfter.UTC().Format(time.RFC3339), old.leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

func (a *Agent) credentials() *credentials {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.creds
}

// mayOnlyRenew says whether a caller was let in although its certificate is not
// good by this machine's clock.
func mayOnlyRenew(s *tls.ConnectionState, now time.Time) bool {
	if s == nil || len(s.PeerCertificates) == 0 {
		return false
	}
	leaf := s.PeerCertificates[0]
	return now.Before(leaf.NotBefore) || now.After(leaf.NotAfter)
}

// Renew replaces the agent's certificate: written down first, where its own
// files decide what a restart has, then used for every connection made from now on. Those that exist go
// on. The same certificate again is no error.
func (a *Agent) Renew(_ context.Context, in *agentapi.RenewRequest) error {
	a.renewals.Lock()
	defer a.renewals.Unlock()
	old := a.credentials()
	if old == nil {
		return badRequest{errNoTLS}
	}
	next, err := newCredentials([]byte(in.CACert), []byte(in.Cert), []byte(in.Key))
	if err != nil {
		return badRequest{err}
	}
	if bytes.Equal(next.leaf.Raw, old.leaf.Raw) {
		return nil
	}
	if err := next.mayReplace(old); err != nil {
		return badRequest{err}
	}
	a.mu.Lock()
	path := a.renewed
	a.mu.Unlock()
	if path != "" {
		if err := ReplaceJSON(path, in); err != nil {
			return fmt.Errorf("keep the new certificate: %w", err)
		}
	}
	a.mu.Lock()
	a.creds = next
	a.mu.Unlock()
	a.opts.Log.Info("certificate renewed", "until", next.leaf.NotAfter.UTC().Format(time.RFC3339))
	return nil
}

// renewedName is the file of the state directory for the certificates that come
// after those a machine was made with. Agents may share a directory, so it is
// named after the CA's key.
func renewedName(cas []*x509.Certificate) string {
	sum := sha256.Sum256(cas[0].RawSubjectPublicKeyInfo)
	return "certificate-" + hex.EncodeToString(sum[:8]) + ".json"
}

func readRenewed(path string) (*credentials, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var kept agentapi.RenewRequest
	if err := json.Unmarshal(text, &kept); err != nil {
		return nil, err
	}
	return newCredentials([]byte(kept.CACert), []byte(kept.Cert), []byte(kept.Key))
}
