package env_test

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/env"
)

var update = flag.Bool("update", false, "write golden files")

func load(t *testing.T, vars ...string) (env.Result, error) {
	t.Helper()
	return env.Load(env.Options{Environ: vars, Dir: t.TempDir(), Hostname: "Build-7"})
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	got, err := load(t)
	if err != nil {
		t.Fatal(err)
	}
	want := env.Config{
		HTTPBind: ":3000", RunnerName: "build-7", DatabaseDriver: "sqlite3",
		MinPoolSize: 1, MaxPoolSize: 2,
		BusyMaxAgeHours: 24, FreeMaxAgeHours: 72,
		HealthHot: 10 * time.Second, HealthHibernated: 2 * time.Minute, HealthCold: 3 * time.Minute, HealthWindows: 5 * time.Minute,
		SetupTimeout: 30 * time.Second, StartStepTimeout: 30 * time.Second, MockStepSeconds: 120,
		Boot: env.Boot{
			HarnessTest: "https://app.harness.io/storage/harness-download/harness-ti/split_tests",
			Plugin:      "https://github.com/drone/plugin/releases/download/v3.9.7", PluginFallback: "https://app.harness.io/storage/harness-download/harness-ti/harness-plugin/v3.9.7",
			AutoInjection: "https://app.harness.io/storage/harness-download/harness-ti/auto-injection/1.0.19",
			Annotations:   "https://storage.googleapis.com/harness-ti/hcli/v0.23", AnnotationsFallback: "https://app.harness.io/storage/harness-download/harness-ti/hcli/v0.23",
			Envman: "https://github.com/bitrise-io/envman/releases/download/v2.5.6", EnvmanFallback: "https://app.harness.io/storage/harness-download/harness-ti/harness-envman/v2.5.6",
			Tmate: "https://github.com/harness/tmate/releases/download/1.0", TmateFallback: "https://app.harness.io/storage/harness-download/harness-ti/harness-tmate/1.0",
			TmateEnabled: true, TmateImage: "drone/drone-runner-docker:1",
			EgressNoProxy:    "localhost,127.0.0.1,169.254.169.254,172.16.0.0/12,10.0.0.0/8,.svc.cluster.local,.harness.io,harness.io",
			EgressBundleVars: []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"}, EgressCAVars: []string{"NODE_EXTRA_CA_CERTS"},
		},
	}
	if diff := cmp.Diff(want, got.Config); diff != "" {
		t.Error(diff)
	}
	if len(got.Warnings)+len(got.Notices) != 0 {
		t.Errorf("remarks about nothing: %v %v", got.Warnings, got.Notices)
	}
}

func TestRunnerName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ host, want string }{
		{"web", "web"}, {"WEB", "web"}, {"7of9", "runner-7of9"}, {"", "runner"}, {"-x", "runner--x"},
	} {
		got, err := env.Load(env.Options{Dir: t.TempDir(), Hostname: c.host})
		if err != nil || got.Config.RunnerName != c.want {
			t.Errorf("host %q: got %q, %v, want %q", c.host, got.Config.RunnerName, err, c.want)
		}
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	got, err := load(t,
		"DRONE_DEBUG=t", "DRONE_TRACE=0", "DRONE_HTTP_ALLOW=10.0.0.0/8, ::1", "DRONE_RUNNER_VOLUMES=/a:/b:ro",
		"HEALTH_CHECK_HOTPOOL_TIMEOUT=1m30s", "DRONE_SETTINGS_BUSY_MAX_AGE=72",
		`DLITE_POOL_MAP_BY_ACCOUNT_ID=acc={"a":"b"};acc2={"c":"d","e":"f"}`, "DRONE_FALLBACK_POOL_IDS= ")
	if err != nil {
		t.Fatal(err)
	}
	c := got.Config
	if !c.Debug || c.Trace || c.HealthHot != 90*time.Second || c.BusyMaxAgeHours != 72 || c.FallbackPools != nil {
		t.Errorf("got %+v", c)
	}
	if diff := cmp.Diff([]string{"10.0.0.0/8", " ::1"}, c.HTTPAllow); diff != "" {
		t.Error("items of a list are not trimmed:", diff)
	}
	if want := `acc={"a":"b"};acc2={"c":"d","e":"f"}`; c.PoolMap != want {
		t.Errorf("got %q, want %q", c.PoolMap, want)
	}
}

func TestSetButEmptyCountsAsUnset(t *testing.T) {
	t.Parallel()
	var vars []string
	for _, v := range env.Table() {
		vars = append(vars, v.Name+"=", v.Name+"_FILE=")
	}
	got, err := load(t, vars...)
	if err != nil {
		t.Fatal(err)
	}
	plain, _ := load(t)
	if diff := cmp.Diff(plain, got); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsNameVariableAndValue(t *testing.T) {
	t.Parallel()
	cases := []struct{ name, set, want string }{
		{"yes is no boolean", "DRONE_DEBUG=yes", `DRONE_DEBUG="yes": not a boolean`},
		{"a boolean with a blank", "DRONE_REUSE_POOL= true", `DRONE_REUSE_POOL=" true": not a boolean`},
		{"a duration without unit", "SETUP_TIMEOUT=30", `SETUP_TIMEOUT="30": not a duration; write a number with a unit`},
		{"a negative duration", "SETUP_TIMEOUT=-1s", `must be more than zero`},
		{"hours with a unit", "DRONE_SETTINGS_BUSY_MAX_AGE=24h", `DRONE_SETTINGS_BUSY_MAX_AGE="24h": not a whole number`},
		{"no hours", "DRONE_SETTINGS_BUSY_MAX_AGE=0", "must be at least 1"},
		{"busy longer than free", "DRONE_SETTINGS_BUSY_MAX_AGE=73", "must not be above DRONE_SETTINGS_FREE_MAX_AGE (72)"},
		{"leveldb", "DRONE_DATABASE_DRIVER=leveldb", "use sqlite3 or postgres"},
		{"unknown database", "DRONE_DATABASE_DRIVER=mysql", `DRONE_DATABASE_DRIVER="mysql": unknown; use sqlite3 or postgres`},
		{"distributed without address", "DRONE_DELEGATE_DISTRIBUTED_MODE=true", "DRONE_DISTRIBUTED_DATASOURCE"},
		{"a negative number of seconds", "DRONE_LITE_ENGINE_MOCK_STEP_TIMEOUT_SECS=-1", "must not be negative"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, c.set)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
	t.Run("all at once", func(t *testing.T) {
		t.Parallel()
		_, err := load(t, "DRONE_DEBUG=yes", "SETUP_TIMEOUT=30")
		if got := strings.Count(fmt.Sprint(err), "\n") + 1; got != 2 {
			t.Errorf("got %d lines, want 2: %v", got, err)
		}
	})
}

func TestFilesComeBelowTheProcessEnvironment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, ".env"), "DRONE_HTTP_BIND=:1\nDRONE_RUNNER_NAME=dot\nDRONE_DEBUG=true\nHTTPS_PROXY=http://p\n")
	write(t, filepath.Join(dir, "more"), "DRONE_HTTP_BIND=:2\nDRONE_RUNNER_NAME=more\nDRONE_RUNNER_HA=true\n")
	got, err := env.Load(env.Options{Environ: []string{"DRONE_HTTP_BIND=:9", "DRONE_DEBUG="}, Dir: dir, EnvFile: "more"})
	if err != nil {
		t.Fatal(err)
	}
	if c := got.Config; c.HTTPBind != ":9" || c.RunnerName != "dot" || !c.HA || !c.Debug {
		t.Errorf("got %+v", c)
	}
	want := map[string]string{"DRONE_RUNNER_NAME": "dot", "DRONE_DEBUG": "true", "HTTPS_PROXY": "http://p", "DRONE_RUNNER_HA": "true"}
	if diff := cmp.Diff(want, got.Added); diff != "" {
		t.Error(diff)
	}
}

func TestFilesThatCannotBeReadOnlyWarn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, ".env"), "this is 'no environment file hunter2\n=")
	got, err := env.Load(env.Options{Dir: dir, EnvFile: "nosuch"})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(got.Warnings, "\n")
	if len(got.Warnings) != 2 || !strings.Contains(all, "nosuch") || !strings.Contains(all, ".env") {
		t.Errorf("got %q", got.Warnings)
	}
	if strings.Contains(all, "hunter2") {
		t.Errorf("a line of the file is shown: %q", all)
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	write(t, file, "hunter2\n")
	got, err := load(t, "RUNNER_SEAL_KEY_FILE="+file, "DRONE_DATABASE_DATASOURCE=postgres://u:hunter3@h/d")
	if err != nil {
		t.Fatal(err)
	}
	c := got.Config
	if c.SealKey.Reveal() != "hunter2" || c.DatabaseSource.Reveal() != "postgres://u:hunter3@h/d" {
		t.Errorf("got %q, %q", c.SealKey.Reveal(), c.DatabaseSource.Reveal())
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", c.SealKey, "all", c)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", c.SealKey, "all", c)
	for _, printed := range []string{fmt.Sprintf("%v %s %q %#v %+v", c.SealKey, c.SealKey, c.SealKey, c, c), log.String()} {
		if strings.Contains(printed, "hunter") {
			t.Errorf("a secret is shown: %s", printed)
		}
	}

	_, err = load(t, "RUNNER_SEAL_KEY_FILE="+file, "RUNNER_SEAL_KEY=hunter4")
	if err == nil || !strings.Contains(err.Error(), "both set") || strings.Contains(err.Error(), "hunter") {
		t.Errorf("both forms: %v", err)
	}
	if _, err = load(t, "RUNNER_SEAL_KEY_FILE=/nosuch/file"); err == nil || !strings.Contains(err.Error(), "RUNNER_SEAL_KEY_FILE") {
		t.Errorf("file that is not there: %v", err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	write(t, empty, "\n")
	if _, err = load(t, "RUNNER_SEAL_KEY_FILE="+empty); err == nil || !strings.Contains(err.Error(), "is empty") {
		t.Errorf("empty file: %v", err)
	}
}

func TestRemarks(t *testing.T) {
	t.Parallel()
	cases := []struct{ name, set, warning, notice string }{
		{"a misspelt name", "DRONE_HTP_BIND=x", "DRONE_HTP_BIND is set and unknown; did you mean DRONE_HTTP_BIND?", ""},
		{"a name like none of ours", "DRONE_COMMIT_SHA=x", "", ""},
		{"somebody else's name", "HTTP_BIND=x", "", ""},
		{"a secret's file is known", "DRONE_DATABASE_DATASOURCE_FILE=/dev/null", "", ""},
		{"for later", "DRONE_DISTRIBUTED_DB_IAM_AUTH=true", "", "not built in yet"},
		{"out of scope", "DRONE_RPC_HOST=x", "", ""},
		{"removed, by prefix", "DRONE_SETTINGS_AWS_REGION=x", "", "amazon"},
		{"removed, by name", "DIGITALOCEAN_PAT=x", "", "DIGITAL_OCEAN_PAT"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			// The error of an empty secret's file is no matter here.
			got, _ := load(t, c.set)
			check := func(what, want string, got []string) {
				if want == "" && len(got) != 0 || want != "" && !strings.Contains(strings.Join(got, "\n"), want) {
					t.Errorf("%s: got %q, want %q", what, got, want)
				}
			}
			check("warning", c.warning, got.Warnings)
			check("notice", c.notice, got.Notices)
		})
	}
}

func TestTableIsWhole(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, v := range env.Table() {
		if seen[v.Name] {
			t.Errorf("%s stands twice", v.Name)
		}
		seen[v.Name] = true
		if v.Meaning == "" && v.Status != env.Unused {
			t.Errorf("%s has no meaning", v.Name)
		}
	}
}

func TestDocumentationIsTheTable(t *testing.T) {
	t.Parallel()
	const file = "../../docs/environment.md"
	want := env.Markdown()
	if *update {
		write(t, file, want)
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("run go test ./internal/env -update: %s", diff)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("DRONE_DEBUG", "yes", "DRONE_HTTP_BIND=:1\n")
	f.Add("SETUP_TIMEOUT", "1s", "export A='b")
	f.Add("DRONE_DATABASE_DATASOURCE", "hunter2", "=")
	f.Fuzz(func(t *testing.T, name, value, file string) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, ".env"), file)
		got, err := env.Load(env.Options{Environ: []string{name + "=" + value}, Dir: dir})
		if err == nil && got.Config.HTTPBind == "" {
			t.Error("neither an error nor an address to listen on")
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
