package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/internal/hostrunner"
	"github.com/vm-runner/drone-runner-aws/internal/peers"
)

// hostOption is a setting of the local runner: a flag, and the variables that
// give it where the flag is not there, the first that is set.
type hostOption struct {
	flag      string
	variables []string
	fallback  string
	usage     string
}

// The flags of the local runner that other commands of its take too.
var (
	optionDataDir  = hostOption{"data-dir", []string{"RUNNER_HOST_DATA_DIR"}, "", "where stages are kept; root: /var/lib/harness-docker-runner, others: ~/.harness-docker-runner"}
	optionBind     = hostOption{"bind", []string{"SERVER_HTTPS_BIND", "HTTPS_BIND"}, "127.0.0.1:3000", "address to listen on"}
	optionToken    = hostOption{"token-file", []string{"RUNNER_HOST_TOKEN_FILE"}, "", "file with the token callers must send; RUNNER_HOST_TOKEN is the token itself"}
	optionDrain    = hostOption{"drain", []string{"RUNNER_HOST_DRAIN"}, "10m", "how long stages may go on after a SIGTERM; a second one ends them at once"}
	optionInsecure = hostOption{"insecure", []string{"SERVER_INSECURE"}, "true", "plain HTTP; false demands mutual TLS"}
	optionEnvFile  = hostOption{"env-file", nil, defaultEnvFile, "file of variables, beside .env; the environment wins"}
)

// hostOptions is all the local runner can be told, in the order of its help.
func hostOptions() []hostOption {
	return []hostOption{
		optionEnvFile, optionBind, optionDataDir,
		{"allow", []string{peers.Variable}, "", "addresses and networks that may call, beside this host and its containers; 0.0.0.0/0 is everybody"},
		optionToken, optionInsecure,
		{"cert-file", []string{"SERVER_CERT_FILE"}, defaultCert, "certificate for mutual TLS"},
		{"key-file", []string{"SERVER_KEY_FILE"}, defaultKey, "its key"},
		{"ca-file", []string{"CLIENT_CERT_FILE"}, defaultCA, "CA whose certificates callers must show"},
		{"mount-volumes", []string{"RUNNER_" + hostrunner.MountsVariable, hostrunner.MountsVariable}, "", "what every container step gets: source;target[;ro][;create], separated by commas"},
		{"network-driver", []string{"RUNNER_NETWORK_DRIVER", "NETWORK_DRIVER"}, "", "driver of the stages' networks (bridge; nat on Windows)"},
		{"max-stages", []string{"RUNNER_HOST_MAX_STAGES", "DELEGATECAPACITY_DELEGATE_CAPACITY", "DELEGATE_CAPACITY"}, "0", "stages at once; 0: as many as CPUs and memory have room for"},
		{"stage-cpus", []string{"RUNNER_HOST_STAGE_CPUS"}, "0.5", "CPUs a stage is reckoned with; 0: CPUs are no limit"},
		{"stage-memory", []string{"RUNNER_HOST_STAGE_MEMORY"}, "1500MiB", "memory a stage is reckoned with; 0: memory is no limit"},
		{"disk-reserve", []string{"RUNNER_HOST_DISK_RESERVE"}, "2GiB", "disk space that must be free to let a stage in; 0: the disk is no limit"},
		{"wait", []string{"RUNNER_HOST_WAIT"}, "10m", "how long a stage waits for room"},
		{"stage-max-age", []string{"RUNNER_HOST_STAGE_MAX_AGE"}, "24h", "a stage this old is ended once no step runs and nobody has called for an hour"},
		optionDrain,
		{"debug", []string{"DRONE_DEBUG", "DRONE_TRACE"}, "false", "log more"},
	}
}

func hostFlags() []cli.Flag { return flagsOf(hostOptions()...) }

func flagsOf(options ...hostOption) []cli.Flag {
	flags := make([]cli.Flag, 0, len(options))
	for _, o := range options {
		usage := o.usage
		if len(o.variables) > 0 {
			usage += " [" + strings.Join(o.variables, ", ") + "]"
		}
		flags = append(flags, &cli.StringFlag{Name: o.flag, Usage: usage, DefaultText: o.fallback})
	}
	return flags
}

// hostSettings is what the flags and variables mean.
type hostSettings struct {
	env           settings
	bind, dataDir string
	allow         []netip.Prefix
	token         string
	certs         *certificatePaths // nil without mutual TLS
	mounts        []hostrunner.Mount
	networkDriver string
	limits        hostrunner.Limits
	wait          time.Duration
	maxAge        time.Duration
	drain         time.Duration
	level         slog.Level
	// notices are about variables that have no effect here.
	notices []string
}

// reader reads settings one by one and keeps all that is wrong with them.
type reader struct {
	c    *cli.Context
	env  settings
	errs []error
}

// newReader reads the variables: the environment's, then those of .env, then
// those of --env-file.
func newReader(c *cli.Context, log *slog.Logger) (*reader, error) {
	r := &reader{c: c}
	paths := []string{defaultEnvFile}
	if f := c.String(optionEnvFile.flag); f != "" && filepath.Clean(f) != defaultEnvFile {
		paths = []string{f, defaultEnvFile}
	}
	for _, path := range paths {
		file, err := loadSettings(path, nil, log)
		if err != nil {
			return nil, err
		}
		r.env.env = append(r.env.env, file.env...)
	}
	r.env.env = append(r.env.env, environment()...) // the last one counts
	return r, nil
}

// text is a setting and where it was found.
func (r *reader) text(o hostOption) (value, from string) {
	if v := r.c.String(o.flag); v != "" {
		return v, "--" + o.flag
	}
	for _, name := range o.variables {
		if v := r.env.lookup(name); v != "" {
			return v, name
		}
	}
	return o.fallback, "--" + o.flag
}

func (r *reader) wrong(from, value, want string) {
	r.errs = append(r.errs, fmt.Errorf("%s is %q, want %s", from, value, want))
}

func (r *reader) duration(o hostOption) time.Duration {
	v, from := r.text(o)
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		r.wrong(from, v, "a duration such as 90s or 10m")
	}
	return d
}

func (r *reader) boolean(o hostOption) bool {
	v, from := r.text(o)
	on, err := strconv.ParseBool(v)
	if err != nil {
		r.wrong(from, v, "true or false")
	}
	return on
}

func (r *reader) number(o hostOption) float64 {
	v, from := r.text(o)
	n, err := strconv.ParseFloat(v, 64)
	if err != nil || !(n >= 0 && n < 1e6) {
		r.wrong(from, v, "a number")
	}
	return n
}

func (r *reader) size(o hostOption) uint64 {
	v, from := r.text(o)
	n, ok := parseSize(v)
	if !ok {
		r.wrong(from, v, "a size such as 1500MiB or 2GiB")
	}
	return n
}

// parseSize reads bytes with a unit of 1024, or none.
func parseSize(text string) (uint64, bool) {
	shift := 0
	for unit, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40} {
		if rest, ok := strings.CutSuffix(text, unit); ok {
			text, shift = strings.TrimSpace(rest), bits
			break
		}
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > (1<<63)>>shift {
		return 0, false
	}
	return n << shift, true
}

// token is the text of the token file, or of the variable.
func (r *reader) token() string {
	path, from := r.text(optionToken)
	if path == "" {
		return r.env.lookup("RUNNER_HOST_TOKEN")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s: %w", from, err))
		return ""
	}
	token := string(bytes.TrimSpace(text))
	if token == "" {
		r.errs = append(r.errs, fmt.Errorf("%s: %s is empty", from, path))
	}
	return token
}

func readHostSettings(c *cli.Context, log *slog.Logger) (hostSettings, error) {
	r, err := newReader(c, log)
	if err != nil {
		return hostSettings{}, err
	}
	options := make(map[string]hostOption)
	for _, o := range hostOptions() {
		options[o.flag] = o
	}
	get := func(flag string) string { v, _ := r.text(options[flag]); return v }
	s := hostSettings{
		env: r.env, bind: get("bind"), dataDir: get("data-dir"), networkDriver: get("network-driver"), token: r.token(),
		limits: hostrunner.Limits{
			Stages: int(r.number(options["max-stages"])), CPUs: r.number(options["stage-cpus"]),
			Memory: r.size(options["stage-memory"]), Disk: r.size(options["disk-reserve"]),
		},
		wait: r.duration(options["wait"]), maxAge: r.duration(options["stage-max-age"]), drain: r.duration(options["drain"]),
	}
	if s.dataDir == "" {
		s.dataDir = defaultHostDir()
	}
	if s.dataDir, err = filepath.Abs(s.dataDir); err != nil {
		r.errs = append(r.errs, err)
	}
	if s.allow, err = peers.Parse(strings.Split(get("allow"), ",")); err != nil {
		r.errs = append(r.errs, err)
	}
	if s.mounts, err = hostrunner.ParseMounts(get("mount-volumes")); err != nil {
		r.errs = append(r.errs, err)
	}
	if !r.boolean(optionInsecure) {
		s.certs = &certificatePaths{ca: get("ca-file"), cert: get("cert-file"), key: get("key-file")}
	}
	if r.boolean(options["debug"]) {
		s.level = slog.LevelDebug
	}
	s.notices = r.notices()
	return s, errors.Join(r.errs...)
}

// notices name variables of older local runners that are set and do nothing.
func (r *reader) notices() []string {
	var notices []string
	for name, why := range map[string]string{
		"DELEGATE_SECRET":   "a maximum of builds is not registered with the platform; this runner keeps to DELEGATE_CAPACITY or --max-stages itself",
		"PLUGIN_BINARY_URI": "nothing is downloaded; put the program plugin into PATH where steps need it",
		"ENVMAN_BINARY_URI": "nothing is downloaded; put the program envman into PATH where steps need it",
		"DRONE_HTTP_BIND":   "it is the VM runner's; the local runner listens on SERVER_HTTPS_BIND or --bind",
	} {
		if r.env.lookup(name) != "" {
			notices = append(notices, name+" has no effect: "+why)
		}
	}
	slices.Sort(notices)
	return notices
}

// defaultHostDir is where the local runner keeps stages: of root the system's
// place for that, of others a folder of their own.
func defaultHostDir() string {
	const name = "harness-docker-runner"
	switch {
	case runtime.GOOS == "windows":
		return filepath.Join(os.Getenv("ProgramData"), name)
	case runtime.GOOS == "linux" && os.Geteuid() == 0:
		return filepath.Join("/var/lib", name)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join(os.TempDir(), fmt.Sprintf("%s-%d", name, os.Getuid()))
	}
	return filepath.Join(home, "."+name)
}
