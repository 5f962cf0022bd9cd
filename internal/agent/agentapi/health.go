package agentapi

// The query parameters of a health request.
const (
	// ParamConnectivity asks for a check of the way out ("true").
	ParamConnectivity = "perform_dns_lookup"
	// ParamConnectivitySeconds is how long that check lasts, in seconds.
	ParamConnectivitySeconds = "connectivity_check_duration_seconds"
)

// HealthResponse answers a health request. Existing callers look only at the
// HTTP status; Docker, RunningSteps, Machine and Used are additions of ours,
// absent in the answer of an existing agent.
type HealthResponse struct {
	Version string `json:"version"`
	OK      bool   `json:"ok"`
	// Docker says whether containers can be run: DockerAbsent or
	// DockerPresent. Its absence is a fact, not a failure.
	Docker string `json:"docker,omitempty"`
	// RunningSteps counts steps that have started and not ended, detached
	// ones included.
	RunningSteps int `json:"running_steps"`
	// Machine is the identity given over the host's private channel, "" for
	// machines that got theirs by boot data.
	Machine string `json:"machine,omitempty"`
	// Used is set once a stage was ever set up, or a step started, on this
	// machine, also by an earlier run of the agent.
	Used bool `json:"used"`
}

// HeaderUse names, on a setup, what the machine is set up for: one lease and
// generation. Once set up for one use, an agent refuses every other with
// StatusUsed. Existing runners do not send it, existing agents do not know it.
const (
	HeaderUse  = "X-Runner-Use"
	StatusUsed = 409
)

// Values of HealthResponse.Docker.
const (
	DockerAbsent  = "absent"
	DockerPresent = "present"
)
