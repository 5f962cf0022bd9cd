package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Edits are the only four changes made to what callers send for the agent.
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
//
// The zero value works: no volumes, DefaultWorkingDir. All edits are
// idempotent and safe for concurrent use.
type Edits struct {
	// Volumes are mounted in every container step.
	Volumes []Volume
	// WorkingDir is given to steps without one. Empty: DefaultWorkingDir.
	WorkingDir string
}

// DefaultWorkingDir is where steps run that name no directory. Agents make it
// at every setup, on every system (with a drive letter on Windows), hold only
// their own small files in it, and mount it at this path in containers. A
// directory that may be missing would fail a host step at its start, and a
// large one would slow each step down.
const DefaultWorkingDir = "/tmp/engine"

// PlaceholderVariable is what a step gets that would have no variable at all.
// No tool known to us reads it, so a stage's own CI or similar is not touched.
const PlaceholderVariable = "DRONE_VM_RUNNER"

// Setup edits the agent's setup request. An error means that raw, or the
// volumes in it, are not of the form an agent could read.
func (e Edits) Setup(raw json.RawMessage) (json.RawMessage, error) {
	members, err := object(raw)
	if err != nil {
		return nil, fmt.Errorf("setup_request %w", err)
	}
	if len(e.Volumes) > 0 {
		members, err = editArray(members, "volumes", func(have [][]byte) ([][]byte, error) {
			for _, v := range e.Volumes {
				if !slices.ContainsFunc(have, func(one []byte) bool { return hostName(one) == v.Name }) {
					have = append(have, v.setup())
				}
			}
			return have, nil
		})
		if err != nil {
			return nil, fmt.Errorf("setup_request.%w", err)
		}
	}
	return joinObject(members), nil
}

// Step edits the agent's step request. Exported are the variables of earlier
// host steps of the stage; container steps do not get them.
func (e Edits) Step(raw json.RawMessage, exported map[string]string) (json.RawMessage, error) {
	members, err := object(raw)
	if err != nil {
		return nil, fmt.Errorf("start_step_request %w", err)
	}
	members = slices.DeleteFunc(members, func(m member) bool { return m.folds("stage_runtime_id") })

	container := lastText(members, "image") != ""
	if container {
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
	if container && len(e.Volumes) > 0 {
		members, err = editArray(members, "volumes", func(have [][]byte) ([][]byte, error) {
			for _, v := range e.Volumes {
				if !slices.ContainsFunc(have, v.mountedBy) {
					have = append(have, v.mount())
				}
			}
			return have, nil
		})
		if err != nil {
			return nil, fmt.Errorf("start_step_request.%w", err)
		}
	}
	return joinObject(members), nil
}

// editEnvironment merges all spellings of environment as encoding/json would,
// puts exported under them, and leaves at least one variable.
func editEnvironment(members []member, exported map[string]string) ([]member, error) {
	var own []member
	for _, m := range members {
		if !m.folds("environment") {
			continue
		}
		if m.isNull() { // null clears a map
			own = nil
			continue
		}
		vars, err := object(m.value)
		if err != nil {
			return nil, fmt.Errorf("environment %w", err)
		}
		own = append(own, vars...)
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
		all = []member{{raw: quote(PlaceholderVariable), value: quote("true")}}
	}
	return replace(members, "environment", joinObject(all)), nil
}

// editArray lets edit change the array of the given name; the last spelling
// counts, as for encoding/json.
func editArray(members []member, name string, edit func([][]byte) ([][]byte, error)) ([]member, error) {
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
	if values, err = edit(values); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return replace(members, name, joinArray(values)), nil
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
