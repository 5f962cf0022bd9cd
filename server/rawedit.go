package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Edits are the only seven changes made to what callers send for the agent.
// Everything else passes byte for byte: unknown keys, the form of numbers, the
// order of members. Keys are found as encoding/json finds them, in any case;
// where one is changed, all its spellings become one.
//
//  1. A step's environment is present with at least one variable, because an
//     existing agent never answers for a step without any. What earlier host
//     steps of the stage exported lies under a host step's own values.
//  2. A step's working_dir is present, because without it an existing agent
//     searches its whole file system after each step.
//  3. stage_runtime_id inside a step is removed, because with it an existing
//     agent's poll never answers.
//  4. The global volumes are added to the setup's volumes and mounted by
//     container steps.
//  5. A setup with mtls_config has a variable at least, because an existing agent
//     fails at one without any.
//  6. A step whose time-out kills its process asks for an interval between the
//     signals, because an existing agent crashes at one of zero.
//  7. On a machine with a proxy, setup and steps are told of it: see [Egress].
//
// The zero value works: no volumes, DefaultWorkingDir. All edits are
// idempotent and safe for concurrent use.
type Edits struct {
	// Volumes are mounted in every container step.
	Volumes []Volume
	// WorkingDir is given to steps without one. Empty: DefaultWorkingDir.
	WorkingDir string
	// Egress is what stages on machines with a proxy are told beside its address.
	Egress Egress
}

// DefaultWorkingDir is where steps run that name no directory. Agents make it
// at every setup, on every system (with a drive letter on Windows), hold only
// their own small files in it, and mount it at this path in containers. A
// directory that may be missing would fail a host step at its start, and a
// large one would slow each step down.
const DefaultWorkingDir = "/tmp/engine"

// PlaceholderVariable is what a step or setup gets that would have no variable.
// No tool known to us reads it, so a stage's own CI or similar is not touched.
const PlaceholderVariable = "DRONE_VM_RUNNER"

// Setup edits the agent's setup request. An error means that raw, or the
// volumes in it, are not of the form an agent could read.
func (e Edits) Setup(raw json.RawMessage) (json.RawMessage, error) {
	members, err := object(raw)
	if err != nil {
		return nil, fmt.Errorf("setup_request %w", err)
	}
	if members, err = addVolumes(members, e.Volumes); err != nil {
		return nil, fmt.Errorf("setup_request.%w", err)
	}
	if members, err = editEnvs(members); err != nil {
		return nil, fmt.Errorf("setup_request.%w", err)
	}
	return joinObject(members), nil
}

// editEnvs gives a setup with mtls_config a variable if it has none.
func editEnvs(members []member) ([]member, error) {
	pair, err := merged(members, "mtls_config")
	if err != nil || len(pair) == 0 {
		return members, err
	}
	envs, err := merged(members, "envs")
	if err != nil || len(envs) > 0 {
		return members, err
	}
	return replace(members, "envs", placeholder()), nil
}

// placeholder is an object of one variable.
func placeholder() []byte {
	return joinObject([]member{{raw: quote(PlaceholderVariable), value: quote("true")}})
}

// addVolumes adds volumes to a setup that lacks them.
func addVolumes(members []member, volumes []Volume) ([]member, error) {
	if len(volumes) == 0 {
		return members, nil
	}
	return editArray(members, "volumes", func(have [][]byte) [][]byte {
		for _, v := range volumes {
			if !slices.ContainsFunc(have, func(one []byte) bool { return hostName(one) == v.Name }) {
				have = append(have, v.setup())
			}
		}
		return have
	})
}

// addMounts has a container step mount volumes that it does not mount yet.
func addMounts(members []member, volumes []Volume) ([]member, error) {
	if len(volumes) == 0 || !isContainer(members) {
		return members, nil
	}
	return editArray(members, "volumes", func(have [][]byte) [][]byte {
		for _, v := range volumes {
			if !slices.ContainsFunc(have, v.mountedBy) {
				have = append(have, v.mount())
			}
		}
		return have
	})
}

// isContainer says whether a step runs in a container.
func isContainer(members []member) bool { return lastText(members, "image") != "" }

// Step edits the agent's step request. Exported are the variables of earlier
// host steps of the stage; container steps do not get them.
func (e Edits) Step(raw json.RawMessage, exported map[string]string) (json.RawMessage, error) {
	members, err := object(raw)
	if err != nil {
		return nil, fmt.Errorf("start_step_request %w", err)
	}
	members = slices.DeleteFunc(members, func(m member) bool { return m.folds("stage_runtime_id") })

	if isContainer(members) {
		exported = nil
	}
	if members, err = editEnvironment(members, exported); err != nil {
		return nil, fmt.Errorf("start_step_request.%w", err)
	}
	if lastText(members, "working_dir") == "" {
		dir := e.WorkingDir
		if dir == "" {
			dir = DefaultWorkingDir
		}
		members = replace(members, "working_dir", quote(dir))
	}
	if members, err = editKill(members); err != nil {
		return nil, fmt.Errorf("start_step_request.%w", err)
	}
	if members, err = addMounts(members, e.Volumes); err != nil {
		return nil, fmt.Errorf("start_step_request.%w", err)
	}
	return joinObject(members), nil
}

// editKill gives the interval of a step's kill a second if it has none and will
// be waited for.
func editKill(members []member) ([]member, error) {
	config, err := merged(members, "process_config")
	if err != nil {
		return nil, err
	}
	var kill struct {
		On       bool `json:"kill_process_on_context_cancel"`
		Terms    int  `json:"kill_process_max_sigterm_attempts"`
		Interval int  `json:"kill_process_retry_interval_secs"`
	}
	if err := json.Unmarshal(joinObject(config), &kill); err != nil {
		return nil, fmt.Errorf("process_config: %w", err)
	}
	if !kill.On || kill.Terms <= 0 || kill.Interval > 0 {
		return members, nil
	}
	config = replace(config, "kill_process_retry_interval_secs", []byte("1"))
	return replace(members, "process_config", joinObject(config)), nil
}

// editEnvironment merges all spellings of environment as encoding/json would,
// puts exported under them, and leaves at least one variable.
func editEnvironment(members []member, exported map[string]string) ([]member, error) {
	own, err := merged(members, "environment")
	if err != nil {
		return nil, err
	}
	named := make(map[string]bool, len(own))
	for _, m := range own {
		named[m.key] = true
	}
	var under []member
	for _, k := range slices.Sorted(maps.Keys(exported)) {
		name := string([]rune(k)) // as it reads once it is JSON: bytes that are no UTF-8 replaced
		if !named[name] {
			under = append(under, member{key: k, raw: quote(k), value: quote(exported[k])})
		}
	}
	all := append(under, own...)
	if len(all) == 0 {
		return replace(members, "environment", placeholder()), nil
	}
	return replace(members, "environment", joinObject(all)), nil
}

// merged is what encoding/json would make of all spellings of an object: the
// members of each, in order; null forgets what was before it.
func merged(members []member, name string) ([]member, error) {
	var all []member
	for _, m := range members {
		if !m.folds(name) {
			continue
		}
		if m.isNull() {
			all = nil
			continue
		}
		more, err := object(m.value)
		if err != nil {
			return nil, fmt.Errorf("%s %w", name, err)
		}
		all = append(all, more...)
	}
	return all, nil
}

// editArray lets edit change the array of the given name; the last spelling
// counts, as for encoding/json.
func editArray(members []member, name string, edit func([][]byte) [][]byte) ([]member, error) {
	var raw []byte
	for _, m := range members {
		if m.folds(name) {
			raw = m.value
		}
	}
	values, err := array(raw)
	if err != nil {
		return nil, fmt.Errorf("%s %w", name, err)
	}
	return replace(members, name, joinArray(edit(values))), nil
}

// replace gives name one value at the place of its first spelling, else at the
// end.
func replace(members []member, name string, value []byte) []member {
	out := make([]member, 0, len(members)+1)
	done := false
	for _, m := range members {
		if !m.folds(name) {
			out = append(out, m)
			continue
		}
		if !done {
			out = append(out, member{key: name, raw: quote(name), value: value})
			done = true
		}
	}
	if !done {
		out = append(out, member{key: name, raw: quote(name), value: value})
	}
	return out
}

// lastText is the string encoding/json would find under name: the last one
// that is not null; "" if there is none, or if it is no string.
func lastText(members []member, name string) string {
	text := ""
	for _, m := range members {
		if m.folds(name) && !m.isNull() {
			text = ""
			_ = json.Unmarshal(m.value, &text) // no string counts as none
		}
	}
	return text
}
