package agentclient

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// Config has the client's patience. The zero value takes every default.
type Config struct {
	// Log gets debug records of retries. Nil: none.
	Log *slog.Logger

	// DialTimeout bounds a TCP connection, handshake included, over all its
	// tries. Zero: 12 s.
	DialTimeout time.Duration
	// HealthTry bounds one question for health. Zero: 10 s.
	HealthTry time.Duration
	// FirstTry bounds the question for health on a connection kept from
	// before; after it a new one is made. Zero: 2 s.
	FirstTry time.Duration
	// StartTry bounds one try to start a step, StartTotal all of them; the
	// context may end it earlier. Zero: 15 s and 30 s.
	StartTry   time.Duration
	StartTotal time.Duration
	// RenewTry bounds one renewal of a certificate. Zero: 15 s.
	RenewTry time.Duration
	// SuspendTotal bounds all tries of a suspend. Zero: 5 min.
	SuspendTotal time.Duration
	// ProbeFirst is how long a request may be unanswered before its
	// connection is probed by a second, small one; ProbeEvery the time between
	// later probes; ProbeTimeout how long a probe may take. Zero: 1 s, 15 s, 5 s.
	ProbeFirst   time.Duration
	ProbeEvery   time.Duration
	ProbeTimeout time.Duration
	// Silence is how long a running step's agent may give no sign of life
	// before a poll gives up: its machine is frozen or cut off. Zero: 30 s.
	Silence time.Duration
	// RetryMin is the wait after a first failure, RetryMax the longest; both
	// are spread by a fifth. Zero: 100 ms and 2 s.
	RetryMin time.Duration
	RetryMax time.Duration
}

func (c Config) withDefaults() Config {
	c.Log = cmp.Or(c.Log, slog.New(slog.DiscardHandler))
	c.DialTimeout = cmp.Or(c.DialTimeout, 12*time.Second)
	c.HealthTry = cmp.Or(c.HealthTry, 10*time.Second)
	c.FirstTry = cmp.Or(c.FirstTry, 2*time.Second)
	c.StartTry = cmp.Or(c.StartTry, 15*time.Second)
	c.StartTotal = cmp.Or(c.StartTotal, 30*time.Second)
	c.RenewTry = cmp.Or(c.RenewTry, 15*time.Second)
	c.SuspendTotal = cmp.Or(c.SuspendTotal, 5*time.Minute)
	c.ProbeFirst = cmp.Or(c.ProbeFirst, time.Second)
	c.ProbeEvery = cmp.Or(c.ProbeEvery, 15*time.Second)
	c.ProbeTimeout = cmp.Or(c.ProbeTimeout, 5*time.Second)
	c.Silence = cmp.Or(c.Silence, 30*time.Second)
	c.RetryMin = cmp.Or(c.RetryMin, 100*time.Millisecond)
	c.RetryMax = cmp.Or(c.RetryMax, 2*time.Second)
	return c
}

// Client talks to the agents of machines. It is safe for concurrent use.
type Client struct {
	cfg       Config
	transport *http.Transport
	dialer    net.Dialer

	mu     sync.Mutex
	closed bool
	links  map[string]*link
	polls  map[pollKey]*sharedPoll

	probes sync.WaitGroup
}

var _ pool.Agent = (*Client)(nil)

// New makes a client without connections. Close it at the end.
func New(cfg Config) *Client {
	c := &Client{
		cfg:   cfg.withDefaults(),
		links: make(map[string]*link),
		polls: make(map[pollKey]*sharedPoll),
		dialer: net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: 4,
		}},
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	// One transport for all machines: it only makes connections, each with the
	// identity its dial finds in the context, and keeps none itself.
	c.transport = &http.Transport{
		DialTLSContext:     c.dialTLS,
		Protocols:          protocols,
		DisableCompression: true,
		ReadBufferSize:     4 << 10,
		WriteBufferSize:    4 << 10,
		// No SendPingTimeout: its pings go on while nothing is asked, and would
		// close the connection of every machine that is paused. See conn.probe.
		HTTP2: &http.HTTP2Config{WriteByteTimeout: 30 * time.Second},
	}
	return c
}

// Close closes all connections; calls that are under way fail.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	links := c.links
	c.links = make(map[string]*link)
	c.mu.Unlock()
	for _, l := range links {
		l.close()
	}
	c.probes.Wait()
	return nil
}

// Forget closes the connection of a machine. Calls about it that are under
// way fail and do not connect again.
func (c *Client) Forget(instance string) {
	c.mu.Lock()
	l := c.links[instance]
	delete(c.links, instance)
	c.mu.Unlock()
	if l != nil {
		l.close()
	}
}

// Health asks once. Of the answer only the status decides; what is said beside
// it is read when it is JSON. A connection kept from before that does not
// answer soon is replaced by a new one within the same question.
func (c *Client) Health(ctx context.Context, t pool.Target) (pool.Health, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.HealthTry, errSlow("agent healthz", c.cfg.HealthTry))
	defer cancel()
	body, err := c.once(ctx, c.link(t), t, request{op: "healthz", method: http.MethodGet, path: agentapi.PathHealth, firstTry: c.cfg.FirstTry, anyBody: true})
	if err != nil {
		return pool.Health{}, err
	}
	return readHealth(body), nil
}

// readHealth takes what it understands. Our agent leaves running_steps out
// when there are none; what tells it from others is that it names docker.
func readHealth(body []byte) pool.Health {
	var h struct {
		Version      string  `json:"version"`
		RunningSteps *int    `json:"running_steps"`
		Docker       *string `json:"docker"`
		Used         *bool   `json:"used"`
	}
	if json.Unmarshal(body, &h) != nil {
		return pool.Health{RunningSteps: -1}
	}
	steps := -1
	switch {
	case h.RunningSteps != nil:
		steps = *h.RunningSteps
	case h.Docker != nil:
		steps = 0
	}
	used := pool.UsedUnknown
	switch {
	case h.Used == nil:
	case *h.Used:
		used = pool.UsedOnce
	default:
		used = pool.UsedNever
	}
	return pool.Health{Version: h.Version, RunningSteps: steps, Used: used}
}

// Setup is tried until it succeeds, is refused for good, or ctx ends.
func (c *Client) Setup(ctx context.Context, t pool.Target, body json.RawMessage) error {
	return c.repeat(ctx, t, request{op: "setup", method: http.MethodPost, path: agentapi.PathSetup, body: orEmpty(body), use: t.Use})
}

// StartStep has the limits of the configuration beside ctx.
func (c *Client) StartStep(ctx context.Context, t pool.Target, body json.RawMessage) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.StartTotal, errSlow("agent start_step in all", c.cfg.StartTotal))
	defer cancel()
	return c.repeat(ctx, t, request{op: "start_step", method: http.MethodPost, path: agentapi.PathStartStep, body: orEmpty(body), try: c.cfg.StartTry})
}

// Suspend has the limit of the configuration beside ctx.
func (c *Client) Suspend(ctx context.Context, t pool.Target, body json.RawMessage) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.SuspendTotal, errSlow("agent suspend in all", c.cfg.SuspendTotal))
	defer cancel()
	return c.repeat(ctx, t, request{op: "suspend", method: http.MethodPost, path: agentapi.PathSuspend, body: orEmpty(body)})
}

// Destroy asks once. Existing agents answer a second destroy, or one before
// any setup, with 500 and no body: that counts as done.
func (c *Client) Destroy(ctx context.Context, t pool.Target, body json.RawMessage) error {
	_, err := c.once(ctx, c.link(t), t, request{op: "destroy", method: http.MethodPost, path: agentapi.PathDestroy, body: orEmpty(body)})
	if silent, ok := errors.AsType[*silentError](err); ok && silent.Status == http.StatusInternalServerError {
		return nil
	}
	return err
}

// orEmpty: an agent takes no body for an error.
func orEmpty(body json.RawMessage) []byte {
	if len(bytes.TrimSpace(body)) == 0 {
		return []byte("{}")
	}
	return body
}
