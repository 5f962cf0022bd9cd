package server

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// ProgressSink is where the lines go that a user reads while their machine is
// made: LogSink, or ServiceSink before it. Implementations are safe for
// concurrent use.
type ProgressSink interface {
	// Open begins the lines of one setup. It must not wait for a network;
	// what goes wrong later is the sink's to log. ctx ends with the request.
	Open(ctx context.Context, stream ProgressStream) ProgressWriter
}

// ProgressWriter takes the lines of one setup, from one goroutine at a time.
type ProgressWriter interface {
	// Line adds one line, without newline, with terminal colours. It must not
	// block for long: the setup waits for it.
	Line(text string)
	// Close ends the stream, once, before the setup is answered.
	Close()
}

// ProgressStream says whose lines they are and where their reader expects them.
type ProgressStream struct {
	Lease  string
	LogKey string
	// URL, AccountID and Token are the log service's of the request, empty if
	// there is none. SetupRequest is the whole object with the finer settings.
	// Token and SetupRequest hold secrets and must not be logged.
	URL, AccountID, Token string
	SetupRequest          json.RawMessage
}

// LogSink writes the lines to the log at debug, without colours: they are for
// the user of the machine, and a setup has a dozen.
func LogSink(log *slog.Logger) ProgressSink { return logSink{log} }

type logSink struct{ log *slog.Logger }

func (s logSink) Open(_ context.Context, stream ProgressStream) ProgressWriter {
	return logWriter{log: s.log.With("lease", stream.Lease)}
}

type logWriter struct{ log *slog.Logger }

var colours = strings.NewReplacer(yellow, "", green, "", red, "", plain, "")

func (w logWriter) Line(text string) {
	w.log.Debug("setup progress", "line", colours.Replace(text))
}

func (logWriter) Close() {}

// The colours of progress lines.
const (
	yellow = "\x1b[33m"
	green  = "\x1b[32m"
	red    = "\x1b[31m"
	plain  = "\x1b[0m"
)

// progress turns the engine's steps into the lines users know. An engine that
// goes on with a setup whose caller has gone may still report; that is dropped.
type progress struct {
	mu     sync.Mutex
	closed bool
	w      ProgressWriter
	// last is the last good phase, which says what a failure was.
	last string
}

// startProgress opens the stream and says what was asked for.
func (s *Server) startProgress(ctx context.Context, e *engine, req api.SetupRequest, agent agentapi.SetupRequest, first string) *progress {
	p := &progress{w: s.c.Progress.Open(ctx, ProgressStream{
		Lease: req.ID, LogKey: req.LogKey,
		URL: agent.LogConfig.URL, AccountID: agent.LogConfig.AccountID, Token: agent.LogConfig.Token,
		SetupRequest: req.SetupRequest,
	})}
	asked := e.pools[first] // of an unknown pool nothing is known
	image := cmp.Or(agent.VMImageConfig.ImageVersion, agent.VMImageConfig.ImageName)
	if image == "" && asked.Image != "" {
		image = path.Base(asked.Image)
	}
	p.colour(yellow, "Requested machine:")
	p.w.Line("Machine Size: " + oneLine(req.ResourceClass))
	p.w.Line("OS: " + capital(asked.Platform.OS))
	p.w.Line("Arch: " + capital(asked.Platform.Arch))
	p.w.Line("Image Version: " + oneLine(image))
	p.w.Line(fmt.Sprintf("Hardware Acceleration (Nested Virtualization): %t", req.NestedVirtualization))
	p.w.Line("Stage Runtime ID: " + oneLine(req.ID))
	return p
}

// step is what the engine calls.
func (p *progress) step(now pool.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	switch now.Phase {
	case "waiting":
		p.w.Line(oneLine("Waiting for a machine: " + now.Message))
		return
	case "provisioned":
		p.colour(green, "✓ Machine provisioned successfully")
		p.colour(yellow, "Preparing the machine to execute this stage...")
	case "healthy":
		p.healthy(now.Instance)
	case "ready":
		if p.last == "provisioned" { // a machine that is ready has answered
			p.healthy(now.Instance)
		}
		p.colour(green, "✓ VM setup is complete")
	case "failed":
		switch p.last {
		case "provisioned":
			p.colour(red, "✗ Machine health check failed")
		case "healthy":
			p.colour(red, "✗ Machine setup failed")
		}
		if now.Message != "" {
			p.w.Line(oneLine(now.Message))
		}
		p.last = ""
		return
	}
	p.last = now.Phase
}

func (p *progress) healthy(i *pool.Instance) {
	p.colour(green, "✓ Machine health check passed")
	if i != nil {
		p.w.Line("Machine IP: " + i.Address)
	}
}

// done ends the lines, with the reason if there is no machine.
func (p *progress) done(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if err != nil {
		p.colour(red, "✗ Init step failed")
		p.w.Line(oneLine(err.Error()))
	}
	p.w.Close()
}

func (p *progress) colour(c, text string) { p.w.Line(c + text + plain) }

// capital makes the first letter upper case.
func capital(text string) string {
	r, n := utf8.DecodeRuneInString(text)
	if n == 0 {
		return ""
	}
	return string(unicode.ToUpper(r)) + text[n:]
}
