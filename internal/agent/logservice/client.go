package logservice

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says which log service and how to talk to it. The zero value of each
// field but URL has a meaning, given there.
type Config struct {
	// URL is the base of the service; one slash at its end is dropped, a path
	// in it is kept. Required.
	URL string
	// AccountID is the account logs belong to.
	AccountID string
	// Token is sent to the host of URL and to no other.
	Token string
	// Indirect uploads whole logs through the service; otherwise it is asked
	// for a link to upload to.
	Indirect bool
	// TrimNewline leaves out the newline at the end of each line.
	TrimNewline bool
	// ClientCert and ClientKey are a PEM pair to show to the host of URL; both
	// or neither.
	ClientCert, ClientKey []byte
	// Proxy is which proxy a request takes, as for [http.Transport]; nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// Dial makes connections; nil: over the network.
	Dial DialFunc
	// Echo gets each line too, as a JSON object with the member log_key; nil:
	// nothing does. It must be safe for concurrent use.
	Echo io.Writer
	// Log is where failures are told; nil: nowhere.
	Log *slog.Logger
}

// DialFunc makes a connection, as [net.Dialer.DialContext] does.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Client sends logs to one service. Make one with [New]; its methods are safe
// for concurrent use.
type Client struct {
	cfg     Config
	base    *url.URL
	service *http.Client // for the host of base
	store   *http.Client // for every other one
	log     *slog.Logger
	failing atomic.Bool

	mu      sync.Mutex
	closed  bool
	streams map[*Stream]struct{} // that have not ended
	ended   sync.WaitGroup
}

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	// headerTimeout is how long one try waits for the beginning of its answer.
	headerTimeout = 10 * time.Second
	idleTimeout   = 30 * time.Second
	// idleConns is enough for the parallel steps of a large stage.
	idleConns = 32
)

// New makes a client. It connects to nothing yet.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(strings.TrimSuffix(cfg.URL, "/"))
	if err != nil {
		return nil, fmt.Errorf("URL of the log service: %w", withoutURL(err))
	}
	if base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, errors.New("URL of the log service: not of the form https://host/path")
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(cfg.ClientCert) > 0 || len(cfg.ClientKey) > 0 {
		pair, err := tls.X509KeyPair(cfg.ClientCert, cfg.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("client certificate for the log service: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return &Client{
		cfg:     cfg,
		base:    base,
		service: newHTTPClient(cfg, conf),
		store:   newHTTPClient(cfg, &tls.Config{MinVersion: tls.VersionTLS12}),
		log:     cmp.Or(cfg.Log, slog.New(slog.DiscardHandler)),
		streams: make(map[*Stream]struct{}),
	}, nil
}

// newHTTPClient follows no redirects: they would carry a log, or a token, to
// places nobody has named.
func newHTTPClient(cfg Config, conf *tls.Config) *http.Client {
	dial := cfg.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 cfg.Proxy,
			DialContext:           dial,
			TLSClientConfig:       conf,
			TLSHandshakeTimeout:   handshakeTimeout,
			ForceAttemptHTTP2:     true,
			DisableCompression:    true,
			MaxIdleConnsPerHost:   idleConns,
			IdleConnTimeout:       idleTimeout,
			ResponseHeaderTimeout: headerTimeout,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Failing says whether the service has refused or missed what it was sent last.
// Who waits for a log may then wait less.
func (c *Client) Failing() bool { return c.failing.Load() }

// Release closes connections that are not in use. Logs that have not ended go on.
func (c *Client) Release() {
	c.service.CloseIdleConnections()
	c.store.CloseIdleConnections()
}

// Break breaks off what is still under way. Logs begun later go nowhere.
func (c *Client) Break() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for s := range c.streams {
		s.cancel()
	}
}

// Close is Break, and waits until nothing is under way.
func (c *Client) Close() {
	c.Break()
	c.ended.Wait()
	c.Release()
}
