package loadgen

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// The phases of a stage, as the report names them.
const (
	phaseSetup   = "setup"
	phaseStep    = "step"
	phaseDestroy = "destroy"
	phaseCycle   = "cycle"
)

func randomWord() string { return strings.ToLower(rand.Text()[:8]) }

// Run puts the load on and reports. It ends when the configuration says so or
// ctx does; either way every stage that may have a machine is destroyed before
// it returns. Its error is a wrong configuration: what fails under load is in
// the report.
func Run(ctx context.Context, cfg Config) (Report, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Report{}, fmt.Errorf("load: %w", err)
	}
	g, err := newGenerator(cfg)
	if err != nil {
		return Report{}, fmt.Errorf("load: %w", err)
	}
	if t, ok := cfg.Transport.(*http.Transport); ok {
		defer t.CloseIdleConnections()
	}

	start := time.Now()
	told, stopTelling := context.WithCancel(ctx)
	var telling sync.WaitGroup
	if cfg.Progress != nil {
		telling.Go(func() { g.tell(told, start) })
	}
	if cfg.Rate > 0 {
		g.open(ctx, start)
	} else {
		g.closed(ctx, start)
	}
	elapsed := time.Since(start)
	stopTelling()
	telling.Wait()
	return g.report(elapsed), nil
}

// generator is one run.
type generator struct {
	cfg    Config
	client *http.Client
	// head and tail of the bodies, the id goes between.
	setup, step, destroy [2][]byte
	stepped              bool

	setupTimes, stepTimes, destroyTimes, cycleTimes histogram
	errors                                          tally
	setupErrors, stepErrors, destroyErrors          atomic.Int64

	started, done, failed, interrupted atomic.Int64
	inFlight, most                     atomic.Int64

	holders sync.Map // machine to the stage that has it
	doubles atomic.Int64
}

// mark stands for the id while bodies are rendered.
const mark = "@stage-id@"

func newGenerator(cfg Config) (*generator, error) {
	g := &generator{
		cfg:     cfg,
		client:  &http.Client{Transport: cfg.Transport, Timeout: cfg.Timeout},
		stepped: cfg.Command != "",
	}
	step, err := json.Marshal(map[string]any{
		"id": mark, "name": "load", "log_drone": true, "working_dir": cfg.WorkingDir, "kind": "Run",
		"environment": map[string]string{"CI": "true"},
		"run":         map[string]any{"entrypoint": []string{"sh", "-c"}, "commands": []string{cfg.Command}},
	})
	if err != nil {
		return nil, err
	}
	for _, r := range []struct {
		parts *[2][]byte
		body  any
	}{
		{&g.setup, api.SetupRequest{ID: mark, PoolID: cfg.Pool, FallbackPoolIDs: cfg.Fallbacks, SetupRequest: cfg.Setup}},
		{&g.step, api.StepRequest{StageRuntimeID: mark, StartStepRequest: step}},
		{&g.destroy, api.DestroyRequest{ID: mark, PoolID: cfg.Pool}},
	} {
		body, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		// The stage's id comes first in every body; a step's own id may be
		// the same in each stage.
		head, tail, _ := bytes.Cut(body, []byte(mark))
		*r.parts = [2][]byte{head, bytes.ReplaceAll(tail, []byte(mark), []byte("load-step"))}
	}
	return g, nil
}

// closed keeps the clients busy.
func (g *generator) closed(ctx context.Context, start time.Time) {
	var wg sync.WaitGroup
	for range g.cfg.Clients {
		wg.Go(func() {
			for ctx.Err() == nil && !g.over(time.Since(start)) {
				n, ok := g.next()
				if !ok {
					return
				}
				g.cycle(ctx, n, time.Now())
			}
		})
	}
	wg.Wait()
}

// open starts stages at their times, however many are going.
func (g *generator) open(ctx context.Context, start time.Time) {
	var wg sync.WaitGroup
	places := make(chan struct{}, g.cfg.InFlight)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		offset := time.Duration(float64(g.started.Load()) / g.cfg.Rate * float64(time.Second))
		if g.over(offset) {
			break
		}
		due := start.Add(offset)
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				continue
			}
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			continue
		}
		n, ok := g.next()
		if !ok {
			break
		}
		wg.Go(func() {
			defer func() { <-places }()
			g.cycle(ctx, n, due)
		})
	}
	wg.Wait()
}

func (g *generator) over(elapsed time.Duration) bool {
	return g.cfg.Duration > 0 && elapsed >= g.cfg.Duration
}

// next numbers a stage, unless all have been started.
func (g *generator) next() (int64, bool) {
	n := g.started.Add(1)
	if g.cfg.Cycles > 0 && n > int64(g.cfg.Cycles) {
		g.started.Add(-1)
		return 0, false
	}
	return n, true
}

// cycle is one stage. Its first latency counts from when it was due.
func (g *generator) cycle(ctx context.Context, n int64, due time.Time) {
	now := g.inFlight.Add(1)
	for {
		old := g.most.Load()
		if now <= old || g.most.CompareAndSwap(old, now) {
			break
		}
	}
	defer g.inFlight.Add(-1)
	id := g.cfg.Prefix + "-" + strconv.FormatInt(n, 10)

	verdict := g.stage(ctx, id, due)
	switch {
	case verdict == nil:
		g.cycleTimes.record(time.Since(due))
	case ctx.Err() != nil:
		g.interrupted.Add(1)
	default:
		g.failed.Add(1)
	}
	g.done.Add(1)
}

func (g *generator) stage(ctx context.Context, id string, due time.Time) error {
	answer, err := g.post(ctx, api.PathSetup, g.setup, id, g.cfg.Unique)
	if err != nil {
		g.note(ctx, phaseSetup, &g.setupErrors, id, err)
		if _, refused := errors.AsType[*statusError](err); !refused {
			// Nobody knows whether it has a machine now.
			_, destroyErr := g.finish(ctx, id)
			err = errors.Join(err, destroyErr)
		}
		return err
	}
	g.setupTimes.record(time.Since(due))
	machine := g.hold(id, answer)

	var stepErr error
	if g.stepped {
		stepErr = g.runStep(ctx, id)
	}
	if g.cfg.Hold > 0 {
		timer := time.NewTimer(g.cfg.Hold)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	if machine != "" {
		g.holders.CompareAndDelete(machine, id)
	}
	took, err := g.finish(ctx, id)
	if err == nil {
		g.destroyTimes.record(took)
	}
	return errors.Join(stepErr, err, ctx.Err())
}

// hold notes who has a machine, if that is checked.
func (g *generator) hold(id string, answer []byte) string {
	if !g.cfg.Unique {
		return ""
	}
	var r struct {
		InstanceID string `json:"instance_id"`
	}
	if err := json.Unmarshal(answer, &r); err != nil || r.InstanceID == "" {
		g.errors.add(phaseSetup, "the answer names no machine")
		return ""
	}
	if other, taken := g.holders.LoadOrStore(r.InstanceID, id); taken {
		g.doubles.Add(1)
		g.errors.add(phaseSetup, fmt.Sprintf("machine %s was given to %s while %s had it", r.InstanceID, id, other))
	}
	return r.InstanceID
}

func (g *generator) runStep(ctx context.Context, id string) error {
	start := time.Now()
	answer, err := g.post(ctx, api.PathStep, g.step, id, true)
	if err == nil {
		var result struct {
			ExitCode int    `json:"exit_code"`
			Error    string `json:"error"`
		}
		if err = json.Unmarshal(answer, &result); err == nil && (result.ExitCode != 0 || result.Error != "") {
			err = fmt.Errorf("exit code %d: %s", result.ExitCode, strings.TrimSpace(result.Error))
		}
	}
	if err != nil {
		g.note(ctx, phaseStep, &g.stepErrors, id, err)
		return err
	}
	g.stepTimes.record(time.Since(start))
	return nil
}

// finish destroys a stage, also after ctx has ended: what was begun is ended.
func (g *generator) finish(ctx context.Context, id string) (time.Duration, error) {
	start := time.Now()
	ctx = context.WithoutCancel(ctx)
	if _, err := g.post(ctx, api.PathDestroy, g.destroy, id, false); err != nil {
		g.note(ctx, phaseDestroy, &g.destroyErrors, id, err)
		return 0, err
	}
	return time.Since(start), nil
}

// note counts an error, unless it is only that the run is over.
func (g *generator) note(ctx context.Context, phase string, count *atomic.Int64, id string, err error) {
	if ctx.Err() != nil {
		return
	}
	count.Add(1)
	g.errors.add(phase, strings.ReplaceAll(err.Error(), id, "<id>"))
}

// statusError is an answer that says no.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return strconv.Itoa(e.status) + ": " + e.text }

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// post sends one request. The answer is read only if it is wanted; otherwise
// it is skipped, so that the connection can be used again.
func (g *generator) post(ctx context.Context, path string, parts [2][]byte, id string, wanted bool) ([]byte, error) {
	body := make([]byte, 0, len(parts[0])+len(id)+len(parts[1]))
	body = append(append(append(body, parts[0]...), id...), parts[1]...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(g.cfg.URL, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode > 299 || wanted {
		answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		if err != nil {
			return nil, err
		}
		if resp.StatusCode > 299 {
			return nil, refusal(resp.StatusCode, answer)
		}
		return answer, nil
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return nil, err
}

func refusal(status int, answer []byte) error {
	var said struct {
		Message string `json:"error_msg"`
	}
	text := strings.TrimSpace(string(answer))
	if json.Unmarshal(answer, &said) == nil && said.Message != "" {
		text = said.Message
	}
	if text == "" {
		text = http.StatusText(status)
	}
	return &statusError{status, text}
}

// tell reports progress until the run is over.
func (g *generator) tell(ctx context.Context, start time.Time) {
	tick := time.NewTicker(g.cfg.Every)
	defer tick.Stop()
	last, lastDone := start, int64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			done := g.done.Load()
			g.cfg.Progress(Progress{
				Elapsed: now.Sub(start), Done: done, Failed: g.failed.Load(), InFlight: g.inFlight.Load(),
				PerSecond: float64(done-lastDone) / max(now.Sub(last).Seconds(), 1e-9),
			})
			last, lastDone = now, done
		}
	}
}

func (g *generator) report(elapsed time.Duration) Report {
	r := Report{
		Mode: "closed", Pool: g.cfg.Pool, Clients: g.cfg.Clients,
		ElapsedMS: millis(elapsed), Cycles: g.started.Load(), Failed: g.failed.Load(),
		Interrupted: g.interrupted.Load(), MostInFlight: g.most.Load(),
		Errors: g.errors.sorted(),
	}
	if g.cfg.Rate > 0 {
		r.Mode, r.Rate, r.Clients = "open", g.cfg.Rate, 0
	}
	if s := elapsed.Seconds(); s > 0 {
		r.PerSecond = float64(g.cycleTimes.count.Load()) / s
	}
	if g.cfg.Unique {
		n := g.doubles.Load()
		r.Doubles = &n
	}
	r.Phases = append(r.Phases, g.setupTimes.phase(phaseSetup, g.setupErrors.Load()))
	if g.stepped {
		r.Phases = append(r.Phases, g.stepTimes.phase(phaseStep, g.stepErrors.Load()))
	}
	r.Phases = append(r.Phases, g.destroyTimes.phase(phaseDestroy, g.destroyErrors.Load()),
		g.cycleTimes.phase(phaseCycle, g.failed.Load()))
	return r
}
