package api

import "encoding/json"

// StepRequest runs a step on the machine of a stage. The answer is the agent's
// PollStepResponse as it came.
type StepRequest struct {
	StageRuntimeID string `json:"stage_runtime_id"`
	// InstanceID, if set, is the machine the caller means.
	InstanceID string `json:"instance_id,omitempty"`
	// IPAddress only satisfies the check that it or the step's id is given.
	IPAddress     string `json:"ip_address,omitempty"`
	CorrelationID string `json:"correlation_id,omitempty"`
	TaskID        string `json:"task_id,omitempty"`
	Distributed   bool   `json:"distributed,omitempty"`
	// StartStepRequest is the agent's, passed on with the edits.
	StartStepRequest json.RawMessage `json:"start_step_request,omitempty"`
	InstanceInfo     InstanceInfo    `json:"instance_info,omitzero"`
}

// DestroyRequest ends a stage. StageRuntimeID is an alias of ID; one of them
// is mandatory.
type DestroyRequest struct {
	ID             string       `json:"id,omitempty"`
	StageRuntimeID string       `json:"stage_runtime_id,omitempty"`
	InstanceID     string       `json:"instance_id,omitempty"`
	PoolID         string       `json:"pool_id,omitempty"`
	CorrelationID  string       `json:"correlation_id,omitempty"`
	InstanceInfo   InstanceInfo `json:"instance_info,omitzero"`
	// StorageCleanupType is CleanupDetach, CleanupDelete or empty; every other
	// text means CleanupDetach.
	StorageCleanupType string `json:"storage_cleanup_type,omitempty"`
}

// What a destroy does with persistent disks.
const (
	CleanupDetach = "DETACH"
	CleanupDelete = "DELETE"
)

// SuspendRequest puts a gitspace to sleep. StageRuntimeID and InstanceInfo are
// mandatory.
type SuspendRequest struct {
	StageRuntimeID string `json:"stage_runtime_id"`
	PoolID         string `json:"pool_id,omitempty"`
	// SuspendRequest is the agent's, passed on as it is.
	SuspendRequest json.RawMessage `json:"suspend_request,omitempty"`
	Context        Context         `json:"context,omitzero"`
	InstanceInfo   InstanceInfo    `json:"instance_info,omitzero"`
}

// PoolOwner answers whether a pool, or a stage in it, is this runner's.
type PoolOwner struct {
	Owner bool `json:"owner"`
}
