package agent

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// Certificates is a CA and one leaf for both roles, all PEM.
type Certificates struct {
	CACert, CAKey, Cert, Key []byte
}

const (
	// certBackdate tolerates a machine whose clock is a little behind.
	certBackdate = 5 * time.Minute
	// certValidity is long enough for a machine that sleeps for months.
	certValidity = 1080 * 24 * time.Hour
)

// NewCertificates makes a CA and a leaf for serverName in the shape that old
// and new programs, Go's and OpenSSL's, accept on either side: different
// subjects, key ids, both extended key usages in one leaf.
func NewCertificates(serverName string, now time.Time) (*Certificates, error) {
	notBefore, notAfter := now.Add(-certBackdate), now.Add(certValidity)
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("CA key: %w", err)
	}
	ca := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"vm-runner"}, CommonName: "CA of " + serverName},
		NotBefore:             notBefore,
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("leaf key: %w", err)
	}
	leaf := &x509.Certificate{
		Subject:     pkix.Name{Organization: []string{"vm-runner"}, CommonName: serverName},
		NotBefore:   notBefore,
		NotAfter:    notAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(serverName); ip != nil {
		leaf.IPAddresses = []net.IP{ip}
	} else {
		leaf.DNSNames = []string{serverName}
	}
	for _, c := range []*x509.Certificate{ca, leaf} {
		if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
			return nil, fmt.Errorf("serial number: %w", err)
		}
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	parent, err := x509.ParseCertificate(caDER)
	if err != nil {
		return nil, fmt.Errorf("CA certificate: %w", err)
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, parent, leafKey.Public(), caKey)
	if err != nil {
		return nil, fmt.Errorf("leaf certificate: %w", err)
	}
	out := &Certificates{CACert: certPEM(caDER), Cert: certPEM(leafDER)}
	if out.CAKey, err = keyPEM(caKey); err != nil {
		return nil, err
	}
	if out.Key, err = keyPEM(leafKey); err != nil {
		return nil, err
	}
	return out, nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
