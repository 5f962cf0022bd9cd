// Package agentapi is the wire format between a runner and the agent inside a
// machine: the JSON bodies of the agent's HTTP interface, and nothing else.
//
// Names, types and what is left out when empty are those existing runners and
// existing agents use, so that either side can be replaced alone: strings,
// lists and maps are omitted when empty, nested objects are always present,
// and a few booleans are always present too. Decoders ignore unknown fields
// and the case of keys, as encoding/json does.
//
// The package imports nothing of ours and holds no logic beyond small readers
// of optional fields.
package agentapi

// Paths of the interface, each served with and without a trailing slash.
const (
	PathHealth    = "/healthz"
	PathSetup     = "/setup"
	PathStartStep = "/start_step"
	PathPollStep  = "/poll_step"
	PathStream    = "/stream_output"
	PathDestroy   = "/destroy"
	PathSuspend   = "/suspend"
	PathMint      = "/mint_workload_token"
	// PathRehearse is ours, unknown to existing agents: see agent.rehearse.
	PathRehearse = "/rehearse"
	// PathRenew is ours too: see RenewRequest.
	PathRenew = "/renew_certificate"
)

// Error is the body of every answer that is not a success.
type Error struct {
	Message string `json:"error_msg"`
}

// Empty is the body of a success that has nothing to say. A success without
// any body counts as an error to existing callers.
type Empty struct{}
