package agentclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// maxNonsense is how many successes in a row that are no JSON a poll takes
// before it believes that no result will come.
const maxNonsense = 10

type pollKey struct{ instance, step string }

// sharedPoll is one long poll that several callers wait for: existing agents
// wake only the newest poller of a step, so there is never a second one.
type sharedPoll struct {
	callers int // guarded by Client.mu
	cancel  context.CancelFunc
	done    chan struct{}
	result  pool.StepResult // valid after done
	err     error
}

// PollStep waits for a step's end, over as many connections as it takes.
// Callers of one step of one machine share one poll; it ends with its last
// caller. A refusal is final, most of all "Step has not started".
func (c *Client) PollStep(ctx context.Context, t pool.Target, step string) (pool.StepResult, error) {
	key := pollKey{t.Instance, step}
	c.mu.Lock()
	p := c.polls[key]
	if p == nil {
		shared, cancel := context.WithCancel(context.WithoutCancel(ctx))
		p = &sharedPoll{cancel: cancel, done: make(chan struct{})}
		c.polls[key] = p
		go func() {
			defer close(p.done)
			p.result, p.err = c.poll(shared, t, step)
		}()
	}
	p.callers++
	c.mu.Unlock()

	var err error
	select {
	case <-p.done:
	case <-ctx.Done():
		err = fmt.Errorf("poll of step %s at %s: %w", step, hostPort(t), context.Cause(ctx))
	}
	c.mu.Lock()
	p.callers--
	last := p.callers == 0
	if last && c.polls[key] == p {
		delete(c.polls, key)
	}
	c.mu.Unlock()
	if last {
		p.cancel()
		<-p.done
	}
	if err != nil {
		return pool.StepResult{}, err
	}
	return p.result, p.err
}

func (c *Client) poll(ctx context.Context, t pool.Target, step string) (pool.StepResult, error) {
	body, err := json.Marshal(agentapi.PollStepRequest{ID: step})
	if err != nil {
		return pool.StepResult{}, err
	}
	l := c.link(t)
	h := history{op: "poll_step", at: hostPort(t)}
	nonsense := 0
	alive := time.Now() // the last sign of life
	for b := c.backoff(); ; {
		begun := time.Now()
		answer, err := c.once(ctx, l, t, request{op: "poll_step", method: http.MethodPost, path: agentapi.PathPollStep, body: body})
		if err == nil {
			return readResult(answer)
		}
		if nonsense++; !errors.Is(err, errNotJSON) {
			nonsense = 0
		}
		if hopeless(err) || nonsense >= maxNonsense {
			return pool.StepResult{}, err
		}
		if ctx.Err() != nil {
			return pool.StepResult{}, h.end(ctx)
		}
		h.note(err)
		if _, answered := errors.AsType[*pool.AgentError](err); answered || time.Since(begun) > c.cfg.provenAfter() {
			alive = time.Now()
		}
		if silent := time.Since(alive); silent > c.cfg.Silence {
			return pool.StepResult{}, fmt.Errorf("agent at %s has not answered for %s: %w", hostPort(t), silent.Round(time.Second), err)
		}
		c.again(ctx, t, "poll_step", err)
		if b.wait(ctx) != nil {
			return pool.StepResult{}, h.end(ctx)
		}
	}
}

// provenAfter is how long a request can last on a connection that is dead from
// its beginning; one that lasted longer has been probed with success.
func (c Config) provenAfter() time.Duration {
	return c.DialTimeout + c.ProbeFirst + c.ProbeTimeout + time.Second
}

// readResult keeps the answer as it came, without its white space, and reads
// the exported variables from it.
func readResult(answer []byte) (pool.StepResult, error) {
	if answer = bytes.TrimSpace(answer); len(answer) == 0 || string(answer) == "null" {
		return pool.StepResult{Body: json.RawMessage("{}")}, nil // 204, or nothing to say
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, answer); err != nil {
		return pool.StepResult{}, fmt.Errorf("agent poll_step: %w", err)
	}
	var fields struct {
		Envs map[string]any `json:"envs"`
	}
	if err := json.Unmarshal(answer, &fields); err != nil {
		return pool.StepResult{}, fmt.Errorf("agent poll_step: the answer is no step's result: %w", err)
	}
	r := pool.StepResult{Body: compact.Bytes()}
	for name, value := range fields.Envs {
		text, ok := value.(string)
		if !ok {
			continue // no variable can hold it
		}
		if r.Exported == nil {
			r.Exported = make(map[string]string, len(fields.Envs))
		}
		r.Exported[name] = text
	}
	return r, nil
}
