package agentclient_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// madeAt is an identity as it was made at a time, good for a day.
func madeAt(t testing.TB, at time.Time) drivers.Identity {
	t.Helper()
	id, err := pool.NewIdentity("m1", "m1", "runner.example", nil, at, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func renewed(t testing.TB, id drivers.Identity, at time.Time) drivers.Identity {
	t.Helper()
	next, err := pool.RenewIdentity(id, at, 48*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// shown is the leaf a new connection to a machine is shown.
func shown(t testing.TB, target pool.Target) []byte {
	t.Helper()
	pair, err := tls.X509KeyPair(target.Identity.Cert, target.Identity.Key)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", net.JoinHostPort(target.Address, strconv.Itoa(target.Port)), &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, //nolint:gosec // this test looks at it
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: conn.ConnectionState().PeerCertificates[0].Raw})
}

// postTo is the status of a call whose caller shows pair and looks at nothing.
func postTo(t *testing.T, target pool.Target, pair tls.Certificate, path string) int {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}} //nolint:gosec // this test looks at it
	defer transport.CloseIdleConnections()
	url := "https://" + net.JoinHostPort(target.Address, strconv.Itoa(target.Port)) + path
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func with(target pool.Target, id drivers.Identity) pool.Target {
	target.Identity = id
	return target
}

func TestARenewedCertificateIsUsedByNewConnectionsAndAfterARestart(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	old := madeAt(t, time.Now())
	target, stop := serveAgent(t, old, state)
	c := newClient(t, agentclient.Config{})
	if _, err := c.Health(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	// A step that runs meanwhile is not disturbed.
	if err := c.Setup(t.Context(), target, json.RawMessage(`{"mount_docker_socket":false}`)); err != nil {
		t.Fatal(err)
	}
	gate := filepath.Join(t.TempDir(), "gate")
	body, err := json.Marshal(map[string]any{
		"id": "s", "working_dir": t.TempDir(), "environment": map[string]string{"A": "b"},
		"run": map[string]any{"entrypoint": []string{"sh", "-c"}, "commands": []string{"until [ -e '" + gate + "' ]; do sleep 0.02; done"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.StartStep(t.Context(), target, body); err != nil {
		t.Fatal(err)
	}
	polled := make(chan error, 1)
	go func() {
		res, err := c.PollStep(t.Context(), target, "s")
		if err == nil && !strings.Contains(string(res.Body), `"exited":true`) && !strings.Contains(string(res.Body), `"exited": true`) {
			err = &pool.AgentError{Message: string(res.Body)}
		}
		polled <- err
	}()

	next := renewed(t, old, time.Now())
	for range 2 { // the second time it has it already
		if err := c.Renew(t.Context(), target, next); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(shown(t, target), next.Cert) {
		t.Error("a new connection is not shown the new certificate")
	}
	for name, id := range map[string]drivers.Identity{"new": next, "old": old} {
		other := newClient(t, agentclient.Config{})
		if _, err := other.Health(t.Context(), with(target, id)); err != nil {
			t.Errorf("with the %s certificate: %v", name, err)
		}
	}
	if _, err := c.Health(t.Context(), with(target, next)); err != nil {
		t.Errorf("the same client with the new certificate: %v", err)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-polled; err != nil {
		t.Errorf("the step that ran meanwhile: %v", err)
	}

	files, err := filepath.Glob(filepath.Join(state, "certificate-*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v; want one", files, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v; want mode 0600", info, err)
	}
	stop()
	again, _ := serveAgent(t, old, state)
	if !bytes.Equal(shown(t, again), next.Cert) {
		t.Error("after a restart with the files of its creation the agent has its old certificate")
	}
	if _, err := newClient(t, agentclient.Config{}).Health(t.Context(), with(again, next)); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	stranger, _ := serveAgent(t, madeAt(t, time.Now()), state)
	if _, err := newClient(t, agentclient.Config{}).Health(t.Context(), stranger); err != nil {
		t.Errorf("another machine with the same state directory: %v", err)
	}
}

// A local machine is told its identity by its host, at every start.
func TestAMachineWithAnIdentityFromItsHostWritesNoKeyDown(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	id := madeAt(t, time.Now())
	target, _ := serveMachine(t, id, agent.Options{StateDir: state, Machine: "m1"})
	next := renewed(t, id, time.Now())
	if err := newClient(t, agentclient.Config{}).Renew(t.Context(), target, next); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(shown(t, target), next.Cert) {
		t.Error("a new connection is not shown the new certificate")
	}
	if files, err := filepath.Glob(filepath.Join(state, "certificate-*")); err != nil || len(files) != 0 {
		t.Errorf("files %v, %v; want none", files, err)
	}
}

func TestAnAgentStartsBesideAFileOfCertificatesThatIsBroken(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	id := madeAt(t, time.Now())
	target, stop := serveAgent(t, id, state)
	if err := newClient(t, agentclient.Config{}).Renew(t.Context(), target, renewed(t, id, time.Now())); err != nil {
		t.Fatal(err)
	}
	stop()
	files, err := filepath.Glob(filepath.Join(state, "certificate-*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v; want one", files, err)
	}
	if err := os.WriteFile(files[0], []byte(`{"ca_cert":"half`), 0o600); err != nil {
		t.Fatal(err)
	}
	target, _ = serveAgent(t, id, state)
	if !bytes.Equal(shown(t, target), id.Cert) {
		t.Error("it does not show the certificate it was started with")
	}
}

func TestACertificateThatIsNotThisMachinesIsRefused(t *testing.T) {
	t.Parallel()
	id := madeAt(t, time.Now())
	target, _ := serveAgent(t, id, t.TempDir())
	c := newClient(t, agentclient.Config{})
	renamed, err := pool.NewIdentity("m1", "m1", "another.example", nil, time.Now(), 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	renamed.CACert, renamed.CAKey = id.CACert, id.CAKey
	mixed := renewed(t, id, time.Now())
	mixed.Key = id.Key
	sooner, err := pool.RenewIdentity(id, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		next drivers.Identity
		want string
	}{
		"of another CA":              {renewed(t, madeAt(t, time.Now()), time.Now()), "another CA"},
		"for another name":           {renewed(t, renamed, time.Now()), "the certificate is for [another.example]"},
		"with the key of another":    {mixed, "server certificate"},
		"that ends sooner":           {sooner, "not later than the one this machine has"},
		"that is none":               {drivers.Identity{CACert: id.CACert, Cert: []byte("x"), Key: id.Key}, "server certificate"},
		"with a CA that is none":     {drivers.Identity{CACert: []byte("x"), Cert: id.Cert, Key: id.Key}, "CA certificate"},
		"with nothing (empty texts)": {drivers.Identity{}, "server certificate"},
	} {
		wantError(t, c.Renew(t.Context(), target, test.next), test.want)
		if !bytes.Equal(shown(t, target), id.Cert) {
			t.Fatalf("a certificate %s has replaced the machine's", name)
		}
	}
}

// The certificate of a machine that slept for too long is renewed, and until
// then nothing else can be asked of it.
func TestACertificateThatEndedIsGoodForItsRenewalAlone(t *testing.T) {
	t.Parallel()
	old := madeAt(t, time.Now().Add(-72*time.Hour))
	target, _ := serveAgent(t, old, t.TempDir())
	c := newClient(t, agentclient.Config{})
	_, err := c.Health(t.Context(), target)
	wantError(t, err, "is valid from")

	next := renewed(t, old, time.Now())
	stranger := with(target, madeAt(t, time.Now().Add(-72*time.Hour)))
	if err := c.Renew(t.Context(), stranger, renewed(t, stranger.Identity, time.Now())); err == nil {
		t.Error("a machine with another certificate that ended was taken for this one")
	}
	if err := c.Renew(t.Context(), target, next); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Health(t.Context(), with(target, next)); err != nil {
		t.Errorf("after the renewal: %v", err)
	}
	// Whoever did not hear of it reaches the machine with the new one only.
	if err := c.Renew(t.Context(), target, next); err == nil {
		t.Error("the old certificate is still good for a renewal")
	}
	if err := c.Renew(t.Context(), with(target, next), next); err != nil {
		t.Errorf("again, with the new one: %v", err)
	}
}

func TestWhoseCertificateEndedMayRenewItAndNothingElse(t *testing.T) {
	t.Parallel()
	old := madeAt(t, time.Now().Add(-72*time.Hour))
	target, _ := serveAgent(t, old, t.TempDir())
	pair, err := tls.X509KeyPair(old.Cert, old.Key)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"/setup": 403, "/start_step": 403, "/poll_step": 403, "/stream_output": 403, "/destroy": 403, "/suspend": 403,
		"/rehearse": 403, "/mint_workload_token": 403, "/renew_certificate": 400,
	} {
		if got := postTo(t, target, pair, path); got != want {
			t.Errorf("%s answers %d, want %d", path, got, want)
		}
	}
}

func TestAnExistingAgentAnswersThatItKnowsNoRenewal(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{}, nil)
	err := newClient(t, agentclient.Config{}).Renew(t.Context(), r.target, renewed(t, r.id, time.Now()))
	refusal, ok := err.(*pool.AgentError) //nolint:errorlint // it is not wrapped here
	if !ok || refusal.Status != pool.StatusUnknown {
		t.Errorf("error %v, want a refusal with status 404", err)
	}
}
