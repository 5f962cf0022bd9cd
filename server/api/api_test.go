package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

var update = flag.Bool("update", false, "write golden files")

// TestExamplesKeepTheirMeaning: every key of a known body is a field here, and
// what is written back says the same to its reader.
func TestExamplesKeepTheirMeaning(t *testing.T) {
	t.Parallel()
	for name, into := range map[string]any{
		"setup_build_request":      &api.SetupRequest{},
		"setup_gitspace_request":   &api.SetupRequest{},
		"setup_resume_request":     &api.SetupRequest{},
		"setup_reset_request":      &api.SetupRequest{},
		"setup_build_response":     &api.SetupResponse{},
		"setup_gitspace_response":  &api.SetupResponse{},
		"step_request":             &api.StepRequest{},
		"destroy_request":          &api.DestroyRequest{},
		"destroy_gitspace_request": &api.DestroyRequest{},
		"suspend_request":          &api.SuspendRequest{},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := os.ReadFile(filepath.Join("testdata", name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			d := json.NewDecoder(bytes.NewReader(raw))
			d.DisallowUnknownFields()
			if err := d.Decode(into); err != nil {
				t.Fatal(err)
			}
			out, err := json.Marshal(into)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(present(t, raw), present(t, out)); diff != "" {
				t.Errorf("-example +written:\n%s", diff)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, out, "", "  "); err != nil {
				t.Fatal(err)
			}
			indented.WriteByte('\n')
			file := filepath.Join("testdata", name+".golden.json")
			if *update {
				if err := os.WriteFile(file, indented.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v; run the test with -update", err)
			}
			if diff := cmp.Diff(string(want), indented.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// present is a body without the top-level keys whose value is the zero value:
// absent and zero mean the same to every reader of a request.
func present(t *testing.T, raw []byte) map[string]any {
	t.Helper()
	var all map[string]any
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	for k, v := range all {
		if v == nil || v == false || v == "" {
			delete(all, k)
		}
	}
	if context, ok := all["context"].(map[string]any); ok && context["is_free_account"] == false {
		delete(context, "is_free_account")
	}
	return all
}

func TestABuildsPortMapIsNull(t *testing.T) {
	t.Parallel()
	out, err := json.Marshal(api.SetupResponse{})
	const want = `{"ip_address":"","instance_id":"","gitspaces_port_mappings":null,"instance_info":{"id":"","name":"","ip_address":"","port":0,` +
		`"os":"","arch":"","provider":"","pool_name":"","zone":"","storage_identifier":"","ca_key":null,"ca_cert":null,"tls_key":null,"tls_cert":null}}`
	if err != nil || string(out) != want {
		t.Errorf("got  %s, %v\nwant %s", out, err, want)
	}
}
