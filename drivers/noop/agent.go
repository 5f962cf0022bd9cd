package noop

import (
	"cmp"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"
)

// agent is the pretend agent of a child process: every setup succeeds and
// every step ends well after the same time. Its routes and texts are those of
// the real one.
type agent struct {
	stepTime time.Duration
	mu       sync.Mutex
	steps    map[string]time.Time // id to its end
	arrived  chan struct{}        // closed and made anew when a step is started
	used     bool                 // set up, or given a step, once
	use      string               // what for, "" if nobody said
}

// The refusal of a second use, as the real agent has it.
const (
	headerUse  = "X-Runner-Use"
	statusUsed = http.StatusConflict
)

// heldFor is how long an output that is asked for before its step is started
// is waited with; callers open it first.
const heldFor = 5 * time.Second

// maxBody bounds what a caller may send.
const maxBody = 32 << 20

func newAgent(stepTime time.Duration) http.Handler {
	a := &agent{stepTime: stepTime, steps: make(map[string]time.Time), arrived: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"version": "noop", "ok": true, "running_steps": a.running(), "used": a.wasUsed()})
	})
	mux.HandleFunc("POST /setup", a.setup)
	mux.HandleFunc("POST /suspend", acknowledge(struct{}{}))
	mux.HandleFunc("POST /destroy", acknowledge(map[string]any{"os_stats": struct{}{}}))
	mux.HandleFunc("POST /start_step", a.start)
	mux.HandleFunc("POST /poll_step", a.poll)
	mux.HandleFunc("POST /stream_output", a.stream)
	return mux
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller has hung up if it fails
}

func refuse(w http.ResponseWriter, msg string) {
	answer(w, http.StatusBadRequest, map[string]string{"error_msg": msg})
}

func acknowledge(with any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var any json.RawMessage
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&any); err != nil {
			refuse(w, err.Error())
			return
		}
		answer(w, http.StatusOK, with)
	}
}

type stepRequest struct {
	ID     string `json:"id"`
	Offset int64  `json:"offset"`
}

func decodeStep(w http.ResponseWriter, r *http.Request) (stepRequest, bool) {
	var req stepRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&req); err != nil {
		refuse(w, err.Error())
		return req, false
	}
	if req.ID == "" {
		refuse(w, "ID needs to be set")
		return req, false
	}
	return req, true
}

func (a *agent) running() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, now := 0, time.Now()
	for _, end := range a.steps {
		if now.Before(end) {
			n++
		}
	}
	return n
}

func (a *agent) wasUsed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used
}

func (a *agent) setup(w http.ResponseWriter, r *http.Request) {
	use := r.Header.Get(headerUse)
	a.mu.Lock()
	another := use != "" && a.use != "" && use != a.use
	if !another {
		a.used, a.use = true, cmp.Or(a.use, use)
	}
	a.mu.Unlock()
	if another {
		answer(w, statusUsed, map[string]string{"error_msg": "this machine was set up for another use before"})
		return
	}
	acknowledge(struct{}{})(w, r)
}

func (a *agent) start(w http.ResponseWriter, r *http.Request) {
	req, ok := decodeStep(w, r)
	if !ok {
		return
	}
	a.mu.Lock()
	if _, again := a.steps[req.ID]; !again {
		a.steps[req.ID] = time.Now().Add(a.stepTime)
		a.used = true
		close(a.arrived)
		a.arrived = make(chan struct{})
	}
	a.mu.Unlock()
	answer(w, http.StatusOK, struct{}{})
}

// ended waits for a step's end. Until patience it waits for its start too. It
// says whether the step has ended; if not it has answered what there is to say.
func (a *agent) ended(w http.ResponseWriter, r *http.Request, id string, patience time.Duration) bool {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		a.mu.Lock()
		end, ok := a.steps[id]
		arrived := a.arrived
		a.mu.Unlock()
		if ok {
			return wait(r.Context(), time.Until(end)) == nil
		}
		if patience == 0 {
			refuse(w, "Step has not started")
			return false
		}
		select {
		case <-arrived:
		case <-timeout.C:
			patience = 0
		case <-r.Context().Done():
			return false
		}
	}
}

func (a *agent) poll(w http.ResponseWriter, r *http.Request) {
	req, ok := decodeStep(w, r)
	if ok && a.ended(w, r, req.ID, 0) {
		answer(w, http.StatusOK, map[string]bool{"exited": true})
	}
}

func (a *agent) stream(w http.ResponseWriter, r *http.Request) {
	req, ok := decodeStep(w, r)
	if !ok || !a.ended(w, r, req.ID, heldFor) {
		return
	}
	text := "pretend step " + req.ID + "\n"
	if req.Offset < 0 || req.Offset > int64(len(text)) {
		answer(w, http.StatusInternalServerError, map[string]string{"error_msg": "error: index 'offset' is out of bounds"})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text[req.Offset:]) // the caller has hung up if it fails
}
