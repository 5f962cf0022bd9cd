// Package api is the runner's wire format: the JSON bodies of the delegate
// API, which existing callers speak and whose names, types and omissions are
// therefore fixed, and those of /v1, which is our own.
//
// It holds no logic and imports nothing of ours. Requests of the delegate API
// are decoded as leniently as encoding/json does (keys in any case, unknown
// keys dropped); the two objects meant for the agent, setup_request and
// start_step_request, are kept as raw JSON so that nothing in them is lost.
package api

// Paths of the delegate API. None is served with a trailing slash.
const (
	PathPoolOwner = "/pool_owner"
	PathSetup     = "/setup"
	PathStep      = "/step"
	PathDestroy   = "/destroy"
	PathSuspend   = "/suspend"
	PathHealthz   = "/healthz"
	PathReadyz    = "/readyz"
	PathMetrics   = "/metrics"
)

// MaxBody is how many bytes a request body may have.
const MaxBody = 32 << 20

// Error is the body of every failure of the delegate API. Code repeats the
// HTTP status; it is absent where the body could not be decoded.
type Error struct {
	Message string `json:"error_msg"`
	Code    int    `json:"code,omitempty"`
}
