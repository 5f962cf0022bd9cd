//go:build unix

package interop_test

import (
	"encoding/json"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
)

// proxied is a spec whose machines go out through a proxy.
type proxied struct{ noop.Config }

const proxy = "http://proxy.example.com:3128"

func (*proxied) Proxy(string, []string) string { return proxy }
func (*proxied) Proxies() []string             { return []string{proxy} }

// The runner knows a machine's proxy, a setup brings the stage's user, and the
// agent puts the two together for that stage's steps.
func TestAProxyAndItsUserReachTheStepsOfAStage(t *testing.T) {
	t.Parallel()
	r := newRunner(t, &proxied{}, func(id drivers.Identity) *net.TCPAddr {
		addr, err := net.ResolveTCPAddr("tcp", newOurAgentWith(t, id.ServerName, id.CACert, id.Cert, id.Key).addr)
		if err != nil {
			t.Error(err)
		}
		return addr
	})
	r.setup("alice", `{"egress_policy":{"username":"alice","password":"p@ss"}}`)
	r.setup("nobody", `{}`)
	for name, tt := range map[string]struct{ stage, more, want string }{
		"the stage's user":  {"alice", "", "http://alice:p%40ss@proxy.example.com:3128"},
		"the step's own":    {"alice", `"egress_policy":{"username":"bob","password":"x"},`, "http://bob:x@proxy.example.com:3128"},
		"a variable it set": {"alice", `"environment":{"https_proxy":"http://mine"},`, "http://mine"},
		"no user at all":    {"nobody", "", proxy},
	} {
		body := `{"id":"` + name + `",` + tt.more + `"working_dir":"/tmp","output_vars":["P"],"run":{"entrypoint":["sh","-c"],"commands":["P=$https_proxy; export P"]}}`
		var got struct{ Outputs map[string]string }
		if err := json.Unmarshal([]byte(r.mustStep(tt.stage, body)), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{"P": tt.want}, got.Outputs); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
