package server

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"path"
	"strings"
)

// Volume is a directory of the machine that every container step mounts.
type Volume struct {
	// Name joins the setup's volume and the steps' mounts: the source's last
	// part with dashes for dots, and the FNV-32a hash of the whole source.
	Name string
	// Source is the directory on the machine, Target where containers see it.
	Source, Target string
	// ReadOnly is written to the setup's volume; agents may not enforce it.
	ReadOnly bool
}

// ParseVolumes reads the items of DRONE_RUNNER_VOLUMES, `src:dest[:ro]`, split
// at the first colon. What is not of that form is left out with a warning that
// names the item.
func ParseVolumes(items []string) (volumes []Volume, warnings []string) {
	for _, item := range items {
		source, target, found := strings.Cut(item, ":")
		target, readOnly := strings.CutSuffix(target, ":ro")
		if !found || source == "" || target == "" {
			warnings = append(warnings, fmt.Sprintf("DRONE_RUNNER_VOLUMES: %q is left out, it is not of the form src:dest or src:dest:ro", item))
			continue
		}
		volumes = append(volumes, newVolume(source, target, readOnly))
	}
	return volumes, warnings
}

func newVolume(source, target string, readOnly bool) Volume {
	h := fnv.New32a()
	_, _ = h.Write([]byte(source)) // a hash never fails
	return Volume{
		Name:     fmt.Sprintf("%s%d", strings.ReplaceAll(path.Base(source), ".", "-"), h.Sum32()),
		Source:   source,
		Target:   target,
		ReadOnly: readOnly,
	}
}

// setup is the volume as the agent's setup knows it.
func (v Volume) setup() []byte {
	host := []member{
		{raw: quote("id"), value: quote(v.Name)},
		{raw: quote("name"), value: quote(v.Name)},
		{raw: quote("path"), value: quote(v.Source)},
	}
	if v.ReadOnly {
		host = append(host, member{raw: quote("read_only"), value: []byte("true")})
	}
	return joinObject([]member{{raw: quote("host"), value: joinObject(host)}})
}

// mount is the volume as a step mounts it.
func (v Volume) mount() []byte {
	return joinObject([]member{
		{raw: quote("name"), value: quote(v.Name)},
		{raw: quote("path"), value: quote(v.Target)},
	})
}

// mountedBy says whether raw, an element of a step's volumes, is v already.
func (v Volume) mountedBy(raw []byte) bool {
	var have struct{ Name, Path string }
	return json.Unmarshal(raw, &have) == nil && have.Name == v.Name && have.Path == v.Target
}

// hostName is the name of a host volume in a setup, "" for anything else.
func hostName(raw []byte) string {
	var have struct{ Host struct{ Name string } }
	if json.Unmarshal(raw, &have) != nil {
		return ""
	}
	return have.Host.Name
}
