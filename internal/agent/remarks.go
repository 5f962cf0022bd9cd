package agent

import (
	"fmt"
	"os"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// notePrefix begins the lines the agent itself adds to a step's output.
const notePrefix = "[runner-agent] "

// remarks are lines about what a step asked for and does not get.
type remarks []string

func (r *remarks) add(asked bool, text string) {
	if asked {
		*r = append(*r, text)
	}
}

// startRemarks are what a reader must know before the first line of a step:
// what was asked for, is not built in yet, and changes what the step sees or
// shows. Objects that callers always send, empty, ask for nothing.
func startRemarks(setup *agentapi.SetupRequest, req *agentapi.StartStepRequest) remarks {
	var notes remarks
	notes.add(setup.LogConfig.SanitizeConfig.SanitizePatternsContent != "",
		"patterns to mask are not applied yet (log_config.sanitize_config is ignored): only the secrets themselves are masked below")
	notes.add(len(req.WorkloadIdentities) > 0,
		"workload identities are not issued yet (workload_identities is ignored): HARNESS_WI_HANDLE and HARNESS_WI_MINT_URL are not set")
	notes.add(setup.Envs["DRONE_PERSIST_CREDS"] == "true",
		"~/.netrc is not shared with steps yet (DRONE_PERSIST_CREDS is ignored)")
	return notes
}

// endRemarks are what a step has left, or was to leave, that nobody collects
// yet.
func endRemarks(setup *agentapi.SetupRequest, req *agentapi.StartStepRequest, files stepFiles) remarks {
	var notes remarks
	tests := req.Kind == agentapi.KindRunTest || req.Kind == agentapi.KindRunTestsV2
	service := setup.TIConfig.URL != "" || req.TIConfig.URL != ""
	switch {
	case len(req.TestReport.JUnit.Paths) > 0:
		notes.add(true, "test reports are not collected yet (test_report.junit.paths is ignored)")
	case tests && service:
		notes.add(true, fmt.Sprintf("test reports are not collected yet (kind %s)", req.Kind))
	}
	notes.add(hasText(files.annotations), "annotations are not published yet (HARNESS_ANNOTATIONS_FILE is ignored)")
	notes.add(hasText(files.native), "native artifacts are not published yet (HARNESS_ARTIFACT_FILE_PATH is ignored)")
	notes.add(req.StepStatus.Endpoint != "", "results are not posted yet (step_status.endpoint is ignored); they are in the answer to poll_step")
	notes.add(!req.LogDrone && setup.LogConfig.URL != "",
		"output is not uploaded to a log service yet (log_config.url is ignored); stream_output serves it")
	return notes
}

// hasText says whether a step has written to the file at path.
func hasText(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Size() > 0
}

// remark writes notes into the output, each on a line of its own, wherever the
// step's own text has ended.
func (s *step) remark(notes remarks) {
	var b strings.Builder
	for _, n := range notes {
		b.WriteString(notePrefix + n + "\n")
	}
	if b.Len() > 0 {
		s.out.line(b.String())
	}
}
