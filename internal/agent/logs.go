package agent

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice"
)

// envLogEcho has lines that go to a log service printed too.
const envLogEcho = "HARNESS_LOG_STREAMING_STDOUT_ENABLED"

// How long the answer to a step waits for its log to be with the service. What
// is not done by then goes on beside it.
const (
	logPatience = 15 * time.Second
	// failingLogPatience is for a service that has not taken the last log.
	failingLogPatience = 2 * time.Second
	// endedLogPatience is for stages that are destroyed.
	endedLogPatience = time.Second
)

// stageLog is what a setup says about the logs of its stage.
type stageLog struct {
	wanted   logConfig
	client   *logservice.Client // nil: output stays on the machine
	problem  error              // why it does although a service was named
	patterns []*regexp.Regexp
	remarks  remarks // about the patterns

	// own is the log of the agent, which has no lines; nil: not asked for.
	own     *logservice.Stream
	metrics *metricsLog // nil: not asked for
}

// logConfig is what a stageLog is made from.
type logConfig struct {
	log               agentapi.LogConfig
	pair              agentapi.MTLSConfig
	proxies           proxies
	echo              bool
	ownKey, metricKey string
}

func newLogConfig(req *agentapi.SetupRequest, env []string) logConfig {
	return logConfig{
		log:       req.LogConfig,
		pair:      req.MTLSConfig,
		proxies:   stageProxies(req, env),
		echo:      cmp.Or(req.Envs[envLogEcho], lookup(env, envLogEcho)) == "true",
		ownKey:    req.LELogKey,
		metricKey: req.MemoryMetricsLogKey,
	}
}

// setUpLog makes the logs of a setup. What goes wrong is told and keeps nobody
// from working. A setup that is repeated as it was keeps what it has.
func (a *Agent) setUpLog(ctx context.Context, req *agentapi.SetupRequest, old *stageLog) *stageLog {
	wanted := newLogConfig(req, a.opts.Env)
	if old != nil && old.wanted == wanted {
		return old
	}
	if old != nil {
		old.end()
		if old.client != nil {
			old.client.Release()
		}
	}
	l := &stageLog{wanted: wanted}
	if content := req.LogConfig.SanitizeConfig.SanitizePatternsContent; content != "" {
		l.patterns, l.remarks = parsePatterns(content)
	}
	if req.LogConfig.URL == "" {
		return l
	}
	if l.client, l.problem = a.newLogClient(wanted); l.problem != nil {
		a.opts.Log.WarnContext(ctx, "logs are not sent to the log service; stream_output serves them", "err", l.problem)
		return l
	}
	if req.LELogKey != "" {
		l.own = l.client.Stream(ctx, req.LELogKey, logservice.StreamOptions{})
	}
	if req.MemoryMetricsLogKey != "" {
		l.metrics = startMetricsLog(l.client.Stream(ctx, req.MemoryMetricsLogKey, logservice.StreamOptions{}), readUsage, readDisk)
	}
	return l
}

// clientPair is the pair to show to services, PEM; nothing if there is none.
func (c *logConfig) clientPair() (cert, key []byte, err error) {
	cert, certErr := base64.StdEncoding.DecodeString(c.pair.ClientCert)
	key, keyErr := base64.StdEncoding.DecodeString(c.pair.ClientCertKey)
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, nil, fmt.Errorf("mtls_config: %w", err)
	}
	return cert, key, nil
}

func (a *Agent) newLogClient(wanted logConfig) (*logservice.Client, error) {
	cert, key, err := wanted.clientPair()
	if err != nil {
		return nil, err
	}
	conf := logservice.Config{
		URL:         wanted.log.URL,
		AccountID:   wanted.log.AccountID,
		Token:       wanted.log.Token,
		Indirect:    wanted.log.IndirectUpload,
		TrimNewline: wanted.log.TrimNewLineSuffix,
		ClientCert:  cert,
		ClientKey:   key,
		Proxy:       wanted.proxies.choose,
		Log:         a.opts.Log,
	}
	if wanted.echo {
		conf.Echo = a.opts.LogEcho
	}
	client, err := logservice.New(conf)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopping {
		return nil, errStopping
	}
	a.logClients = append(a.logClients, client)
	return client, nil
}

// closeLogs breaks off what of all logs is still under way.
func (a *Agent) closeLogs() {
	a.mu.Lock()
	clients := a.logClients
	a.logClients = nil
	log := a.stage.log
	a.mu.Unlock()
	log.end()
	for _, c := range clients {
		c.Close()
	}
}

// end closes the stage's own logs, and waits for them a little. Those of steps
// end with their steps.
func (l *stageLog) end() {
	if l.own != nil {
		l.own.End()
	}
	if l.metrics != nil {
		l.metrics.end()
	}
	patience := time.NewTimer(endedLogPatience)
	defer patience.Stop()
	for _, done := range l.pending() {
		select {
		case <-done:
		case <-patience.C:
			return
		}
	}
}

func (l *stageLog) pending() []<-chan struct{} {
	var all []<-chan struct{}
	if l.own != nil {
		all = append(all, l.own.Done())
	}
	if l.metrics != nil {
		all = append(all, l.metrics.stream.Done())
	}
	return all
}

// goesToService says whether a step's output is meant for a log service.
func (s *step) goesToService() bool { return !s.req.LogDrone && s.setup.LogConfig.URL != "" }

// openLog begins the step's log with the service. It is called before anything
// is printed.
func (s *step) openLog(ctx context.Context) {
	if !s.goesToService() || s.stageLog.client == nil || s.req.LogKey == "" {
		return
	}
	s.log = s.stageLog.client.Stream(ctx, s.req.LogKey, logservice.StreamOptions{
		SkipOpening: s.req.LogConfig.SkipOpeningStream,
		SkipClosing: s.req.LogConfig.SkipClosingStream,
	})
	s.out.log = s.log
}

// endLog gives the service time to take the rest of the log, less if it does
// not take any or the stage ends.
func (s *step) endLog(ctx context.Context) {
	if s.log == nil {
		return
	}
	s.log.End()
	most := logPatience
	if s.stageLog.client.Failing() {
		most = failingLogPatience
	}
	patience := time.NewTimer(most)
	defer patience.Stop()
	ended := ctx.Done()
	for {
		select {
		case <-s.log.Done():
			return
		case <-patience.C:
			s.agent.opts.Log.Warn("a step is answered before its log is with the log service", "step", s.req.ID)
			return
		case <-ended:
			ended = nil
			patience.Reset(min(most, endedLogPatience))
		}
	}
}
