package containers

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Versions of the daemon's interface: the newest this package knows, used unless
// the daemon's is older, and the oldest it can do with, that of Docker 19.03 and
// of Podman.
const (
	newestVersion = "1.51"
	oldestVersion = "1.40"
)

// api speaks the daemon's interface. It is as much of a client as an agent needs:
// the vendor's library brings telemetry of more than a megabyte, a tenth of what
// the agent may have.
type api struct {
	base   string // scheme and host of requests
	dial   func(context.Context) (net.Conn, error)
	client *http.Client
	// platform is what containers are made for and images pulled for, such as
	// linux/arm64; "": the daemon's own.
	platform string

	mu      sync.Mutex
	version string // "" until the daemon was asked
}

// newAPI makes one for an address. Nothing is asked of the daemon yet.
func newAPI(host string, env []string) (*api, error) {
	a := &api{base: "http://docker", platform: lookup(env, "DOCKER_DEFAULT_PLATFORM"), version: strings.TrimPrefix(lookup(env, "DOCKER_API_VERSION"), "v")}
	if a.version != "" && minor(a.version) < 0 {
		return nil, fmt.Errorf("DOCKER_API_VERSION is %q, want a version such as %s", a.version, newestVersion)
	}
	scheme, rest, _ := strings.Cut(host, "://")
	var conf *tls.Config
	switch scheme {
	case "unix", "npipe":
		a.dial = func(ctx context.Context) (net.Conn, error) { return DialSocket(ctx, host) }
	case "tcp", "http", "https":
		addr := strings.TrimSuffix(rest, "/")
		var err error
		if conf, err = tlsConfig(scheme, addr, lookup(env, "DOCKER_CERT_PATH")); err != nil {
			return nil, err
		}
		a.base = "http://" + addr
		a.dial = func(ctx context.Context) (net.Conn, error) {
			d := net.Dialer{KeepAlive: keepAlive}
			if conf == nil {
				return d.DialContext(ctx, "tcp", addr)
			}
			return (&tls.Dialer{NetDialer: &d, Config: conf}).DialContext(ctx, "tcp", addr)
		}
	default:
		return nil, fmt.Errorf("docker address %q: want unix://, tcp:// or npipe://; see DOCKER_HOST", host)
	}
	a.client = &http.Client{Transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return a.dial(ctx) },
		MaxIdleConns:    idleConns,
		IdleConnTimeout: idleTime,
		// MaxIdleConnsPerHost is the same, since there is one host.
		MaxIdleConnsPerHost: idleConns,
	}}
	return a, nil
}

// Connections of an engine that are kept between calls.
const (
	idleConns = 6
	idleTime  = 30 * time.Second
	keepAlive = 30 * time.Second
)

// tlsConfig is nil for a daemon that is spoken to plainly.
func tlsConfig(scheme, addr, dir string) (*tls.Config, error) {
	if dir == "" && scheme != "https" {
		return nil, nil
	}
	name, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("docker address %s: %w; see DOCKER_HOST", addr, err)
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}
	if dir == "" {
		return conf, nil
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("DOCKER_CERT_PATH: %w", err)
	}
	conf.RootCAs = x509.NewCertPool()
	if !conf.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("DOCKER_CERT_PATH: %s has no certificate", filepath.Join(dir, "ca.pem"))
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		return nil, fmt.Errorf("DOCKER_CERT_PATH: %w", err)
	}
	conf.Certificates = []tls.Certificate{pair}
	return conf, nil
}

func (a *api) close() { a.client.CloseIdleConnections() }

// connError is a daemon that cannot be reached, or broke off.
type connError struct{ cause error }

func (e *connError) Error() string { return e.cause.Error() }
func (e *connError) Unwrap() error { return e.cause }

// apiError is a daemon's refusal.
type apiError struct {
	status  int
	message string
}

func (e *apiError) Error() string { return "Error response from daemon: " + e.message }

// hasStatus says whether err is a daemon's refusal with one of the statuses.
func hasStatus(err error, statuses ...int) bool {
	refusal, ok := errors.AsType[*apiError](err)
	if !ok {
		return false
	}
	for _, s := range statuses {
		if refusal.status == s {
			return true
		}
	}
	return false
}

// request makes a request for a path of the interface, of the version the daemon
// speaks.
func (a *api) request(ctx context.Context, method, path string, query url.Values, body any) (*http.Request, error) {
	version, err := a.negotiate(ctx)
	if err != nil {
		return nil, err
	}
	var text io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		text = bytes.NewReader(data)
	}
	u := a.base + "/v" + version + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, u, text)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// send sends a request. An answer that is not a success is an error.
func (a *api) send(req *http.Request) (*http.Response, error) {
	res, err := a.client.Do(req)
	if err != nil {
		return nil, a.broken(req.Context(), err)
	}
	if err := refused(res); err != nil {
		return nil, err
	}
	return res, nil
}

// broken leaves errors of ended contexts as they are: their cause counts.
func (a *api) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return &connError{err}
}

// errorText bounds what is read of a refusal, in bytes.
const errorText = 64 << 10

// refused reads and closes an answer that is not a success.
func refused(res *http.Response) error {
	if res.StatusCode < http.StatusBadRequest {
		return nil
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, errorText))
	if err != nil {
		return &connError{err}
	}
	var body struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &body) != nil {
		body.Message = strings.TrimSpace(string(text))
	}
	return &apiError{status: res.StatusCode, message: cmp.Or(body.Message, res.Status)}
}

// call asks and decodes the answer into out, unless that is nil.
func (a *api) call(ctx context.Context, method, path string, query url.Values, body, out any) error {
	req, err := a.request(ctx, method, path, query, body)
	if err != nil {
		return err
	}
	res, err := a.send(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if out == nil || res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusNotModified {
		_, err = io.Copy(io.Discard, res.Body)
	} else {
		err = json.NewDecoder(res.Body).Decode(out)
	}
	if err != nil {
		return a.broken(ctx, fmt.Errorf("answer to %s %s: %w", method, path, err))
	}
	return nil
}

// open asks for an answer that is a stream.
func (a *api) open(ctx context.Context, method, path string, query url.Values, header http.Header) (io.ReadCloser, error) {
	req, err := a.request(ctx, method, path, query, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := a.send(req)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// hijack asks for a connection of its own and returns it, with what has come
// already before what will.
func (a *api) hijack(ctx context.Context, path string, query url.Values) (*hijacked, error) {
	req, err := a.request(ctx, http.MethodPost, path, query, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "tcp")
	conn, err := a.dial(ctx)
	if err != nil {
		return nil, a.broken(ctx, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // the calls below see it
	h := &hijacked{Conn: conn, Reader: bufio.NewReader(conn)}
	err = req.Write(conn)
	var res *http.Response
	if err == nil {
		res, err = http.ReadResponse(h.Reader, req) //nolint:bodyclose // its body is the connection
	}
	if err != nil {
		err = a.broken(ctx, err)
	} else {
		err = refused(res)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close() // of no use any more
		return nil, err
	}
	return h, nil
}

// hijacked is a connection that carries a container's output.
type hijacked struct {
	net.Conn
	Reader *bufio.Reader
}

// ping asks whether the daemon is there, and for its version.
func (a *api) ping(ctx context.Context) (version string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+"/_ping", nil)
	if err != nil {
		return "", err
	}
	res, err := a.send(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return "", a.broken(ctx, err)
	}
	return res.Header.Get("Api-Version"), nil
}

// negotiate returns the version to speak, and asks the daemon once.
func (a *api) negotiate(ctx context.Context) (string, error) {
	a.mu.Lock()
	known := a.version
	a.mu.Unlock()
	if known != "" {
		return known, nil
	}
	theirs, err := a.ping(ctx)
	if err != nil {
		return "", err
	}
	version, err := chooseVersion(theirs)
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	a.version = version
	a.mu.Unlock()
	return version, nil
}

// chooseVersion is the older of the daemon's version and ours. A daemon that
// says none speaks the oldest.
func chooseVersion(theirs string) (string, error) {
	switch m := minor(cmp.Or(theirs, oldestVersion)); {
	case m < 0:
		return "", fmt.Errorf("the daemon's interface has the version %q, which is none of Docker's", theirs)
	case m < minor(oldestVersion):
		return "", fmt.Errorf("the daemon's interface has the version %s; %s is the oldest that will do: bring Docker up to date", theirs, oldestVersion)
	case m < minor(newestVersion):
		return cmp.Or(theirs, oldestVersion), nil
	}
	return newestVersion, nil
}

// minor is the n of 1.n, -1 of anything else.
func minor(version string) int {
	text, ok := strings.CutPrefix(version, "1.")
	n, err := strconv.Atoi(text)
	if !ok || err != nil || n < 0 {
		return -1
	}
	return n
}
