package hostrunner

import (
	"errors"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// harnessVolume is the id, and by older callers the name, of the volume that
// becomes the stage's own folder.
const harnessVolume = "harness"

// cloneImage is part of the name of the image that clones repositories, and
// workspace the variable that tells it where to.
const (
	cloneImage = "harness/drone-git"
	workspace  = "DRONE_WORKSPACE"
)

// layout is where a stage's things lie.
type layout struct {
	// Dir is the stage's own folder, in which its steps begin.
	Dir string `json:"dir"`
	// Volume is the name of the volume that is Dir, "" if the setup has none.
	Volume string `json:"volume,omitempty"`
	// Root is the path that volume has for the caller.
	Root string `json:"root,omitempty"`
}

// errWorkingDir has the text users know, with what to do about it.
var errWorkingDir = errors.New("it needs to be an absolute path; is platform.os of the pipeline this host's? On Windows switch Docker to Windows containers")

// findHarness returns the volume that becomes the stage's folder, nil if the
// setup has none. Its path must be absolute and not the root itself.
func findHarness(volumes []agentapi.Volume) (*agentapi.HostVolume, error) {
	i := slices.IndexFunc(volumes, func(v agentapi.Volume) bool {
		return v.Host != nil && (v.Host.ID == harnessVolume || v.Host.Name == harnessVolume)
	})
	if i < 0 {
		return nil, nil
	}
	v := volumes[i].Host
	clean := path.Clean(slashed(v.Path))
	if !isAbsolute(v.Path) || clean == "/" {
		return nil, badRequest("the working directory '" + v.Path + "' is invalid, " + errWorkingDir.Error())
	}
	return v, nil
}

// remapSetup is the setup with the stage's folder in the place of the volume
// that stands for it. Nothing is left for the agent to remove: the runner knows
// what other stages still use.
func remapSetup(l layout, setup agentapi.SetupRequest) agentapi.SetupRequest {
	setup.Volumes = slices.Clone(setup.Volumes)
	for i, v := range setup.Volumes {
		if v.Host == nil {
			continue
		}
		host := *v.Host
		host.Remove = false
		if l.Volume != "" && host.Name == l.Volume && host.Path == l.Root {
			host.Path, host.Create = l.Dir, true
		}
		setup.Volumes[i].Host = &host
	}
	return setup
}

// remapStep is the step as it runs in its stage's folder: working directory and
// mounts of the harness volume are that folder, wherever the caller thinks it
// is, and a clone goes into it.
func remapStep(l layout, step agentapi.StartStepRequest) agentapi.StartStepRequest {
	step.StageRuntimeID = "" // the stage is the call's
	switch {
	case l.Volume != "":
		step.WorkingDir = l.Dir
	case step.WorkingDir == "" && step.Image == "":
		step.WorkingDir = l.Dir
	}
	step.Volumes = slices.Clone(step.Volumes)
	for i := range step.Volumes {
		if l.Volume != "" && step.Volumes[i].Name == l.Volume {
			step.Volumes[i].Path = l.Dir
		}
	}
	if to, ok := step.Environment[workspace]; ok && strings.Contains(step.Image, cloneImage) {
		step.Environment = maps.Clone(step.Environment)
		step.Environment[workspace] = cloneTarget(l, to)
	}
	return step
}

// cloneTarget moves a clone's folder into the stage's. One that is elsewhere is
// left where it is; none leads out of the stage's folder.
func cloneTarget(l layout, to string) string {
	if to == "" {
		return to
	}
	inside := func(rest string) string {
		return filepath.Join(l.Dir, filepath.FromSlash(path.Clean("/"+rest)))
	}
	plain := slashed(to)
	if !strings.HasPrefix(plain, "/") {
		return inside(plain)
	}
	plain = path.Clean(plain)
	for _, root := range []string{path.Clean(slashed(l.Root)), "/harness", "/tmp/harness"} {
		if root == "." {
			continue // no harness volume
		}
		if rest, ok := strings.CutPrefix(plain, root); ok && (rest == "" || rest[0] == '/') {
			return inside(rest)
		}
	}
	return to
}

// slashed is a path with forward slashes and without a drive, for comparing.
func slashed(p string) string {
	if len(p) > 1 && isDrive(p[:1]) && p[1] == ':' {
		p = p[2:]
	}
	if strings.HasPrefix(p, "/") {
		return p
	}
	return strings.ReplaceAll(p, `\`, "/")
}
