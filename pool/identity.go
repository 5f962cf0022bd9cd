package pool

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// clockSlack is how far before now a certificate becomes valid, so that a
// machine whose clock is a little behind accepts it.
const clockSlack = 5 * time.Minute

// maxCommonName is the upper bound of a common name (RFC 5280, appendix A.1).
const maxCommonName = 64

// NewIdentity makes the identity of one machine: a certificate authority of
// its own and one leaf that both sides present, valid from five minutes before
// now until now + validity.
//
// The shape is what old and new agents, old and new runners and OpenSSL accept
// on either side: ECDSA P-256 throughout; CA and leaf with different common
// names; the CA with path length 0, keyCertSign and cRLSign and a subject key
// id; the leaf with the server name as DNS name (an IP name if it is an IP
// literal), digitalSignature, serverAuth and clientAuth, and the authority's
// key id. The addrs become IP names beside it; usually there are none, since
// the address is unknown when the identity is made.
func NewIdentity(instanceID, hostname, serverName string, addrs []net.IP, now time.Time, validity time.Duration) (drivers.Identity, error) {
	switch {
	case instanceID == "":
		return drivers.Identity{}, errors.New("make identity: instance id is empty")
	case serverName == "":
		return drivers.Identity{}, fmt.Errorf("make identity of %s: server name is empty", instanceID)
	case validity <= 0:
		return drivers.Identity{}, fmt.Errorf("make identity of %s: validity %v is not positive", instanceID, validity)
	}
	id, err := newIdentity(instanceID, hostname, serverName, addrs, now, validity)
	if err != nil {
		return drivers.Identity{}, fmt.Errorf("make identity of %s: %w", instanceID, err)
	}
	return id, nil
}

func newIdentity(instanceID, hostname, serverName string, addrs []net.IP, now time.Time, validity time.Duration) (drivers.Identity, error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return drivers.Identity{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return drivers.Identity{}, err
	}
	caKeyID, err := keyID(&caKey.PublicKey)
	if err != nil {
		return drivers.Identity{}, err
	}
	dns := serverName
	if ip := net.ParseIP(serverName); ip != nil {
		dns, addrs = "", append([]net.IP{ip}, addrs...)
	}
	names, err := altNames(dns, addrs)
	if err != nil {
		return drivers.Identity{}, err
	}

	ca := certificate{
		serial: serial(), key: &caKey.PublicKey, notBefore: now.Add(-clockSlack), notAfter: now.Add(validity),
		extensions: [][]byte{signsCertificates, isAuthority, subjectKeyID(caKeyID)},
	}
	ca.subject = commonName("machine CA " + instanceID)
	ca.issuer = ca.subject
	leaf := certificate{
		serial: serial(), key: &key.PublicKey, notBefore: ca.notBefore, notAfter: ca.notAfter,
		issuer: ca.subject, subject: commonName("machine " + instanceID),
		extensions: [][]byte{signsOnly, bothRoles, isNoAuthority, authorityKeyID(caKeyID), names},
	}
	caDER, err := ca.signedBy(caKey)
	if err != nil {
		return drivers.Identity{}, err
	}
	der, err := leaf.signedBy(caKey)
	if err != nil {
		return drivers.Identity{}, err
	}

	id := drivers.Identity{
		Machine:    instanceID,
		Hostname:   hostname,
		ServerName: serverName,
		CACert:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}),
		Cert:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}
	if id.CAKey, err = keyPEM(caKey); err != nil {
		return drivers.Identity{}, err
	}
	if id.Key, err = keyPEM(key); err != nil {
		return drivers.Identity{}, err
	}
	return id, nil
}

// keyID is method 1 of RFC 7093: the leftmost 160 bits of the SHA-256 of the key.
func keyID(pub *ecdsa.PublicKey) ([]byte, error) {
	raw, err := pub.Bytes()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	return sum[:20], nil
}

// serial is positive and has 127 random bits.
func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails, by its documentation
	b[0] &= 0x7f
	b[15] |= 1 // never zero
	return new(big.Int).SetBytes(b[:])
}

func commonName(s string) string {
	return s[:min(len(s), maxCommonName)]
}

func keyPEM(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// idDigits is lower-case base32 without padding, 5 bits a character.
var idDigits = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewID makes an id of 26 characters of [a-z2-7] that starts with a letter:
// at least 128 random bits, fit for names in every cloud.
func NewID() string {
	id := []byte(strings.ToLower(rand.Text()))
	if id[0] < 'a' {
		// A leading digit becomes a letter: 0.4 of the 130 bits lost.
		id[0] = 'a' + (id[0] - '2')
	}
	return string(id)
}

const (
	// maxMachineName is the length of a DNS label, the strictest of the
	// clouds' rules for names.
	maxMachineName = 63
	// maxPlainID is the longest id that is used as it is, so that something
	// of prefix and pool is left for people to read.
	maxPlainID = 40
)

// MachineName is the name of a machine in its cloud: prefix, pool and id with
// hyphens between, at most 63 characters of [a-z0-9-], starting with a letter
// and not ending in a hyphen. What is too long is cut from prefix and pool,
// never from the id, which alone makes the name unique: names of different
// ids differ. An id with other characters than [a-z0-9], or too long, is
// replaced by a hash of it.
func MachineName(prefix, pool, id string) string {
	if !plainID(id) {
		sum := sha256.Sum256([]byte(id))
		id = idDigits.EncodeToString(sum[:16])
	}
	head := label(prefix + "-" + pool)
	if head == "" || head[0] < 'a' {
		head = strings.TrimSuffix("m-"+head, "-")
	}
	head = strings.TrimRight(head[:min(len(head), maxMachineName-1-len(id))], "-")
	return head + "-" + id
}

// namePrefix is how the names of a pool's machines begin: as its spec says, or
// else as the runner does.
func (c PoolConfig) namePrefix(runner string) string {
	if n, ok := c.Spec.(drivers.Namer); ok {
		return cmp.Or(n.NamePrefix(), runner)
	}
	return runner
}

func plainID(id string) bool {
	if id == "" || len(id) > maxPlainID {
		return false
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// label folds s to [a-z0-9-] without hyphens at the ends or in a row.
func label(s string) string {
	var b strings.Builder
	hyphen := false
	for _, c := range []byte(strings.ToLower(s)) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			hyphen = b.Len() > 0
			continue
		}
		if hyphen {
			b.WriteByte('-')
			hyphen = false
		}
		b.WriteByte(c)
	}
	return b.String()
}
