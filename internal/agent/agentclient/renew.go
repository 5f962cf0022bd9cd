package agentclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// Renew asks once. If t's certificate has ended, the machine is still taken for
// the one it was if it shows exactly that certificate, on a connection that
// serves for this call alone. Afterwards calls go over a connection made with
// whatever identity their target has; those under way end in peace.
func (c *Client) Renew(ctx context.Context, t pool.Target, next drivers.Identity) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.RenewTry, errSlow("agent renew_certificate", c.cfg.RenewTry))
	defer cancel()
	body, err := json.Marshal(agentapi.RenewRequest{CACert: string(next.CACert), Cert: string(next.Cert), Key: string(next.Key)})
	if err != nil {
		return err
	}
	l := c.link(t)
	if hasEnded(t.Identity.Cert, time.Now()) {
		own := &link{ended: true}
		defer own.close()
		l = own
	}
	if _, err := c.once(ctx, l, t, request{op: "renew_certificate", method: http.MethodPost, path: agentapi.PathRenew, body: body}); err != nil {
		return err
	}
	c.link(t).renew()
	return nil
}

// renew has the next call make a connection of its own.
func (l *link) renew() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		l.conn.retire()
		l.conn = nil
	}
}

// hasEnded says whether a leaf in PEM is past its end at now. One that cannot
// be read is not: whoever uses it says what is wrong with it.
func hasEnded(cert []byte, now time.Time) bool {
	block, _ := pem.Decode(cert)
	if block == nil {
		return false
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	return err == nil && now.After(leaf.NotAfter)
}

// trustEnded changes a configuration so that it takes the machine's own
// certificate and nothing else, whatever the clock says. The machine proves
// that it has the key, as ever.
func trustEnded(conf *tls.Config) error {
	if len(conf.Certificates) != 1 || len(conf.Certificates[0].Certificate) == 0 {
		return errors.New("there is no certificate to compare with")
	}
	own := conf.Certificates[0].Certificate[0]
	conf.InsecureSkipVerify = true // the next line is stricter
	conf.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].Raw, own) {
			return fmt.Errorf("the machine's certificate ended, and what answers does not show that one: %w", errOther)
		}
		return nil
	}
	return nil
}

var errOther = errors.New("it is another machine, or has a new certificate already")

// Renew has machines take every certificate, unless they are old ones.
func (m *Mock) Renew(ctx context.Context, t pool.Target, next drivers.Identity) error {
	if err := m.before(ctx, "renew_certificate", t, ""); err != nil {
		return err
	}
	if m.cfg.Old {
		return &pool.AgentError{Op: "renew_certificate", Status: http.StatusNotFound, Message: "404 page not found"}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.certs[t.Instance] = bytes.Clone(next.Cert)
	return nil
}

// Certificate is the one a machine was last given by Renew, nil if none was.
func (m *Mock) Certificate(instance string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.certs[instance]
}

// Renew asks the chosen agent.
func (m *Mux) Renew(ctx context.Context, t pool.Target, next drivers.Identity) error {
	return m.Choose(t).Renew(ctx, t, next)
}
