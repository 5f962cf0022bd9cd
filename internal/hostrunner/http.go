package hostrunner

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/peers"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

// Paths beside those of the delegate's API in server/api.
const (
	// PathPollStep waits for a step's end.
	PathPollStep = "/poll_step"
	// PathStatus tells what runs and what waits.
	PathStatus = "/v1/status"
)

// setupRequest is a delegate's, whatever kind of runner it was written for:
// what concerns machines is dropped.
type setupRequest struct {
	ID       string                `json:"id"`
	Setup    agentapi.SetupRequest `json:"setup_request"`
	Platform struct {
		OS   string `json:"os"`
		Arch string `json:"arch"`
	} `json:"platform"`
}

// setupResponse is the same for every stage: it runs here.
type setupResponse struct {
	IPAddress  string `json:"ip_address"`
	InstanceID string `json:"instance_id"`
}

type stepRequest struct {
	StageRuntimeID string                    `json:"stage_runtime_id"`
	Step           agentapi.StartStepRequest `json:"start_step_request"`
}

// stepResponse has the telemetry under the name of either kind of runner.
type stepResponse struct {
	*agentapi.PollStepResponse
	Telemetry *agentapi.TelemetryData `json:"telemetry,omitempty"`
}

type pollRequest struct {
	ID             string `json:"id"`
	StageRuntimeID string `json:"stage_runtime_id"`
}

type destroyRequest struct {
	ID             string `json:"id"`
	StageRuntimeID string `json:"stage_runtime_id"`
}

// destroyResponse is empty when nothing is left.
type destroyResponse struct {
	Leftover []string `json:"leftover,omitempty"`
}

type suspendRequest struct {
	StageRuntimeID string                  `json:"stage_runtime_id"`
	Suspend        agentapi.SuspendRequest `json:"suspend_request"`
}

// statusError is an error with the status it answers.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

func badRequest(text string) error { return &statusError{http.StatusBadRequest, text} }

// unknownStage has the text callers know.
func unknownStage(id string) error {
	return &statusError{http.StatusNotFound, fmt.Sprintf("stage id %s does not exist...", id)}
}

// Access says who may call, beside what the listener lets in.
type Access struct {
	// Peers decides by address; nil: everybody the listener lets in.
	Peers *peers.List
	// Token is demanded of all calls but health, if it is not empty: as bearer
	// token, or as password of a user of any name.
	Token string
}

// refusal says why a caller may not call, nil if it may.
func (a Access) refusal(r *http.Request) error {
	if a.Peers != nil {
		addr, _ := netip.ParseAddrPort(r.RemoteAddr) // invalid ones are refused
		if err := a.Peers.Check(addr.Addr()); err != nil {
			return &statusError{http.StatusForbidden, err.Error()}
		}
	}
	if a.Token == "" {
		return nil
	}
	given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		_, given, _ = r.BasicAuth()
	}
	if subtle.ConstantTimeCompare([]byte(given), []byte(a.Token)) != 1 {
		return &statusError{http.StatusUnauthorized, "this runner demands its token (RUNNER_HOST_TOKEN): send it as \"Authorization: Bearer …\", or as the password in RUNNER_URL"}
	}
	return nil
}

// handler answers a request with a body, or says why not. One that has answered
// itself returns the status 0.
type handler func(w http.ResponseWriter, r *http.Request) (status int, body any, err error)

type route struct {
	methods []string
	handle  handler
	// everybody marks what probes ask.
	everybody bool
}

// Handler serves the delegate's API, as existing local runners do, where they do
// it well.
func (r *Runner) Handler(access Access) http.Handler {
	post, get := []string{http.MethodPost}, []string{http.MethodGet, http.MethodHead}
	routes := map[string]route{
		api.PathHealthz: {get, r.healthz, true},
		PathStatus:      {get, r.status, false},
		api.PathSetup:   {post, call(r.setup), false},
		api.PathStep:    {post, call(r.step), false},
		PathPollStep:    {post, call(r.poll), false},
		api.PathDestroy: {post, call(r.destroy), false},
		api.PathSuspend: {post, call(r.suspend), false},
	}
	return r.recovered(func(w http.ResponseWriter, req *http.Request) {
		path := req.URL.Path
		if len(path) > 1 {
			path = strings.TrimSuffix(path, "/")
		}
		rt, ok := routes[path]
		if !ok {
			rt.handle, ok = r.stageRoute(req.URL.EscapedPath())
			rt.methods = get
		}
		if !rt.everybody {
			if err := access.refusal(req); err != nil {
				r.fail(w, req, err)
				return
			}
		}
		switch {
		case !ok:
			http.NotFound(w, req)
			return
		case !slices.Contains(rt.methods, req.Method):
			w.Header().Set("Allow", strings.Join(rt.methods, ", "))
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		status, body, err := rt.handle(w, req)
		if err != nil {
			r.fail(w, req, err)
			return
		}
		if status != 0 {
			r.reply(w, req, status, body)
		}
	})
}

// recovered answers a panic with an error of the runner's. Other requests and
// all stages go on.
func (r *Runner) recovered(next http.HandlerFunc) http.Handler {
	return agent.Recovered(next,
		func(req *http.Request, p any, stack []byte) {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				return // an answer that was cut off on purpose
			}
			r.logFor(req).Error("request panicked", "panic", fmt.Sprint(p), "stack", string(stack))
		},
		func(w http.ResponseWriter, req *http.Request) {
			r.reply(w, req, http.StatusInternalServerError, agentapi.Error{Message: "internal error; the runner's log has it"})
		})
}

func (r *Runner) logFor(req *http.Request) *slog.Logger {
	log := r.log.With("path", req.URL.Path)
	if id := req.Header.Get("X-Request-ID"); id != "" && len(id) <= 128 {
		log = log.With("request", id)
	}
	return log
}

const (
	// bodyTime is how long a caller may take to send a body.
	bodyTime = time.Minute
	// answerTime is how long a caller may take to read an answer that is there.
	answerTime = 5 * time.Minute
)

// call is a handler whose request is JSON: keys in any case, unknown ones
// dropped, what follows the first value ignored.
func call[In any](do func(context.Context, *In) (any, error)) handler {
	return func(w http.ResponseWriter, r *http.Request) (int, any, error) {
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(bodyTime)) // recorders of tests have none
		var in In
		sent := http.MaxBytesReader(w, r.Body, api.MaxBody)
		err := json.NewDecoder(sent).Decode(&in)
		if err == nil {
			_, err = io.Copy(io.Discard, sent) // only then the server sees a caller hang up
		}
		if err != nil {
			if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
				return 0, nil, &statusError{http.StatusRequestEntityTooLarge, "the request body is larger than 32 MiB"}
			}
			return 0, nil, badRequest(err.Error())
		}
		_ = rc.SetReadDeadline(time.Time{})
		body, err := do(r.Context(), &in)
		return http.StatusOK, body, err
	}
}

func (r *Runner) setup(ctx context.Context, in *setupRequest) (any, error) {
	return setupResponse{IPAddress: "127.0.0.1"}, r.Setup(ctx, in)
}

func (r *Runner) step(ctx context.Context, in *stepRequest) (any, error) {
	res, err := r.Step(ctx, in)
	return withTelemetry(res), err
}

func (r *Runner) poll(ctx context.Context, in *pollRequest) (any, error) {
	res, err := r.Poll(ctx, in.StageRuntimeID, in.ID)
	return withTelemetry(res), err
}

func withTelemetry(res *agentapi.PollStepResponse) stepResponse {
	if res == nil {
		return stepResponse{}
	}
	return stepResponse{PollStepResponse: res, Telemetry: res.TelemetryData}
}

func (r *Runner) destroy(ctx context.Context, in *destroyRequest) (any, error) {
	id := in.ID
	if id == "" {
		id = in.StageRuntimeID
	}
	left, err := r.Destroy(ctx, id)
	return destroyResponse{Leftover: left}, err
}

func (r *Runner) suspend(ctx context.Context, in *suspendRequest) (any, error) {
	st, err := r.await(ctx, in.StageRuntimeID)
	if err != nil {
		return nil, err
	}
	st.called(r.c.Now())
	return agentapi.Empty{}, st.agent.Suspend(ctx, &in.Suspend)
}

// healthz answers 503 only if no stage should be sent: one without Docker runs
// what needs none, and says in its body what it lacks.
func (r *Runner) healthz(_ http.ResponseWriter, req *http.Request) (int, any, error) {
	h := r.Health(req.Context())
	if h.State == StateDraining {
		return http.StatusServiceUnavailable, h, nil
	}
	return http.StatusOK, h, nil
}

func (r *Runner) status(_ http.ResponseWriter, req *http.Request) (int, any, error) {
	return http.StatusOK, r.Status(req.Context()), nil
}

// reply sends a JSON body, indented, never to be cached.
func (r *Runner) reply(w http.ResponseWriter, req *http.Request, status int, body any) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime)) // recorders of tests have none
	h := w.Header()
	h.Set("Expires", "Thu, 01 Jan 1970 00:00:00 UTC")
	h.Set("Cache-Control", "no-cache, private, max-age=0")
	h.Set("Pragma", "no-cache")
	h.Set("X-Accel-Expires", "0")
	h.Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(body); err != nil {
		r.logFor(req).Debug("answer not sent", "err", err)
	}
}

// fail answers with the status an error means.
func (r *Runner) fail(w http.ResponseWriter, req *http.Request, err error) {
	status := http.StatusInternalServerError
	if known, ok := errors.AsType[*statusError](err); ok {
		status = known.status
	} else if req.Context().Err() != nil && !errors.Is(context.Cause(req.Context()), errDraining) {
		return // nobody is there to read an answer
	}
	if status >= http.StatusInternalServerError || status == http.StatusForbidden || status == http.StatusUnauthorized {
		r.logFor(req).Warn("request failed", "status", status, "peer", req.RemoteAddr, "err", err)
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="runner"`)
	}
	r.reply(w, req, status, agentapi.Error{Message: err.Error()})
}
