package hostrunner

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Finding is the result of one check.
type Finding struct {
	Check string `json:"check"`
	// Level is ok, note, warning or failure; only the last makes stages fail.
	Level string `json:"level"`
	Text  string `json:"text"`
	// Remedy is what to do, "" where nothing is wrong.
	Remedy string `json:"remedy,omitempty"`
}

// Levels of findings.
const (
	LevelOK      = "ok"
	LevelNote    = "note"
	LevelWarning = "warning"
	LevelFailure = "failure"
)

// Examination is what a doctor looks at.
type Examination struct {
	DataDir       string
	Limits        Limits
	Mounts        []Mount
	NetworkDriver string
	Docker        *Docker
	// Facts looks at the host; nil: HostFacts of DataDir, or of the nearest
	// folder above it that exists.
	Facts func() (Facts, error)
}

// Examine looks for all that makes stages fail on this host. It changes
// nothing.
func Examine(ctx context.Context, e Examination) []Finding {
	var all []Finding
	add := func(check, level, text, remedy string) { all = append(all, Finding{check, level, text, remedy}) }
	e.host(add)
	if path, err := exec.LookPath("git"); err != nil {
		add("git", LevelWarning, "git is not in PATH: steps on the host cannot clone", "install git")
	} else {
		add("git", LevelOK, path, "")
	}
	warnings, err := CheckMounts(slices.DeleteFunc(slices.Clone(e.Mounts), func(m Mount) bool { return m.Create }), runtime.GOOS == "windows")
	for _, w := range warnings {
		add("mounts", LevelWarning, w, "mount the folder the file is in")
	}
	switch {
	case err != nil:
		add("mounts", LevelFailure, err.Error(), "correct "+MountsVariable)
	case len(e.Mounts) > 0:
		add("mounts", LevelOK, fmt.Sprintf("%d of %s can be mounted", len(e.Mounts), MountsVariable), "")
	}
	e.docker(ctx, add)
	return all
}

type report func(check, level, text, remedy string)

// host looks at room and rights.
func (e Examination) host(add report) {
	dir := e.DataDir
	for !isDir(dir) && filepath.Dir(dir) != dir {
		dir = filepath.Dir(dir)
	}
	look := e.Facts
	if look == nil {
		look = func() (Facts, error) { return HostFacts(dir) }
	}
	facts, err := look()
	if err != nil {
		add("host", LevelFailure, err.Error(), "choose another data directory with --data-dir")
		return
	}
	room := 0
	for e.Limits.refusal(room, facts) == "" && room < 1000 {
		room++
	}
	text := fmt.Sprintf("%d CPUs, %s of memory (%s available), %s of disk free: room for %d stages at once",
		facts.CPUs, size(facts.MemoryTotal), size(facts.MemoryAvailable), size(facts.DiskFree), room)
	switch {
	case room == 0:
		add("host", LevelFailure, e.Limits.refusal(0, facts), "free disk space, or lower --disk-reserve")
	case facts.MemoryTotal > 0 && facts.MemoryTotal < e.Limits.Memory:
		add("host", LevelWarning, text, "a stage is reckoned with "+size(e.Limits.Memory)+"; builds can fail if the host runs out of it")
	default:
		add("host", LevelOK, text, "")
	}
	probe, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		add("data directory", LevelFailure, err.Error(), "let this user write it, or choose another with --data-dir")
		return
	}
	_ = probe.Close()           // nothing was written
	_ = os.Remove(probe.Name()) // an empty file at worst
	add("data directory", LevelOK, e.DataDir, "")
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// dockerInfo, network and container are what is read of the daemon's answers.
type dockerInfo struct {
	OSType        string
	Architecture  string
	ServerVersion string
	Plugins       struct{ Network []string }
}

type network struct {
	Name   string
	Driver string
	Labels map[string]string
}

type container struct {
	ID    string `json:"Id"`
	Names []string
	Image string
	State string
}

// manyNetworks is where a daemon with the usual address pools, which have room
// for 31, is about to run out.
const manyNetworks = 25

// docker looks at the daemon: whether it runs, and the faults the platform's
// guide names.
func (e Examination) docker(ctx context.Context, add report) {
	start := "start Docker, see `docker info`; DOCKER_HOST says where it is looked for. Steps without an image run without it"
	if others := e.Docker.others(); len(others) > 0 {
		start = "set DOCKER_HOST=" + strings.Join(others, " or DOCKER_HOST=") + ", where there is a socket; or " + start
	}
	if err := e.Docker.Ping(ctx); err != nil {
		add("docker", LevelFailure, err.Error(), start)
		return
	}
	var info dockerInfo
	if err := e.Docker.get(ctx, "/info", &info); err != nil {
		add("docker", LevelFailure, err.Error(), start)
		return
	}
	add("docker", LevelOK, fmt.Sprintf("version %s at %s (%s, %s)", info.ServerVersion, e.Docker.host, info.OSType, info.Architecture), "")
	if runtime.GOOS == "windows" && info.OSType != "windows" {
		add("docker", LevelFailure, "the daemon runs "+info.OSType+` containers; steps fail with: the working directory 'C:\harness-…' is invalid, it needs to be an absolute path`,
			"switch Docker Desktop to Windows containers")
	}
	e.networks(ctx, info, add)
	e.delegate(ctx, add)
}

// networks looks at the driver of stages' networks, and at how many there are.
func (e Examination) networks(ctx context.Context, info dockerInfo, add report) {
	driver := e.NetworkDriver
	if driver == "" {
		driver = "bridge"
		if runtime.GOOS == "windows" {
			driver = "nat"
		}
	}
	if len(info.Plugins.Network) > 0 && !slices.Contains(info.Plugins.Network, driver) {
		add("network driver", LevelFailure, fmt.Sprintf("plugin %q not found; the daemon has %s", driver, strings.Join(info.Plugins.Network, ", ")),
			"stop the runner, set NETWORK_DRIVER to one of them, start it again")
	} else {
		add("network driver", LevelOK, driver, "")
	}
	var all []network
	if err := e.Docker.get(ctx, "/networks", &all); err != nil {
		add("networks", LevelWarning, err.Error(), "see `docker network ls`")
		return
	}
	ours, pools := 0, 0
	for _, n := range all {
		if n.Driver == "bridge" || n.Driver == "nat" {
			pools++
		}
		for label := range n.Labels {
			if strings.HasPrefix(label, labelPrefix) {
				ours++
				break
			}
		}
	}
	text := fmt.Sprintf("%d networks, %d of them of stages", pools, ours)
	if pools >= manyNetworks {
		add("networks", LevelWarning, text+"; a daemon with the usual settings has addresses for 31, and then says: could not find an available, non-overlapping IPv4 address pool",
			"remove those nobody uses: docker network prune; or give the daemon more with default-address-pools in daemon.json")
		return
	}
	add("networks", LevelOK, text, "")
}

// labelPrefix begins the labels of all that agents make.
const labelPrefix = "org.vmrunner."

// delegateReady is the line by which the platform's guide knows a delegate that
// is connected.
const delegateReady = "Finished downloading delegate jar version"

// delegate looks for the delegate's container.
func (e Examination) delegate(ctx context.Context, add report) {
	var all []container
	if err := e.Docker.get(ctx, "/containers/json?all=true", &all); err != nil {
		add("delegate", LevelWarning, err.Error(), "see `docker ps`")
		return
	}
	i := slices.IndexFunc(all, func(c container) bool { return strings.Contains(c.Image, "harness/delegate") })
	if i < 0 {
		add("delegate", LevelNote, "no container of the image harness/delegate on this host", "if it is to run here, start it; one elsewhere needs RUNNER_URL to reach this runner")
		return
	}
	c := all[i]
	name := strings.TrimPrefix(strings.Join(c.Names, ","), "/")
	if c.State != "running" {
		add("delegate", LevelFailure, fmt.Sprintf("container %s is %s", name, c.State), "see `docker logs "+name+"`, start it again")
		return
	}
	var logs []byte
	if err := e.Docker.get(ctx, "/containers/"+url.PathEscape(c.ID)+"/logs?stdout=true&stderr=true", &logs); err != nil {
		add("delegate", LevelWarning, err.Error(), "see `docker logs "+name+"`")
		return
	}
	if !strings.Contains(string(logs), delegateReady) {
		add("delegate", LevelWarning, fmt.Sprintf("container %s runs, and its log has no line %q yet", name, delegateReady), "wait some minutes, then see `docker logs "+name+"`")
		return
	}
	add("delegate", LevelOK, "container "+name+" is connected", "")
}
