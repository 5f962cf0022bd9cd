package pool_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
	"github.com/vm-runner/drone-runner-aws/pool"
)

var issued = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newIdentity(t testing.TB, serverName string, addrs ...net.IP) drivers.Identity {
	t.Helper()
	id, err := pool.NewIdentity("i1", "host-1", serverName, addrs, issued, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func parseCert(t testing.TB, data []byte) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" || len(rest) > 0 {
		t.Fatalf("not one CERTIFICATE block: %q", data)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestIdentityShape is the shape both generations of programs accept.
func TestIdentityShape(t *testing.T) {
	t.Parallel()
	id := newIdentity(t, "runner.example")
	ca, leaf := parseCert(t, id.CACert), parseCert(t, id.Cert)

	checks := []struct {
		name string
		ok   bool
	}{
		{"the CA is a CA and says so", ca.BasicConstraintsValid && ca.IsCA},
		{"no intermediate may come below the CA", ca.MaxPathLen == 0 && ca.MaxPathLenZero},
		{"the CA signs certificates and revocations, nothing else", ca.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign},
		{"the CA is not limited to a role", len(ca.ExtKeyUsage) == 0 && len(ca.UnknownExtKeyUsage) == 0},
		{"the CA has a subject key id", len(ca.SubjectKeyId) == 20},
		{"the leaf is no CA", !leaf.IsCA},
		{"the leaf names its authority's key", string(leaf.AuthorityKeyId) == string(ca.SubjectKeyId)},
		{"subjects differ, so that OpenSSL does not take the leaf for self-signed", leaf.Subject.String() != ca.Subject.String()},
		{"both have a common name", leaf.Subject.CommonName != "" && ca.Subject.CommonName != ""},
		{"the leaf only signs", leaf.KeyUsage == x509.KeyUsageDigitalSignature},
		{"the leaf serves in both roles", cmp.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth})},
		{"the leaf's only name is the server name", cmp.Equal(leaf.DNSNames, []string{"runner.example"}) && len(leaf.IPAddresses) == 0},
		{"both are valid since five minutes ago", leaf.NotBefore.Equal(issued.Add(-5*time.Minute)) && ca.NotBefore.Equal(leaf.NotBefore)},
		{"both end together", leaf.NotAfter.Equal(issued.Add(90*24*time.Hour)) && ca.NotAfter.Equal(leaf.NotAfter)},
		{"serials differ", leaf.SerialNumber.Cmp(ca.SerialNumber) != 0},
		{"machine, host and server name are kept", id.Machine == "i1" && id.Hostname == "host-1" && id.ServerName == "runner.example"},
	}
	for _, c := range checks {
		if !c.ok {
			t.Errorf("not so: %s", c.name)
		}
	}
	for name, data := range map[string][]byte{"CA key": id.CAKey, "leaf key": id.Key} {
		block, _ := pem.Decode(data)
		if block == nil || block.Type != "EC PRIVATE KEY" {
			t.Fatalf("%s is not an EC PRIVATE KEY block", name)
		}
		k, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if k.Curve != elliptic.P256() {
			t.Errorf("%s is on %s, want P-256", name, k.Curve.Params().Name)
		}
		owner := leaf
		if name == "CA key" {
			owner = ca
		}
		if !k.PublicKey.Equal(owner.PublicKey.(*ecdsa.PublicKey)) {
			t.Errorf("%s does not belong to its certificate", name)
		}
	}
}

func TestIdentityVerifies(t *testing.T) {
	t.Parallel()
	id := newIdentity(t, "runner.example", net.IPv4(10, 0, 0, 7))
	other := newIdentity(t, "runner.example")
	byAddress := newIdentity(t, "10.1.2.3")
	week := issued.Add(7 * 24 * time.Hour)

	for _, tc := range []struct {
		name   string
		leaf   drivers.Identity
		ca     drivers.Identity
		at     time.Time
		server string
		role   x509.ExtKeyUsage
		ok     bool
	}{
		{"as a server under its name", id, id, week, "runner.example", x509.ExtKeyUsageServerAuth, true},
		{"in another case", id, id, week, "RUNNER.example", x509.ExtKeyUsageServerAuth, true},
		{"under the address given beside it", id, id, week, "10.0.0.7", x509.ExtKeyUsageServerAuth, true},
		{"as a client", id, id, week, "", x509.ExtKeyUsageClientAuth, true},
		{"under another name", id, id, week, "drone", x509.ExtKeyUsageServerAuth, false},
		{"a server name that is an address", byAddress, byAddress, week, "10.1.2.3", x509.ExtKeyUsageServerAuth, true},
		{"against another machine's CA", id, other, week, "runner.example", x509.ExtKeyUsageServerAuth, false},
		{"by a machine four minutes behind", id, id, issued.Add(-4 * time.Minute), "runner.example", x509.ExtKeyUsageServerAuth, true},
		{"by a machine six minutes behind", id, id, issued.Add(-6 * time.Minute), "runner.example", x509.ExtKeyUsageServerAuth, false},
		{"after its end", id, id, issued.Add(91 * 24 * time.Hour), "runner.example", x509.ExtKeyUsageServerAuth, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			roots := x509.NewCertPool()
			if !roots.AppendCertsFromPEM(tc.ca.CACert) {
				t.Fatal("CA is not PEM")
			}
			_, err := parseCert(t, tc.leaf.Cert).Verify(x509.VerifyOptions{
				Roots: roots, CurrentTime: tc.at, DNSName: tc.server, KeyUsages: []x509.ExtKeyUsage{tc.role},
			})
			if (err == nil) != tc.ok {
				t.Errorf("verify: %v, want accepted = %v", err, tc.ok)
			}
		})
	}
}

// TestIdentityHandshake is one pair in both roles over TLS 1.3.
func TestIdentityHandshake(t *testing.T) {
	t.Parallel()
	id, err := pool.NewIdentity("i1", "h", "runner", nil, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(id.Cert, id.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(id.CACert)
	a, b := net.Pipe()
	server := tls.Server(a, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots})
	client := tls.Client(b, &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "runner"})
	served := make(chan error, 1)
	go func() {
		_, err := server.Write([]byte("x"))
		served <- errors.Join(err, a.Close())
	}()
	var got [1]byte
	if _, err := client.Read(got[:]); err != nil || got[0] != 'x' {
		t.Errorf("read %q, %v; want x", got, err)
	}
	b.Close()
	if err := <-served; err != nil {
		t.Errorf("server: %v", err)
	}
}

func TestIdentityVerifiesWithOpenSSL(t *testing.T) {
	t.Parallel()
	tool := testhost.Program(t, "openssl", "openssl")
	id, err := pool.NewIdentity("i1", "h", "runner.example", nil, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ca, leaf := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "leaf.pem")
	for path, data := range map[string][]byte{ca: id.CACert, leaf: id.Cert} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, purpose := range []string{"sslserver", "sslclient"} {
		out, err := exec.CommandContext(t.Context(), tool, "verify", "-x509_strict", "-CAfile", ca, "-purpose", purpose, "-verify_hostname", "runner.example", leaf).CombinedOutput()
		if err != nil {
			t.Errorf("openssl verify as %s: %v\n%s", purpose, err, out)
		}
	}
}

func TestIdentityRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, instance, server string
		validity               time.Duration
		want                   string
	}{
		{"no instance", "", "s", time.Hour, "instance id is empty"},
		{"no server name", "i", "", time.Hour, "server name is empty"},
		{"no validity", "i", "s", 0, "not positive"},
		{"a name no certificate can hold", "i", "naïve", time.Hour, "make identity of i"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := pool.NewIdentity(tc.instance, "h", tc.server, nil, issued, tc.validity)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestLongInstanceIDFitsTheCertificate(t *testing.T) {
	t.Parallel()
	id, err := pool.NewIdentity(strings.Repeat("x", 200), "h", "s", nil, issued, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ca, leaf := parseCert(t, id.CACert), parseCert(t, id.Cert)
	if a, b := len(ca.Subject.CommonName), len(leaf.Subject.CommonName); a > 64 || b > 64 {
		t.Errorf("common names have %d and %d characters, want at most 64", a, b)
	}
	if ca.Subject.CommonName == leaf.Subject.CommonName {
		t.Error("cut common names are equal")
	}
}

func TestNewID(t *testing.T) {
	t.Parallel()
	shape := regexp.MustCompile(`^[a-z][a-z2-7]{25}$`)
	seen := map[string]bool{}
	for range 10_000 {
		id := pool.NewID()
		if !shape.MatchString(id) {
			t.Fatalf("id %q does not match %s", id, shape)
		}
		if seen[id] {
			t.Fatalf("id %q twice", id)
		}
		seen[id] = true
	}
}

func TestMachineName(t *testing.T) {
	t.Parallel()
	id := "abcdefghijklmnopqrstuvwxyz"
	for _, tc := range []struct{ name, prefix, pool, id, want string }{
		{"plain", "drone", "linux", "k7", "drone-linux-k7"},
		{"upper case and underscores fold", "Drone", "Linux_AMD64", "k7", "drone-linux-amd64-k7"},
		{"a leading digit gets a letter before it", "1st", "p", "k7", "m-1st-p-k7"},
		{"no prefix", "", "p", "k7", "p-k7"},
		{"neither prefix nor pool", "", "", "k7", "m-k7"},
		{"nothing but what cannot be kept", "ü", "日本", "k7", "m-k7"},
		{"a long pool is cut, the id is not", "drone", strings.Repeat("p", 80), id, "drone-" + strings.Repeat("p", 30) + "-" + id},
		{"a cut at a hyphen leaves one hyphen", "drone", strings.Repeat("p", 29) + "-" + strings.Repeat("q", 9), id, "drone-" + strings.Repeat("p", 29) + "-" + id},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := pool.MachineName(tc.prefix, tc.pool, tc.id); got != tc.want {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}

func TestMachineNameKeepsTheRulesOfClouds(t *testing.T) {
	t.Parallel()
	shape := regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)
	property := func(prefix, poolName, a, b string) bool {
		x, y := pool.MachineName(prefix, poolName, a), pool.MachineName(prefix, poolName, b)
		if len(x) > 63 || !shape.MatchString(x) {
			t.Logf("%q of %q, %q, %q", x, prefix, poolName, a)
			return false
		}
		return (a == b) == (x == y)
	}
	if err := quick.Check(property, &quick.Config{MaxCount: 20_000}); err != nil {
		t.Error(err)
	}
	// The pairs a random search does not find.
	for _, p := range [][2]string{{"A", "a"}, {"a-b", "ab"}, {"a_b", "a-b"}, {"01", "1"}, {strings.Repeat("x", 100), strings.Repeat("x", 101)}} {
		if !property("drone", strings.Repeat("pool-", 20), p[0], p[1]) {
			t.Errorf("ids %q and %q do not give two proper names", p[0], p[1])
		}
	}
}

func BenchmarkNewIdentity(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		newIdentity(b, "runner.example")
	}
}
