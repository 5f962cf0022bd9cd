package agentclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/internal/testbubble"
	"github.com/vm-runner/drone-runner-aws/pool"
)

var pretend = pool.Target{Instance: "i1"}

func TestMockStepTakesItsTime(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		m := agentclient.NewMock(agentclient.MockConfig{StepTime: time.Minute})
		start := time.Now()
		if err := m.Setup(t.Context(), pretend, nil); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second start does nothing
			if err := m.StartStep(t.Context(), pretend, json.RawMessage(`{"id":"s1"}`)); err != nil {
				t.Fatal(err)
			}
			<-time.After(10 * time.Second)
		}
		if h, err := m.Health(t.Context(), pretend); err != nil || h.RunningSteps != 1 || h.Version != "mock" {
			t.Errorf("health %+v, %v; want one running step", h, err)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				r, err := m.PollStep(t.Context(), pretend, "s1")
				if err != nil || string(r.Body) != `{"exited":true}` {
					t.Errorf("poll: %s, %v", r.Body, err)
				}
				if took := time.Since(start); took != time.Minute {
					t.Errorf("polled after %v, want 1m", took)
				}
			})
		}
		wg.Wait()
		if h, err := m.Health(t.Context(), pretend); err != nil || h.RunningSteps != 0 {
			t.Errorf("health %+v, %v; want no running step", h, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.StartStep(t.Context(), pretend, json.RawMessage(`{"id":"s2"}`)); err != nil {
			t.Fatal(err)
		}
		if _, err := m.PollStep(ctx, pretend, "s2"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("poll with a deadline: %v", err)
		}
	})
}

func TestMockOutputWaitsForItsStep(t *testing.T) {
	t.Parallel()
	testbubble.Run(t, func(t *testing.T) {
		m := agentclient.NewMock(agentclient.MockConfig{})
		start := time.Now()
		_, err := m.Output(t.Context(), pretend, "s1", 0, &bytes.Buffer{})
		if a, ok := errors.AsType[*pool.AgentError](err); !ok || !a.Final() || time.Since(start) != 5*time.Second {
			t.Errorf("output of a step that never starts: %v after %v, want a refusal after 5s", err, time.Since(start))
		}
		var wg sync.WaitGroup
		var got bytes.Buffer
		wg.Go(func() {
			if end, err := m.Output(t.Context(), pretend, "s1", 8, &got); err != nil || end != 16 {
				t.Errorf("output ends at %d, %v", end, err)
			}
		})
		synctest.Wait()
		if err := m.StartStep(t.Context(), pretend, json.RawMessage(`{"id":"s1"}`)); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if got.String() != "step s1\n" {
			t.Errorf("output %q", got.String())
		}
		if _, err := m.Output(t.Context(), pretend, "s1", 99, &got); err == nil {
			t.Error("an offset past the end is taken")
		}
	})
}

func TestMockRefusals(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	m := agentclient.NewMock(agentclient.MockConfig{Hook: func(_ context.Context, op string, target pool.Target, step string) error {
		if target.Instance == "bad" {
			return boom
		}
		return nil
	}})
	bad := pool.Target{Instance: "bad"}
	_, health := m.Health(t.Context(), bad)
	_, poll := m.PollStep(t.Context(), bad, "s")
	_, output := m.Output(t.Context(), bad, "s", 0, &bytes.Buffer{})
	for op, err := range map[string]error{
		"health": health, "poll": poll, "output": output,
		"setup": m.Setup(t.Context(), bad, nil), "suspend": m.Suspend(t.Context(), bad, nil), "destroy": m.Destroy(t.Context(), bad, nil),
		"start": m.StartStep(t.Context(), bad, json.RawMessage(`{"id":"s"}`)),
	} {
		if !errors.Is(err, boom) {
			t.Errorf("%s: %v, want the injected error", op, err)
		}
	}
	for _, body := range []string{``, `{}`, `{bad`, `{"id":7}`} {
		err := m.StartStep(t.Context(), pretend, json.RawMessage(body))
		if a, ok := errors.AsType[*pool.AgentError](err); !ok || a.Status != 400 {
			t.Errorf("start %q: %v, want 400", body, err)
		}
	}
	if err := m.StartStep(t.Context(), pretend, json.RawMessage(`{"id":"s"}`)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Destroy(t.Context(), pretend, nil); err != nil {
			t.Errorf("destroy: %v", err)
		}
	}
	if _, err := m.PollStep(t.Context(), pretend, "s"); err != nil {
		t.Errorf("poll after destroy: %v, want the result", err)
	}
	m.Forget(pretend.Instance)
	_, err := m.PollStep(t.Context(), pretend, "s")
	if a, ok := errors.AsType[*pool.AgentError](err); !ok || a.Message != "Step has not started" {
		t.Errorf("poll after forget: %v", err)
	}
}

func TestMuxChoosesPerMachine(t *testing.T) {
	t.Parallel()
	a := agentclient.NewMock(agentclient.MockConfig{Version: "a"})
	b := agentclient.NewMock(agentclient.MockConfig{Version: "b"})
	m := &agentclient.Mux{All: []pool.Agent{a, b}, Choose: func(t pool.Target) pool.Agent {
		if t.OS == "linux" {
			return a
		}
		return b
	}}
	for os, want := range map[string]string{"linux": "a", "darwin": "b"} {
		target := pool.Target{Instance: "i-" + os, OS: os}
		if h, err := m.Health(t.Context(), target); err != nil || h.Version != want {
			t.Errorf("%s is asked by %q, %v; want %q", os, h.Version, err, want)
		}
		var out bytes.Buffer
		_, outputErr := func() (int64, error) {
			if err := m.StartStep(t.Context(), target, json.RawMessage(`{"id":"s"}`)); err != nil {
				return 0, err
			}
			return m.Output(t.Context(), target, "s", 0, &out)
		}()
		_, pollErr := m.PollStep(t.Context(), target, "s")
		if err := errors.Join(outputErr, pollErr, m.Setup(t.Context(), target, nil), m.Suspend(t.Context(), target, nil), m.Destroy(t.Context(), target, nil)); err != nil {
			t.Error(err)
		}
		m.Forget(target.Instance)
		if _, err := m.PollStep(t.Context(), target, "s"); err == nil {
			t.Errorf("%s is not forgotten", os)
		}
	}
}
