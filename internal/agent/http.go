package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

const (
	// streamPatience is how long a stream is held for a step that is not
	// known yet: callers open the stream before they start the step.
	streamPatience = 5 * time.Second
	// maxBody bounds a request body in bytes. Callers may send any size; this
	// only keeps one from taking the machine's memory.
	maxBody = 128 << 20
)

// route is one path of the interface.
type route struct {
	method string
	handle func(w http.ResponseWriter, r *http.Request)
	// always marks the route that is served while the agent prepares, and to
	// callers whose certificate is not good now; ended the other one of these.
	always, ended bool
}

// Handler serves the agent's interface. It answers as existing agents do,
// shapes of errors included.
func (a *Agent) Handler() http.Handler {
	routes := map[string]route{
		agentapi.PathHealth:    {method: http.MethodGet, handle: a.health, always: true},
		agentapi.PathSetup:     {method: http.MethodPost, handle: a.setup},
		agentapi.PathStartStep: post(a, a.startStep),
		agentapi.PathPollStep:  post(a, a.pollStep),
		agentapi.PathStream:    {method: http.MethodPost, handle: a.streamOutput},
		agentapi.PathDestroy:   post(a, a.destroy),
		agentapi.PathSuspend:   post(a, a.suspend),
		agentapi.PathRehearse:  post(a, a.rehearse),
		agentapi.PathRenew:     renewal(post(a, a.renew)),
		agentapi.PathMint:      {method: http.MethodPost, handle: a.mint},
	}
	return a.recovered(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.Path
		if len(path) > 1 {
			path = strings.TrimSuffix(path, "/")
		}
		rt, ok := routes[path]
		switch {
		case !ok:
			http.NotFound(w, r)
		case r.Method != rt.method:
			w.Header().Set("Allow", rt.method)
			w.WriteHeader(http.StatusMethodNotAllowed)
		case !rt.always && a.unready() != "":
			a.refuse(w, r, http.StatusServiceUnavailable, preparingError(a.unready()))
		case !rt.always && !rt.ended && mayOnlyRenew(r.TLS, time.Now()):
			a.refuse(w, r, http.StatusForbidden, errEnded)
		default:
			rt.handle(w, r)
		}
	}))
}

// recovered answers a panic with an empty 500.
func (a *Agent) recovered(next http.Handler) http.Handler {
	return Recovered(next,
		func(r *http.Request, p any, stack []byte) {
			a.logFor(r).Error("request panicked", "panic", p, "stack", string(stack))
		},
		func(w http.ResponseWriter, _ *http.Request) {
			clear(w.Header())
			w.WriteHeader(http.StatusInternalServerError)
		})
}

func (a *Agent) logFor(r *http.Request) *slog.Logger {
	log := a.opts.Log.With("path", r.URL.Path)
	if id := r.Header.Get("X-Request-ID"); id != "" {
		log = log.With("request", id)
	}
	return log
}

// errEnded refuses a caller that may renew the machine's certificate and
// nothing else.
var errEnded = errors.New("the certificate of this machine is not good by its clock: renew it first, and look at the clock")

// renewal is a route that is also served to callers whose certificate has ended.
func renewal(rt route) route {
	rt.ended = true
	return rt
}

// badRequest marks errors that answer 400.
type badRequest struct{ error }

func (e badRequest) Unwrap() error { return e.error }

// post is a route whose request and answer are JSON.
func post[In, Out any](a *Agent, do func(context.Context, *In) (*Out, error)) route {
	return route{method: http.MethodPost, handle: func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := decode(w, r, &in); err != nil {
			a.fail(w, r, err)
			return
		}
		out, err := do(r.Context(), &in)
		if err != nil {
			a.fail(w, r, err)
			return
		}
		a.reply(w, r, http.StatusOK, out)
	}}
}

// decode reads one JSON value; what follows it is ignored, null is empty, and
// no body at all is the error "EOF".
func decode(w http.ResponseWriter, r *http.Request, into any) error {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(into); err != nil {
		return badRequest{err}
	}
	return nil
}

// reply sends a JSON body, indented, never to be cached.
func (a *Agent) reply(w http.ResponseWriter, r *http.Request, status int, body any) {
	uncached(w.Header())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(body); err != nil {
		a.logFor(r).Debug("answer not sent", "err", err)
	}
}

func uncached(h http.Header) {
	h.Set("Expires", "Thu, 01 Jan 1970 00:00:00 UTC")
	h.Set("Cache-Control", "no-cache, private, max-age=0")
	h.Set("Pragma", "no-cache")
	h.Set("X-Accel-Expires", "0")
}

// fail answers with the status an error means.
func (a *Agent) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	var bad badRequest
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &tooBig):
		status = http.StatusRequestEntityTooLarge
	case errors.As(err, &bad), errors.Is(err, errNoID), errors.Is(err, ErrNotStarted), errors.Is(err, errDestroyed):
		status = http.StatusBadRequest
	case errors.Is(err, errUsed):
		status = agentapi.StatusUsed
	case errors.Is(err, errStopping):
		status = http.StatusServiceUnavailable
	case r.Context().Err() != nil:
		return // nobody is there to read an answer
	}
	a.refuse(w, r, status, err)
}

func (a *Agent) refuse(w http.ResponseWriter, r *http.Request, status int, err error) {
	if status >= http.StatusInternalServerError && status != http.StatusServiceUnavailable {
		a.logFor(r).Warn("request failed", "status", status, "err", err)
	}
	a.reply(w, r, status, agentapi.Error{Message: err.Error()})
}

func preparingError(what string) error { return fmt.Errorf("preparing: %s", what) }

func (a *Agent) unready() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.preparing
}

func (a *Agent) health(w http.ResponseWriter, r *http.Request) {
	res, preparing := a.Health()
	if preparing != "" {
		a.refuse(w, r, http.StatusServiceUnavailable, preparingError(preparing))
		return
	}
	q := r.URL.Query()
	if q.Get(agentapi.ParamConnectivity) == "true" {
		length, err := connectivityTime(q.Get(agentapi.ParamConnectivitySeconds))
		if err == nil {
			err = a.checkOut(r.Context(), length)
		}
		if err != nil {
			a.fail(w, r, err)
			return
		}
	}
	a.reply(w, r, http.StatusOK, res)
}

const (
	connectivityDefault = 5 * time.Second
	// connectivityMax keeps the answer within the ten seconds callers wait.
	connectivityMax   = 8 * time.Second
	connectivityPause = 500 * time.Millisecond
)

func connectivityTime(text string) (time.Duration, error) {
	if text == "" {
		return connectivityDefault, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, badRequest{fmt.Errorf("%s: %q is no number of seconds", agentapi.ParamConnectivitySeconds, text)}
	}
	if n == 0 {
		return connectivityDefault, nil
	}
	return min(time.Duration(min(n, int(connectivityMax/time.Second)))*time.Second, connectivityMax), nil
}

// checkOut tries the way out again and again for the given time; one failure
// fails the check.
func (a *Agent) checkOut(ctx context.Context, length time.Duration) error {
	end := time.NewTimer(length)
	defer end.Stop()
	for {
		if err := a.opts.CheckOut(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end.C:
			return nil
		case <-time.After(connectivityPause):
		}
	}
}

func (a *Agent) setup(w http.ResponseWriter, r *http.Request) {
	use := r.Header.Get(agentapi.HeaderUse)
	post(a, func(ctx context.Context, in *agentapi.SetupRequest) (*agentapi.Empty, error) {
		return &agentapi.Empty{}, a.SetupFor(ctx, use, in)
	}).handle(w, r)
}

func (a *Agent) renew(ctx context.Context, in *agentapi.RenewRequest) (*agentapi.Empty, error) {
	return &agentapi.Empty{}, a.Renew(ctx, in)
}

func (a *Agent) startStep(ctx context.Context, in *agentapi.StartStepRequest) (*agentapi.Empty, error) {
	return &agentapi.Empty{}, a.Start(ctx, in)
}

func (a *Agent) pollStep(ctx context.Context, in *agentapi.PollStepRequest) (*agentapi.PollStepResponse, error) {
	return a.Poll(ctx, in.ID)
}

func (a *Agent) destroy(ctx context.Context, _ *agentapi.DestroyRequest) (*agentapi.DestroyResponse, error) {
	return a.Destroy(ctx), nil
}

func (a *Agent) suspend(ctx context.Context, in *agentapi.SuspendRequest) (*agentapi.Empty, error) {
	return &agentapi.Empty{}, a.Suspend(ctx, in)
}

// streamOutput sends a step's output from an offset on, until the step ends.
func (a *Agent) streamOutput(w http.ResponseWriter, r *http.Request) {
	var in agentapi.StreamOutputRequest
	err := decode(w, r, &in)
	if err == nil && in.ID == "" {
		err = errNoID
	}
	var st *step
	if err == nil {
		st, err = a.await(r.Context(), in.ID, streamPatience)
	}
	if err == nil {
		err = st.spool.check(in.Offset)
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	uncached(w.Header())
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	flush := func() { _ = control.Flush() } // the next write tells
	flush()
	if err := st.spool.stream(r.Context(), w, in.Offset, true, flush); err != nil && r.Context().Err() == nil {
		a.logFor(r).Warn("stream broke", "step", in.ID, "err", err)
		panic(http.ErrAbortHandler) // an ordinary end would pass for the step's
	}
}

// mint knows no workload identities: steps that want one are refused.
func (a *Agent) mint(w http.ResponseWriter, r *http.Request) {
	a.reply(w, r, http.StatusNotFound, agentapi.MintError{Error: "unknown workload identity"})
}
