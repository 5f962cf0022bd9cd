package agentapi

import "encoding/json"

// PollStepRequest waits for a step's end.
type PollStepRequest struct {
	ID string `json:"id,omitempty"`
}

// PollStepResponse is a step's result. Every field is left out when empty: a
// detached step answers {}, and ExitCode is absent for 0.
type PollStepResponse struct {
	Exited               bool              `json:"exited,omitempty"`
	ExitCode             int               `json:"exit_code,omitempty"`
	Error                string            `json:"error,omitempty"`
	OOMKilled            bool              `json:"oom_killed,omitempty"`
	Outputs              map[string]string `json:"outputs,omitempty"`
	Envs                 map[string]string `json:"envs,omitempty"`
	Artifact             []byte            `json:"artifact,omitempty"`
	OutputV2             []OutputV2        `json:"outputV2,omitempty"`
	OptimizationState    string            `json:"optimization_state,omitempty"`
	TelemetryData        *TelemetryData    `json:"telemetry_data,omitempty"`
	NativeArtifactOutput string            `json:"native_artifact_output,omitempty"`
}

// OptimizationDisabled is the OptimizationState of a step without any.
const OptimizationDisabled = "DISABLED"

// OutputV2 is one output with its type, if that is known.
type OutputV2 struct {
	Key   string `json:"key,omitempty"`
	Value string `json:"value"`
	Type  string `json:"type,omitempty"`
}

// TelemetryData describes what a step did, for the caller's statistics. Its
// zero value is the skeleton a plain step answers with. Members whose type
// existing agents do not document are kept as raw JSON.
type TelemetryData struct {
	BuildIntelligence BuildIntelligence `json:"build_intelligence_data"`
	TestIntelligence  TestIntelligence  `json:"test_intelligence_data"`
	CacheIntelligence CacheIntelligence `json:"cache_intelligence_data"`
	DLCMetadata       DLCMetadata       `json:"dlc_metadata"`
	BuildInfo         BuildInfo         `json:"build_info"`
	Errors            []string          `json:"errors,omitempty"`
}

// BuildIntelligence is the telemetry of build caching.
type BuildIntelligence struct {
	StepType       string   `json:"step_type,omitempty"`
	BuildTasks     int      `json:"build_tasks,omitempty"`
	TasksRestored  int      `json:"tasks_restored,omitempty"`
	IsGradleBIUsed bool     `json:"is_gradle_bi_used,omitempty"`
	IsMavenBIUsed  bool     `json:"is_maven_bi_used,omitempty"`
	IsBazelBIUsed  bool     `json:"is_bazel_bi_used,omitempty"`
	Errors         []string `json:"errors,omitempty"`
}

// TestIntelligence is the telemetry of test selection.
type TestIntelligence struct {
	TotalTests               int             `json:"total_tests,omitempty"`
	TotalTestClasses         int             `json:"total_test_classes,omitempty"`
	TotalSelectedTests       int             `json:"total_selected_tests,omitempty"`
	TotalSelectedTestClasses int             `json:"total_selected_test_classes,omitempty"`
	CPUTimeSaved             json.RawMessage `json:"cpu_time_saved,omitempty"`
	IsRunTestV2              bool            `json:"is_run_test_v2,omitempty"`
	Language                 []string        `json:"language,omitempty"`
	Errors                   []string        `json:"errors,omitempty"`
}

// CacheIntelligence is the telemetry of caches.
type CacheIntelligence struct {
	CacheSize        json.RawMessage `json:"cache_size,omitempty"`
	IsCustomKeys     bool            `json:"is_custom_keys,omitempty"`
	IsNonDefaultPath bool            `json:"is_non_default_path,omitempty"`
	Errors           []string        `json:"errors,omitempty"`
}

// DLCMetadata counts image layers; both numbers are always present.
type DLCMetadata struct {
	TotalLayers int `json:"total_layers"`
	Cached      int `json:"cached"`
}

// BuildInfo describes what was built.
type BuildInfo struct {
	HarnessLang      string       `json:"harness_lang,omitempty"`
	HarnessBuildTool string       `json:"harness_build_tool,omitempty"`
	BuildEvent       string       `json:"build_event,omitempty"`
	BuildEventValue  string       `json:"build_event_value,omitempty"`
	PluginVersion    string       `json:"plugin_version,omitempty"`
	Repository       string       `json:"repository,omitempty"`
	Metrics          BuildMetrics `json:"metrics"`
}

// BuildMetrics counts source lines.
type BuildMetrics struct {
	Files      int             `json:"files,omitempty"`
	Lines      int             `json:"lines,omitempty"`
	Code       int             `json:"code,omitempty"`
	Comments   int             `json:"comments,omitempty"`
	Blanks     int             `json:"blanks,omitempty"`
	Complexity int             `json:"complexity,omitempty"`
	Languages  json.RawMessage `json:"languages,omitempty"`
}

// StreamOutputRequest reads a step's output from a byte offset on; the answer
// is raw bytes and ends with the step.
type StreamOutputRequest struct {
	ID     string `json:"id,omitempty"`
	Offset int64  `json:"offset,omitempty"`
}
