package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCommandLine(t *testing.T) { // not parallel: urfave/cli shares its own flags
	cases := []struct {
		name string
		args []string
		code int
		out  string // in stdout
		err  string // in stderr
	}{
		{name: "version", args: []string{"runner-agent", "--version"}, out: "dev"},
		{name: "version in short", args: []string{"lite-engine", "-v"}, out: "dev"},
		{name: "help", args: []string{"runner-agent", "--help"}, out: "server"},
		{name: "no command", args: []string{"runner-agent"}, out: "COMMANDS"},
		{name: "unknown command", args: []string{"runner-agent", "dance"}, code: 2, err: `unknown command "dance"`},
		{name: "unknown flag", args: []string{"runner-agent", "server", "--nope"}, code: 2, err: "nope"},
		{name: "the local runner's help", args: []string{"runner-agent", "host", "--help"}, out: "CI_MOUNT_VOLUMES"},
		{name: "server under the local runner's name", args: []string{"/opt/harness-docker-runner-linux-amd64", "server", "--bind", ":1"}, code: 1, err: "DRONE_HTTP_ALLOW"},
		{name: "server under the local runner's name on Windows", args: []string{`C:\x\harness-docker-runner-windows-amd64.exe`, "server", "--bind", ":1"}, code: 1, err: "DRONE_HTTP_ALLOW"},
		{name: "init as an ordinary process", args: []string{"runner-agent", "init"}, code: 1, err: "init"},
		{name: "a broken env file", args: []string{"lite-engine-linux-amd64", "server", "--env-file", "testdata/broken.env"}, code: 1, err: "env file testdata/broken.env"},
		{name: "a setting of the wrong type", args: []string{"runner-agent", "server", "--env-file", "testdata/wrong.env"}, code: 1, err: `SERVER_INSECURE is "perhaps", want true or false`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			code := run(t.Context(), c.args, &out, &errs)
			if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.err) {
				t.Errorf("exit %d, want %d\nstdout: %s\nstderr: %s", code, c.code, &out, &errs)
			}
		})
	}
}

func TestWhatTheNameMeans(t *testing.T) {
	t.Parallel()
	cases := map[string]bool{
		"runner-agent": false, "lite-engine": false, "/usr/bin/lite-engine-linux-amd64": false, "": false,
		"harness-docker-runner": true, "./harness-docker-runner-darwin-arm64": true, `C:\p\harness-docker-runner.exe`: true,
		"/harness-docker-runner/runner-agent": false,
	}
	for name, want := range cases {
		if got := meansHost([]string{name}); got != want {
			t.Errorf("%q means host: %v, want %v", name, got, want)
		}
	}
	if meansHost(nil) {
		t.Error("no name at all means host")
	}
}

func TestProcessOneRunsInit(t *testing.T) {
	t.Parallel()
	cases := []struct {
		args []string
		pid  int
		want []string
	}{
		{[]string{"/init"}, 1, []string{"/init", "init"}},
		{[]string{"/init", "quiet"}, 1, []string{"/init", "init"}},
		{[]string{"/init", "init"}, 1, []string{"/init", "init"}},
		{[]string{"runner-agent"}, 2, []string{"runner-agent"}},
	}
	for _, c := range cases {
		if got := withDefaultCommand(c.args, c.pid); !slices.Equal(got, c.want) {
			t.Errorf("%v as process %d: %v, want %v", c.args, c.pid, got, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("PATH=/from/file\nSERVER_CERT_FILE=/file.pem\nHTTPS_BIND=:1\nEMPTY=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := []string{"PATH=/env", "HOME=/root", "SERVER_HTTPS_BIND=:2", "SERVER_KEY_FILE=", "DEBUG=", "TRACE=true"}
	s, err := loadSettings(file, environ, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"SERVER_CERT_FILE": "/file.pem", // from the file
		"HTTPS_BIND":       ":2",        // the prefixed form wins
		"SERVER_KEY_FILE":  "fallback",  // empty counts as unset
		"CLIENT_CERT_FILE": "fallback",
	} {
		if got := s.text(name, "fallback"); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := s.lookup("PATH"); got != "/from/file" {
		t.Errorf("PATH is %q; the file wins over the environment", got)
	}
	env := s.environ()
	if n := len(slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return !strings.HasPrefix(kv, "PATH=") })); n != 1 {
		t.Errorf("PATH is %d times in %v", n, env)
	}
	if l, err := s.logLevel(); err != nil || l != slog.LevelDebug {
		t.Errorf("level %v, %v", l, err)
	}
	if _, err := loadSettings(filepath.Join(t.TempDir(), "none"), nil, slog.New(slog.DiscardHandler)); err != nil {
		t.Errorf("a missing file: %v", err)
	}
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct{ lines chan string }

func (b *lockedBuffer) Write(p []byte) (int, error) { b.lines <- string(p); return len(p), nil }

// await returns the first line with text in it.
func (b *lockedBuffer) await(t *testing.T, text string) string {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case l := <-b.lines:
			if strings.Contains(l, text) {
				return l
			}
		case <-timeout:
			t.Fatalf("no line with %q", text)
		}
	}
}

// TestServerWaitsForItsCertificatesAndStopsWhenTold starts the server before
// its certificates exist, as a boot script may.
func TestServerWaitsForItsCertificatesAndStopsWhenTold(t *testing.T) { // not parallel: urfave/cli shares its own flags
	dir := t.TempDir()
	file := filepath.Join(dir, "env")
	certs := filepath.Join(dir, "certs")
	text := fmt.Sprintf("HTTPS_BIND=127.0.0.1:0\nSERVER_CERT_FILE=%[1]s/server-cert.pem\nSERVER_KEY_FILE=%[1]s/server-key.pem\n"+
		"CLIENT_CERT_FILE=%[1]s/ca-cert.pem\nHARNESS_WORKDIR=%[2]s\nRUNNER_AGENT_STATE_DIR=%[2]s/state\nSKIP_PREPARE_SERVER=true\n", certs, dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{lines: make(chan string, 1000)}
	ctx, stop := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"lite-engine", "server", "--env-file", file}, io.Discard, log) }()
	line := log.await(t, "listening")
	log.await(t, "waiting for certificates")
	_, addr, _ := strings.Cut(line, "addr=")
	addr, _, _ = strings.Cut(addr, " ")

	var out bytes.Buffer
	if code := run(t.Context(), []string{"runner-agent", "certs", "--certPath", certs, "--env-file", ""}, &out, &out); code != 0 {
		t.Fatalf("certs: exit %d: %s", code, &out)
	}
	client := certsClient(t, certs)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+addr+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("health: %s", res.Status)
	}
	client.CloseIdleConnections()
	stop()
	if got := <-code; got != 0 {
		t.Errorf("exit %d after a stop, want 0", got)
	}
}

func certsClient(t testing.TB, dir string) *http.Client {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server-cert.pem"), filepath.Join(dir, "server-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca-cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for _, name := range []string{"ca-cert.pem", "ca-key.pem", "server-cert.pem", "server-key.pem"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: defaultServerName, RootCAs: roots, Certificates: []tls.Certificate{pair},
	}}}
}

func TestServerToldToStopBeforeItHasCertificates(t *testing.T) { // not parallel: urfave/cli shares its own flags
	dir := t.TempDir()
	file := filepath.Join(dir, "env")
	text := fmt.Sprintf("HTTPS_BIND=127.0.0.1:0\nSERVER_CERT_FILE=%[1]s/none\nCLIENT_CERT_FILE=%[1]s/none\nRUNNER_AGENT_STATE_DIR=%[1]s\n", dir)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{lines: make(chan string, 1000)}
	ctx, stop := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"runner-agent", "server", "--env-file", file}, io.Discard, log) }()
	log.await(t, "waiting for certificates")
	stop()
	if got := <-code; got != 0 {
		t.Errorf("exit %d, want 0", got)
	}
}

func TestServerSaysWhenItsAddressIsTaken(t *testing.T) { // not parallel: urfave/cli shares its own flags
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "env")
	if err := os.WriteFile(file, []byte("HTTPS_BIND="+ln.Addr().String()+"\nRUNNER_AGENT_STATE_DIR="+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	if code := run(t.Context(), []string{"runner-agent", "server", "--env-file", file}, io.Discard, &errs); code != 1 || !strings.Contains(errs.String(), "address already in use") {
		t.Errorf("exit %d: %s", code, &errs)
	}
}
