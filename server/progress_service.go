package server

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice"
)

// ServiceSink writes the lines of a setup to the log service its request names,
// under the request's key, and to another sink where it names none. A setup
// waits for no log service: what is not there when it is answered follows.
type ServiceSink struct {
	other ProgressSink
	log   *slog.Logger

	mu      sync.Mutex
	closed  bool
	clients map[*logservice.Client]struct{}
	ended   sync.WaitGroup
}

// NewServiceSink makes a sink. Close it when no setup runs any more.
func NewServiceSink(log *slog.Logger, other ProgressSink) *ServiceSink {
	return &ServiceSink{other: other, log: log, clients: make(map[*logservice.Client]struct{})}
}

// Open begins the lines of one setup.
func (s *ServiceSink) Open(ctx context.Context, stream ProgressStream) ProgressWriter {
	if stream.URL == "" || stream.LogKey == "" {
		return s.other.Open(ctx, stream)
	}
	client, conf, err := s.client(stream)
	if err != nil {
		s.log.WarnContext(ctx, "progress of a setup is not sent to its log service", "lease", stream.Lease, "err", err)
		return s.other.Open(ctx, stream)
	}
	lines := client.Stream(ctx, stream.LogKey, logservice.StreamOptions{
		SkipOpening: conf.SkipOpeningStream,
		SkipClosing: conf.SkipClosingStream,
	})
	go func() {
		defer s.ended.Done()
		<-lines.Done()
		client.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.clients, client)
	}()
	return serviceWriter{lines}
}

var errSinkClosed = errors.New("the runner stops")

// client makes the client of one setup, whose token is its own.
func (s *ServiceSink) client(stream ProgressStream) (*logservice.Client, agentapi.LogConfig, error) {
	var req agentapi.SetupRequest
	err := json.Unmarshal(stream.SetupRequest, &req)
	cert, certErr := base64.StdEncoding.DecodeString(req.MTLSConfig.ClientCert)
	key, keyErr := base64.StdEncoding.DecodeString(req.MTLSConfig.ClientCertKey)
	if err := errors.Join(err, certErr, keyErr); err != nil {
		return nil, agentapi.LogConfig{}, err
	}
	conf := req.LogConfig
	client, err := logservice.New(logservice.Config{
		URL: stream.URL, AccountID: stream.AccountID, Token: stream.Token,
		Indirect: conf.IndirectUpload, TrimNewline: conf.TrimNewLineSuffix,
		ClientCert: cert, ClientKey: key, Proxy: http.ProxyFromEnvironment,
		Log: s.log.With("lease", stream.Lease),
	})
	if err != nil {
		return nil, conf, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, conf, errSinkClosed
	}
	s.clients[client] = struct{}{}
	s.ended.Add(1)
	return client, conf, nil
}

// Close waits for the lines that are still on their way, until ctx ends; then
// it breaks them off.
func (s *ServiceSink) Close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.clients {
			c.Break()
		}
	})
	defer stop()
	s.ended.Wait()
}

// serviceWriter is the lines of one setup.
type serviceWriter struct{ stream *logservice.Stream }

func (w serviceWriter) Line(text string) {
	_, _ = w.stream.Write([]byte(text + "\n")) // never fails nor waits
}

func (w serviceWriter) Close() { w.stream.End() }
