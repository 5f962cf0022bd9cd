package agentclient

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// explain puts what a person can do about it before an error of TCP or TLS.
func explain(err error, t pool.Target) error {
	at := hostPort(t)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("nothing listens at %s: %w", at, err)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("what answers at %s shows a certificate of another authority: it is another machine, or its agent has not got its identity yet: %w", at, err)
	}
	if e, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Errorf("the agent at %s has a certificate for %v, not for the server name %q kept for it: %w", at, e.Certificate.DNSNames, t.Identity.ServerName, err)
	}
	if e, ok := errors.AsType[x509.CertificateInvalidError](err); ok && e.Reason == x509.Expired {
		return fmt.Errorf("the certificate of the agent at %s is valid from %s to %s, and this host's clock says %s: %w", at,
			e.Cert.NotBefore.UTC().Format(time.RFC3339), e.Cert.NotAfter.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339), err)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return fmt.Errorf("what answers at %s does not speak TLS: %w", at, err)
	}
	if refused(err) {
		return fmt.Errorf("the agent at %s refuses our certificate: it has another identity, or its clock is wrong: %w", at, err)
	}
	return fmt.Errorf("agent at %s: %w", at, err)
}

// refused says whether an error is the other side's word against us. With TLS
// 1.3 a server refuses a client's certificate only after the client is done,
// so it comes with the first request.
func refused(err error) bool {
	e, ok := errors.AsType[*net.OpError](err)
	return ok && e.Op == "remote error"
}
