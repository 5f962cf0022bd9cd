package containers

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// Where a container has the daemon's socket, if it gets it.
const (
	unixSocket  = "/var/run/docker.sock"
	windowsPipe = `\\.\pipe\docker_engine`
)

// rootNetrc is ~/.netrc of a container's root user.
const rootNetrc = "/root/.netrc"

// tmpfsMode is a memory volume's mode.
const tmpfsMode = 0o700

// mounting is what a container is given of this machine.
type mounting struct {
	mounts  []mount.Mount
	devices []container.DeviceMapping
	notes   []string // what was asked for and is not given
}

// add adds a mount unless the target has one already.
func (m *mounting) add(mt mount.Mount) {
	for _, have := range m.mounts {
		if have.Target == mt.Target {
			return
		}
	}
	m.mounts = append(m.mounts, mt)
}

// addDevice adds a device unless the container has one there already.
func (m *mounting) addDevice(source, target string) {
	for _, have := range m.devices {
		if have.PathInContainer == target {
			return
		}
	}
	m.devices = append(m.devices, container.DeviceMapping{PathOnHost: source, PathInContainer: target, CgroupPermissions: "rwm"})
}

// mountsOf translates what a step mounts: its own volumes first, then the
// default ones, each target once. Volumes go by their names in the setup; an
// unknown one is left out with a note, as existing agents leave it out.
func (e *Engine) mountsOf(st *Step) mounting {
	var m mounting
	byName := make(map[string]agentapi.Volume)
	for _, v := range st.Setup.Volumes {
		switch {
		case v.Host != nil:
			byName[v.Host.Name] = v
		case v.Temp != nil:
			byName[v.Temp.Name] = v
		}
	}
	for _, want := range st.Request.Volumes {
		v, ok := byName[want.Name]
		if !ok {
			m.notes = append(m.notes, fmt.Sprintf("volume %q is not one of the stage's, so nothing is mounted at %s", want.Name, want.Path))
			continue
		}
		e.mountVolume(&m, v, want.Path)
	}
	for _, want := range st.Request.Devices {
		v, ok := byName[want.Name]
		if !ok || v.Host == nil {
			m.notes = append(m.notes, fmt.Sprintf("device %q is not one of the stage's host volumes, so there is none at %s", want.Name, want.Path))
			continue
		}
		m.addDevice(v.Host.Path, want.Path)
	}
	for _, d := range e.conf.Mounts {
		m.add(bind(d.Source, d.Target, d.ReadOnly))
	}
	for _, d := range e.defaultMounts(st) {
		m.add(d)
	}
	return m
}

// mountVolume mounts one volume of the setup.
func (e *Engine) mountVolume(m *mounting, v agentapi.Volume, target string) {
	target = containerPath(target)
	switch {
	case v.Temp != nil && v.Temp.Medium == agentapi.MediumMemory:
		m.add(mount.Mount{Type: mount.TypeTmpfs, Target: target, TmpfsOptions: &mount.TmpfsOptions{SizeBytes: v.Temp.SizeLimit, Mode: tmpfsMode}})
	case v.Temp != nil:
		m.add(mount.Mount{Type: mount.TypeVolume, Source: volumeName(v.Temp, e.conf.Prefix), Target: target})
	case strings.HasPrefix(v.Host.Path, "/dev/"):
		m.addDevice(v.Host.Path, target)
	default:
		m.add(bind(v.Host.Path, target, v.Host.ReadOnly))
	}
}

// bind mounts a path of this machine, whose symbolic links are resolved here:
// the daemon may see others.
func bind(source, target string, readOnly bool) mount.Mount {
	if strings.HasPrefix(source, `\\.\pipe\`) {
		return mount.Mount{Type: mount.TypeNamedPipe, Source: source, Target: target}
	}
	source = containerPath(source)
	if real, err := filepath.EvalSymlinks(source); err == nil {
		source = real
	}
	return mount.Mount{Type: mount.TypeBind, Source: source, Target: containerPath(target), ReadOnly: readOnly}
}

// defaultMounts are given to every container: the daemon's socket unless the
// stage or the step goes without, the shared folder, credentials that are to be
// shared, and helpers that are there.
func (e *Engine) defaultMounts(st *Step) []mount.Mount {
	var out []mount.Mount
	if !isFalse(st.Setup.MountDockerSocket) && !isFalse(st.Request.MountDockerSocket) {
		if path, local := socketPath(e.host); local && Present(e.host) {
			target := unixSocket
			if runtime.GOOS == "windows" {
				path, target = windowsPipe, windowsPipe
			}
			out = append(out, bind(path, target, false))
		}
	}
	out = append(out, bind(st.SharedDir, st.SharedDir, false))
	if st.Netrc != "" {
		out = append(out, bind(st.Netrc, rootNetrc, false))
	}
	helpers := []Mount{{Source: "/usr/bin/hcli", Target: "/usr/bin/hcli", ReadOnly: true}}
	if runtime.GOOS == "windows" {
		helpers = []Mount{{Source: `C:\Program Files\lite-engine`, Target: `C:\harness\lite-engine`}}
	}
	for _, h := range helpers {
		if exists(h.Source) {
			out = append(out, bind(h.Source, h.Target, h.ReadOnly))
		}
	}
	return out
}

func isFalse(b *bool) bool { return b != nil && !*b }

// containerPath is a path of the wire as containers of this system have it: on
// Windows one without a drive is on C:.
func containerPath(path string) string {
	if runtime.GOOS != "windows" || path == "" || strings.HasPrefix(path, `\\`) {
		return path
	}
	if strings.HasPrefix(path, "/") {
		path = "c:" + path
	}
	return filepath.FromSlash(path)
}
