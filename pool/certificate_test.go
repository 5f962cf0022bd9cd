package pool_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// TestCertificatesAreEncodedAsTheLibraryWould: what is signed is, byte for byte,
// what x509.CreateCertificate makes of the same contents.
func TestCertificatesAreEncodedAsTheLibraryWould(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, instance, server string
		addrs                  []net.IP
		now                    time.Time
	}{
		{"an ordinary machine", "k7", "runner.example", nil, issued},
		{"a server name with underscores", "k7", "drone_runner_1", nil, issued},
		{"an address beside the name", "k7", "runner", []net.IP{net.IPv4(10, 0, 0, 7), net.ParseIP("fd00::7")}, issued},
		{"a server name that is an address", "k7", "10.1.2.3", nil, issued},
		{"a server name that is a long address", "k7", "fd00::7", []net.IP{net.IPv4(10, 0, 0, 7)}, issued},
		{"an id too long for a name", strings.Repeat("x", 200), "s", nil, issued},
		{"an id in other letters, with what a name does not hold plainly", "mächtig*&@", "s", nil, issued},
		{"an end after the year 2049, which is written otherwise", "k7", "s", nil, time.Date(2049, 12, 31, 23, 0, 0, 0, time.UTC)},
		{"a time in another zone, with parts of a second", "k7", "s", nil, issued.Add(123456789).In(time.FixedZone("here", 3600))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			id, err := pool.NewIdentity(tc.instance, "h", tc.server, tc.addrs, tc.now, 48*time.Hour)
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(id.CAKey)
			key, err := x509.ParseECPrivateKey(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			ca := parseCert(t, id.CACert)
			for what, cert := range map[string]*x509.Certificate{"CA": ca, "leaf": parseCert(t, id.Cert)} {
				if err := cert.CheckSignatureFrom(ca); err != nil {
					t.Errorf("signature of the %s: %v", what, err)
				}
				der, err := x509.CreateCertificate(rand.Reader, fieldsOf(cert), fieldsOf(ca), cert.PublicKey.(*ecdsa.PublicKey), key)
				if err != nil {
					t.Fatal(err)
				}
				want, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(cert.RawTBSCertificate, want.RawTBSCertificate) {
					t.Errorf("%s\n got %x\nwant %x", what, cert.RawTBSCertificate, want.RawTBSCertificate)
				}
			}
		})
	}
}

// fieldsOf is a template of a certificate's parsed fields, without its bytes.
func fieldsOf(c *x509.Certificate) *x509.Certificate {
	t := *c
	t.Raw, t.RawTBSCertificate, t.RawSubject, t.RawIssuer, t.RawSubjectPublicKeyInfo = nil, nil, nil, nil, nil
	t.Extensions, t.ExtraExtensions = nil, nil
	return &t
}
