package hostrunner

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
)

// PathStages begins the paths that tell of one stage's steps: STAGE/steps, and
// STAGE/steps/STEP/log.
const PathStages = "/v1/stages/"

// Steps answers GET /v1/stages/{stage}/steps.
type Steps struct {
	Steps []StepStatus `json:"steps"`
}

// StepStatus is one step of a stage.
type StepStatus struct {
	ID      string    `json:"id"`
	Started time.Time `json:"started"`
	// Exited steps have a result: ExitCode, and Error where there is one.
	Exited   bool   `json:"exited"`
	ExitCode int    `json:"exit_code"`
	Error    string `json:"error,omitempty"`
}

// Steps are the steps of a stage in the order of their start.
func (r *Runner) Steps(ctx context.Context, stage string) (Steps, error) {
	st, err := r.await(ctx, stage)
	if err != nil {
		return Steps{}, err
	}
	return Steps{st.stepList()}, nil
}

func (st *stage) stepList() []StepStatus {
	st.mu.Lock()
	defer st.mu.Unlock()
	list := make([]StepStatus, 0, len(st.steps))
	for id, e := range st.steps {
		s := StepStatus{ID: id, Started: e.rec.Started}
		if res := e.rec.Result; res != nil {
			s.Exited, s.ExitCode, s.Error = true, res.ExitCode, res.Error
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b StepStatus) int {
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// Printed is what a step of a stage has printed, from a byte offset on.
func (r *Runner) Printed(ctx context.Context, stage, step string, offset int64) (*agent.Printed, error) {
	st, err := r.await(ctx, stage)
	if err != nil {
		return nil, err
	}
	out, err := st.agent.Printed(step, offset)
	switch {
	case err == nil:
		return out, nil
	case !errors.Is(err, agent.ErrNotStarted):
		return nil, badRequest(err.Error())
	case st.step(step) != nil:
		return nil, &statusError{http.StatusNotFound, fmt.Sprintf("step %s of stage %s ran before the runner was started again; what it printed went with the earlier process", step, stage)}
	}
	var ids []string
	for _, s := range st.stepList() {
		ids = append(ids, s.ID)
	}
	return nil, &statusError{http.StatusNotFound, fmt.Sprintf("stage %s has no step %q; its steps are: %s", stage, step, strings.Join(ids, ", "))}
}

// stageRoute is what answers a path below PathStages.
func (r *Runner) stageRoute(escaped string) (handler, bool) {
	rest, ok := strings.CutPrefix(escaped, PathStages)
	if !ok {
		return nil, false
	}
	words := strings.Split(strings.TrimSuffix(rest, "/"), "/")
	for i, w := range words {
		var err error
		if words[i], err = url.PathUnescape(w); err != nil {
			return nil, false
		}
	}
	switch {
	case len(words) == 2 && words[1] == "steps":
		return func(_ http.ResponseWriter, req *http.Request) (int, any, error) {
			s, err := r.Steps(req.Context(), words[0])
			return http.StatusOK, s, err
		}, true
	case len(words) == 4 && words[1] == "steps" && words[3] == "log":
		return func(w http.ResponseWriter, req *http.Request) (int, any, error) {
			return 0, nil, r.sendLog(w, req, words[0], words[2])
		}, true
	}
	return nil, false
}

// sendLog sends a step's output as text, with follow=true until the step ends.
// One that is cut off ends without the end HTTP asks for, so that its reader can
// tell.
func (r *Runner) sendLog(w http.ResponseWriter, req *http.Request, stage, step string) error {
	q := req.URL.Query()
	var offset int64
	var follow bool
	var err error
	if text := q.Get("offset"); text != "" {
		if offset, err = strconv.ParseInt(text, 10, 64); err != nil {
			return badRequest(fmt.Sprintf("offset is %q, want a number of bytes", text))
		}
	}
	if text := q.Get("follow"); text != "" {
		if follow, err = strconv.ParseBool(text); err != nil {
			return badRequest(fmt.Sprintf("follow is %q, want true or false", text))
		}
	}
	out, err := r.Printed(req.Context(), stage, step, offset)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache, private, max-age=0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(w)
	flush := func() { _ = control.Flush() } // the next write tells
	flush()
	if err := out.CopyTo(req.Context(), w, follow, flush); err != nil {
		r.logFor(req).Debug("output not sent", "stage", stage, "step", step, "err", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}
