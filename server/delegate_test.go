package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/peers"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

const completeInfo = `{"id":"cloud-1","name":"n","ip_address":"10.0.3.7","port":9079,"os":"linux","arch":"amd64","provider":"google",` +
	`"pool_name":"linux","zone":"z","storage_identifier":"d","ca_key":"QQ==","ca_cert":"QQ==","tls_key":"QQ==","tls_cert":"QQ=="}`

// delegateFake answers like an engine with one pool "linux" and one lease "st1".
func delegateFake() *fake {
	agentAnswer := json.RawMessage("{\n \"exited\": true,\n \"exit_code\": 3, \"newer_field\": 1.50\n}")
	return &fake{
		setup: func(_ context.Context, r pool.SetupRequest) (pool.SetupResult, error) {
			switch {
			case r.Pools[len(r.Pools)-1] == "nowhere":
				return pool.SetupResult{}, &pool.SetupError{Causes: []pool.Cause{
					{Pool: "linux-a", Phase: "create", Message: "google: ZONE_RESOURCE_POOL_EXHAUSTED in us-east1-b, us-east1-c"},
					{Pool: "linux-b", Phase: "health", Message: "agent not healthy after 3m0s", Console: "403 fetching\nagent"},
				}, Err: drivers.ErrCapacity}
			case r.ID == "tomb":
				return pool.SetupResult{}, fmt.Errorf("setup tomb: %w", pool.ErrDestroyedFirst)
			case r.ID == "agent-no":
				return pool.SetupResult{}, &pool.SetupError{Causes: []pool.Cause{{Pool: "linux", Phase: "setup", Message: (&pool.AgentError{
					Op: "setup", Status: 500, Message: "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
				}).Error()}}}
			}
			res := pool.SetupResult{Instance: machine(), Lease: pool.Lease{ID: r.ID}}
			if r.Kind == pool.Gitspace {
				res.Ports = map[int]int{8089: 8089, 3000: 3000}
			}
			return res, nil
		},
		step: func(_ context.Context, r pool.StepRequest) (json.RawMessage, error) {
			switch r.Lease {
			case "st1":
				return agentAnswer, nil
			case "detached":
				return json.RawMessage(`{}`), nil
			case "lost":
				return nil, &pool.LostError{Lease: "lost", Instance: "i1", Cause: "pre-empted", Console: "bye"}
			case "garbage":
				return json.RawMessage(`<html>`), nil
			}
			return nil, fmt.Errorf("stage %s: %w", r.Lease, pool.ErrNotFound)
		},
		destroy: func(_ context.Context, r pool.DestroyRequest) error {
			if r.Lease == "refused" {
				return errors.New("destroy gs: google: quota exceeded\nretry later")
			}
			return nil
		},
		suspend: func(_ context.Context, r pool.SuspendRequest) error {
			if r.Lease == "st1" {
				return nil
			}
			return fmt.Errorf("lease %s: %w", r.Lease, pool.ErrNotFound)
		},
		lease: func(id string) (pool.Lease, error) {
			if id == "st1" {
				return pool.Lease{ID: id}, nil
			}
			return pool.Lease{}, pool.ErrNotFound
		},
		owns: func(_ context.Context, name, lease string) (bool, error) {
			if name == "broken" {
				return false, fmt.Errorf("read stage: %w", pool.ErrUnavailable)
			}
			return name == "linux" && (lease == "" || lease == "st1"), nil
		},
	}
}

func TestDelegateAnswers(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("[", 100_000)
	long := strings.Repeat("ä", 1001)
	for _, tc := range []struct{ name, method, target, body string }{
		{"healthz", "GET", "/healthz", ""},
		{"readyz", "GET", "/readyz", ""},
		{"pool_owner without pool", "POST", "/pool_owner", ""},
		{"pool_owner in a form body", "POST", "/pool_owner", "pool=linux"},
		{"pool_owner of an unknown pool", "POST", "/pool_owner?pool=other", ""},
		{"pool_owner of a pool", "POST", "/pool_owner?pool=linux", ""},
		{"pool_owner of an unknown stage", "POST", "/pool_owner?pool=linux&stageId=no", ""},
		{"pool_owner of a stage", "POST", "/pool_owner?pool=linux&stageId=st1", ""},
		{"pool_owner while the store is down", "POST", "/pool_owner?pool=broken", ""},
		{"setup of a build", "POST", "/setup", `{"id":"st1","pool_id":"linux","setup_request":{}}`},
		{"setup smallest", "POST", "/setup", `{"id":"st-mid","pool_id":"linux"}`},
		{"setup in odd case with unknown keys and a tail", "POST", "/setup", `{"ID":"st1","Pool_ID":"linux","whatever":[1]} trailing { bytes`},
		{"setup of a gitspace", "POST", "/setup", `{"id":"gs","pool_id":"linux","gitspace_agent_config":{"ports":[8089,3000]}}`},
		{"setup without id", "POST", "/setup", `{"pool_id":"linux"}`},
		{"setup without pool", "POST", "/setup", `{"id":"st1"}`},
		{"setup null", "POST", "/setup", `null`},
		{"setup empty", "POST", "/setup", ``},
		{"setup broken", "POST", "/setup", `{bad`},
		{"setup cut", "POST", "/setup", `{"id":"st`},
		{"setup array", "POST", "/setup", `[]`},
		{"setup deep", "POST", "/setup", `{"id":"st1","pool_id":"linux","setup_request":` + deep},
		{"setup id is a number", "POST", "/setup", `{"id":5}`},
		{"setup request is text", "POST", "/setup", `{"id":"st1","pool_id":"linux","setup_request":"x"}`},
		{"setup envs of the wrong type", "POST", "/setup", `{"id":"st1","pool_id":"linux","setup_request":{"envs":5}}`},
		{"setup id too long", "POST", "/setup", `{"id":"` + long + `","pool_id":"linux"}`},
		{"setup id with NUL", "POST", "/setup", `{"id":"a\u0000b","pool_id":"linux"}`},
		{"setup disk is no number", "POST", "/setup", `{"id":"st1","pool_id":"linux","storage_config":{"boot_disk_size":"100GB"}}`},
		{"setup with all pools failing", "POST", "/setup", `{"id":"st1","pool_id":"linux-a","fallback_pool_ids":["linux-b","nowhere"]}`},
		{"setup refused by its agent", "POST", "/setup", `{"id":"agent-no","pool_id":"linux"}`},
		{"setup after its destroy", "POST", "/setup", `{"id":"tomb","pool_id":"linux"}`},
		{"setup with a disk", "POST", "/setup", `{"id":"gs","pool_id":"linux","gitspace_agent_config":{"ports":[1]},"storage_config":{"identifier":"d"}}`},
		{"setup with a script", "POST", "/setup", `{"id":"gs","pool_id":"linux","gitspace_agent_config":{"ports":[1],"vm_init_script":"IyE="}}`},
		{"setup with a secret", "POST", "/setup", `{"id":"gs","pool_id":"linux","gitspace_agent_config":{"ports":[1],"secret":"s"}}`},
		{"setup with a token", "POST", "/setup", `{"id":"gs","pool_id":"linux","gitspace_agent_config":{"ports":[1],"access_token":"s"}}`},
		{"setup with a reset", "POST", "/setup", `{"id":"gs","pool_id":"linux","gitspace_agent_config":{"ports":[1]},"is_marked_for_infra_reset":true}`},
		{"setup with a script that is no base64", "POST", "/setup", `{"id":"gs","pool_id":"linux","gitspace_agent_config":{"ports":[1],"vm_init_script":"echo s3cret"}}`},
		{"setup with a disk of no size", "POST", "/setup", `{"id":"gs","pool_id":"linux","gitspace_agent_config":{"ports":[1]},"storage_config":{"identifier":"d","size":"big"}}`},
		{"setup with an impossible port", "POST", "/setup", `{"id":"gs","pool_id":"linux","gitspace_agent_config":{"ports":[70000]}}`},
		{"step that failed", "POST", "/step", `{"stage_runtime_id":"st1","start_step_request":{"id":"s1"}}`},
		{"step with address only", "POST", "/step", `{"stage_runtime_id":"st1","ip_address":"1.2.3.4"}`},
		{"step detached", "POST", "/step", `{"stage_runtime_id":"detached","start_step_request":{"id":"s1","detach":true}}`},
		{"step with neither id nor address", "POST", "/step", `{"stage_runtime_id":"st1","start_step_request":{}}`},
		{"step of an unknown stage", "POST", "/step", `{"stage_runtime_id":"no","start_step_request":{"id":"s1"}}`},
		{"step of no stage", "POST", "/step", `{"ip_address":"1.2.3.4"}`},
		{"step on a lost machine", "POST", "/step", `{"stage_runtime_id":"lost","start_step_request":{"id":"s1"}}`},
		{"step with an answer that is no JSON", "POST", "/step", `{"stage_runtime_id":"garbage","start_step_request":{"id":"s1"}}`},
		{"step environment of the wrong type", "POST", "/step", `{"stage_runtime_id":"st1","start_step_request":{"id":"s1","environment":["A"]}}`},
		{"step broken", "POST", "/step", `{"stage_runtime_id"`},
		{"destroy", "POST", "/destroy", `{"id":"st1"}`},
		{"destroy by its alias", "POST", "/destroy", `{"stage_runtime_id":"st1"}`},
		{"destroy of nobody", "POST", "/destroy", `{}`},
		{"destroy empty", "POST", "/destroy", ``},
		{"destroy refused by the cloud", "POST", "/destroy", `{"id":"refused"}`},
		{"suspend", "POST", "/suspend", `{"stage_runtime_id":"st1","instance_info":{"id":"cloud-1","pool_name":"linux"}}`},
		{"suspend of nobody", "POST", "/suspend", `{"instance_info":` + completeInfo + `}`},
		{"suspend without info", "POST", "/suspend", `{"stage_runtime_id":"st1"}`},
		{"suspend without pool", "POST", "/suspend", `{"stage_runtime_id":"st1","instance_info":{"id":"cloud-1"}}`},
		{"suspend of an unknown stage without pool", "POST", "/suspend", `{"stage_runtime_id":"no","instance_info":{"id":"x","name":"n"}}`},
		{"suspend of an unknown stage, incomplete", "POST", "/suspend", `{"stage_runtime_id":"no","instance_info":{"id":"x","pool_name":"p"}}`},
		{"suspend of an unknown stage, complete", "POST", "/suspend", `{"stage_runtime_id":"no","instance_info":` + completeInfo + `}`},
		{"unknown path", "GET", "/nothing", ""},
		{"root", "GET", "/", ""},
		{"trailing slash", "POST", "/setup/", `{}`},
		{"double slash", "POST", "//setup", `{}`},
		{"dots", "POST", "/x/../setup", `{}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newServer(t, server.Config{Service: delegateFake()}).Handler()
			resp := exchange(t, h, tc.method, tc.target, tc.body)
			shown := tc.body
			if len(shown) > 200 {
				shown = shown[:200] + "…"
			}
			golden(t, "delegate/"+strings.NewReplacer(" ", "_", ",", "").Replace(tc.name)+".txt",
				fmt.Sprintf("%s %s\n%s\n\n%s", tc.method, tc.target, shown, dump(t, resp)))
		})
	}
}

func TestMethodsOfEveryRoute(t *testing.T) {
	t.Parallel()
	h := newServer(t, server.Config{Service: delegateFake()}).Handler()
	allow := map[string]string{
		"/pool_owner": "POST", "/setup": "POST", "/step": "POST", "/destroy": "POST", "/suspend": "POST",
		"/healthz": "GET, HEAD", "/readyz": "GET, HEAD",
	}
	for path, allowed := range allow {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} {
			if strings.Contains(allowed, method) {
				if resp := exchange(t, h, method, path, ""); resp.StatusCode == http.StatusMethodNotAllowed {
					t.Errorf("%s %s: refused", method, path)
				}
				continue
			}
			resp := exchange(t, h, method, path, "{}")
			if got := bodyOf(t, resp); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != allowed || got != "" {
				t.Errorf("%s %s: %d, Allow %q, body %q; want 405, %q and no body", method, path, resp.StatusCode, resp.Header.Get("Allow"), got, allowed)
			}
		}
		if resp := exchange(t, h, "POST", path+"/", "{}"); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s/: %d, want 404", path, resp.StatusCode)
		}
	}
	for _, method := range []string{"GET", "HEAD", "POST", "DELETE"} {
		for _, path := range []string{"/metrics", "/metrics/", "/metrics/any/thing"} {
			if resp := exchange(t, h, method, path, ""); resp.StatusCode != http.StatusOK {
				t.Errorf("%s %s: %d, want 200", method, path, resp.StatusCode)
			}
		}
	}
}

func TestStrangersGet403Everywhere(t *testing.T) {
	t.Parallel()
	touched := func() { t.Error("a stranger reached the engine") }
	s := newServer(t, server.Config{Service: &fake{
		setup: func(context.Context, pool.SetupRequest) (pool.SetupResult, error) {
			touched()
			return pool.SetupResult{}, nil
		},
		destroy: func(context.Context, pool.DestroyRequest) error { touched(); return nil },
		status:  func(context.Context) ([]pool.PoolStatus, error) { touched(); return nil, nil },
	}, Allow: server.NewAllowList(server.AllowConfig{Interfaces: func() ([]peers.Interface, error) { return nil, nil }})})
	for _, peer := range []string{"203.0.113.9:1000", "127.77.1.2:1000", "[2001:db8::1]:1000", "@", "", "garbage"} {
		for _, target := range []string{
			"POST /setup", "POST /step", "POST /destroy", "POST /suspend", "POST /pool_owner?pool=x",
			"GET /metrics", "GET /metrics/x", "GET /v1/pools", "GET /v1/leases/x", "GET /", "GET /unknown", "GET /healthz/",
		} {
			method, path, _ := strings.Cut(target, " ")
			r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(`{"id":"x","pool_id":"y"}`))
			r.RemoteAddr = peer
			r.Header.Set("X-Forwarded-For", "127.0.0.1")
			r.Header.Set("Forwarded", "for=127.0.0.1")
			r.Header.Set("X-Real-IP", "127.0.0.1")
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "DRONE_HTTP_ALLOW") {
				t.Errorf("%s from %q: %d %s, want 403 naming DRONE_HTTP_ALLOW", target, peer, w.Code, w.Body)
			}
		}
		for _, path := range []string{"/healthz", "/readyz"} {
			r := httptest.NewRequestWithContext(t.Context(), "GET", path, nil)
			r.RemoteAddr = peer
			w := httptest.NewRecorder()
			if s.Handler().ServeHTTP(w, r); w.Code != http.StatusOK {
				t.Errorf("%s from %q: %d, want 200", path, peer, w.Code)
			}
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/step", strings.NewReader(`{}`))
	r.RemoteAddr = "203.0.113.9:1000"
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	golden(t, "delegate/stranger.txt", dump(t, w.Result()))
}

func TestSetupMapping(t *testing.T) {
	t.Parallel()
	const certPEM = "bm90IGEgY2VydGlmaWNhdGU="
	for _, tc := range []struct {
		name, body string
		config     server.Config
		want       pool.SetupRequest
	}{
		{
			name: "a build with everything",
			body: `{"id":"01","pool_id":"linux","fallback_pool_ids":["b","linux","c"],"resource_class":"medium","zone":"z1",
				"nested_virtualization":true,"timeout":1500,"storage_config":{"boot_disk_size":"100"},
				"setup_request":{"timeout":36000,"log_config":{"account_id":"acc1"},"new":1.0,
				"vm_image_config":{"image_name":"img","image_version":"7"}}}`,
			config: server.Config{PoolMap: server.PoolMap{"acc1": {"linux": "renamed", "b": "renamed"}}, FallbackPools: []string{"unused"}},
			want: pool.SetupRequest{
				ID: "01", Kind: pool.Build, Pools: []string{"renamed", "c"}, Timeout: 1500 * time.Millisecond,
				Want: pool.Want{
					Account: "acc1", ResourceClass: "medium", Zone: "z1", Nested: true, DiskGiB: 100,
					Image: "img", ImageVersion: "7", Life: 10 * time.Hour,
				},
				Body: json.RawMessage(`{"timeout":36000,"log_config":{"account_id":"acc1"},"new":1.0,"vm_image_config":{"image_name":"img","image_version":"7"}}`),
			},
		},
		{
			name:   "a request without fallbacks takes the configured ones",
			body:   `{"id":"1","pool_id":"linux","fallback_pool_ids":[]}`,
			config: server.Config{FallbackPools: []string{"f1", "f2"}},
			want: pool.SetupRequest{
				ID: "1", Kind: pool.Build, Pools: []string{"linux", "f1", "f2"},
				Body: json.RawMessage(`{}`),
			},
		},
		{
			name: "a gitspace that is resumed",
			body: `{"id":"gs","pool_id":"linux","gitspace_agent_config":{"ports":[8089],"gitspace_config_identifier":"demo"},
				"instance_info":{"id":"c1","name":"n1","ip_address":"10.0.0.1","port":9079,"os":"linux","arch":"arm64","provider":"google",
				"pool_name":"p","zone":"z","storage_identifier":"d","ca_key":"QQ==","ca_cert":"Qg==","tls_key":"Qw==","tls_cert":"` + certPEM + `"}}`,
			want: pool.SetupRequest{
				ID: "gs", Kind: pool.Gitspace, Pools: []string{"linux"},
				Want: pool.Want{Ports: []int{8089}, Labels: map[string]string{"name": "demo"}},
				Known: &pool.KnownInstance{
					ID: "c1", Name: "n1", Address: "10.0.0.1", Port: 9079, OS: "linux", Arch: "arm64", Provider: "google",
					Pool: "p", Zone: "z", StorageID: "d",
					Identity: drivers.Identity{CAKey: []byte("A"), CACert: []byte("B"), Key: []byte("C"), Cert: []byte("not a certificate")},
				},
				Body: json.RawMessage(`{}`),
			},
		},
		{
			name: "times that overflow are cut, negative ones are none",
			body: `{"id":"../ä","pool_id":"linux","timeout":-5,"setup_request":{"timeout":9223372036854775807}}`,
			want: pool.SetupRequest{
				ID: "../ä", Kind: pool.Build, Pools: []string{"linux"},
				Want: pool.Want{Life: 1<<63 - 1}, Body: json.RawMessage(`{"timeout":9223372036854775807}`),
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var got pool.SetupRequest
			c := tc.config
			c.Service = &fake{setup: func(_ context.Context, r pool.SetupRequest) (pool.SetupResult, error) {
				got = r
				return pool.SetupResult{Instance: machine()}, nil
			}}
			resp := exchange(t, newServer(t, c).Handler(), "POST", "/setup", tc.body)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%d: %s", resp.StatusCode, bodyOf(t, resp))
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(pool.SetupRequest{}, "Progress", "Digest", "Fit")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if got.Progress == nil || len(got.Digest) != 64 {
				t.Errorf("progress set: %t, digest %q", got.Progress != nil, got.Digest)
			}
		})
	}
}

func TestDigestsTellRequestsApart(t *testing.T) {
	t.Parallel()
	digest := func(body string) string {
		var got string
		s := newServer(t, server.Config{Service: &fake{setup: func(_ context.Context, r pool.SetupRequest) (pool.SetupResult, error) {
			got = r.Digest
			return pool.SetupResult{}, nil
		}}})
		exchange(t, s.Handler(), "POST", "/setup", `{"id":"x","pool_id":"p"`+body+`}`)
		return got
	}
	a := digest(`,"setup_request":{"envs":{"A":"1","B":"2"},"n":12345678901234567890}`)
	if b := digest(`,"setup_request": {"n" : 12345678901234567890, "envs":{"B":"2","A":"1"}}`); a != b {
		t.Error("the order of keys makes a difference")
	}
	if b := digest(`,"setup_request":{"envs":{"A":"1","B":"2"},"n":12345678901234567891}`); a == b {
		t.Error("a different number makes none")
	}
	none := digest(``)
	for _, same := range []string{`,"setup_request":null`, `,"setup_request":{}`} {
		if digest(same) != none {
			t.Errorf("%s and nothing differ", same)
		}
	}
}

func TestStepMapping(t *testing.T) {
	t.Parallel()
	var got pool.StepRequest
	volumes, _ := server.ParseVolumes([]string{"/c:/c"})
	s := newServer(t, server.Config{Edits: server.Edits{Volumes: volumes}, Service: &fake{
		step: func(_ context.Context, r pool.StepRequest) (json.RawMessage, error) {
			got = r
			return json.RawMessage(`{"exited":true}`), nil
		},
	}})
	resp := exchange(t, s.Handler(), "POST", "/step", `{"stage_runtime_id":"st","instance_id":"i","task_id":"t",
		"start_step_request":{"ID":"s1","Timeout":90,"stage_runtime_id":"st","x":1e2},"instance_info":{"id":"other"}}`)
	if body := bodyOf(t, resp); resp.StatusCode != http.StatusOK || body != "{\"exited\":true}\n" {
		t.Fatalf("%d %q", resp.StatusCode, body)
	}
	if got.Lease != "st" || got.Instance != "i" || got.Step != "s1" || got.Timeout != 90*time.Second || got.Known.ID != "other" {
		t.Errorf("got %+v", got)
	}
	body, err := got.Body(map[string]string{"E": "1"})
	if want := `{"ID":"s1","Timeout":90,"x":1e2,"environment":{"E":"1"},"working_dir":"/tmp/engine"}`; err != nil || string(body) != want {
		t.Errorf("body %s, %v; want %s", body, err, want)
	}
}

func TestDestroyMapping(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		body string
		want pool.DestroyRequest
	}{
		{`{"id":"a","stage_runtime_id":"b","instance_id":"i"}`, pool.DestroyRequest{Lease: "a", Instance: "i"}},
		{`{"id":"a","storage_cleanup_type":"DELETE"}`, pool.DestroyRequest{Lease: "a", Disks: drivers.Delete}},
		{`{"id":"a","storage_cleanup_type":"delete"}`, pool.DestroyRequest{Lease: "a"}},
		{`{"id":"a","storage_cleanup_type":"DETACH","instance_info":{"id":"old"}}`, pool.DestroyRequest{Lease: "a", Instance: "old", Known: &pool.KnownInstance{ID: "old"}}},
	} {
		var got pool.DestroyRequest
		s := newServer(t, server.Config{Service: &fake{destroy: func(_ context.Context, r pool.DestroyRequest) error { got = r; return nil }}})
		if resp := exchange(t, s.Handler(), "POST", "/destroy", tc.body); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", tc.body, resp.StatusCode)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", tc.body, diff)
		}
	}
}

func TestARunnerThatStarts(t *testing.T) {
	t.Parallel()
	s := newServer(t, server.Config{Service: server.Starting("the store", "pool.yml"), StartWait: -1})
	for _, target := range []string{"GET /healthz", "GET /readyz", "POST /setup", "POST /step", "POST /destroy", "POST /pool_owner?pool=linux", "GET /v1/pools", "GET /v1/version"} {
		method, path, _ := strings.Cut(target, " ")
		resp := exchange(t, s.Handler(), method, path, `{"id":"x","pool_id":"linux","stage_runtime_id":"x","ip_address":"1"}`)
		if path == "/v1/version" {
			if body := bodyOf(t, resp); !strings.Contains(body, `"pending":["the store","pool.yml"]`) {
				t.Errorf("version: %s", body)
			}
			continue
		}
		golden(t, "starting/"+strings.Trim(strings.ReplaceAll(strings.SplitN(path, "?", 2)[0], "/", "_"), "_")+".txt", dump(t, resp))
	}
	s.SetService(delegateFake(), testPools)
	if resp := exchange(t, s.Handler(), "POST", "/setup", `{"id":"x","pool_id":"linux"}`); resp.StatusCode != http.StatusOK {
		t.Errorf("setup once the engine is there: %d", resp.StatusCode)
	}
	if resp := exchange(t, s.Handler(), "GET", "/readyz", ""); resp.StatusCode != http.StatusOK {
		t.Errorf("readyz once the engine is there: %d", resp.StatusCode)
	}
}
