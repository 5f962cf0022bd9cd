package containers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

func TestVersionsOfTheInterface(t *testing.T) {
	t.Parallel()
	for theirs, want := range map[string]string{"1.41": "1.41", "1.40": "1.40", "": "1.40", "1.51": "1.51", "1.99": newestVersion, "1.39": "", "2.0": "", "x": ""} {
		got, err := chooseVersion(theirs)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("a daemon of version %q is spoken to in %q, %v; want %q", theirs, got, err, want)
		}
	}
}

func TestImagesAreSplitAsTheDaemonWantsThem(t *testing.T) {
	t.Parallel()
	for image, want := range map[string][2]string{
		"a": {"a", "latest"}, "a:1": {"a", "1"}, "r:5000/a": {"r:5000/a", "latest"}, "r:5000/b/a:1": {"r:5000/b/a", "1"},
		"a@sha256:00": {"a", "sha256:00"}, "a:1@sha256:00": {"a:1", "sha256:00"},
	} {
		if name, tag := splitImage(image); name != want[0] || tag != want[1] {
			t.Errorf("%s is %q and %q, want %q", image, name, tag, want)
		}
	}
}

// engineOn is an engine for a fake daemon.
func engineOn(t *testing.T, fake *dockertest.Fake) *Engine {
	t.Helper()
	e, err := New(Config{Host: fake.Host(), Owner: "me"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func TestADaemonThatDoesNotAnswerIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	fake := dockertest.NewFake(t)
	fake.On("GET /networks", func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true })
	e := engineOn(t, fake)
	_, err := ask(t.Context(), e, "list networks", 50*time.Millisecond, func(ctx context.Context) ([]listed, error) { return e.api.listNetworks(ctx, nil) })
	const want = "the Docker daemon did not answer within 50ms (list networks); see if it works with: docker info"
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("the stage ends"))
	if err := e.ping(ctx); err == nil || err.Error() != "the stage ends" {
		t.Errorf("a call that was broken off: %v", err)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		answer func(http.ResponseWriter)
		want   string
	}{
		"a refusal":           {func(w http.ResponseWriter) { dockertest.Fail(w, 500, "it is broken") }, "Error response from daemon: it is broken"},
		"a refusal in words":  {func(w http.ResponseWriter) { http.Error(w, "gateway is tired", http.StatusBadGateway) }, "Error response from daemon: gateway is tired"},
		"an empty refusal":    {func(w http.ResponseWriter) { w.WriteHeader(503) }, "Error response from daemon: 503 Service Unavailable"},
		"half an answer":      {func(w http.ResponseWriter) { _, _ = w.Write([]byte(`[{"Id":`)) }, "Cannot connect to the Docker daemon"},
		"an answer cut short": {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, "Cannot connect to the Docker daemon"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := dockertest.NewFake(t)
			fake.On("GET /networks", func(w http.ResponseWriter, _ *http.Request) bool { c.answer(w); return true })
			e := engineOn(t, fake)
			_, err := ask(t.Context(), e, "list networks", askTime, func(ctx context.Context) ([]listed, error) { return e.api.listNetworks(ctx, nil) })
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
		})
	}
}

func TestNothingIsRemovedWithoutALabel(t *testing.T) {
	t.Parallel()
	if _, err := engineOn(t, dockertest.NewFake(t)).RemoveLabelled(t.Context(), nil); err == nil {
		t.Error("everything would have been removed")
	}
}

func TestWhatADaemonMakesAfterAnAgentWasKilledIsFoundLater(t *testing.T) {
	t.Parallel()
	fake := dockertest.NewFake(t)
	dead, e := engineOn(t, fake), engineOn(t, fake)
	dead.conf.Owner = "dead"
	done := false
	e.Adopt("dead", func() { done = true })
	if n, err := e.Sweep(t.Context()); n != 1 || err != nil || done {
		t.Errorf("after the first look: %d pending, %v", n, err)
	}
	// The call was under way all the time.
	if err := dead.Stage("1").makeVolumes(t.Context(), map[string]tempVolume{"late": {name: "late"}}); err != nil {
		t.Fatal(err)
	}
	e.late = time.Nanosecond
	if n, err := e.Sweep(t.Context()); n != 0 || err != nil || !done || len(fake.Objects()) > 0 {
		t.Errorf("after the second look: %d pending, %v, left %v", n, err, fake.Objects())
	}
}

func TestADaemonOverTLSIsVerified(t *testing.T) {
	t.Parallel()
	fake := dockertest.NewFake(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, text := range map[string][]byte{"ca.pem": certPEM, "cert.pem": certPEM, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	srv := httptest.NewUnstartedServer(fake)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	host := "tcp://" + srv.Listener.Addr().String()
	e, err := New(Config{Host: host, Env: []string{"DOCKER_CERT_PATH=" + dir}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	if err := e.ping(t.Context()); err != nil {
		t.Errorf("with the right certificates: %v", err)
	}
	plain, err := New(Config{Host: strings.Replace(host, "tcp://", "https://", 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plain.Close)
	if err := plain.ping(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("without the daemon's authority: %v", err)
	}
}
