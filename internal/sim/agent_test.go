package sim

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// agents is what one process sees of the programs inside the machines.
type agents struct {
	w *world
	p *process
}

var (
	_ pool.Agent = agents{}

	errUnreachable = errors.New("connection refused")
)

// stageOf is whose call a body belongs to.
func stageOf(body json.RawMessage) string {
	var b struct {
		Stage string `json:"stage_runtime_id"`
	}
	if err := json.Unmarshal(body, &b); err != nil {
		return ""
	}
	return b.Stage
}

// bodyOf is the body of a stage's call.
func bodyOf(stage string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"stage_runtime_id":%q}`, stage))
}

// reach makes one call to the machine behind a target, if its agent answers.
func (a agents) reach(ctx context.Context, t pool.Target, f func(*machine) error) error {
	if err := a.p.alive(ctx); err != nil {
		return err
	}
	name := strings.TrimPrefix(t.Address, "sim/")
	if d := a.w.d; d.chance(a.w.faults().agentHangs, "agent-hangs", d.nth("agent call")) {
		<-ctx.Done()
		return ctx.Err()
	}
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	m, err := a.w.reach(name, time.Now())
	if err != nil {
		return err
	}
	if m.tags.Instance != t.Instance {
		return fmt.Errorf("the certificate is of %s, not of %s", m.tags.Instance, t.Instance)
	}
	if f == nil {
		return nil
	}
	return f(m)
}

// Health implements pool.Agent.
func (a agents) Health(ctx context.Context, t pool.Target) (pool.Health, error) {
	h := pool.Health{Version: "sim"}
	err := a.reach(ctx, t, func(m *machine) error {
		h.RunningSteps, h.Used = m.steps, pool.UsedNever
		if m.use != "" && !a.w.sabotage.amnesia {
			h.Used = pool.UsedOnce
		}
		return nil
	})
	return h, err
}

// Rehearse implements pool.Agent.
func (a agents) Rehearse(ctx context.Context, t pool.Target) error { return a.reach(ctx, t, nil) }

// Renew implements pool.Agent. Whoever renews knows what the machine has: it is
// one of the two its row speaks of.
func (a agents) Renew(ctx context.Context, t pool.Target, next drivers.Identity) error {
	return a.reach(ctx, t, func(m *machine) error {
		known := bytes.Equal(m.cert, t.Identity.Cert) || bytes.Equal(m.cert, next.Cert)
		if !known && !endOf(next.Cert).After(endOf(m.cert)) {
			return &pool.AgentError{Op: "renew_certificate", Status: 400, Message: "it ends sooner"}
		}
		if !known && !a.w.copied {
			a.w.log.wrong(ruleKnownCert, m.name, "%s has a certificate that nobody knows", m.name)
		}
		m.cert = next.Cert
		a.w.renewals++
		return nil
	})
}

// endOf is when a certificate ends.
func endOf(cert []byte) time.Time {
	if block, _ := pem.Decode(cert); block != nil {
		if leaf, err := x509.ParseCertificate(block.Bytes); err == nil {
			return leaf.NotAfter
		}
	}
	return time.Time{}
}

// Setup implements pool.Agent.
func (a agents) Setup(ctx context.Context, t pool.Target, body json.RawMessage) error {
	if err := nap(ctx, 20*time.Millisecond); err != nil {
		return err
	}
	return a.reach(ctx, t, func(m *machine) error {
		stage := stageOf(body)
		refused := m.use != "" && m.use != t.Use && !a.w.sabotage.amnesia
		a.w.log.setUp(m.name, m.used, stage, refused)
		if refused {
			return &pool.AgentError{Op: "setup", Status: pool.StatusUsed, Message: "set up for somebody else before"}
		}
		m.used, m.use = stage, t.Use
		if a.w.d.chance(a.w.bad.setupFails, "setup-fails", m.n) {
			return &pool.AgentError{Op: "setup", Status: 500, Message: "Cannot connect to the Docker daemon"}
		}
		return nil
	})
}

// StartStep implements pool.Agent.
func (a agents) StartStep(ctx context.Context, t pool.Target, body json.RawMessage) error {
	return a.reach(ctx, t, func(m *machine) error {
		if stage := stageOf(body); stage != m.used {
			a.w.log.wrong(ruleUsed, m.name, "a step of %s is started on %s, which was set up for %q", stage, m.name, m.used)
		}
		return nil
	})
}

// PollStep implements pool.Agent. A machine that dies answers nothing more.
func (a agents) PollStep(ctx context.Context, t pool.Target, step string) (pool.StepResult, error) {
	if a.w.d.chance(a.w.faults().stepForgets, "step-forgotten", step) {
		return pool.StepResult{}, &pool.AgentError{Op: "poll_step", Status: 404, Message: "step not found"}
	}
	started := a.reach(ctx, t, func(m *machine) error { m.steps++; return nil }) == nil
	ended := func(m *machine) error { m.steps--; return nil }
	name := strings.TrimPrefix(t.Address, "sim/")
	defer func() {
		if started {
			a.w.mu.Lock()
			if m := a.w.machines[name]; m != nil {
				_ = ended(m) // never fails
			}
			a.w.mu.Unlock()
		}
	}()
	if err := nap(ctx, a.w.d.span(3*time.Minute, "step", step)); err != nil {
		return pool.StepResult{}, err
	}
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		err := a.reach(ctx, t, nil)
		switch {
		case err == nil:
			return pool.StepResult{Body: json.RawMessage(`{"exited":true}`), Exported: map[string]string{"LAST": step}}, nil
		case errors.Is(err, errCrashed):
			return pool.StepResult{}, err
		}
		if err := nap(ctx, pause); err != nil {
			return pool.StepResult{}, err
		}
	}
}

// Output implements pool.Agent.
func (a agents) Output(ctx context.Context, t pool.Target, _ string, offset int64, _ io.Writer) (int64, error) {
	return offset, a.reach(ctx, t, nil)
}

// Suspend implements pool.Agent.
func (a agents) Suspend(ctx context.Context, t pool.Target, _ json.RawMessage) error {
	return a.reach(ctx, t, nil)
}

// Destroy implements pool.Agent.
func (a agents) Destroy(ctx context.Context, t pool.Target, _ json.RawMessage) error {
	return a.reach(ctx, t, nil)
}

// Forget implements pool.Agent.
func (a agents) Forget(string) {}
