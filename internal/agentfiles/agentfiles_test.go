package agentfiles_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agentfiles"
)

// serve serves a folder with the given files and returns its address.
func serve(t *testing.T, files map[string]string) (url, dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := agentfiles.Open(dir, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ln, bound, err := agentfiles.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url, err = agentfiles.BaseURL(bound)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- f.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return url, dir
}

func ask(t *testing.T, method, url string) (status int, header http.Header, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func TestMachinesGetAgentsAndChecksums(t *testing.T) {
	t.Parallel()
	url, dir := serve(t, map[string]string{
		"lite-engine-linux-amd64": "linux", "runner-agent-linux-arm64": "arm", "runner-agent-windows-amd64.exe": "windows",
		"seal.key": "secret", "pool.yml": "secret", "lite-engine-plan9-amd64": "unknown",
	})
	for path, want := range map[string]string{
		"/lite-engine-linux-amd64":        "linux",
		"/lite-engine-linux-arm64":        "arm",
		"/lite-engine-windows-amd64.exe":  "windows",
		"/lite-engine-linux-arm64.sha256": sumOf("arm") + "  lite-engine-linux-arm64\n",
		"/SHA256SUMS": sumOf("linux") + "  lite-engine-linux-amd64\n" + sumOf("arm") + "  lite-engine-linux-arm64\n" +
			sumOf("windows") + "  lite-engine-windows-amd64.exe\n",
	} {
		if status, _, body := ask(t, http.MethodGet, url+path); status != http.StatusOK || body != want {
			t.Errorf("%s answers %d %q, want %q", path, status, body, want)
		}
	}
	if status, header, body := ask(t, http.MethodHead, url+"/lite-engine-linux-amd64"); status != http.StatusOK || body != "" || header.Get("Content-Length") != "5" {
		t.Errorf("HEAD answers %d %v %q", status, header, body)
	}

	// An upgrade of the file is an upgrade of its checksum.
	path := filepath.Join(dir, "lite-engine-linux-amd64")
	if err := os.WriteFile(path, []byte("newer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, _, body := ask(t, http.MethodGet, url+"/lite-engine-linux-amd64.sha256"); !strings.HasPrefix(body, sumOf("newer")) {
		t.Errorf("the checksum of the newer file is %q", body)
	}
}

func TestNothingElseIsServed(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, map[string]string{"lite-engine-linux-amd64": "linux", "seal.key": "secret", "lite-engine-plan9-amd64": "unknown"})
	for _, path := range []string{
		"", "/", "/seal.key", "/seal.key.sha256", "/lite-engine-plan9-amd64", "/lite-engine-linux-arm64", "/.", "/..%2fseal.key",
		"/lite-engine-linux-amd64/", "/lite-engine-linux-amd64/../seal.key", "//etc/passwd", "/healthz", "/metrics", "/setup", "/v1/pools",
	} {
		if status, _, body := ask(t, http.MethodGet, url+path); status != http.StatusNotFound || strings.Contains(body, "secret") {
			t.Errorf("%q answers %d %q", path, status, body)
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
		if status, header, _ := ask(t, method, url+"/lite-engine-linux-amd64"); status != http.StatusMethodNotAllowed || header.Get("Allow") != "GET, HEAD" {
			t.Errorf("%s answers %d, Allow %q", method, status, header.Get("Allow"))
		}
	}
}

func TestTheAgentBesideTheProgramIsOfThisHostsKind(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, map[string]string{"runner-agent": "own"})
	name := "/lite-engine-" + runtime.GOOS + "-" + runtime.GOARCH
	if status, _, body := ask(t, http.MethodGet, url+name); status != http.StatusOK || body != "own" {
		t.Errorf("%s answers %d %q", name, status, body)
	}
}

func TestAFolderWithoutAgentsIsAnError(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lite-engine-linux-amd64"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := agentfiles.Open(dir, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "lite-engine-linux-amd64") {
		t.Errorf("error %v, want one with the folder and what belongs there", err)
	}
}

func TestMachinesAreToldAnAddressTheyCanReach(t *testing.T) {
	t.Parallel()
	for bind, want := range map[string]string{
		"10.0.0.5:8088": "http://10.0.0.5:8088", "runner.example:8088": "http://runner.example:8088", "[fd00::5]:8088": "http://[fd00::5]:8088",
	} {
		if got, err := agentfiles.BaseURL(bind); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", bind, got, err, want)
		}
	}
	for _, bind := range []string{":8088", "0.0.0.0:8088", "[::]:8088"} {
		if got, err := agentfiles.BaseURL(bind); err == nil || !strings.Contains(err.Error(), "DRONE_LITE_ENGINE_PATH") {
			t.Errorf("%s: %q, %v; want an error that says what to do", bind, got, err)
		}
	}
}

func TestNamesAreWhatIsThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"lite-engine-linux-amd64", "runner-agent-darwin-arm64"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := agentfiles.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"lite-engine-darwin-arm64", "lite-engine-linux-amd64"}; !slices.Equal(f.Names(), want) {
		t.Errorf("%q, want %q", f.Names(), want)
	}
}
