package server

import (
	"crypto/x509"
	"encoding/pem"
	"math"
	"reflect"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// known puts what a caller says of a machine in the engine's words, nil if it
// says nothing. It is a claim: the engine checks it before using it.
func known(i api.InstanceInfo) *pool.KnownInstance {
	if reflect.ValueOf(i).IsZero() {
		return nil
	}
	port := 0
	if i.Port > 0 && i.Port <= math.MaxUint16 {
		port = int(i.Port)
	}
	return &pool.KnownInstance{
		ID: i.ID, Name: i.Name, Address: i.IPAddress, Port: port,
		OS: i.OS, Arch: i.Arch, Provider: i.Provider, Pool: i.PoolName,
		Zone: i.Zone, StorageID: i.StorageIdentifier, Proxy: i.ProxyURL,
		Identity: drivers.Identity{
			ServerName: serverName(i.TLSCert),
			CAKey:      i.CAKey, CACert: i.CACert, Key: i.TLSKey, Cert: i.TLSCert,
		},
	}
}

// serverName is the first DNS name of a certificate, which is the name its
// machine was made with; "" if there is none.
func serverName(certPEM []byte) string {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return ""
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(cert.DNSNames) == 0 {
		return ""
	}
	return cert.DNSNames[0]
}

// unpopulated names the first field of an instance_info that has no value, as
// callers know it; "" if all have one. ProxyURL may be missing.
func unpopulated(i api.InstanceInfo) string {
	for _, f := range []struct {
		name string
		ok   bool
	}{
		{"ID", i.ID != ""},
		{"Name", i.Name != ""},
		{"IPAddress", i.IPAddress != ""},
		{"Port", i.Port != 0},
		{"OS", i.OS != ""},
		{"Arch", i.Arch != ""},
		{"Provider", i.Provider != ""},
		{"PoolName", i.PoolName != ""},
		{"Zone", i.Zone != ""},
		{"StorageIdentifier", i.StorageIdentifier != ""},
		{"CAKey", len(i.CAKey) > 0},
		{"CACert", len(i.CACert) > 0},
		{"TLSKey", len(i.TLSKey) > 0},
		{"TLSCert", len(i.TLSCert) > 0},
	} {
		if !f.ok {
			return f.name
		}
	}
	return ""
}
