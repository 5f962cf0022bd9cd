package pool

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
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
	key                 *ecdsa.PublicKey
	extensions          []pkix.Extension
}

// The encodings of what does not differ between machines.
var (
	// ecdsaWithSHA256 is the only algorithm (RFC 5758, section 3.2).
	ecdsaWithSHA256 = pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}}

	// The extensions of RFC 5280, section 4.2.1.
	oidSubjectKeyID   = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidAuthorityKeyID = asn1.ObjectIdentifier{2, 5, 29, 35}

	signsCertificates = pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{
		asn1.TagBitString, 2, 1, 0b0000_0110, // keyCertSign, cRLSign
	}}
	signsOnly = pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: []byte{
		asn1.TagBitString, 2, 7, 0b1000_0000, // digitalSignature
	}}
	bothRoles = pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: []byte{
		0x30, 20,
		asn1.TagOID, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1, // serverAuth
		asn1.TagOID, 8, 0x2b, 6, 1, 5, 5, 7, 3, 2, // clientAuth
	}}
	isAuthority = pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{
		0x30, 6, asn1.TagBoolean, 1, 0xff, asn1.TagInteger, 1, 0, // a CA with nothing between it and the leaf
	}}
	isNoAuthority = pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0}}
)

// subjectKeyID names the certificate's own key, authorityKeyID its issuer's.
func subjectKeyID(id []byte) (pkix.Extension, error) {
	value, err := asn1.Marshal(id)
	return pkix.Extension{Id: oidSubjectKeyID, Value: value}, err
}

func authorityKeyID(id []byte) (pkix.Extension, error) {
	value, err := asn1.Marshal(struct {
		ID []byte `asn1:"tag:0"`
	}{id})
	return pkix.Extension{Id: oidAuthorityKeyID, Value: value}, err
}

// altNames are the names a server is known by, a DNS name (if not "") first.
func altNames(dns string, addrs []net.IP) (pkix.Extension, error) {
	const tagDNS, tagIP = 2, 7
	var names []asn1.RawValue
	if dns != "" {
		for _, c := range []byte(dns) {
			if c >= 0x80 {
				return pkix.Extension{}, fmt.Errorf("server name %q: a certificate holds ASCII only", dns)
			}
		}
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagDNS, Bytes: []byte(dns)})
	}
	for _, a := range addrs {
		if short := a.To4(); short != nil {
			a = short
		}
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagIP, Bytes: a})
	}
	value, err := asn1.Marshal(names)
	return pkix.Extension{Id: oidSubjectAltName, Value: value}, err
}

// signedBy is the certificate in DER.
func (c certificate) signedBy(key *ecdsa.PrivateKey) ([]byte, error) {
	public, err := x509.MarshalPKIXPublicKey(c.key)
	if err != nil {
		return nil, err
	}
	type validity struct{ NotBefore, NotAfter time.Time }
	contents, err := asn1.Marshal(struct {
		Version    int `asn1:"explicit,tag:0"`
		Serial     *big.Int
		Algorithm  pkix.AlgorithmIdentifier
		Issuer     pkix.RDNSequence
		Validity   validity
		Subject    pkix.RDNSequence
		PublicKey  asn1.RawValue
		Extensions []pkix.Extension `asn1:"explicit,tag:3"`
	}{
		Version: 2, // which means 3
		Serial:  c.serial, Algorithm: ecdsaWithSHA256,
		Issuer:     pkix.Name{CommonName: c.issuer}.ToRDNSequence(),
		Validity:   validity{c.notBefore.UTC(), c.notAfter.UTC()},
		Subject:    pkix.Name{CommonName: c.subject}.ToRDNSequence(),
		PublicKey:  asn1.RawValue{FullBytes: public},
		Extensions: c.extensions,
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(contents)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct {
		Contents  asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: contents}, ecdsaWithSHA256, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
}
