package agentclient_test

import (
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// TestTLSErrorsAreExplained: each says what is wrong and where to look.
func TestTLSErrorsAreExplained(t *testing.T) {
	t.Parallel()
	issue := func(name, server string, now time.Time, valid time.Duration) drivers.Identity {
		id, err := pool.NewIdentity(name, name, server, nil, now, valid)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	stranger := identity(t, "m2")

	t.Run("another authority", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, rigOptions{shown: &stranger}, nil)
		_, err := newClient(t, hasty()).Health(t.Context(), r.target)
		wantError(t, err, "shows a certificate of another authority")
		if _, ok := errors.AsType[x509.UnknownAuthorityError](err); !ok {
			t.Errorf("the cause is lost: %v", err)
		}
	})
	t.Run("another server name", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, rigOptions{}, nil)
		r.target.Identity.ServerName = "renamed.example"
		_, err := newClient(t, hasty()).Health(t.Context(), r.target)
		wantError(t, err, `has a certificate for [runner.example], not for the server name "renamed.example"`)
		if _, ok := errors.AsType[x509.HostnameError](err); !ok {
			t.Errorf("the cause is lost: %v", err)
		}
	})
	for _, tc := range []struct {
		name string
		id   drivers.Identity
	}{
		{"a certificate that has expired", issue("old", "runner.example", time.Now().Add(-48*time.Hour), time.Hour)},
		{"a certificate of the future", issue("new", "runner.example", time.Now().Add(48*time.Hour), time.Hour)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{shown: &tc.id}, nil)
			target := r.net.target(tc.id)
			_, err := newClient(t, hasty()).Health(t.Context(), target)
			wantError(t, err, "this host's clock says")
			if _, ok := errors.AsType[x509.CertificateInvalidError](err); !ok {
				t.Errorf("the cause is lost: %v", err)
			}
		})
	}
	t.Run("an agent that refuses ours", func(t *testing.T) {
		t.Parallel()
		// Its authority for clients is another than the one it is shown by.
		id := identity(t, "m1")
		mixed := id
		mixed.CACert = stranger.CACert
		r := newRig(t, rigOptions{shown: &mixed}, nil)
		_, err := newClient(t, hasty()).Health(t.Context(), r.net.target(id))
		wantError(t, err, "refuses our certificate")
	})
	t.Run("something without TLS", func(t *testing.T) {
		t.Parallel()
		ln := listen(t)
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n"))
				conn.Close()
			}
		}()
		id := identity(t, "m1")
		addr := ln.Addr().(*net.TCPAddr)
		_, err := newClient(t, hasty()).Health(t.Context(), pool.Target{Instance: "m1", Address: addr.IP.String(), Port: addr.Port, Identity: id})
		wantError(t, err, "does not speak TLS")
	})
	t.Run("nothing at all", func(t *testing.T) {
		t.Parallel()
		ln := listen(t)
		addr := ln.Addr().(*net.TCPAddr)
		ln.Close()
		_, err := newClient(t, hasty()).Health(t.Context(), pool.Target{Instance: "m1", Address: addr.IP.String(), Port: addr.Port, Identity: identity(t, "m1")})
		wantError(t, err, "nothing listens at 127.0.0.1:")
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the cause is lost: %v", err)
		}
	})
	t.Run("an identity of our own that is broken is final", func(t *testing.T) {
		t.Parallel()
		r := newRig(t, rigOptions{}, nil)
		r.target.Identity.Key = []byte("no key")
		err := newClient(t, hasty()).Setup(t.Context(), r.target, nil) // would go on for ever
		wantError(t, err, "identity of m1")
		if strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("a key in %v", err)
		}
	})
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want one with %q", err, want)
	}
}
