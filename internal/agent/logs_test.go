//go:build unix

package agent_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/logservice/logservicetest"
)

const logToken = "LOGTOKEN"

// logged is a rig whose stage has a log service.
func logged(t *testing.T, change func(*agentapi.SetupRequest), options ...func(*agent.Options)) (*rig, *logservicetest.Service) {
	t.Helper()
	s, address := logservicetest.Start(t, "acc", logToken)
	r := newRig(t, options...)
	setup := agentapi.SetupRequest{LogConfig: agentapi.LogConfig{URL: address, AccountID: "acc", Token: logToken}}
	if change != nil {
		change(&setup)
	}
	r.setup(setup)
	return r, s
}

// keyed is ci with a log key that is the step's id.
func keyed(id, script string) agentapi.StartStepRequest {
	s := ci(id, script)
	s.LogKey = "log/" + id
	return s
}

const stars = "**************"

// printed is what a step prints after its command.
func printed(out string) string {
	i := strings.LastIndex(out, "\x1b[33;1m")
	_, rest, _ := strings.Cut(out[max(i, 0):], "\n")
	return rest
}

func TestAStepsOutputIsWithTheLogServiceWhenItIsAnswered(t *testing.T) {
	t.Parallel()
	r, s := logged(t, nil)
	if got := r.run(keyed("s", "echo one; echo two >&2; printf last")); got.ExitCode != 0 {
		t.Errorf("result %+v", got)
	}
	got := s.Log("log/s")
	if want := "one\ntwo\nlast"; printed(got.Kept()) != want || printed(got.Live()) != want {
		t.Errorf("kept %q, live %q, want %q", got.Kept(), got.Live(), want)
	}
	if got.Opens != 1 || got.Closes != 1 || s.IsOpen("log/s") {
		t.Errorf("opened %d and closed %d times", got.Opens, got.Closes)
	}
	if diff := cmp.Diff(r.output("s"), got.Kept()); diff != "" {
		t.Errorf("the machine has another output than the log service (-machine +service):\n%s", diff)
	}
}

func TestOutputIsReadableOnTheMachineWithoutTheLogService(t *testing.T) {
	t.Parallel()
	r, s := logged(t, nil)
	s.Fail(logservicetest.Open, logservicetest.Fault{Status: 403, Text: "no"})
	s.Fail(logservicetest.Link, logservicetest.Fault{Status: 403, Text: "no"})
	s.OpenElsewhere("log/s")
	if got := r.run(keyed("s", "echo text")); got.ExitCode != 0 || got.Error != "" {
		t.Errorf("a failure of the log service fails the step: %+v", got)
	}
	if got := printed(r.output("s")); got != "text\n" {
		t.Errorf("output %q", got)
	}
}

func TestAStepIsNotHarmedByItsLogService(t *testing.T) {
	t.Parallel()
	for _, op := range []logservicetest.Op{logservicetest.Open, logservicetest.Write, logservicetest.Link, logservicetest.Put, logservicetest.Close} {
		for name, fault := range map[string]logservicetest.Fault{"403": {Status: 403}, "cut": {Cut: true, Times: 1}, "500": {Status: 500, Times: 1}} {
			t.Run(string(op)+" "+name, func(t *testing.T) {
				t.Parallel()
				r, s := logged(t, func(setup *agentapi.SetupRequest) {
					setup.Envs = map[string]string{"CI_LOG_SERVICE_RESILIENCE": "false"}
				})
				s.OpenElsewhere("log/s")
				s.Fail(op, fault)
				if got := r.run(keyed("s", "echo text; exit 3")); got.ExitCode != 3 {
					t.Errorf("result %+v", got)
				}
				if got := printed(r.output("s")); got != "text\n" {
					t.Errorf("output %q", got)
				}
			})
		}
	}
}

func TestADestroyDoesNotWaitForALogServiceThatHangs(t *testing.T) {
	t.Parallel()
	r, s := logged(t, func(setup *agentapi.SetupRequest) { setup.LELogKey, setup.MemoryMetricsLogKey = "own", "metrics" })
	s.Fail(logservicetest.Write, logservicetest.Fault{Hang: true})
	s.Fail(logservicetest.Link, logservicetest.Fault{Hang: true})
	r.start(keyed("s", "echo text; exec sleep 600"))
	eventually(t, "the hanging write", func() bool { return slices.Contains(s.Ops("log/s"), logservicetest.Write) })
	began := time.Now()
	if res := r.destroy(); len(res.Leftover) > 0 {
		t.Errorf("left over: %v", res.Leftover)
	}
	if took := time.Since(began); took > 20*time.Second { // the write alone hangs 10 s, the link 10 s more
		t.Errorf("destroy took %s", took)
	}
	if got := r.poll("s"); got.ExitCode == 0 {
		t.Errorf("result %+v", got)
	}
}

func TestNoSecretIsLoggedWhereverItsOutputIsCut(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	r, s := logged(t, func(setup *agentapi.SetupRequest) {
		setup.Secrets = []string{"hunt", secret}
		setup.LogConfig.SanitizeConfig.SanitizePatternsContent = base64.StdEncoding.EncodeToString([]byte("key=[a-z]+\n"))
	})
	for i := range secret {
		id := fmt.Sprint(i)
		r.start(keyed(id, fmt.Sprintf("set +x; a=%s; b=%s; printf 'my %%s' $a; sleep 0.1; printf '%%s and k' $b; sleep 0.1; echo ey=abc", secret[:i], secret[i:])))
	}
	for i := range secret {
		id := fmt.Sprint(i)
		r.poll(id)
		want := "my " + stars + " and " + stars + "\n"
		for where, got := range map[string]string{"machine": r.output(id), "live": s.Log("log/" + id).Live(), "kept": s.Log("log/" + id).Kept()} {
			if printed(got) != want {
				t.Errorf("cut at byte %d, %s: %q, want %q", i, where, printed(got), want)
			}
			if strings.Contains(got, secret) {
				t.Errorf("cut at byte %d, %s: the secret is there: %q", i, where, got)
			}
		}
	}
}

func TestASecondSetupReplacesTheLogServiceAndItsPatterns(t *testing.T) {
	t.Parallel()
	first, address := logservicetest.Start(t, "acc", "first-token")
	second, other := logservicetest.Start(t, "acc2", "second-token")
	r := newRig(t)
	conf := func(address, account, token, pattern string) agentapi.SetupRequest {
		return agentapi.SetupRequest{LogConfig: agentapi.LogConfig{
			URL: address, AccountID: account, Token: token, IndirectUpload: true,
			SanitizeConfig: agentapi.SanitizeConfig{SanitizePatternsContent: base64.StdEncoding.EncodeToString([]byte(pattern))},
		}}
	}
	r.setup(conf(address, "acc", "first-token", "first-[a-z]+"))
	r.run(keyed("a", "echo first-x second-x"))
	r.setup(conf(other, "acc2", "second-token", "second-[a-z]+"))
	r.run(keyed("b", "echo first-x second-x"))
	if got, want := printed(first.Log("log/a").Kept()), stars+" second-x\n"; got != want {
		t.Errorf("first: %q, want %q", got, want)
	}
	if got, want := printed(second.Log("log/b").Kept()), "first-x "+stars+"\n"; got != want {
		t.Errorf("second: %q, want %q", got, want)
	}
}

func TestWhoOpensAndClosesALogIsSaidByTheStep(t *testing.T) {
	t.Parallel()
	r, s := logged(t, func(setup *agentapi.SetupRequest) { setup.LogConfig.IndirectUpload = true })
	open, write, upload, end := logservicetest.Open, logservicetest.Write, logservicetest.Upload, logservicetest.Close
	for id, want := range map[string][]logservicetest.Op{
		"neither": {open, write, upload, end}, "opening": {write, end}, "closing": {open, write}, "both": {write},
	} {
		step := keyed(id, "true")
		step.LogConfig.SkipOpeningStream = id == "opening" || id == "both"
		step.LogConfig.SkipClosingStream = id == "closing" || id == "both"
		if step.LogConfig.SkipOpeningStream {
			s.OpenElsewhere(step.LogKey)
		}
		r.run(step)
		if got := s.Ops(step.LogKey); !slices.Equal(got, want) {
			t.Errorf("skipping %s: calls %v, want %v", id, got, want)
		}
	}
}

func TestStepsWhoseOutputGoesToNoLogService(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		setup  func(*agentapi.SetupRequest)
		step   func(*agentapi.StartStepRequest)
		remark string
	}{
		{name: "a step that streams it", step: func(s *agentapi.StartStepRequest) { s.LogDrone = true }},
		{
			name: "a step without a key", step: func(s *agentapi.StartStepRequest) { s.LogKey = "" },
			remark: "[runner-agent] this output is not sent to the log service: the step has no log_key; stream_output serves it\n",
		},
		{
			name: "an address that is none", setup: func(s *agentapi.SetupRequest) { s.LogConfig.URL = "logs.test" },
			remark: "[runner-agent] this output is not sent to the log service: URL of the log service: not of the form https://host/path; stream_output serves it\n",
		},
		{
			name: "a client certificate that is none", setup: func(s *agentapi.SetupRequest) {
				s.MTLSConfig = agentapi.MTLSConfig{ClientCert: "eA==", ClientCertKey: "eA=="}
			},
			remark: "[runner-agent] this output is not sent to the log service: client certificate for the log service: tls: failed to find any PEM data in certificate input; stream_output serves it\n",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, s := logged(t, c.setup)
			step := keyed("s", "echo text")
			if c.step != nil {
				c.step(&step)
			}
			r.run(step)
			out := r.output("s")
			if !strings.HasPrefix(out, c.remark) || !strings.HasSuffix(out, "text\n") {
				t.Errorf("output %q, want it to begin %q", out, c.remark)
			}
			if calls := s.Calls(""); len(calls) > 0 {
				t.Errorf("the log service was called: %v", s.Ops(""))
			}
		})
	}
}

func TestADetachedStepIsLoggedUntilItsProcessEnds(t *testing.T) {
	t.Parallel()
	r, s := logged(t, nil)
	fifo := r.path("fifo")
	step := keyed("s", "mkfifo "+fifo+"; echo begun; read x < "+fifo+"; echo ended $x")
	step.Detach = true
	if got := r.run(step); got.Exited {
		t.Errorf("result %+v, want none yet", got)
	}
	eventually(t, "the first line", func() bool { return strings.HasSuffix(s.Log("log/s").Live(), "begun\n") })
	r.run(sh("end", "echo now > "+fifo))
	eventually(t, "the end of the log", func() bool { return s.Log("log/s").Closes == 1 })
	if got := s.Log("log/s").Kept(); !strings.HasSuffix(got, "begun\nended now\n") {
		t.Errorf("kept %q", got)
	}
}

func TestLogsOfTheAgentItself(t *testing.T) {
	t.Parallel()
	r, s := logged(t, func(setup *agentapi.SetupRequest) { setup.LELogKey, setup.MemoryMetricsLogKey = "own", "metrics" })
	eventually(t, "the first metrics", func() bool { return len(s.Log("metrics").Lines) > 0 })
	r.destroy()
	r.destroy()
	for _, key := range []string{"own", "metrics"} {
		eventually(t, "the end of "+key, func() bool { return s.Log(key).Closes == 1 })
	}
	if got := s.Log("own"); got.Opens != 1 || len(got.Lines) != 0 {
		t.Errorf("the agent's log was opened %d times and has %q", got.Opens, got.Live())
	}
	lines := s.Log("metrics").Blob()
	if last := lines[len(lines)-1].Out; !strings.Contains(last, `"osStatsSummary":true`) {
		t.Errorf("the last line of the metrics is %q", last)
	}
}

func TestARepeatedSetupOpensNoLogTwice(t *testing.T) {
	t.Parallel()
	var again agentapi.SetupRequest
	r, s := logged(t, func(setup *agentapi.SetupRequest) { setup.LELogKey = "own"; again = *setup })
	r.setup(again)
	again.Secrets = []string{"another"}
	r.setup(again)
	eventually(t, "the open", func() bool { return s.Log("own").Opens == 1 })
	r.destroy()
	eventually(t, "the close", func() bool { return s.Log("own").Closes == 1 }) // a destroy waits a second for it, no more
	if got := s.Log("own"); got.Opens != 1 {
		t.Errorf("opened %d times", got.Opens)
	}
}

func TestLinesArePrintedTooWhereThatIsWanted(t *testing.T) {
	t.Parallel()
	var echo lockedBuffer
	r, _ := logged(t, func(setup *agentapi.SetupRequest) {
		setup.Envs = map[string]string{"HARNESS_LOG_STREAMING_STDOUT_ENABLED": "true"}
	}, func(o *agent.Options) { o.LogEcho = &echo })
	r.run(keyed("s", "echo text"))
	if got := echo.String(); !strings.Contains(got, `{"log_key":"log/s","level":"info","pos":2,"out":"text\n","time":"`) {
		t.Errorf("printed %q", got)
	}
}

func TestAFailedStepGetsAHint(t *testing.T) {
	t.Parallel()
	r, s := logged(t, nil)
	const text = "echo 'git: SSL certificate problem: self-signed'; "
	r.run(keyed("good", text+"exit 0"))
	r.run(keyed("bad", text+"exit 1"))
	if got := s.Log("log/good").Kept(); strings.Contains(got, "hint") {
		t.Errorf("a step that succeeded has a hint: %q", got)
	}
	if got := s.Log("log/bad").Kept(); !strings.Contains(got, "[runner-agent] hint: git does not trust") {
		t.Errorf("a step that failed has no hint: %q", got)
	}
}

func TestLogsTakeTheProxyOfTheStage(t *testing.T) {
	t.Parallel()
	s := logservicetest.New(t, "acc", logToken, "")
	proxy := httptest.NewServer(s) // as a proxy it serves every host
	defer proxy.Close()
	r := newRig(t)
	r.setup(agentapi.SetupRequest{
		Envs:      map[string]string{"HTTP_PROXY": proxy.URL},
		LogConfig: agentapi.LogConfig{URL: "http://logs.invalid", AccountID: "acc", Token: logToken, IndirectUpload: true},
	})
	r.run(keyed("s", "echo text"))
	if got := printed(s.Log("log/s").Kept()); got != "text\n" {
		t.Errorf("behind the proxy the log is %q", got)
	}
}

// TestMemoryStaysBoundedWhereALogServiceTakesNothing is not parallel: it
// measures the heap.
func TestMemoryStaysBoundedWhereALogServiceTakesNothing(t *testing.T) {
	r, s := logged(t, func(setup *agentapi.SetupRequest) { setup.LogConfig.IndirectUpload = true }, func(o *agent.Options) { o.OutputLimit = 1 << 20 })
	s.Fail(logservicetest.Open, logservicetest.Fault{Status: 403})
	s.OpenElsewhere("log/s")
	const total = 100 << 20
	peak := peakHeap(r, keyed("s", fmt.Sprintf("yes 'a line of a step that prints as fast as it can' | head -c %d; echo; echo end", total)))
	const bound = total / 2 // in fact some 14 MiB, and 15 to 20 of the service of this test
	if peak > bound {
		t.Errorf("heap of %d MiB for %d MiB of output", peak>>20, total>>20)
	}
	eventually(t, "the upload", func() bool { return len(s.Log("log/s").Blobs) == 1 })
	got := s.Log("log/s")
	if size := len(got.Blobs[0]); size > 5<<20 || size < 4<<20 || !strings.HasSuffix(got.Kept(), "end\n") {
		t.Errorf("%d bytes are uploaded, ending %q", size, got.Kept()[len(got.Kept())-10:])
	}
}

func TestManyLoggedStepsAtOnce(t *testing.T) {
	t.Parallel()
	r, s := logged(t, nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 20)
	for i := range 60 {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			id := fmt.Sprintf("s%d", i)
			res := r.run(keyed(id, fmt.Sprintf("echo a %d; printf 'last %d'; exit %d", i, i, i%7)))
			got := s.Log("log/" + id)
			if want := fmt.Sprintf("a %d\nlast %d", i, i); res.ExitCode != i%7 || printed(got.Kept()) != want || printed(got.Live()) != want {
				t.Errorf("step %d: code %d, live %q, kept %q", i, res.ExitCode, got.Live(), got.Kept())
			}
		})
	}
	wg.Wait()
}

// lockedBuffer is a bytes.Buffer for several goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
