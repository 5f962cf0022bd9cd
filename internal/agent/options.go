package agent

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/containers"
)

// DefaultOutputLimit bounds the kept output of one step, in bytes.
const DefaultOutputLimit = 64 << 20

// Options is how an agent is set up. The zero value of each field has a
// meaning, given there.
type Options struct {
	// Version is told to callers, "dev" if empty.
	Version string
	// Machine is the identity of the machine, "" if there is none.
	Machine string
	// SharedDir is where steps leave outputs and exported variables; empty:
	// /tmp/engine (C:\tmp\engine on Windows).
	SharedDir string
	// StateDir is where the agent keeps output and records of processes;
	// empty: a folder for this user among the temporary ones. Agents may
	// share one.
	StateDir string
	// Env is what steps inherit, as os.Environ returns it; nil: os.Environ.
	Env []string
	// OutputLimit bounds the kept output of a step in bytes; 0:
	// DefaultOutputLimit.
	OutputLimit int64
	// Spawner starts processes; nil: os/exec alone.
	Spawner Spawner
	// CheckOut tries the way out once, for health requests that ask for it;
	// nil: a TCP connection to a public name server.
	CheckOut func(ctx context.Context) error
	// DiskSpace says how many bytes of a folder's disk are free, of how many; nil:
	// [DiskSpace].
	DiskSpace func(dir string) (free, total uint64, err error)
	// StepClock makes each setup ask the time service of a Linux system to
	// correct the clock at once, since the machine may have slept.
	StepClock bool
	// Netrc is the file that containers of a stage have as ~/.netrc where the
	// stage keeps credentials from step to step; empty: ~/.netrc of HOME in Env,
	// which steps on the machine have anyway.
	Netrc string
	// LogEcho gets the lines that go to a log service too, where a stage asks
	// for that; nil: os.Stdout. It must be safe for concurrent use.
	LogEcho io.Writer
	// DockerHost is the address of the container daemon, such as
	// unix:///var/run/docker.sock; empty: DOCKER_HOST of Env, else the system's
	// usual one.
	DockerHost string
	// DockerPatience is how long steps with an image wait for a daemon that does not
	// answer, since it may be starting; 0: a minute.
	DockerPatience time.Duration
	// ContainerPrefix begins the names of containers, networks and volumes, so
	// that agents with equal ids can share a daemon; empty: they are called by
	// the ids of the request. Containers reach each other by those in any case.
	ContainerPrefix string
	// ContainerLabels are put on all of them, besides the agent's own.
	ContainerLabels map[string]string
	// NetworkDriver is the driver of stages' networks; empty: bridge, on Windows
	// nat.
	NetworkDriver string
	// ContainerMounts are given to every container step.
	ContainerMounts []containers.Mount
	// ReclaimNetworks frees networks nobody uses any more, when the daemon has
	// no addresses left for another, and says how many; nil: those that killed
	// agents with this StateDir have left.
	ReclaimNetworks func(ctx context.Context) (int, error)
	// Log is where the agent reports; nil: nowhere.
	Log *slog.Logger
}

// Spawner starts processes and is told when they have been waited for. A
// process 1 uses it to tell its own children from those it inherits.
type Spawner interface {
	Start(cmd *exec.Cmd) error
	Exited(cmd *exec.Cmd)
}

type plainSpawner struct{}

func (plainSpawner) Start(cmd *exec.Cmd) error { return cmd.Start() }
func (plainSpawner) Exited(*exec.Cmd)          {}

func (o Options) withDefaults() Options {
	o.Version = cmp.Or(o.Version, "dev")
	o.SharedDir = cmp.Or(o.SharedDir, DefaultSharedDir(""))
	o.StateDir = cmp.Or(o.StateDir, DefaultStateDir())
	o.OutputLimit = cmp.Or(o.OutputLimit, DefaultOutputLimit)
	if o.Env == nil {
		o.Env = os.Environ()
	}
	if o.Spawner == nil {
		o.Spawner = plainSpawner{}
	}
	if o.CheckOut == nil {
		o.CheckOut = dialOut
	}
	if o.DiskSpace == nil {
		o.DiskSpace = DiskSpace
	}
	if home := lookup(o.Env, "HOME"); o.Netrc == "" && home != "" {
		o.Netrc = filepath.Join(home, ".netrc")
	}
	if o.LogEcho == nil {
		o.LogEcho = os.Stdout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// DefaultSharedDir is the shared folder below workdir, which is the value of
// HARNESS_WORKDIR and may be empty.
func DefaultSharedDir(workdir string) string {
	return hostPath(filepath.ToSlash(workdir) + "/tmp/engine")
}

// DefaultStateDir is the state folder of the present user.
func DefaultStateDir() string {
	if runtime.GOOS == "linux" && os.Geteuid() == 0 {
		return "/var/lib/runner-agent"
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("runner-agent-%d", os.Getuid()))
}

// hostPath turns a path of the wire into one of this system: on Windows a
// path without a drive is on C:.
func hostPath(path string) string {
	if runtime.GOOS != "windows" || path == "" {
		return path
	}
	if strings.HasPrefix(path, "/") {
		path = "c:" + path
	}
	return filepath.FromSlash(path)
}

// outAddress and outTimeout are what existing agents use to see whether a
// machine reaches the Internet.
const (
	outAddress = "8.8.8.8:53"
	outTimeout = 2 * time.Second
)

func dialOut(ctx context.Context) error {
	d := net.Dialer{Timeout: outTimeout}
	c, err := d.DialContext(ctx, "tcp", outAddress)
	if err != nil {
		return fmt.Errorf("connectivity check: %w", err)
	}
	return c.Close()
}

// HostPath turns a path as callers write it into one of this system: on
// Windows a path without a drive is on C:, and slashes are the system's own.
func HostPath(path string) string { return hostPath(path) }
