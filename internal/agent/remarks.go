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
// what was asked for, is not given, and changes what the step sees or shows.
// Objects that callers always send, empty, ask for nothing.
func startRemarks(req *agentapi.StartStepRequest) remarks {
	var notes remarks
	notes.add(len(req.WorkloadIdentities) > 0,
		"workload identities are not issued yet (workload_identities is ignored): HARNESS_WI_HANDLE and HARNESS_WI_MINT_URL are not set")
	return notes
}

// lateRemarks are what a step loses by running out of time.
func lateRemarks(setup *agentapi.SetupRequest, req *agentapi.StartStepRequest) remarks {
	var notes remarks
	notes.add(len(wantedReports(setup, req)) > 0, "test reports are not collected of a step that ran out of time; its answer is due")
	return notes
}

// endRemarks are what a step has left, or was to leave, that nobody collects.
func endRemarks(req *agentapi.StartStepRequest, files stepFiles) remarks {
	var notes remarks
	notes.add(hasText(files.annotations), "annotations are not published (what was written to HARNESS_ANNOTATIONS_FILE is ignored); print what people are to see")
	notes.add(hasText(files.native), "native artifacts are not published (what was written to HARNESS_ARTIFACT_FILE_PATH is ignored); what is in PLUGIN_ARTIFACT_FILE is in the step's answer")
	notes.add(req.StepStatus.Endpoint != "", "results are not posted (step_status.endpoint is ignored); they are in the answer to poll_step")
	return notes
}

// logRemarks are what keeps the output from being shown where it should, or as
// it should.
func (s *step) logRemarks() remarks {
	var notes remarks
	notes = append(notes, s.stageLog.remarks...)
	switch {
	case !s.goesToService():
	case s.stageLog.problem != nil:
		notes.add(true, fmt.Sprintf("this output is not sent to the log service: %v; stream_output serves it", s.stageLog.problem))
	case s.req.LogKey == "":
		notes.add(true, "this output is not sent to the log service: the step has no log_key; stream_output serves it")
	}
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
