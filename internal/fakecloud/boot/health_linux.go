package boot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// Keys are what a caller of the agent needs: its machine's pair and CA, PEM, and
// the name in the certificate.
type Keys struct {
	CACert, Cert, Key []byte
	ServerName        string
}

// Health asks the agent once, over mutual TLS, whether it is ready.
func (m *Machine) Health(ctx context.Context, k Keys) (agentapi.HealthResponse, error) {
	var out agentapi.HealthResponse
	pair, err := tls.X509KeyPair(k.Cert, k.Key)
	if err != nil {
		return out, fmt.Errorf("health: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(k.CACert) {
		return out, errors.New("health: no certificate of a CA")
	}
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return m.Dial(ctx) },
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: k.ServerName, Certificates: []tls.Certificate{pair}},
		DisableKeepAlives: true,
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+k.ServerName+":9079/healthz", nil)
	if err != nil {
		return out, fmt.Errorf("health: %w", err)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return out, fmt.Errorf("health: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	if resp.StatusCode != http.StatusOK {
		return out, fmt.Errorf("health: %s", resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, fmt.Errorf("health: %w", err)
	}
	return out, nil
}

// Healthy asks until the agent is ready, or ctx ends; then it is the last
// refusal.
func (m *Machine) Healthy(ctx context.Context, k Keys) (agentapi.HealthResponse, error) {
	var last error
	var out agentapi.HealthResponse
	err := m.poll(ctx, func() (bool, error) {
		h, err := m.Health(ctx, k)
		if err != nil {
			last = err
			return false, nil
		}
		out = h
		return true, nil
	})
	if err != nil {
		return out, errors.Join(err, last)
	}
	return out, nil
}
