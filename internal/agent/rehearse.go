package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// rehearse serves PathRehearse: it plays a whole stage (setup, a step that does
// nothing, its result, destroy) on a scratch agent of its own, in a scratch
// folder, and forgets it. Under emulation code that runs for the first time
// costs a hundred times more than later; a machine that waits can have that
// behind it before somebody waits for it. Nothing of this agent's state is
// touched, so it may be called at any time and as often as one likes.
func (a *Agent) rehearse(ctx context.Context, _ *struct{}) (_ *struct{}, err error) {
	dir, err := os.MkdirTemp("", "rehearsal")
	if err != nil {
		return nil, fmt.Errorf("rehearse: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o := a.opts
	o.SharedDir, o.StateDir, o.Log = filepath.Join(dir, "engine"), filepath.Join(dir, "state"), nil
	scratch, err := New(o)
	if err != nil {
		return nil, fmt.Errorf("rehearse: %w", err)
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	h := scratch.Handler()
	where, err := json.Marshal(dir)
	if err != nil {
		return nil, fmt.Errorf("rehearse: %w", err)
	}
	for _, scene := range []struct{ path, body string }{
		{agentapi.PathSetup, `{"envs":{"A":"b"},"network":{"id":"n"},"secrets":["rehearsal"],"mount_docker_socket":false,"log_config":{},"ti_config":{}}`},
		{agentapi.PathStartStep, `{"id":"r","name":"r","kind":"Run","log_key":"r","environment":{"A":"b"},"working_dir":` +
			string(where) + `,"output_vars":["A"],"run":{"entrypoint":["sh","-c"],"commands":["true"]},"mount_docker_socket":false}`},
		{agentapi.PathPollStep, `{"id":"r"}`},
		{agentapi.PathDestroy, `{}`},
	} {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx) // somebody has use for the machine
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, scene.path, bytes.NewReader([]byte(scene.body)))
		if err != nil {
			return nil, fmt.Errorf("rehearse: %w", err)
		}
		to := &hall{header: http.Header{}}
		h.ServeHTTP(to, req)
		if to.status >= http.StatusMultipleChoices {
			return nil, fmt.Errorf("rehearse %s: %d %s", scene.path, to.status, bytes.TrimSpace(to.body.Bytes()))
		}
	}
	return &struct{}{}, nil
}

// hall is where a rehearsal's answers go.
type hall struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (h *hall) Header() http.Header { return h.header }

// WriteHeader implements http.ResponseWriter.
func (h *hall) WriteHeader(status int) { h.status = status }

// Write implements http.ResponseWriter.
func (h *hall) Write(p []byte) (int, error) { return h.body.Write(p) }
