package agentclient

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// MockConfig says how a Mock behaves. The zero value answers everything at
// once and well.
type MockConfig struct {
	// StepTime is how long a step takes. Zero: it ends when it starts.
	StepTime time.Duration
	// Hook, if set, is asked before every call; its error is the call's. Op is
	// the agent's route without slash, step the step's id or "". It may block
	// (it gets the call's context) and must be safe for concurrent use.
	Hook func(ctx context.Context, op string, t pool.Target, step string) error
	// Version is what health tells. Empty: "mock".
	Version string
	// Old makes it an agent that does not tell whether it was used, and lets
	// itself be set up for anybody, as existing ones do.
	Old bool
}

// Mock is an agent that exists only in this process: every setup succeeds, and
// every step ends well after the same time, with one line of output. It knows
// the steps of machines until they are forgotten, runs no goroutines, and its
// waits are timers that work on fake time. It is safe for concurrent use.
type Mock struct {
	cfg MockConfig

	mu       sync.Mutex
	machines map[string]*mockMachine
	certs    map[string][]byte // by machine, those given by Renew; never forgotten
}

type mockMachine struct {
	steps   map[string]time.Time // id to its end
	arrived chan struct{}        // closed and made anew when a step starts
	// used is set by the first setup or step, use what it was for.
	used bool
	use  string
}

var _ pool.Agent = (*Mock)(nil)

// NewMock makes a pretend agent for any number of machines.
func NewMock(cfg MockConfig) *Mock {
	cfg.Version = cmp.Or(cfg.Version, "mock")
	return &Mock{cfg: cfg, machines: make(map[string]*mockMachine), certs: make(map[string][]byte)}
}

func (m *Mock) before(ctx context.Context, op string, t pool.Target, step string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if m.cfg.Hook == nil {
		return nil
	}
	return m.cfg.Hook(ctx, op, t, step)
}

// Health is good and tells the steps that run.
func (m *Mock) Health(ctx context.Context, t pool.Target) (pool.Health, error) {
	if err := m.before(ctx, "healthz", t, ""); err != nil {
		return pool.Health{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h, now := pool.Health{Version: m.cfg.Version, Used: pool.UsedNever}, time.Now()
	if machine := m.machines[t.Instance]; machine != nil {
		if machine.used {
			h.Used = pool.UsedOnce
		}
		for _, end := range machine.steps {
			if now.Before(end) {
				h.RunningSteps++
			}
		}
	}
	if m.cfg.Old {
		h.Used = pool.UsedUnknown
	}
	return h, nil
}

// Setup succeeds for the first use of a machine.
func (m *Mock) Setup(ctx context.Context, t pool.Target, _ json.RawMessage) error {
	if err := m.before(ctx, "setup", t, ""); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	machine := m.machine(t.Instance)
	if !m.cfg.Old && machine.use != "" && t.Use != "" && machine.use != t.Use {
		return &pool.AgentError{Op: "setup", Status: pool.StatusUsed, Message: "this machine was set up for another use before"}
	}
	machine.used = true
	machine.use = cmp.Or(machine.use, t.Use)
	return nil
}

// Suspend succeeds.
func (m *Mock) Suspend(ctx context.Context, t pool.Target, _ json.RawMessage) error {
	return m.before(ctx, "suspend", t, "")
}

// Destroy succeeds, also the second time. Results of steps stay.
func (m *Mock) Destroy(ctx context.Context, t pool.Target, _ json.RawMessage) error {
	return m.before(ctx, "destroy", t, "")
}

// StartStep starts a step once per id.
func (m *Mock) StartStep(ctx context.Context, t pool.Target, body json.RawMessage) error {
	var req struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(orEmpty(body), &req); err != nil {
		return &pool.AgentError{Op: "start_step", Status: http.StatusBadRequest, Message: err.Error()}
	}
	if req.ID == "" {
		return &pool.AgentError{Op: "start_step", Status: http.StatusBadRequest, Message: "ID needs to be set"}
	}
	if err := m.before(ctx, "start_step", t, req.ID); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	machine := m.machine(t.Instance)
	if _, again := machine.steps[req.ID]; again {
		return nil
	}
	machine.steps[req.ID] = time.Now().Add(m.cfg.StepTime)
	close(machine.arrived)
	machine.arrived = make(chan struct{})
	return nil
}

// machine needs m.mu.
func (m *Mock) machine(instance string) *mockMachine {
	machine := m.machines[instance]
	if machine == nil {
		machine = &mockMachine{steps: make(map[string]time.Time), arrived: make(chan struct{})}
		m.machines[instance] = machine
	}
	return machine
}

// heldFor is how long output may be asked for before its step starts.
const heldFor = 5 * time.Second

// ended waits for the end of a step, and up to patience for its start.
func (m *Mock) ended(ctx context.Context, op string, t pool.Target, step string, patience time.Duration) error {
	if err := m.before(ctx, op, t, step); err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for {
		m.mu.Lock()
		var end time.Time
		var ok bool
		var arrived <-chan struct{}
		if machine := m.machines[t.Instance]; machine != nil {
			end, ok = machine.steps[step]
			arrived = machine.arrived
		} else if patience > 0 {
			arrived = m.machine(t.Instance).arrived
		}
		m.mu.Unlock()
		until := deadline
		if ok {
			until = end
			arrived = nil
		}
		if left := time.Until(until); left > 0 {
			timer := time.NewTimer(left)
			select {
			case <-timer.C:
			case <-arrived:
				timer.Stop()
				continue
			case <-ctx.Done():
				timer.Stop()
				return fmt.Errorf("agent %s: %w", op, context.Cause(ctx))
			}
		}
		if !ok {
			return &pool.AgentError{Op: op, Status: http.StatusBadRequest, Message: "Step has not started"}
		}
		return nil
	}
}

// PollStep answers {"exited":true} at the step's end.
func (m *Mock) PollStep(ctx context.Context, t pool.Target, step string) (pool.StepResult, error) {
	if err := m.ended(ctx, "poll_step", t, step, 0); err != nil {
		return pool.StepResult{}, err
	}
	return pool.StepResult{Body: json.RawMessage(`{"exited":true}`)}, nil
}

// Output is one line, complete when the step has ended.
func (m *Mock) Output(ctx context.Context, t pool.Target, step string, offset int64, w io.Writer) (int64, error) {
	if err := m.ended(ctx, "stream_output", t, step, heldFor); err != nil {
		return offset, err
	}
	text := "pretend step " + step + "\n"
	if offset < 0 || offset > int64(len(text)) {
		return offset, &pool.AgentError{
			Op: "stream_output", Status: http.StatusInternalServerError,
			Message: fmt.Sprintf("error: index 'offset' is out of bounds Offset=%d Total=%d", offset, len(text)),
		}
	}
	n, err := io.WriteString(w, text[offset:])
	return offset + int64(n), err
}

// Forget drops the steps of a machine.
func (m *Mock) Forget(instance string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.machines, instance)
}
