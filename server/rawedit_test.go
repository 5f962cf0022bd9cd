package server_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

func testEdits(t testing.TB) server.Edits {
	t.Helper()
	volumes, warnings := server.ParseVolumes([]string{"/var/cache.d:/cache", "/opt/tools:/tools:ro"})
	if len(warnings) != 0 {
		t.Fatalf("warnings: %q", warnings)
	}
	return server.Edits{Volumes: volumes}
}

func TestStepEdits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, in string
		exported map[string]string
		want     string
	}{
		{
			name: "an empty step gets a variable and a directory",
			in:   `{}`,
			want: `{"environment":{"DRONE_VM_RUNNER":"true"},"working_dir":"/tmp/engine"}`,
		},
		{name: "no step at all is an empty one", in: ``, want: `{"environment":{"DRONE_VM_RUNNER":"true"},"working_dir":"/tmp/engine"}`},
		{name: "null is an empty one", in: ` null `, want: `{"environment":{"DRONE_VM_RUNNER":"true"},"working_dir":"/tmp/engine"}`},
		{
			name: "unknown keys, big and odd numbers pass byte for byte",
			in:   `{ "new_field" : {"n": 12345678901234567890, "e":1E+2 , "z":1.50}, "environment":{"A":"1"}, "working_dir":"/w" }`,
			want: `{"new_field":{"n": 12345678901234567890, "e":1E+2 , "z":1.50},"environment":{"A":"1"},"working_dir":"/w"}`,
		},
		{
			name: "a literal at the end is read whole",
			in:   `{"environment":{"A":"1"},"working_dir":"/w","detach":true}`,
			want: `{"environment":{"A":"1"},"working_dir":"/w","detach":true}`,
		},
		{
			name: "keys in any spelling are found and become one",
			in:   `{"Environment":{"A":"1"},"x":1,"ENVIRONMENT":{"B":"2"},"Working_Dir":"/w"}`,
			want: `{"environment":{"A":"1","B":"2"},"x":1,"Working_Dir":"/w"}`,
		},
		{
			name: "the Kelvin sign folds to k as it does for encoding/json",
			in:   "{\"wor\u212Aing_dir\":\"/w\",\"environment\":{\"A\":\"1\"}}",
			want: "{\"wor\u212Aing_dir\":\"/w\",\"environment\":{\"A\":\"1\"}}",
		},
		{
			name: "an escaped key is found",
			in:   `{"\u0065nvironment":{"A":"1"},"working_dir":"/w"}`,
			want: `{"environment":{"A":"1"},"working_dir":"/w"}`,
		},
		{
			name: "a later null clears the environment, an empty directory is none",
			in:   `{"environment":{"A":"1"},"environment":null,"working_dir":""}`,
			want: `{"environment":{"DRONE_VM_RUNNER":"true"},"working_dir":"/tmp/engine"}`,
		},
		{
			name:     "exported variables lie under a host step's own",
			in:       `{"environment":{"OWN":"step","BOTH":"step"},"working_dir":"/w"}`,
			exported: map[string]string{"BOTH": "exported", "Z": "<&>", "A": "line\nline"},
			want:     `{"environment":{"A":"line\nline","Z":"<&>","OWN":"step","BOTH":"step"},"working_dir":"/w"}`,
		},
		{
			name:     "names of variables keep their case",
			in:       `{"environment":{"path":"own"},"working_dir":"/w"}`,
			exported: map[string]string{"PATH": "exported"},
			want:     `{"environment":{"PATH":"exported","path":"own"},"working_dir":"/w"}`,
		},
		{
			name:     "a container step gets no exported variables but the volumes",
			in:       `{"Image":"golang","environment":{"A":"1"},"working_dir":"/w","volumes":[{"name":"x","path":"/x"}]}`,
			exported: map[string]string{"B": "2"},
			want: `{"Image":"golang","environment":{"A":"1"},"working_dir":"/w","volumes":[{"name":"x","path":"/x"},` +
				`{"name":"cache-d730830388","path":"/cache"},{"name":"tools852718723","path":"/tools"}]}`,
		},
		{
			name: "an empty image is a host step",
			in:   `{"image":"","environment":{"A":"1"},"working_dir":"/w"}`,
			want: `{"image":"","environment":{"A":"1"},"working_dir":"/w"}`,
		},
		{
			name: "a kill that would crash an existing agent gets an interval",
			in:   `{"environment":{"A":"1"},"working_dir":"/w","process_config":{"kill_process_on_context_cancel":true,"kill_process_max_sigterm_attempts":3,"Kill_Process_Retry_Interval_Secs":0}}`,
			want: `{"environment":{"A":"1"},"working_dir":"/w","process_config":{"kill_process_on_context_cancel":true,"kill_process_max_sigterm_attempts":3,"kill_process_retry_interval_secs":1}}`,
		},
		{
			name: "other kills stay as they are",
			in:   `{"environment":{"A":"1"},"working_dir":"/w","Process_Config":{"kill_process_on_context_cancel":true,"kill_process_retry_interval_secs":0}}`,
			want: `{"environment":{"A":"1"},"working_dir":"/w","Process_Config":{"kill_process_on_context_cancel":true,"kill_process_retry_interval_secs":0}}`,
		},
		{
			name: "stage_runtime_id goes in every spelling, deeper ones stay",
			in:   `{"stage_runtime_id":"s","Stage_Runtime_ID":"t","run":{"stage_runtime_id":"kept"},"environment":{"A":"1"},"working_dir":"/w"}`,
			want: `{"run":{"stage_runtime_id":"kept"},"environment":{"A":"1"},"working_dir":"/w"}`,
		},
		{
			name: "braces and quotes inside strings confuse nothing",
			in:   `{"a":"}\"{\\","environment":{"A":"],}"},"working_dir":"/w\\"}`,
			want: `{"a":"}\"{\\","environment":{"A":"],}"},"working_dir":"/w\\"}`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := testEdits(t).Step(json.RawMessage(tc.in), tc.exported)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestSetupEdits(t *testing.T) {
	t.Parallel()
	const ours = `{"host":{"id":"cache-d730830388","name":"cache-d730830388","path":"/var/cache.d"}},` +
		`{"host":{"id":"tools852718723","name":"tools852718723","path":"/opt/tools","read_only":true}}`
	for _, tc := range []struct{ name, in, want string }{
		{"a setup without volumes gets the global ones", `{"envs":{"A":"1"}}`, `{"envs":{"A":"1"},"volumes":[` + ours + `]}`},
		{
			"they come behind the caller's", `{"Volumes":[{"temp":{"id":"t"}}],"x":0}`,
			`{"volumes":[{"temp":{"id":"t"}},` + ours + `],"x":0}`,
		},
		{"null volumes are none", `{"volumes":null}`, `{"volumes":[` + ours + `]}`},
		{
			"a client pair without variables gets one, which an existing agent needs", `{"mtls_config":{"client_cert":"QQ=="},"envs":{}}`,
			`{"mtls_config":{"client_cert":"QQ=="},"envs":{"DRONE_VM_RUNNER":"true"},"volumes":[` + ours + `]}`,
		},
		{"no pair, no variable", `{"mtls_config":{}}`, `{"mtls_config":{},"volumes":[` + ours + `]}`},
		{"nothing is a setup too", ``, `{"volumes":[` + ours + `]}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := testEdits(t).Setup(json.RawMessage(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			again, err := testEdits(t).Setup(got)
			if err != nil || !bytes.Equal(got, again) {
				t.Errorf("a second edit changed something: %s, %v", again, err)
			}
		})
	}
}

func TestEditsWithoutVolumesLeaveTheSetupAlone(t *testing.T) {
	t.Parallel()
	got, err := server.Edits{}.Setup(json.RawMessage(`{"volumes":null,"n":1.0}`))
	if want := `{"volumes":null,"n":1.0}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

func TestEditsRefuseWhatNoAgentCouldRead(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"a":`, 20_000) + `1` + strings.Repeat(`}`, 20_000)
	for name, in := range map[string]string{
		"array": `[]`, "text": `"x"`, "number": `5`, "broken": `{"a":`, "environment is a list": `{"environment":[]}`,
		"volumes of a container are an object": `{"image":"i","volumes":{}}`, "deep": deep,
	} {
		if got, err := testEdits(t).Step(json.RawMessage(in), nil); err == nil {
			t.Errorf("%s: got %.80s, want an error", name, got)
		}
	}
	if _, err := testEdits(t).Setup(json.RawMessage(`{"volumes":{}}`)); err == nil {
		t.Error("volumes that are an object: want an error")
	}
}

func TestVolumeItems(t *testing.T) {
	t.Parallel()
	got, warnings := server.ParseVolumes([]string{"/a.b:/x:ro", "nocolon", ":/y", "/z:", "/c:/d:e"})
	want := []server.Volume{
		{Name: "a-b698580161", Source: "/a.b", Target: "/x", ReadOnly: true},
		{Name: "c1859261703", Source: "/c", Target: "/d:e"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(warnings) != 3 || !strings.Contains(warnings[0], `"nocolon"`) {
		t.Errorf("warnings %q, want one each for the three bad items", warnings)
	}
}

func TestPoolMap(t *testing.T) {
	t.Parallel()
	m, err := server.ParsePoolMap(`acct={"a":"b"};acct2={"c":"d"}`)
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Rename("acct", "a") + m.Rename("acct2", "a") + m.Rename("", "x"); got != "bax" {
		t.Errorf("renamed to %q, want bax", got)
	}
	for _, bad := range []string{"acct", `={"a":"b"}`, `acct={"a":1}`, `acct={`} {
		if _, err := server.ParsePoolMap(bad); err == nil || !strings.Contains(err.Error(), "DLITE_POOL_MAP_BY_ACCOUNT_ID") {
			t.Errorf("%q: got %v, want an error naming the variable", bad, err)
		}
	}
	if m, err := server.ParsePoolMap(""); err != nil || len(m) != 0 {
		t.Errorf("empty text: %v, %v", m, err)
	}
}

// FuzzEdits: no panic; the result is valid JSON that the edit leaves alone a
// second time; every key that is not edited keeps its value byte for byte.
func FuzzEdits(f *testing.F) {
	for _, seed := range []string{
		`{"process_config":{"kill_process_on_context_cancel":true,"kill_process_max_sigterm_attempts":3}}`,
		``, `null`, `{}`, `[]`, `{"environment":{}}`, `{"image":"x","volumes":[null,{"name":"a"}]}`,
		`{"Environment":{"A":"1"},"ENVIRONMENT":null,"stage_runtime_ID":7,"n":1e400}`,
		`{"egress_policy":{"username":"u","Password":"p:@"},"Egress_Policy":{"proxy_url":"http://x"},"image":"i","secrets":["p:@"]}`,
		"{\"\\u0045nvironment\":{\"\\ud800\":\"\xff\"},\"\":\"\"}", `{"a":{"a":[{"b":"}"}]},"working_dir":5}`,
	} {
		f.Add([]byte(seed), "KEY", "value")
	}
	edited := []string{"environment", "working_dir", "stage_runtime_id", "volumes", "egress_policy", "secrets", "envs", "process_config"}
	f.Fuzz(func(t *testing.T, raw []byte, key, value string) {
		e := testEdits(t)
		exported := map[string]string{key: value}
		check := func(name string, edit func(json.RawMessage) (json.RawMessage, error)) {
			once, err := edit(raw)
			if err != nil {
				return
			}
			if !json.Valid(once) {
				t.Fatalf("%s: %q became invalid: %q", name, raw, once)
			}
			twice, err := edit(once)
			if err != nil || !bytes.Equal(once, twice) {
				t.Fatalf("%s: not idempotent: %q, then %q, %v", name, once, twice, err)
			}
			if diff := cmp.Diff(others(t, raw, edited), others(t, once, edited)); diff != "" {
				t.Fatalf("%s: other keys of %q changed:\n%s", name, raw, diff)
			}
		}
		check("setup", e.Setup)
		e.Egress = server.Egress{NoProxy: "localhost", BundleVars: []string{key}, CAVars: []string{value}}
		on := pool.Instance{OS: "linux", Proxy: "http://proxy.example.com:3128", ProxyCA: true}
		check("setup behind a proxy", func(r json.RawMessage) (json.RawMessage, error) { return e.FitSetup(r, on) })
		check("step behind a proxy", func(r json.RawMessage) (json.RawMessage, error) { return e.FitStep(r, on) })
		check("step", func(r json.RawMessage) (json.RawMessage, error) {
			out, err := e.Step(r, exported)
			if err == nil {
				var step struct {
					Environment map[string]json.RawMessage `json:"environment"`
				}
				if err := json.Unmarshal(out, &step); err != nil || len(step.Environment) == 0 {
					t.Fatalf("no environment in %q: %v", out, err)
				}
			}
			return out, err
		})
	})
}

// others is the raw values of raw's keys that no edit touches.
func others(t *testing.T, raw []byte, edited []string) map[string]string {
	t.Helper()
	var all map[string]json.RawMessage
	if len(bytes.TrimSpace(raw)) > 0 {
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatalf("%q: %v", raw, err)
		}
	}
	out := map[string]string{}
	for k, v := range maps.All(all) {
		keep := true
		for _, e := range edited {
			keep = keep && !strings.EqualFold(k, e)
		}
		if keep {
			out[k] = string(v)
		}
	}
	return out
}
