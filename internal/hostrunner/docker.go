package hostrunner

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/containers"
)

// dockerPatience is how long the daemon may take to answer a question.
const dockerPatience = 5 * time.Second

// Docker asks a container daemon questions; agents do the work.
type Docker struct {
	host   string // as in DOCKER_HOST
	base   string
	client *http.Client
	err    error // why it cannot be asked
	// elsewhere are addresses where other daemons listen by custom.
	elsewhere []string
}

// customary are the sockets of daemons that are not the system's Docker, below
// folders that variables name.
var customary = []struct{ variable, path string }{
	{"", "/run/podman/podman.sock"},
	{"XDG_RUNTIME_DIR", "podman/podman.sock"},
	{"XDG_RUNTIME_DIR", "docker.sock"},      // rootless
	{"HOME", ".docker/run/docker.sock"},     // Docker Desktop
	{"HOME", ".colima/default/docker.sock"}, // macOS
	{"HOME", ".rd/docker.sock"},             // Rancher Desktop
	{"HOME", ".orbstack/run/docker.sock"},   // macOS
}

// others are the customary addresses where there is a socket.
func (d *Docker) others() []string {
	return slices.DeleteFunc(slices.Clone(d.elsewhere), func(host string) bool { return host == d.host || !containers.Present(host) })
}

// NewDocker asks the daemon the Docker variables of environ name, as os.Environ
// returns them.
func NewDocker(environ []string) *Docker {
	value := func(name string) string {
		for _, kv := range slices.Backward(environ) {
			if v, ok := strings.CutPrefix(kv, name+"="); ok {
				return v
			}
		}
		return ""
	}
	d := &Docker{host: containers.Host("", environ), base: "http://docker"}
	for _, c := range customary {
		if c.variable == "" {
			d.elsewhere = append(d.elsewhere, "unix://"+c.path)
		} else if dir := value(c.variable); dir != "" {
			d.elsewhere = append(d.elsewhere, "unix://"+filepath.Join(dir, c.path))
		}
	}
	t := &http.Transport{MaxIdleConns: 1, IdleConnTimeout: dockerPatience}
	d.client = &http.Client{Transport: t, Timeout: dockerPatience}
	scheme, address, _ := strings.Cut(d.host, "://")
	switch scheme {
	case "unix", "npipe":
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return containers.DialSocket(ctx, d.host) }
	case "tcp", "http":
		d.base = "http://" + address
		if dir := value("DOCKER_CERT_PATH"); dir != "" {
			d.base = "https://" + address
			t.TLSClientConfig, d.err = dockerTLS(dir)
		}
	default:
		d.err = fmt.Errorf("DOCKER_HOST: %q cannot be asked; unix://, npipe:// and tcp:// can", d.host)
	}
	return d
}

func dockerTLS(dir string) (*tls.Config, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("DOCKER_CERT_PATH: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("DOCKER_CERT_PATH: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{pair}}, nil
}

// dockerError is a daemon that cannot be reached; it begins with the text users know.
type dockerError struct {
	host  string
	cause error
}

func (e *dockerError) Error() string {
	return fmt.Sprintf("Cannot connect to the Docker daemon at %s. Is the docker daemon running? (%v) Start it and see: docker info", e.host, e.cause)
}

func (e *dockerError) Unwrap() error { return e.cause }

// Ping is nil if the daemon answers.
func (d *Docker) Ping(ctx context.Context) error { return d.get(ctx, "/_ping", nil) }

// get reads one answer of the daemon's API, nil for one nobody reads.
func (d *Docker) get(ctx context.Context, path string, into any) error {
	if d.err != nil {
		return d.err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+path, nil)
	if err != nil {
		return err
	}
	res, err := d.client.Do(req)
	if err != nil {
		return &dockerError{d.host, err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return &dockerError{d.host, err}
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the Docker daemon at %s answers %s to %s: %s", d.host, res.Status, path, strings.TrimSpace(string(body)))
	}
	switch v := into.(type) {
	case nil:
		return nil
	case *[]byte:
		*v = body
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the Docker daemon at %s answers %s with what is no JSON: %w", d.host, path, err)
	}
	return nil
}

// dockerFresh is how long an answer of the daemon counts for health requests.
const dockerFresh = 5 * time.Second

// dockerState remembers whether the daemon answered. It is safe for concurrent
// use; those who ask at once share one question.
type dockerState struct {
	ping func(context.Context) error
	now  func() time.Time

	mu    sync.Mutex
	asked time.Time
	err   error
}

var errNotAsked = errors.New("the daemon was not asked in time")

// check is nil if the daemon answered just now.
func (s *dockerState) check(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if !s.asked.IsZero() && now.Sub(s.asked) < dockerFresh {
		return s.err
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), dockerPatience, errNotAsked)
	defer cancel()
	s.asked, s.err = now, s.ping(ctx)
	return s.err
}
