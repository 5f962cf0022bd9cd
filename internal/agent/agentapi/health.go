package agentapi

// The query parameters of a health request.
const (
	// ParamConnectivity asks for a check of the way out ("true").
	ParamConnectivity = "perform_dns_lookup"
	// ParamConnectivitySeconds is how long that check lasts, in seconds.
	ParamConnectivitySeconds = "connectivity_check_duration_seconds"
)

// HealthResponse answers a health request. Existing callers look only at the
// HTTP status; Docker, RunningSteps and Machine are additions of ours, absent
// in the answer of an existing agent.
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
}

// Values of HealthResponse.Docker.
const (
	DockerAbsent  = "absent"
	DockerPresent = "present"
)
