package containers

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Config is how an [Engine] is set up.
type Config struct {
	// Host is the daemon's address, such as unix:///var/run/docker.sock; empty:
	// DOCKER_HOST of Env, else the system's usual one.
	Host string
	// Env is read for DOCKER_HOST, DOCKER_CERT_PATH, DOCKER_API_VERSION and
	// DOCKER_DEFAULT_PLATFORM, in the form of os.Environ. With certificates the
	// daemon's is always verified.
	Env []string
	// Owner is the run of the agent. It must be unlike that of every other run
	// that uses the daemon.
	Owner string
	// Prefix begins the names of containers, networks and volumes; empty: they
	// are called by the ids of the request.
	Prefix string
	// Labels are put on everything that is made.
	Labels map[string]string
	// NetworkDriver is the driver of stages' networks; empty: bridge, on Windows
	// nat.
	NetworkDriver string
	// Mounts are given to every container.
	Mounts []Mount
	// Note is called before anything is made, once or more: from then on
	// something of Owner may be left when the process is killed. Nothing is made
	// if it fails. Nil: nobody wants to know.
	Note func() error
	// Reclaim frees networks nobody uses any more, when the daemon has no
	// addresses left for another, and says how many; nil: those of adopted
	// owners are.
	Reclaim func(ctx context.Context) (networks int, err error)
	// Patience is how long steps wait for a daemon that does not answer, since it
	// may be starting; 0: a minute.
	Patience time.Duration
	// Log is where the engine reports; nil: nowhere.
	Log *slog.Logger
}

// Mount is a folder, file or socket of this machine in every container.
type Mount struct {
	Source, Target string
	ReadOnly       bool
}

// Engine talks to one daemon. Make one with [New]; all methods are safe for
// concurrent use.
type Engine struct {
	conf Config
	host string
	// named is a host somebody has chosen; programs are the folders where a daemon's
	// program may be.
	named    bool
	programs []string
	api      *api
	// adopted guards the owners whose objects are still to be removed: a
	// semaphore of one, since it is held while the daemon is asked.
	adopting chan struct{}
	adopted  map[string]*adoption
	// late is how long after a process was killed the daemon may still make what
	// it was asked for.
	late   time.Duration
	absent absence
}

// New makes an engine. Nothing is asked of the daemon yet.
func New(conf Config) (*Engine, error) {
	if conf.Log == nil {
		conf.Log = slog.New(slog.DiscardHandler)
	}
	if conf.Note == nil {
		conf.Note = func() error { return nil }
	}
	conf.Patience = cmp.Or(conf.Patience, defaultPatience)
	if conf.NetworkDriver == "" {
		conf.NetworkDriver = defaultDriver(runtime.GOOS)
	}
	host := Host(conf.Host, conf.Env)
	api, err := newAPI(host, conf.Env)
	if err != nil {
		return nil, err
	}
	return &Engine{
		conf:     conf,
		host:     host,
		named:    conf.Host != "" || lookup(conf.Env, "DOCKER_HOST") != "",
		programs: programDirs(conf.Env),
		api:      api,
		adopting: make(chan struct{}, 1),
		adopted:  make(map[string]*adoption),
		late:     makeTime,
	}, nil
}

// Close gives up idle connections. What was made stays.
func (e *Engine) Close() { e.api.close() }

// Host is the daemon's address: the given one, else DOCKER_HOST of env, else
// the system's usual one.
func Host(given string, env []string) string {
	return cmp.Or(given, lookup(env, "DOCKER_HOST"), defaultHost(runtime.GOOS))
}

// Present says whether there may be a daemon at host, without talking to it: a
// socket that exists, or any address that is not a socket's.
func Present(host string) bool {
	path, local := socketPath(host)
	if !local {
		return true
	}
	_, err := os.Stat(path)
	return err == nil
}

// socketPath is the file of a socket or pipe of this machine.
func socketPath(host string) (path string, local bool) {
	if path, ok := strings.CutPrefix(host, "unix://"); ok {
		return path, true
	}
	if path, ok := strings.CutPrefix(host, "npipe://"); ok {
		return filepath.FromSlash(path), true
	}
	return "", false
}

// DialSocket connects to a daemon whose address is a socket or pipe of this
// machine.
func DialSocket(ctx context.Context, host string) (net.Conn, error) {
	path, local := socketPath(host)
	switch {
	case !local:
		return nil, fmt.Errorf("docker address %q is no socket of this machine", host)
	case strings.HasPrefix(host, "npipe://"):
		return dialPipe(ctx, path)
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

func defaultHost(goos string) string {
	if goos == "windows" {
		return "npipe:////./pipe/docker_engine"
	}
	return "unix://" + unixSocket
}

func defaultDriver(goos string) string {
	if goos == "windows" {
		return "nat"
	}
	return "bridge"
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

// How long the daemon may take to answer.
const (
	// askTime is for questions and small changes. A loaded daemon takes seconds.
	askTime = 20 * time.Second
	// makeTime is for making and starting a container, and for a network: a slow
	// disk takes its time over layers and firewalls.
	makeTime = time.Minute
	// removeTime is for removing one object.
	removeTime = 30 * time.Second
)

// bound gives a call its time. What ends because of it says so.
func bound(ctx context.Context, what string, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, &slowError{what: what, after: d})
}

// slowError is a daemon that did not answer in time.
type slowError struct {
	what  string
	after time.Duration
}

func (e *slowError) Error() string {
	return fmt.Sprintf("the Docker daemon did not answer within %s (%s); see if it works with: docker info", e.after, e.what)
}

// lasting is a context that does not end with ctx, for what must not be left
// half done, bounded by d.
func lasting(ctx context.Context, what string, d time.Duration) (context.Context, context.CancelFunc) {
	return bound(context.WithoutCancel(ctx), what, d)
}

// The labels of everything made.
const (
	// LabelOwner is the run of the agent that made it.
	LabelOwner = "org.vmrunner.owner"
	// LabelStage is the setup within that run.
	LabelStage = "org.vmrunner.stage"
	// LabelLease is what the machine is used for, if its caller has said so.
	LabelLease = "org.vmrunner.lease"
	// LabelStep is the step's id, of containers only.
	LabelStep = "org.vmrunner.step"
	// LabelCreated is when, in RFC 3339.
	LabelCreated = "org.vmrunner.created"
)

// labels are those of something made for a stage, over those the request asks
// for.
func (s *Stage) labels(asked map[string]string) map[string]string {
	out := maps.Clone(asked)
	if out == nil {
		out = make(map[string]string)
	}
	maps.Copy(out, s.engine.conf.Labels)
	out[LabelOwner] = s.engine.conf.Owner
	out[LabelStage] = s.id
	s.mu.Lock()
	if s.lease != "" {
		out[LabelLease] = s.lease
	}
	s.mu.Unlock()
	out[LabelCreated] = time.Now().UTC().Format(time.RFC3339)
	return out
}

// owns says whether labels are those of this stage.
func (s *Stage) owns(labels map[string]string) bool {
	return labels[LabelOwner] == s.engine.conf.Owner && labels[LabelStage] == s.id
}
