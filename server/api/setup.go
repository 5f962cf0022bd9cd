package api

import "encoding/json"

// SetupRequest asks for a machine. ID and PoolID are mandatory.
type SetupRequest struct {
	// ID is the caller's key of the stage or gitspace, opaque text.
	ID string `json:"id"`
	// PoolID is the first pool to try, FallbackPoolIDs the others in order.
	PoolID          string   `json:"pool_id"`
	FallbackPoolIDs []string `json:"fallback_pool_ids,omitempty"`
	// Tags are the older carrier of Context; each field of Context wins.
	Tags    map[string]string `json:"tags,omitempty"`
	Context Context           `json:"context,omitzero"`

	ResourceClass        string        `json:"resource_class,omitempty"`
	VMImageConfig        VMImageConfig `json:"vm_image_config,omitzero"`
	StorageConfig        StorageConfig `json:"storage_config,omitzero"`
	Zone                 string        `json:"zone,omitempty"`
	NestedVirtualization bool          `json:"nested_virtualization,omitempty"`
	// Timeout bounds the wait for a machine, in milliseconds; 0 means the
	// pool's own. ReservationPerPoolTimeout is accepted without effect.
	Timeout                   int64 `json:"timeout,omitempty"`
	ReservationPerPoolTimeout int64 `json:"reservation_per_pool_timeout,omitempty"`

	// SetupRequest is the agent's, passed on as it is.
	SetupRequest json.RawMessage `json:"setup_request,omitempty"`

	LogKey        string `json:"log_key,omitempty"`
	CorrelationID string `json:"correlation_id,omitempty"`

	GitspaceAgentConfig   GitspaceAgentConfig `json:"gitspace_agent_config,omitzero"`
	InstanceInfo          InstanceInfo        `json:"instance_info,omitzero"`
	IsMarkedForInfraReset bool                `json:"is_marked_for_infra_reset,omitempty"`
	SkipCloudVMCleanup    bool                `json:"skip_cloud_vm_cleanup,omitempty"`
}

// Context says whose work it is.
type Context struct {
	AccountID           string `json:"account_id,omitempty"`
	OrgID               string `json:"org_id,omitempty"`
	ProjectID           string `json:"project_id,omitempty"`
	PipelineID          string `json:"pipeline_id,omitempty"`
	PipelineExecutionID string `json:"pipeline_execution_id,omitempty"`
	RunSequence         int    `json:"run_sequence,omitempty"`
	IsFreeAccount       bool   `json:"is_free_account,omitempty"`
	TaskID              string `json:"task_id,omitempty"`
}

// VMImageConfig names an image. At the top level of a setup it is accepted
// without effect; the one inside setup_request counts.
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

// StorageConfig is a gitspace's disks. Sizes are whole GB as text.
type StorageConfig struct {
	CephPoolIdentifier string `json:"ceph_pool_identifier,omitempty"`
	Identifier         string `json:"identifier,omitempty"`
	Size               string `json:"size,omitempty"`
	Type               string `json:"type,omitempty"`
	BootDiskSize       string `json:"boot_disk_size,omitempty"`
	BootDiskType       string `json:"boot_disk_type,omitempty"`
}

// GitspaceAgentConfig makes a setup a gitspace's: exactly when Ports is not
// empty.
type GitspaceAgentConfig struct {
	Secret      string `json:"secret,omitempty"`
	AccessToken string `json:"access_token,omitempty"`
	Ports       []int  `json:"ports,omitempty"`
	// VMInitScript is base64.
	VMInitScript             string `json:"vm_init_script,omitempty"`
	GitspaceConfigIdentifier string `json:"gitspace_config_identifier,omitempty"`
}

// InstanceInfo is a machine as callers remember it. It holds private keys and
// must never be logged. The four PEM fields travel as base64.
type InstanceInfo struct {
	ID                string `json:"id"`
	Name              string `json:"name"`
	IPAddress         string `json:"ip_address"`
	Port              int64  `json:"port"`
	OS                string `json:"os"`
	Arch              string `json:"arch"`
	Provider          string `json:"provider"`
	PoolName          string `json:"pool_name"`
	Zone              string `json:"zone"`
	StorageIdentifier string `json:"storage_identifier"`
	CAKey             []byte `json:"ca_key"`
	CACert            []byte `json:"ca_cert"`
	TLSKey            []byte `json:"tls_key"`
	TLSCert           []byte `json:"tls_cert"`
	ProxyURL          string `json:"proxy_url,omitempty"`
}

// SetupResponse is the machine that was given.
type SetupResponse struct {
	IPAddress  string `json:"ip_address"`
	InstanceID string `json:"instance_id"`
	// GitspacesPortMappings maps a machine's port to the host's; null for a
	// build.
	GitspacesPortMappings map[int]int  `json:"gitspaces_port_mappings"`
	InstanceInfo          InstanceInfo `json:"instance_info"`
}
