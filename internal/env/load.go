package env

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/joho/godotenv"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Secret is a value that never shows itself: printed, logged or encoded as
// JSON it says only whether it is set. Reveal gives the value.
type Secret string

// Reveal gives the value itself.
func (s Secret) Reveal() string { return string(s) }

// String says whether the value is set.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "[redacted]"
}

// GoString keeps %#v from showing the value.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// LogValue keeps a log from showing the value.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps JSON from showing the value.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Config is every used variable, parsed. The zero value is not useful; Load
// gives one with the defaults.
type Config struct {
	Debug, Trace bool
	HTTPBind     string
	// AgentBind is where agents are served, "" for nowhere; AgentDir what is
	// served, "" for the program's folder.
	AgentBind, AgentDir string
	// HTTPAllow is in addition to the server's default.
	HTTPAllow   []string
	RunnerName  string
	Environment string
	HA          bool
	Volumes     []string

	DatabaseDriver    string
	DatabaseSource    Secret
	Distributed       bool
	DistributedSource Secret
	SealKey           Secret

	ReusePool bool
	// MinPoolSize and MaxPoolSize are of the pool made without a pool file.
	MinPoolSize, MaxPoolSize int
	// The ages are in hours.
	BusyMaxAgeHours int
	FreeMaxAgeHours int
	FallbackPools   []string
	// PoolMap is as it was given; the server parses it.
	PoolMap string

	HealthHot        time.Duration
	HealthHibernated time.Duration
	HealthCold       time.Duration
	HealthWindows    time.Duration
	SetupTimeout     time.Duration
	StartStepTimeout time.Duration

	GoogleEndpoint string
	// AgentIngress are as they were given; drivers parse them.
	AgentIngress []string

	MockAgent       bool
	MockStepSeconds int

	Boot Boot
}

// Boot is what boot scripts of machines in clouds are made of. AgentURL is
// empty if nothing names an address; AgentSHA256 has items of the form
// name=sum. The rest is for users' own templates.
type Boot struct {
	AgentURL, AgentFallbackURL string
	AgentSHA256                []string

	HarnessTest, Plugin, PluginFallback, AutoInjection       string
	Annotations, AnnotationsFallback                         string
	Envman, EnvmanFallback, Tmate, TmateFallback             string
	TmateEnabled                                             bool
	TmateImage, TmateHost, TmatePort, TmateRSA, TmateEd25519 string
	Diagnostics                                              bool
	EgressNoProxy, EgressCACert                              string
	// EgressBundleVars and EgressCAVars are names of variables.
	EgressBundleVars, EgressCAVars []string
}

// Options says where Load looks.
type Options struct {
	// Environ is the process environment as os.Environ gives it.
	Environ []string
	// Dir is the working directory, whose .env is read if it is there.
	Dir string
	// EnvFile is read after it, "" for none.
	EnvFile string
	// Hostname is the host's name, for the default of DRONE_RUNNER_NAME.
	Hostname string
}

// Result is what Load found.
type Result struct {
	Config Config
	// Added are the variables that come from files only. The caller puts them
	// into the process environment for libraries that read it.
	Added map[string]string
	// Warnings are about files that cannot be read and names that look
	// misspelt, Notices about names that are set and have no effect.
	Warnings []string
	Notices  []string
}

// Load reads the variables: the process environment wins over .env, .env over
// the file of --envfile, and a variable that is set but empty counts as unset
// everywhere. The error joins every problem, one a line.
func Load(o Options) (Result, error) {
	values := map[string]string{}
	for _, kv := range o.Environ {
		if name, value, ok := strings.Cut(kv, "="); ok && value != "" {
			values[name] = value
		}
	}
	res := Result{Added: map[string]string{}}
	res.addFile(values, filepath.Join(o.Dir, ".env"), true)
	if o.EnvFile != "" {
		path := o.EnvFile
		if !filepath.IsAbs(path) {
			path = filepath.Join(o.Dir, path)
		}
		res.addFile(values, path, false)
	}
	err := res.parse(values)
	res.remark(values)
	res.Config.RunnerName = cmp.Or(res.Config.RunnerName, runnerName(o.Hostname))
	return res, err
}

// addFile merges a file below what is set already. A file that is missing or
// bad only warns, as ever; a missing .env is no news.
func (r *Result) addFile(values map[string]string, path string, optional bool) {
	f, err := os.Open(path)
	if err != nil {
		if !optional || !errors.Is(err, fs.ErrNotExist) {
			r.Warnings = append(r.Warnings, fmt.Sprintf("environment file is not read: %v", err))
		}
		return
	}
	defer f.Close()
	found, err := godotenv.Parse(f)
	if err != nil {
		// The parser's error quotes the file, which may hold a secret.
		r.Warnings = append(r.Warnings, fmt.Sprintf("environment file %s is not read: it is not of the form NAME=value", path))
		return
	}
	for name, value := range found {
		if value != "" && values[name] == "" {
			values[name] = value
			r.Added[name] = value
		}
	}
}

func (r *Result) parse(values map[string]string) error {
	var errs []error
	for _, v := range Table() {
		if v.Status != Used || v.field == nil {
			continue
		}
		text, err := v.text(values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if text == "" {
			if v.Computed || v.Default == "" {
				continue
			}
			text = v.Default
		}
		if err := v.store(&r.Config, text); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		errs = r.Config.validate()
	}
	return errors.Join(errs...)
}

// text finds a variable's value, a secret's also in the file of NAME_FILE.
func (v Variable) text(values map[string]string) (string, error) {
	text := values[v.Name]
	file := values[v.Name+"_FILE"]
	if !v.Secret || file == "" {
		return text, nil
	}
	if text != "" {
		return "", fmt.Errorf("%s and %s_FILE are both set; keep one", v.Name, v.Name)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", v.Name, err)
	}
	text = strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return "", fmt.Errorf("%s_FILE: %s is empty", v.Name, file)
	}
	return text, nil
}

// store parses text into the variable's field.
func (v Variable) store(c *Config, text string) error {
	bad := func(why string) error {
		shown := strconv.Quote(text)
		if v.Secret {
			shown = "[redacted]"
		}
		return fmt.Errorf("%s=%s: %s", v.Name, shown, why)
	}
	var err error
	switch p := v.field(c).(type) {
	case *string:
		*p = text
	case *Secret:
		*p = Secret(text)
	case *bool:
		if *p, err = strconv.ParseBool(text); err != nil {
			return bad("not a boolean; write true or false")
		}
	case *int:
		if *p, err = strconv.Atoi(text); err != nil {
			return bad("not a whole number; the unit is fixed, see docs/environment.md")
		}
	case *time.Duration:
		if *p, err = time.ParseDuration(text); err != nil {
			return bad("not a duration; write a number with a unit, for example 90s or 4m")
		}
		if *p <= 0 {
			return bad("must be more than zero")
		}
	case *[]string:
		*p = parseList(text)
	default:
		return fmt.Errorf("%s: no way to store a %T", v.Name, p)
	}
	return nil
}

func parseList(text string) []string {
	if strings.TrimSpace(text) == "" {
		return nil
	}
	return strings.Split(text, ",")
}

// BusyAge is BusyMaxAgeHours as a duration.
func (c *Config) BusyAge() time.Duration { return time.Duration(c.BusyMaxAgeHours) * time.Hour }

// FreeAge is FreeMaxAgeHours as a duration.
func (c *Config) FreeAge() time.Duration { return time.Duration(c.FreeMaxAgeHours) * time.Hour }

// validate checks what one variable alone cannot tell.
func (c *Config) validate() []error {
	var errs []error
	if c.BusyMaxAgeHours < 1 {
		errs = append(errs, fmt.Errorf("DRONE_SETTINGS_BUSY_MAX_AGE=%d: must be at least 1 (hours)", c.BusyMaxAgeHours))
	}
	if c.BusyMaxAgeHours > c.FreeMaxAgeHours {
		errs = append(errs, fmt.Errorf("DRONE_SETTINGS_BUSY_MAX_AGE=%d: must not be above DRONE_SETTINGS_FREE_MAX_AGE (%d); lower it or raise the other",
			c.BusyMaxAgeHours, c.FreeMaxAgeHours))
	}
	if c.MockStepSeconds < 0 {
		errs = append(errs, fmt.Errorf("DRONE_LITE_ENGINE_MOCK_STEP_TIMEOUT_SECS=%d: must not be negative", c.MockStepSeconds))
	}
	switch c.DatabaseDriver {
	case "sqlite3", "postgres":
	case "leveldb":
		errs = append(errs, errors.New(`DRONE_DATABASE_DRIVER="leveldb": leveldb is not supported; use sqlite3 or postgres`))
	default:
		errs = append(errs, fmt.Errorf("DRONE_DATABASE_DRIVER=%q: unknown; use sqlite3 or postgres", c.DatabaseDriver))
	}
	if c.DatabaseDriver == "postgres" && c.DatabaseSource == "" && !c.Distributed {
		errs = append(errs, errors.New("DRONE_DATABASE_DRIVER=postgres: needs the address of the database in DRONE_DATABASE_DATASOURCE, such as postgres://user@host:5432/runner"))
	}
	if c.Distributed && c.DistributedSource == "" {
		errs = append(errs, errors.New("DRONE_DELEGATE_DISTRIBUTED_MODE=true: needs the address of a Postgres database in DRONE_DISTRIBUTED_DATASOURCE"))
	}
	return errs
}

// runnerName makes a label of the host's name: lower case, and beginning with
// a letter.
func runnerName(host string) string {
	host = strings.ToLower(host)
	if host == "" || host[0] < 'a' || host[0] > 'z' {
		return strings.TrimSuffix("runner-"+host, "-")
	}
	return host
}

// remark collects what an operator should know about names that are set.
func (r *Result) remark(values map[string]string) {
	known := map[string]Variable{}
	for _, v := range Table() {
		known[v.Name] = v
		if v.Secret {
			known[v.Name+"_FILE"] = v
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if v, ok := known[name]; ok {
			// ENV is too common a name to talk about.
			if v.Status == Later && name != "ENV" {
				r.Notices = append(r.Notices, name+" is set and has no effect: what it configures is not built in yet")
			}
			continue
		}
		if old, ok := removed(name); ok {
			r.Notices = append(r.Notices, fmt.Sprintf("%s is set and read by nothing any more; its successor: %s", name, old.Successor))
			continue
		}
		if !strings.HasPrefix(name, "DRONE_") && !strings.HasPrefix(name, "DLITE_") {
			continue
		}
		if near := drivers.Nearest(name, slices.Sorted(maps.Keys(known))); near != "" {
			r.Warnings = append(r.Warnings, fmt.Sprintf("%s is set and unknown; did you mean %s?", name, near))
		}
	}
}

func removed(name string) (Removed, bool) {
	for _, old := range RemovedNames() {
		prefix, all := strings.CutSuffix(old.Name, "*")
		if name == old.Name || all && strings.HasPrefix(name, prefix) {
			return old, true
		}
	}
	return Removed{}, false
}
