package agentapi

// DestroyRequest ends a stage. An empty body is an error: send {}.
type DestroyRequest struct {
	LogDrone       bool   `json:"log_drone,omitempty"`
	LogKey         string `json:"log_key,omitempty"`
	LiteEnginePath string `json:"lite_engine_path,omitempty"`
	StageRuntimeID string `json:"stage_runtime_id,omitempty"`
}

// DestroyResponse has the stage's statistics and, an addition of ours, what
// could not be removed.
type DestroyResponse struct {
	OSStats  OSStats  `json:"os_stats"`
	Leftover []string `json:"leftover,omitempty"`
}

// OSStats is how busy the machine was during the stage.
type OSStats struct {
	TotalMemMB     float64 `json:"total_mem_mb"`
	CPUCores       int     `json:"cpu_cores"`
	AvgMemUsagePct float64 `json:"avg_mem_usage_pct"`
	AvgCPUUsagePct float64 `json:"avg_cpu_usage_pct"`
	MaxMemUsagePct float64 `json:"max_mem_usage_pct"`
	MaxCPUUsagePct float64 `json:"max_cpu_usage_pct"`
	MemGraph       Graph   `json:"mem_graph"`
	CPUGraph       Graph   `json:"cpu_graph"`
}

// The metrics of the graphs. Both hold percentages, whatever YMetric says;
// the labels are kept for readers that look at them.
const (
	MetricSeconds  = "seconds"
	MetricMemMB    = "mem_mb"
	MetricCPUMilli = "cpu_milli"
)

// Graph is a line of at most ten points.
type Graph struct {
	Points  []Point `json:"points"`
	XMetric string  `json:"xmetric"`
	YMetric string  `json:"ymetric"`
}

// Point is a percentage at a time in seconds since the stage began.
type Point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
}

// SuspendRequest prepares a machine for being suspended: exited containers
// that have all the labels are removed.
type SuspendRequest struct {
	LogKey         string            `json:"log_key,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	LiteEnginePath string            `json:"lite_engine_path,omitempty"`
}

// MintError is the body of a refused token, which says "error" rather than
// "error_msg".
type MintError struct {
	Error string `json:"error"`
}
