package agentclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func TestPollStep(t *testing.T) {
	t.Parallel()
	refused := func(status int, msg string) string { return fmt.Sprintf("agent poll_step: %d: %s", status, msg) }
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   pool.StepResult
		calls  int
		err    string
	}{
		{
			"a result is kept as it is, without white space",
			say(200, "{\n  \"exited\": true,\n  \"exit_code\": 7,\n  \"later\": [1, 2.50]\n}\n"),
			pool.StepResult{Body: []byte(`{"exited":true,"exit_code":7,"later":[1,2.50]}`)},
			1, "",
		},
		{
			"exported variables are read, and what no variable can hold is left",
			say(200, `{"exited":true,"envs":{"A":"1","EMPTY":"","N":7}}`),
			pool.StepResult{Body: []byte(`{"exited":true,"envs":{"A":"1","EMPTY":"","N":7}}`), Exported: map[string]string{"A": "1", "EMPTY": ""}},
			1, "",
		},
		{"a detached step has nothing to say", say(200, "{}"), pool.StepResult{Body: []byte("{}")}, 1, ""},
		{"null is nothing to say", say(200, "null"), pool.StepResult{Body: []byte("{}")}, 1, ""},
		{"no content is nothing to say", say(204, ""), pool.StepResult{Body: []byte("{}")}, 1, ""},
		{"lost connections are made anew", inTurn(cut, cut, say(200, `{"exited":true}`)), pool.StepResult{Body: []byte(`{"exited":true}`)}, 3, ""},
		{"an agent that is restarting is asked again", inTurn(say(503, ""), say(200, `{"exited":true}`)), pool.StepResult{Body: []byte(`{"exited":true}`)}, 2, ""},
		{"a step that has not started is final", say(400, `{"error_msg":"Step has not started"}`), pool.StepResult{}, 1, refused(400, "Step has not started")},
		{"an answer that is no object", say(200, `[1]`), pool.StepResult{}, 1, "agent poll_step: the answer is no step's result"},
		{"nothing but nonsense ends some time", say(200, ""), pool.StepResult{}, 10, "agent poll_step: the answer is not JSON"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/poll_step": func(w http.ResponseWriter, req *http.Request) {
				var body map[string]string
				bodyOf(t, req, &body)
				if d := cmp.Diff(map[string]string{"id": "s1"}, body); d != "" {
					t.Error(d)
				}
				tc.answer(w, req)
			}})
			got, err := newClient(t, hasty()).PollStep(t.Context(), r.target, "s1")
			if (err == nil) != (tc.err == "") || err != nil && !strings.HasPrefix(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Error(d)
			}
			if n := r.count("/poll_step"); n != tc.calls {
				t.Errorf("polled %d times, want %d", n, tc.calls)
			}
		})
	}
}

func TestCallersOfOneStepShareAPoll(t *testing.T) {
	t.Parallel()
	release, gone := make(chan struct{}), make(chan struct{})
	r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/poll_step": func(w http.ResponseWriter, req *http.Request) {
		select {
		case <-release:
			say(200, `{"exited":true}`)(w, req)
		case <-req.Context().Done():
			close(gone)
		}
	}})
	c := newClient(t, hasty())
	poll := func(ctx context.Context, wg *sync.WaitGroup, step string) chan error {
		done := make(chan error, 1)
		wg.Go(func() {
			_, err := c.PollStep(ctx, r.target, step)
			done <- err
		})
		return done
	}

	var wg sync.WaitGroup
	first, leave := context.WithCancel(t.Context())
	impatient := poll(first, &wg, "s1")
	eventually(t, "the poll", func() bool { return r.count("/poll_step") == 1 })
	var patient []chan error
	for range 5 {
		patient = append(patient, poll(t.Context(), &wg, "s1"))
	}
	leave() // the one that began it
	if err := <-impatient; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that left: %v, want cancelled", err)
	}
	close(release)
	for _, done := range patient {
		if err := <-done; err != nil {
			t.Errorf("a caller that stayed: %v", err)
		}
	}
	wg.Wait()
	// Callers that came after the answer would poll again, and be answered at
	// once; the agent never has two polls of a step at a time.
	if n := r.count("/poll_step"); n > 1+len(patient) {
		t.Errorf("polled %d times", n)
	}

	last := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/poll_step": func(_ http.ResponseWriter, req *http.Request) {
		<-req.Context().Done()
		close(gone)
	}})
	r = last
	only, leave := context.WithCancel(t.Context())
	done := poll(only, &wg, "s2")
	eventually(t, "the poll", func() bool { return last.count("/poll_step") == 1 })
	leave()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the only caller: %v, want cancelled", err)
	}
	select {
	case <-gone:
	case <-time.After(30 * time.Second):
		t.Error("the poll goes on without callers")
	}
	wg.Wait()
}

func TestPollEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"while the agent hangs", hang, "poll of step s1 at 127.0.0.1:"},
		{"while every connection breaks", cut, "poll of step s1 at 127.0.0.1:"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/poll_step": tc.answer})
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			_, err := newClient(t, hasty()).PollStep(ctx, r.target, "s1")
			if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("error %v, want a time-out that begins with %q", err, tc.want)
			}
		})
	}
}

func TestOutputGoesOnWhereItBroke(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("0123456789abcdef\n", 4000)
	var mu sync.Mutex
	var offsets []int64
	r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/stream_output": func(w http.ResponseWriter, req *http.Request) {
		var body struct {
			ID     string
			Offset int64
		}
		bodyOf(t, req, &body)
		mu.Lock()
		offsets = append(offsets, body.Offset)
		n := len(offsets)
		mu.Unlock()
		rest := text[body.Offset:]
		if n < 4 {
			_, _ = io.WriteString(w, rest[:len(rest)/3])
			_ = http.NewResponseController(w).Flush() // what is sent counts, then it breaks
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, rest)
	}})
	var got bytes.Buffer
	end, err := newClient(t, hasty()).Output(t.Context(), r.target, "s1", 100, &got)
	if err != nil || end != int64(len(text)) {
		t.Fatalf("ends at %d, %v; want %d", end, err, len(text))
	}
	if got.String() != text[100:] {
		t.Errorf("%d bytes that are not the text from 100 on", got.Len())
	}
	if len(offsets) != 4 || offsets[0] != 100 || offsets[3] <= offsets[0] {
		t.Errorf("asked from %v", offsets)
	}
}

type failingWriter struct{ after int }

func (w *failingWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.after)
	w.after -= n
	if n < len(p) {
		return n, errors.New("disk full")
	}
	return n, nil
}

func TestOutputFailures(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		answer http.HandlerFunc
		w      io.Writer
		calls  int
		end    int64
		err    string
	}{
		{"the step is unknown", say(400, `{"error_msg":"Step has not started"}`), io.Discard, 1, 0, "agent stream_output: 400: Step has not started"},
		{"the offset is past the end", say(500, `{"error_msg":"error: index 'offset' is out of bounds Offset=9 Total=1"}`), io.Discard, 1, 0, "agent stream_output: 500: error: index"},
		{"the agent is preparing", inTurn(say(503, ""), say(200, "abc")), io.Discard, 2, 3, ""},
		{"an answer without output", say(204, ""), io.Discard, 1, 0, "agent stream_output: 204 is no answer with output"},
		{"the reader's disk is full", say(200, "abcdef"), &failingWriter{after: 4}, 1, 4, "write the output of step s1: disk full"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/stream_output": tc.answer})
			end, err := newClient(t, hasty()).Output(t.Context(), r.target, "s1", 0, tc.w)
			if (err == nil) != (tc.err == "") || err != nil && !strings.HasPrefix(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
			if end != tc.end || r.count("/stream_output") != tc.calls {
				t.Errorf("ends at %d after %d calls, want %d after %d", end, r.count("/stream_output"), tc.end, tc.calls)
			}
		})
	}
}

func TestOutputArrivesWhileTheStepRuns(t *testing.T) {
	t.Parallel()
	more := make(chan struct{})
	r := newRig(t, rigOptions{}, map[string]http.HandlerFunc{"/stream_output": func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "first\n")
		_ = http.NewResponseController(w).Flush()
		<-more
		_, _ = io.WriteString(w, "second\n")
	}})
	lines := make(chan string, 2)
	done := make(chan error, 1)
	c := newClient(t, hasty())
	go func() {
		_, err := c.Output(t.Context(), r.target, "s1", 0, writerFunc(func(p []byte) { lines <- string(p) }))
		done <- err
	}()
	if got := <-lines; got != "first\n" {
		t.Errorf("first comes %q", got)
	}
	close(more)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := <-lines; got != "second\n" {
		t.Errorf("then comes %q", got)
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// FuzzPollAnswer: whatever a machine answers, the client neither crashes nor
// passes on what is not one JSON object.
func FuzzPollAnswer(f *testing.F) {
	for _, seed := range []string{`{"exited":true}`, `{"envs":{"A":"b"}}`, `{"envs":[]}`, `null`, ``, `{`, `{"envs":{"A":null}}`, "{\"a\":1}\n{}", `"text"`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		r, err := agentclient.ReadResult(answer)
		if err != nil {
			return
		}
		if body := bytes.TrimSpace(r.Body); len(body) < 2 || body[0] != '{' || body[len(body)-1] != '}' {
			t.Errorf("%q became the result %q", answer, r.Body)
		}
	})
}
