package agentapi

// SetupRequest prepares a machine for one stage.
type SetupRequest struct {
	// Envs are given to every step of the stage.
	Envs    map[string]string `json:"envs,omitempty"`
	Network Network           `json:"network"`
	Volumes []Volume          `json:"volumes,omitempty"`
	// Secrets are masked in every step's output.
	Secrets   []string  `json:"secrets,omitempty"`
	LogConfig LogConfig `json:"log_config"`
	TIConfig  TIConfig  `json:"ti_config"`
	Files     []File    `json:"files,omitempty"`
	// MountDockerSocket absent means true.
	MountDockerSocket   *bool         `json:"mount_docker_socket,omitempty"`
	TTY                 bool          `json:"tty,omitempty"`
	MTLSConfig          MTLSConfig    `json:"mtls_config"`
	VMImageConfig       VMImageConfig `json:"vm_image_config"`
	Timeout             int64         `json:"timeout,omitempty"`
	LELogKey            string        `json:"le_log_key,omitempty"`
	MemoryMetricsLogKey string        `json:"memory_metrics_log_key,omitempty"`
	EgressPolicy        *EgressPolicy `json:"egress_policy,omitempty"`
}

// Network is the stage's container network.
type Network struct {
	ID      string            `json:"id,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Options map[string]string `json:"options,omitempty"`
}

// Volume is one of two kinds; the other pointer is nil.
type Volume struct {
	Temp *TempVolume `json:"temp,omitempty"`
	Host *HostVolume `json:"host,omitempty"`
}

// TempVolume lives in the container daemon, or in memory if Medium is
// MediumMemory.
type TempVolume struct {
	ID        string            `json:"id,omitempty"`
	Name      string            `json:"name,omitempty"`
	Medium    string            `json:"medium,omitempty"`
	SizeLimit int64             `json:"size_limit,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// MediumMemory is the Medium of a volume that is a tmpfs.
const MediumMemory = "memory"

// HostVolume is a directory of the machine.
type HostVolume struct {
	ID       string            `json:"id,omitempty"`
	Name     string            `json:"name,omitempty"`
	Path     string            `json:"path,omitempty"`
	Create   bool              `json:"create,omitempty"`
	Remove   bool              `json:"remove,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	ReadOnly bool              `json:"read_only,omitempty"`
}

// File is written before a stage or a step.
type File struct {
	Path string `json:"path,omitempty"`
	// Mode is the permission bits as a plain number: 448 is 0700.
	Mode  uint32 `json:"mode,omitempty"`
	Data  string `json:"data,omitempty"`
	IsDir bool   `json:"is_dir,omitempty"`
}

// LogConfig says where logs go. In a step only the two Skip fields count.
type LogConfig struct {
	AccountID          string         `json:"account_id,omitempty"`
	IndirectUpload     bool           `json:"indirect_upload,omitempty"`
	URL                string         `json:"url,omitempty"`
	Token              string         `json:"token,omitempty"`
	TrimNewLineSuffix  bool           `json:"trim_new_line_suffix,omitempty"`
	SanitizeConfig     SanitizeConfig `json:"sanitize_config"`
	SkipOpeningStream  bool           `json:"skip_opening_stream,omitempty"`
	SkipClosingStream  bool           `json:"skip_closing_stream,omitempty"`
	DualLoggingEnabled bool           `json:"dual_logging_enabled,omitempty"`
}

// SanitizeConfig holds patterns to mask, base64.
type SanitizeConfig struct {
	SanitizePatternsContent string `json:"sanitize_patterns_content,omitempty"`
}

// TIConfig names the test intelligence service.
type TIConfig struct {
	URL          string `json:"url,omitempty"`
	Token        string `json:"token,omitempty"`
	AccountID    string `json:"account_id,omitempty"`
	OrgID        string `json:"org_id,omitempty"`
	ProjectID    string `json:"project_id,omitempty"`
	PipelineID   string `json:"pipeline_id,omitempty"`
	StageID      string `json:"stage_id,omitempty"`
	BuildID      string `json:"build_id,omitempty"`
	Repo         string `json:"repo,omitempty"`
	Sha          string `json:"sha,omitempty"`
	SourceBranch string `json:"source_branch,omitempty"`
	TargetBranch string `json:"target_branch,omitempty"`
	CommitBranch string `json:"commit_branch,omitempty"`
	CommitLink   string `json:"commit_link,omitempty"`
}

// MTLSConfig is a client pair (base64 PEM) for services the stage talks to.
type MTLSConfig struct {
	ClientCert        string `json:"client_cert,omitempty"`
	ClientCertKey     string `json:"client_cert_key,omitempty"`
	ClientCertDirPath string `json:"client_cert_dir_path,omitempty"`
}

// VMImageConfig is for runners; an agent ignores it.
type VMImageConfig struct {
	ImageName    string `json:"image_name,omitempty"`
	ImageVersion string `json:"image_version,omitempty"`
	Auth         *Auth  `json:"auth,omitempty"`
	Username     string `json:"username,omitempty"`
	Password     string `json:"password,omitempty"`
}

// Auth is a registry account.
type Auth struct {
	Address  string `json:"address,omitempty"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// EgressPolicy is the proxy a stage must use.
type EgressPolicy struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	ProxyURL string `json:"proxy_url,omitempty"`
	NoProxy  string `json:"no_proxy,omitempty"`
}
