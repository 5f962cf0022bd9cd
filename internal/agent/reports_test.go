//go:build unix

package agent_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/testreport"
)

// writesReport is a script that leaves a report with a test that passes and one
// that fails.
const writesReport = `mkdir -p out; cat > out/r.xml <<'END'
<testsuite name="s"><testcase name="good" time="1.5"/><testcase name="bad" time="0.5"><failure message="why"/></testcase></testsuite>
END
`

// testServiceOf takes reports, or answers status.
func testServiceOf(t *testing.T, status int) (address string, got chan []testreport.Case) {
	t.Helper()
	got = make(chan []testreport.Case, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var cases []testreport.Case
		if err := json.NewDecoder(r.Body).Decode(&cases); err != nil {
			t.Errorf("upload: %v", err)
		}
		if step, token := r.URL.Query().Get("stepId"), r.Header.Get("X-Harness-Token"); step != "the step" || token != "TITOKEN" {
			t.Errorf("upload of step %q with token %q", step, token)
		}
		w.WriteHeader(status)
		got <- cases
	}))
	t.Cleanup(srv.Close)
	return srv.URL, got
}

func TestTestReportsOfAStep(t *testing.T) {
	t.Parallel()
	const table = `Harness Test Report
+-------+--------+--------+---------+----------+
| Total | Passed | Failed | Skipped | Duration |
+-------+--------+--------+---------+----------+
|     2 |      1 |      1 |       0 |       2s |
+-------+--------+--------+---------+----------+
failed: bad: why
`
	cases := []struct {
		name    string
		service int // what the test service answers; 0: there is none
		change  func(*agentapi.StartStepRequest)
		outputs map[string]string
		printed string
		failed  bool
	}{
		{
			name:    "shown without a service",
			change:  func(s *agentapi.StartStepRequest) { s.TestReport.JUnit.Paths = []string{"out/*.xml"} },
			printed: table,
		},
		{
			name: "sent to the service, of a step that fails too", service: 200, failed: true,
			change: func(s *agentapi.StartStepRequest) {
				s.TestReport.JUnit.Paths = []string{"**/r.xml"}
				s.Run.Commands[0] += "exit 1\n"
			},
			printed: table,
		},
		{
			name: "a service that refuses fails nothing", service: 403,
			change:  func(s *agentapi.StartStepRequest) { s.TestReport.JUnit.Paths = []string{"out/r.xml"} },
			printed: table + "[runner-agent] warning: test reports are not sent: test service: answered 403: \n",
		},
		{
			name: "numbers as outputs beside others",
			change: func(s *agentapi.StartStepRequest) {
				s.TestReport.JUnit.Paths = []string{"out/r.xml"}
				s.Environment = map[string]string{"HARNESS_CI_TEST_SUMMARY_OUTPUT_FF": "true"}
				s.Run.Commands[0] += "echo own=1 >> $DRONE_OUTPUT\n"
			},
			outputs: map[string]string{"own": "1", "total_tests": "2", "successful_tests": "1", "failed_tests": "1", "skipped_tests": "0", "duration_ms": "2000"},
			printed: table,
		},
		{
			name: "a step of tests needs no paths", service: 200,
			change: func(s *agentapi.StartStepRequest) {
				s.Kind = agentapi.KindRunTestsV2
				s.RunTestV2 = agentapi.RunTestV2{Entrypoint: s.Run.Entrypoint, Commands: s.Run.Commands}
				s.Run = agentapi.RunConfig{}
			},
			printed: table,
		},
		{
			name: "a step of the older kind", service: 200,
			change: func(s *agentapi.StartStepRequest) {
				s.Kind = agentapi.KindRunTest
				s.RunTest = agentapi.RunTestConfig{Entrypoint: s.Run.Entrypoint, PreCommand: "set -e", Args: s.Run.Commands[0], PostCommand: "true"}
				s.Run = agentapi.RunConfig{}
				s.TestReport.JUnit.Paths = []string{"out/r.xml"}
			},
			printed: table,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			setup := agentapi.SetupRequest{}
			var sent chan []testreport.Case
			if c.service != 0 {
				setup.TIConfig.Token = "TITOKEN"
				setup.TIConfig.URL, sent = testServiceOf(t, c.service)
			}
			r.setup(setup)
			step := ci("s", writesReport)
			step.Name, step.WorkingDir = "the step", r.work
			c.change(&step)
			res := r.run(step)
			if (res.ExitCode != 0) != c.failed {
				t.Errorf("result %+v", res)
			}
			if diff := cmp.Diff(c.outputs, res.Outputs); diff != "" {
				t.Errorf("outputs (-want +got):\n%s", diff)
			}
			if len(res.OutputV2) != len(c.outputs) {
				t.Errorf("outputs with types: %v", res.OutputV2)
			}
			if out := r.output("s"); !strings.HasSuffix(out, c.printed) {
				t.Errorf("output %q, want it to end %q", out, c.printed)
			}
			if sent == nil {
				return
			}
			if got := <-sent; len(got) != 2 || got[1].Result.Message != "why" {
				t.Errorf("sent %+v", got)
			}
		})
	}
}
