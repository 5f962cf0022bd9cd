//go:build unix

package agent_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// TestNothingIsIgnoredInSilence: what a caller asked for, is not built in and
// changes the result is a line in the step's own output; nothing else is.
func TestNothingIsIgnoredInSilence(t *testing.T) {
	t.Parallel()
	// What existing callers send with every step, asking for nothing.
	always := sh("", "echo text")
	no := false
	always.MountDockerSocket = &no
	always.TestReport.Kind = "Junit"
	always.AnnotationsConfig = agentapi.AnnotationsConfig{BaseURL: "https://annotations.test", Token: "t"}
	always.LogConfig = agentapi.LogConfig{SkipOpeningStream: true}
	always.LogKey = "key"

	const (
		noReports = "[runner-agent] warning: 0 test reports with no test in them were found for test_report.junit.paths [\"/no/such/*.xml\"]\n"
		late      = "[runner-agent] test reports are not collected of a step that ran out of time; its answer is due\n"
	)
	cases := []struct {
		name   string
		setup  agentapi.SetupRequest
		change func(*agentapi.StartStepRequest)
		want   string
		failed bool
	}{
		{
			name:   "what is always sent asks for nothing",
			setup:  agentapi.SetupRequest{TIConfig: agentapi.TIConfig{URL: "https://ti.test"}, LELogKey: "le", Network: agentapi.Network{ID: "n"}},
			change: func(*agentapi.StartStepRequest) {},
			want:   "text\n",
		},
		{
			name:   "paths of test reports without a report",
			change: func(s *agentapi.StartStepRequest) { s.TestReport.JUnit.Paths = []string{"/no/such/*.xml"} },
			want:   "text\n" + noReports,
		},
		{
			name: "the remark has a line of its own, and a failing step keeps its code",
			change: func(s *agentapi.StartStepRequest) {
				s.Run.Commands = []string{"printf text; exit 3"}
				s.TestReport.JUnit.Paths = []string{"/no/such/*.xml"}
			},
			want: "text\n" + noReports, failed: true,
		},
		{
			name:  "a step of tests without paths and reports",
			setup: agentapi.SetupRequest{TIConfig: agentapi.TIConfig{URL: "https://ti.test"}},
			change: func(s *agentapi.StartStepRequest) {
				s.Kind = agentapi.KindRunTestsV2
				s.RunTestV2 = agentapi.RunTestV2{Entrypoint: []string{"sh", "-c"}, Commands: []string{"echo tests"}}
			},
			want: "tests\n",
		},
		{
			name: "annotations and native artifacts that were written",
			change: func(s *agentapi.StartStepRequest) {
				s.Run.Commands = []string{`echo '{}' > "$HARNESS_ANNOTATIONS_FILE"; echo '{}' > "$HARNESS_ARTIFACT_FILE_PATH"`}
				s.DeleteTempStepFiles = true
			},
			want: "[runner-agent] annotations are not published (what was written to HARNESS_ANNOTATIONS_FILE is ignored); print what people are to see\n" +
				"[runner-agent] native artifacts are not published (what was written to HARNESS_ARTIFACT_FILE_PATH is ignored); what is in PLUGIN_ARTIFACT_FILE is in the step's answer\n",
		},
		{
			name:   "patterns that cannot be read, before the output they are about",
			setup:  agentapi.SetupRequest{LogConfig: agentapi.LogConfig{SanitizeConfig: agentapi.SanitizeConfig{SanitizePatternsContent: "%"}}},
			change: func(*agentapi.StartStepRequest) {},
			want:   "[runner-agent] patterns to mask are not applied: log_config.sanitize_config.sanitize_patterns_content is no base64\ntext\n",
		},
		{
			name:   "credentials that are to be shared, which steps on the machine have anyway",
			setup:  agentapi.SetupRequest{Envs: map[string]string{"DRONE_PERSIST_CREDS": "true"}},
			change: func(*agentapi.StartStepRequest) {},
			want:   "text\n",
		},
		{
			name: "workload identities",
			change: func(s *agentapi.StartStepRequest) {
				s.WorkloadIdentities = []agentapi.WorkloadIdentity{{Name: "id"}}
			},
			want: "[runner-agent] workload identities are not issued yet (workload_identities is ignored): HARNESS_WI_HANDLE and HARNESS_WI_MINT_URL are not set\ntext\n",
		},
		{
			name:   "results that were to be posted",
			change: func(s *agentapi.StartStepRequest) { s.StepStatus.Endpoint = "https://status.test" },
			want:   "text\n[runner-agent] results are not posted (step_status.endpoint is ignored); they are in the answer to poll_step\n",
		},
		{
			name:   "a log service, for a step that streams its output",
			setup:  agentapi.SetupRequest{LogConfig: agentapi.LogConfig{URL: "https://logs.test"}},
			change: func(*agentapi.StartStepRequest) {},
			want:   "text\n",
		},
		{
			name: "a step out of time",
			change: func(s *agentapi.StartStepRequest) {
				s.Run.Commands = []string{"echo text; exec sleep 600"}
				s.Timeout, s.TestReport.JUnit.Paths = 1, []string{"a.xml"}
			},
			want: "text\n" + late, failed: true,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.setup(c.setup)
			s := always
			s.ID = "s"
			c.change(&s)
			if got := r.run(s); (got.ExitCode != 0) != c.failed {
				t.Errorf("result %+v", got)
			}
			if d := cmp.Diff(c.want, r.output("s")); d != "" {
				t.Error(d)
			}
		})
	}
}
