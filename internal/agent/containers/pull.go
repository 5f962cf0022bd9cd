package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// The pull policies of a step. Absent, empty, "default" or unknown is what the
// image's tag suggests.
const (
	pullAlways   = "Always"
	pullIfAbsent = "IfNotPresent"
	pullNever    = "Never"
)

// pullsFirst says whether the image is pulled before a container is made of it,
// though it may be there: what has the tag latest, or none, may have changed.
func pullsFirst(req *agentapi.StartStepRequest) bool {
	switch req.Pull {
	case pullAlways:
		return true
	case pullIfAbsent, pullNever:
		return false
	}
	if strings.Contains(req.Image, "@") {
		return false // a digest never changes
	}
	last := req.Image[strings.LastIndexByte(req.Image, '/')+1:]
	_, tag, tagged := strings.Cut(last, ":")
	return !tagged || tag == "latest"
}

// Tries of a pull, the time between them, and how long the daemon may be silent
// in one: a large layer is unpacked in silence.
const (
	pullTries  = 3
	pullPause  = 50 * time.Millisecond
	pullSilent = 10 * time.Minute
)

// pull fetches a step's image and tells how it goes.
func (e *Engine) pull(ctx context.Context, st *Step) error {
	auth, err := registryAuth(st.Request.Auth)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := e.pullOnce(ctx, st, auth)
		if err == nil {
			return nil
		}
		if isFinal(err) || ctx.Err() != nil || try == pullTries {
			return e.pullError(st.Request, err)
		}
		st.Out.Note(fmt.Sprintf("pull of %s failed and is tried again: %v", st.Request.Image, err))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pullPause):
		}
	}
}

func (e *Engine) pullOnce(ctx context.Context, st *Step, auth string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(pullSilent, func() { cancel(&slowError{what: "pull " + st.Request.Image, after: pullSilent}) })
	defer silence.Stop()
	stream, err := e.api.pullImage(ctx, st.Request.Image, auth)
	if err != nil {
		return e.said(ctx, err)
	}
	defer stream.Close()
	p := newProgress(st.Out, time.Now)
	for messages := json.NewDecoder(stream); ; {
		var msg jsonstream.Message
		err := messages.Decode(&msg)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return e.said(ctx, fmt.Errorf("pull was cut off: %w", err))
		case msg.Error != nil:
			return e.said(ctx, msg.Error)
		}
		silence.Reset(pullSilent)
		p.message(msg)
	}
}

// registryAuth is the header for an account, "" for none.
func registryAuth(a *agentapi.Auth) (string, error) {
	if a == nil || a.Username == "" && a.Password == "" {
		return "", nil
	}
	return authconfig.Encode(registry.AuthConfig{Username: a.Username, Password: a.Password, ServerAddress: a.Address})
}

// pullError names the image and, where there is one, the remedy.
func (e *Engine) pullError(req *agentapi.StartStepRequest, err error) error {
	text := err.Error()
	account := "give the step's connector a user name and password"
	if req.Auth != nil && req.Auth.Username != "" {
		account = fmt.Sprintf("user %q has no right to it, or the password is wrong: see the step's connector", req.Auth.Username)
	}
	var known *remedyError
	switch {
	case errors.As(err, &known), errors.Is(err, ErrUnreachable):
	case hasStatus(err, http.StatusUnauthorized), strings.Contains(text, "unauthorized"), strings.Contains(text, "no basic auth credentials"):
		err = &remedyError{cause: fmt.Errorf("authentication is required: %w", err), remedy: account}
	case strings.Contains(text, "denied"), strings.Contains(text, "repository does not exist"):
		err = &remedyError{cause: err, remedy: "see whether the name is right; if the image is private, " + account}
	case hasStatus(err, http.StatusNotFound), strings.Contains(text, "manifest unknown"), strings.Contains(text, "not found"):
		err = &remedyError{cause: err, remedy: "see whether the name and the tag are right"}
	}
	return about("pull image "+req.Image, err)
}

// progressPause is the time between two lines about one layer's progress.
const progressPause = 5 * time.Second

// progress turns a pull's messages into lines for people: each change of state
// once, and of what takes long a line now and then.
type progress struct {
	out  Output
	now  func() time.Time
	last map[string]time.Time
}

func newProgress(out Output, now func() time.Time) *progress {
	return &progress{out: out, now: now, last: make(map[string]time.Time)}
}

func (p *progress) message(m jsonstream.Message) {
	line := m.Status
	if m.ID != "" {
		line = m.ID + ": " + line
	}
	if line = strings.TrimSpace(line); line == "" {
		return
	}
	if m.Progress == nil || m.Progress.Current == 0 && m.Progress.Total == 0 {
		p.out.Line(line)
		return
	}
	// The first lines of a layer come a pause after it began: short ones have none.
	now := p.now()
	since, begun := p.last[m.ID]
	if !begun {
		p.last[m.ID] = now
		return
	}
	if now.Sub(since) < progressPause {
		return
	}
	p.last[m.ID] = now
	if m.Progress.Total > 0 {
		p.out.Line(fmt.Sprintf("%s %s of %s", line, megabytes(m.Progress.Current), megabytes(m.Progress.Total)))
		return
	}
	p.out.Line(fmt.Sprintf("%s %s", line, megabytes(m.Progress.Current)))
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
