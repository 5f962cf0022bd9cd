package agentapi

// The kinds of a step. Absent, empty or unknown means KindRun.
const (
	KindRun        = "Run"
	KindRunTest    = "RunTest"
	KindRunTestsV2 = "RunTestsV2"
)

// The types of an output. An output may have none.
const (
	OutputString = "STRING"
	OutputSecret = "SECRET"
)

// StartStepRequest starts one step. ID is the caller's and makes the call
// idempotent: a second start of an id does nothing.
type StartStepRequest struct {
	ID string `json:"id,omitempty"`
	// StageRuntimeID switches existing agents to a mode in which a poll never
	// answers: callers must not send it. Our agent ignores it.
	StageRuntimeID string            `json:"stage_runtime_id,omitempty"`
	Detach         bool              `json:"detach,omitempty"`
	Environment    map[string]string `json:"environment,omitempty"`
	Name           string            `json:"name,omitempty"`
	LogKey         string            `json:"log_key,omitempty"`
	// LogDrone true keeps output for PathStream only and the answer of the
	// poll short; false is for log services.
	LogDrone     bool          `json:"log_drone"`
	Secrets      []string      `json:"secrets,omitempty"`
	EgressPolicy *EgressPolicy `json:"egress_policy,omitempty"`
	WorkingDir   string        `json:"working_dir,omitempty"`
	Kind         string        `json:"kind,omitempty"`
	Run          RunConfig     `json:"run"`
	RunTest      RunTestConfig `json:"run_test"`
	RunTestV2    RunTestV2     `json:"run_test_v2"`
	SoftStop     bool          `json:"soft_stop,omitempty"`

	LogConfig         LogConfig         `json:"log_config"`
	TIConfig          TIConfig          `json:"ti_config"`
	MTLSConfig        MTLSConfig        `json:"mtls_config"`
	AnnotationsConfig AnnotationsConfig `json:"annotations_config"`

	OutputVars []string   `json:"output_vars,omitempty"`
	TestReport TestReport `json:"test_report"`
	// Timeout is in seconds, 0 means none.
	Timeout             int      `json:"timeout,omitempty"`
	MountDockerSocket   *bool    `json:"mount_docker_socket"`
	Outputs             []Output `json:"outputs,omitempty"`
	OutputVarFile       string   `json:"output_var_file,omitempty"`
	SecretVarFile       string   `json:"secret_var_file,omitempty"`
	ScratchDir          string   `json:"scratch_dir,omitempty"`
	DeleteTempStepFiles bool     `json:"delete_temp_step_files"`

	// The rest up to Files is for container steps, which are those with an
	// Image; User counts on unix hosts too.
	Auth           *Auth             `json:"auth,omitempty"`
	CPUPeriod      int64             `json:"cpu_period,omitempty"`
	CPUQuota       int64             `json:"cpu_quota,omitempty"`
	CPUShares      int64             `json:"cpu_shares,omitempty"`
	CPUSet         []string          `json:"cpu_set,omitempty"`
	Devices        []VolumeDevice    `json:"devices,omitempty"`
	DNS            []string          `json:"dns,omitempty"`
	DNSSearch      []string          `json:"dns_search,omitempty"`
	ExtraHosts     []string          `json:"extra_hosts,omitempty"`
	IgnoreStdout   bool              `json:"ignore_stdout,omitempty"`
	IgnoreStderr   bool              `json:"ignore_stderr,omitempty"`
	Image          string            `json:"image,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	MemSwapLimit   int64             `json:"memswap_limit,omitempty"`
	MemLimit       int64             `json:"mem_limit,omitempty"`
	Network        string            `json:"network,omitempty"`
	Networks       []string          `json:"networks,omitempty"`
	NetworkAliases []string          `json:"network_aliases,omitempty"`
	PortBindings   map[string]string `json:"port_bindings,omitempty"`
	Privileged     bool              `json:"privileged,omitempty"`
	Pull           string            `json:"pull,omitempty"`
	ShmSize        int64             `json:"shm_size,omitempty"`
	User           string            `json:"user,omitempty"`
	Volumes        []VolumeMount     `json:"volumes,omitempty"`
	Files          []File            `json:"files,omitempty"`

	StepStatus         StepStatus         `json:"step_status"`
	ProcessConfig      ProcessConfig      `json:"process_config"`
	WorkloadIdentities []WorkloadIdentity `json:"workload_identities,omitempty"`
	WITokenGenerateURL string             `json:"wi_token_generate_url,omitempty"`
}

// RunConfig is a command: entrypoint, then each command as one argument.
type RunConfig struct {
	Commands   []string     `json:"commands,omitempty"`
	Entrypoint []string     `json:"entrypoint,omitempty"`
	Binary     BinaryConfig `json:"binary"`
}

// BinaryConfig is a program to fetch and run.
type BinaryConfig struct {
	Name       string   `json:"name,omitempty"`
	Version    string   `json:"version,omitempty"`
	Source     []string `json:"source,omitempty"`
	Args       []string `json:"args,omitempty"`
	Compressed bool     `json:"compressed,omitempty"`
	Target     string   `json:"target,omitempty"`
}

// RunTestConfig is a step of KindRunTest. TestGlobs is a string here and a
// list in RunTestV2.
type RunTestConfig struct {
	Args                 string   `json:"args,omitempty"`
	Entrypoint           []string `json:"entrypoint,omitempty"`
	PreCommand           string   `json:"pre_command,omitempty"`
	PostCommand          string   `json:"post_command,omitempty"`
	BuildTool            string   `json:"build_tool,omitempty"`
	Language             string   `json:"language,omitempty"`
	Packages             string   `json:"packages,omitempty"`
	RunOnlySelectedTests bool     `json:"run_only_selected_tests,omitempty"`
	TestAnnotations      string   `json:"test_annotations,omitempty"`
	TestSplitStrategy    string   `json:"test_split_strategy,omitempty"`
	ParallelizeTests     bool     `json:"parallelize_tests,omitempty"`
	TestGlobs            string   `json:"test_globs,omitempty"`
}

// RunTestV2 is a step of KindRunTestsV2.
type RunTestV2 struct {
	Commands         []string `json:"commands,omitempty"`
	Entrypoint       []string `json:"entrypoint,omitempty"`
	TestGlobs        []string `json:"test_globs,omitempty"`
	IntelligenceMode bool     `json:"intelligence_mode,omitempty"`
}

// AnnotationsConfig names the annotations service.
type AnnotationsConfig struct {
	Token   string `json:"token,omitempty"`
	BaseURL string `json:"base_url,omitempty"`
}

// TestReport says which reports a step leaves.
type TestReport struct {
	Kind  string      `json:"kind,omitempty"`
	JUnit JUnitReport `json:"junit"`
}

// JUnitReport lists globs of JUnit files.
type JUnitReport struct {
	Paths []string `json:"paths,omitempty"`
}

// Output is a wanted output: Key is its name, Value the shell variable that
// holds it, Type OutputString, OutputSecret or empty.
type Output struct {
	Key   string `json:"key,omitempty"`
	Value string `json:"value,omitempty"`
	Type  string `json:"type,omitempty"`
}

// VolumeDevice maps a device into a container.
type VolumeDevice struct {
	Name string `json:"name,omitempty"`
	Path string `json:"path,omitempty"`
}

// VolumeMount mounts a volume of the setup by its name.
type VolumeMount struct {
	Name string `json:"name,omitempty"`
	Path string `json:"path,omitempty"`
}

// StepStatus is where existing agents post results in status-update mode.
type StepStatus struct {
	Endpoint       string `json:"endpoint,omitempty"`
	Token          string `json:"token,omitempty"`
	AccountID      string `json:"account_id,omitempty"`
	DelegateID     string `json:"delegate_id,omitempty"`
	TaskID         string `json:"task_id,omitempty"`
	RunnerResponse bool   `json:"runner_response,omitempty"`
	TaskStatusV2   bool   `json:"task_status_v2,omitempty"`
}

// ProcessConfig says how a host process is ended. All zero is valid.
type ProcessConfig struct {
	WaitOnProcessGroup              bool `json:"wait_on_process_group,omitempty"`
	KillProcessOnContextCancel      bool `json:"kill_process_on_context_cancel,omitempty"`
	KillProcessMaxSigtermAttempts   int  `json:"kill_process_max_sigterm_attempts,omitempty"`
	KillProcessRetryIntervalSecs    int  `json:"kill_process_retry_interval_secs,omitempty"`
	KillProcessExplicitTreeStrategy bool `json:"kill_process_use_explicit_tree_strategy,omitempty"`
}

// WorkloadIdentity is a token a step may mint.
type WorkloadIdentity struct {
	Name          string `json:"name,omitempty"`
	WorkloadToken string `json:"workload_token,omitempty"`
	Audience      string `json:"audience,omitempty"`
	TokenMode     string `json:"token_mode,omitempty"`
}
