package pool

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// certificate is what is said in a certificate of RFC 5280 that a machine has.
//
// It is encoded here rather than by x509.CreateCertificate because that checks
// each signature it has made, in case the key is in a device that misbehaves.
// Ours are in memory, a check costs more than everything else about a
// certificate, and every machine has two. A test compares the bytes with those
// the library makes of the same contents.
type certificate struct {
	serial              *big.Int
	issuer, subject     string // common names
	notBefore, notAfter time.Time
	key                 *ecdsa.PublicKey // on P-256
	extensions          [][]byte
}

// The tags of DER that are used here beside those of encoding/asn1.
const (
	tagSequence = asn1.TagSequence | 0x20
	tagSet      = asn1.TagSet | 0x20
)

// The encodings of what does not differ between machines, by OID.
var (
	version3 = inner(0, der(asn1.TagInteger, []byte{2}))
	// ecdsaWithSHA256 is the only algorithm (RFC 5758, section 3.2).
	ecdsaWithSHA256 = der(tagSequence, oid(0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2))
	// onP256 is the algorithm of the keys (RFC 5480, section 2.1.1).
	onP256        = der(tagSequence, oid(0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1), oid(0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7))
	oidCommonName = oid(0x55, 4, 3)

	// The extensions of RFC 5280, section 4.2.1.
	oidSubjectKeyID   = oid(0x55, 29, 14)
	oidSubjectAltName = oid(0x55, 29, 17)
	oidAuthorityKeyID = oid(0x55, 29, 35)
	critical          = der(asn1.TagBoolean, []byte{0xff})

	// keyCertSign and cRLSign, or digitalSignature; the first octet counts the
	// bits that are not used.
	signsCertificates = extension(oid(0x55, 29, 15), critical, der(asn1.TagBitString, []byte{1, 0b0000_0110}))
	signsOnly         = extension(oid(0x55, 29, 15), critical, der(asn1.TagBitString, []byte{7, 0b1000_0000}))
	// A CA with nothing between it and the leaf, or none.
	isAuthority   = extension(oid(0x55, 29, 19), critical, der(tagSequence, der(asn1.TagBoolean, []byte{0xff}), der(asn1.TagInteger, []byte{0})))
	isNoAuthority = extension(oid(0x55, 29, 19), critical, der(tagSequence))
	// serverAuth and clientAuth.
	bothRoles = extension(oid(0x55, 29, 37), nil, der(tagSequence,
		oid(0x2b, 6, 1, 5, 5, 7, 3, 1), oid(0x2b, 6, 1, 5, 5, 7, 3, 2)))
)

// der is a value of its parts in DER, at most 64 KiB long.
func der(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := make([]byte, 1, n+4)
	out[0] = tag
	switch {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	default:
		out = append(out, 0x82, byte(n>>8), byte(n))
	}
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// inner is a value in an explicit tag of the context.
func inner(tag byte, value []byte) []byte { return der(0xa0|tag, value) }

func oid(encoded ...byte) []byte { return der(asn1.TagOID, encoded) }

// bits is a bit string of whole octets.
func bits(octets []byte) []byte { return der(asn1.TagBitString, []byte{0}, octets) }

func extension(id, critical, value []byte) []byte {
	return der(tagSequence, id, critical, der(asn1.TagOctetString, value))
}

// subjectKeyID names the certificate's own key, authorityKeyID its issuer's.
func subjectKeyID(id []byte) []byte {
	return extension(oidSubjectKeyID, nil, der(asn1.TagOctetString, id))
}

func authorityKeyID(id []byte) []byte {
	return extension(oidAuthorityKeyID, nil, der(tagSequence, der(0x80, id)))
}

// altNames are the names a server is known by, a DNS name (if not "") first.
func altNames(dns string, addrs []net.IP) ([]byte, error) {
	const tagDNS, tagIP = 0x82, 0x87
	var names [][]byte
	if dns != "" {
		if slices.ContainsFunc([]byte(dns), func(c byte) bool { return c >= 0x80 }) || len(dns) > maxServerName {
			return nil, fmt.Errorf("server name %q: a certificate holds ASCII only, at most %d characters", dns, maxServerName)
		}
		names = append(names, der(tagDNS, []byte(dns)))
	}
	for _, a := range addrs {
		if short := a.To4(); short != nil {
			a = short
		}
		names = append(names, der(tagIP, a))
	}
	return extension(oidSubjectAltName, nil, der(tagSequence, names...)), nil
}

// maxServerName is the length of a DNS name.
const maxServerName = 255

// name is a distinguished name that is a common name only.
func name(common string) ([]byte, error) {
	text, err := asn1.Marshal(common) // chooses the kind of string
	return der(tagSequence, der(tagSet, der(tagSequence, oidCommonName, text))), err
}

// signedBy is the certificate in DER.
func (c certificate) signedBy(key *ecdsa.PrivateKey) ([]byte, error) {
	serial, err1 := asn1.Marshal(c.serial)
	issuer, err2 := name(c.issuer)
	notBefore, err3 := asn1.Marshal(c.notBefore.UTC()) // chooses the kind of time
	notAfter, err4 := asn1.Marshal(c.notAfter.UTC())
	subject, err5 := name(c.subject)
	point, err6 := c.key.Bytes()
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	contents := der(tagSequence,
		version3, serial, ecdsaWithSHA256, issuer, der(tagSequence, notBefore, notAfter), subject,
		der(tagSequence, onP256, bits(point)), inner(3, der(tagSequence, c.extensions...)))
	sum := sha256.Sum256(contents)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		return nil, err
	}
	return der(tagSequence, contents, ecdsaWithSHA256, bits(signature)), nil
}
