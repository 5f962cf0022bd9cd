package agentapi_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

var update = flag.Bool("update", false, "write the golden files")

func ptr[T any](v T) *T { return &v }

// TestBodiesKeepTheirWireFormat compares each body with its golden file, byte
// for byte, and reads the file back into the same value.
func TestBodiesKeepTheirWireFormat(t *testing.T) {
	t.Parallel()
	cases := map[string]any{
		"health_response":      &agentapi.HealthResponse{Version: "dev", OK: true},
		"health_response_full": &agentapi.HealthResponse{Version: "1.2.3", OK: true, Docker: agentapi.DockerAbsent, RunningSteps: 2, Machine: "m-1", Used: true},
		"error":                &agentapi.Error{Message: "Step has not started"},
		"empty":                &agentapi.Empty{},
		"setup_request_empty":  &agentapi.SetupRequest{},
		"setup_request_minimal": &agentapi.SetupRequest{
			Envs: map[string]string{"A": "b"}, Network: agentapi.Network{ID: "n"},
		},
		"setup_request_full":   fullSetup(),
		"start_step_minimal":   &agentapi.StartStepRequest{ID: "q", Image: "a"},
		"start_step_full":      fullStep(),
		"poll_request":         &agentapi.PollStepRequest{ID: "q"},
		"poll_response_empty":  &agentapi.PollStepResponse{},
		"poll_response_ok":     &agentapi.PollStepResponse{Exited: true},
		"poll_response_failed": &agentapi.PollStepResponse{Exited: true, ExitCode: 3, Error: "1 error occurred:\n\t* exit status 3\n\n"},
		"poll_response_skeleton": &agentapi.PollStepResponse{
			Exited: true, Outputs: map[string]string{"OUT1": "value1"},
			OutputV2:          []agentapi.OutputV2{{Key: "OUT1", Value: "value1", Type: agentapi.OutputString}, {Key: "EMPTY"}},
			OptimizationState: agentapi.OptimizationDisabled, TelemetryData: &agentapi.TelemetryData{},
		},
		"poll_response_full":   fullPoll(),
		"stream_request":       &agentapi.StreamOutputRequest{ID: "q", Offset: 12},
		"stream_request_start": &agentapi.StreamOutputRequest{ID: "q"},
		"destroy_request":      &agentapi.DestroyRequest{LiteEnginePath: "/var/log/lite-engine.log", StageRuntimeID: "st1"},
		"destroy_response": &agentapi.DestroyResponse{OSStats: agentapi.OSStats{
			TotalMemMB: 24105.55859375, CPUCores: 2, AvgMemUsagePct: 1.98, AvgCPUUsagePct: 68.84, MaxMemUsagePct: 2.64, MaxCPUUsagePct: 100,
			MemGraph: agentapi.Graph{Points: []agentapi.Point{{X: 1.001760448, Y: 0.7258}}, XMetric: agentapi.MetricSeconds, YMetric: agentapi.MetricMemMB},
			CPUGraph: agentapi.Graph{Points: []agentapi.Point{{X: 1.001760448, Y: 8.0402}}, XMetric: agentapi.MetricSeconds, YMetric: agentapi.MetricCPUMilli},
		}},
		"suspend_request": &agentapi.SuspendRequest{Labels: map[string]string{"a": "b"}, LiteEnginePath: "/var/log/lite-engine.log"},
		"mint_error":      &agentapi.MintError{Error: "unknown workload identity"},
	}
	for name, value := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := json.MarshalIndent(value, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			path := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("wire format changed (-want +got):\n%s", diff)
			}
			back := newLike(value)
			if err := json.Unmarshal(want, back); err != nil {
				t.Fatal(err)
			}
			again, err := json.MarshalIndent(back, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(append(again, '\n'), want) {
				t.Errorf("golden file does not survive a round trip:\n%s", again)
			}
		})
	}
}

// TestBodiesOfAnExistingRunner compares with bodies seen on the wire.
func TestBodiesOfAnExistingRunner(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		value any
		want  string
	}{
		{
			name: "setup", value: agentapi.SetupRequest{Envs: map[string]string{"A": "b"}, Network: agentapi.Network{ID: "n"}},
			want: `{"envs":{"A":"b"},"network":{"id":"n"},"log_config":{"sanitize_config":{}},"ti_config":{},"mtls_config":{},"vm_image_config":{}}`,
		},
		{
			name: "start_step", value: agentapi.StartStepRequest{ID: "q", Image: "a"},
			want: `{"id":"q","log_drone":false,"run":{"binary":{}},"run_test":{},"run_test_v2":{},"log_config":{"sanitize_config":{}},"ti_config":{},"mtls_config":{},"annotations_config":{},"test_report":{"junit":{}},"mount_docker_socket":null,"delete_temp_step_files":false,"image":"a","step_status":{},"process_config":{}}`,
		},
		{name: "empty maps and lists are left out", value: agentapi.PollStepResponse{Outputs: map[string]string{}, OutputV2: []agentapi.OutputV2{}}, want: `{}`},
		{
			name: "suspend", value: agentapi.SuspendRequest{Labels: map[string]string{"a": "b"}, LiteEnginePath: "/var/log/lite-engine.log"},
			want: `{"labels":{"a":"b"},"lite_engine_path":"/var/log/lite-engine.log"}`,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := json.Marshal(c.value)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodingIsTolerantOfKeysAndStrictOfTypes(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, body string
		wantErr    bool
		wantID     string
	}{
		{name: "unknown keys are ignored", body: `{"id":"a","brand_new":{"x":[1]}}`, wantID: "a"},
		{name: "keys in odd case are found", body: `{"ID":"a","Run":{"Entrypoint":["sh"]}}`, wantID: "a"},
		{name: "null is an empty object", body: `null`},
		{name: "null members are zero", body: `{"id":"a","environment":null,"run":null,"mount_docker_socket":null}`, wantID: "a"},
		{name: "a number where a text belongs", body: `{"id":1}`, wantErr: true},
		{name: "a list where run_test has a text", body: `{"id":"a","run_test":{"test_globs":["x"]}}`, wantErr: true},
		{name: "a text where run_test_v2 has a list", body: `{"id":"a","run_test_v2":{"test_globs":"x"}}`, wantErr: true},
		{name: "a text where a timeout belongs", body: `{"id":"a","timeout":"30"}`, wantErr: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got agentapi.StartStepRequest
			err := json.Unmarshal([]byte(c.body), &got)
			if (err != nil) != c.wantErr {
				t.Fatalf("error is %v, want error: %v", err, c.wantErr)
			}
			if err == nil && got.ID != c.wantID {
				t.Errorf("id is %q, want %q", got.ID, c.wantID)
			}
		})
	}
}

func FuzzStartStepRequest(f *testing.F) {
	f.Add([]byte(`{"id":"q","run":{"commands":["true"]},"timeout":3}`))
	f.Add([]byte(`{"ID":"q","environment":{},"process_config":{"kill_process_retry_interval_secs":0}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var first, second agentapi.StartStepRequest
		if json.Unmarshal(body, &first) != nil {
			return
		}
		again, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &second); err != nil {
			t.Fatalf("our own encoding %s: %v", again, err)
		}
		last, err := json.Marshal(second)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, last) {
			t.Errorf("encoding is not stable:\n%s\n%s", again, last)
		}
	})
}
