package agent

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// Variables that switch behaviour on, set by the pipeline.
const (
	envKeepEmpty   = "CI_USE_LESS_STRICT_EVALUATION_FOR_MAP_VARS"
	envExtraMask   = "CI_ENABLE_EXTRA_CHARACTERS_SECRETS_MASKING"
	envDroneExport = "DRONE_ENV"
)

// stepFiles are the files a step is told about by its environment.
type stepFiles struct {
	exported string // DRONE_ENV
	output   string
	secrets  string
	artifact string
	// annotations and native are written by steps and not collected.
	annotations string
	native      string
	// own are the files whose names are made from the step's id: what an
	// earlier stage left there must not be taken for this step's.
	own []string
}

func newStepFiles(shared string, req *agentapi.StartStepRequest) stepFiles {
	base := filepath.Join(shared, fileName(req.ID))
	f := stepFiles{
		exported: base + "-export.env",
		output:   base + "-output.env",
		secrets:  base + "-output-secrets.env",
		artifact: base + "-artifact",

		annotations: base + "-annotations.json",
		native:      base + "-artifact.json",
	}
	f.own = []string{f.exported, f.output, f.secrets, f.artifact, f.annotations, f.native}
	if req.OutputVarFile != "" {
		f.output = hostPath(req.OutputVarFile)
	}
	if req.SecretVarFile != "" {
		f.secrets = hostPath(req.SecretVarFile)
	}
	return f
}

// plainNameMost is how long a name may be to pass for a file's, in bytes.
const plainNameMost = 128

// isPlainName says whether a name is letters, digits, "_", "-" and dots, begins
// with none of the last, and is short: safe as part of a file name.
func isPlainName(name string) bool {
	if name == "" || len(name) > plainNameMost || name[0] == '.' {
		return false
	}
	for i := range len(name) {
		if c := name[i]; !isWord(c) && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// isWord says whether c is an ASCII letter, a digit or an underscore.
//
// This and its like are written by hand, because patterns are compiled whenever
// the agent starts: in an emulated machine that is a twentieth of all the code
// it takes to answer for the first time.
func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_'
}

// fileName is id where that is safe as part of a file name, and otherwise a
// name of its own, so that an id cannot lead out of a folder.
func fileName(id string) string {
	if isPlainName(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "step-" + hex.EncodeToString(sum[:12])
}

// stepEnv is the environment of a step above what it inherits from the agent:
// the setup's, under the step's, under what the agent itself tells the step.
// Empty values are dropped, unless the switch for that is set: scripts tell
// unset from empty.
func stepEnv(setup *agentapi.SetupRequest, req *agentapi.StartStepRequest, eg *egress, shared string, files stepFiles) map[string]string {
	env := make(map[string]string, len(setup.Envs)+len(req.Environment)+8)
	maps.Copy(env, setup.Envs)
	maps.Copy(env, req.Environment)
	eg.lay(env)

	base := filepath.Join(shared, fileName(req.ID))
	env[envDroneExport] = files.exported
	env["DRONE_OUTPUT"] = files.output
	env["HARNESS_OUTPUT_FILE"] = files.output
	env["HARNESS_OUTPUT_SECRET_FILE"] = files.secrets
	env["PLUGIN_ARTIFACT_FILE"] = files.artifact
	env["HARNESS_ANNOTATIONS_FILE"] = files.annotations
	env["HARNESS_ARTIFACT_FILE_PATH"] = files.native
	if req.ScratchDir != "" {
		env["HARNESS_SCRATCH_DIR"] = req.ScratchDir
	}
	for _, name := range []string{"PLUGIN_METADATA_FILE", "PLUGIN_CACHE_METRICS_FILE", "PLUGIN_CACHE_INTEL_METRICS_FILE", "PLUGIN_BUILD_TOOL_FILE"} {
		if v, ok := env[name]; ok && v != "" {
			env[name] = base + "-" + v
		}
	}
	ti := setup.TIConfig
	if req.TIConfig.URL != "" {
		ti = req.TIConfig
	}
	if ti.URL != "" {
		maps.Copy(env, tiEnv(&ti, req.Name))
	}
	if env[envKeepEmpty] != "true" {
		maps.DeleteFunc(env, func(_, v string) bool { return v == "" })
	}
	return env
}

func tiEnv(ti *agentapi.TIConfig, step string) map[string]string {
	return map[string]string{
		"HARNESS_TI_SERVICE_ENDPOINT": ti.URL,
		"HARNESS_TI_SERVICE_TOKEN":    base64.StdEncoding.EncodeToString([]byte(ti.Token)),
		"HARNESS_ACCOUNT_ID":          ti.AccountID,
		"HARNESS_ORG_ID":              ti.OrgID,
		"HARNESS_PROJECT_ID":          ti.ProjectID,
		"HARNESS_PIPELINE_ID":         ti.PipelineID,
		"HARNESS_STAGE_ID":            ti.StageID,
		"HARNESS_BUILD_ID":            ti.BuildID,
		"HARNESS_STEP_ID":             step,
		"HARNESS_INFRA":               "VM",
	}
}

// environ lays env over base, sorted, in the form os/exec wants.
func environ(base []string, env map[string]string) []string {
	out := slices.Grow(slices.Clone(base), len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(env[k], "\x00") {
			continue // no process can be given such a variable
		}
		out = append(out, k+"="+env[k])
	}
	return out
}

// lookup returns the last value of name in env.
func lookup(env []string, name string) string {
	for _, kv := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}
