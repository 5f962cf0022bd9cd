//go:build unix

package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// breakOff makes a call and goes away when now is closed.
func (r *rig) breakOff(method, path, body string, now <-chan struct{}) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		res, err := r.client.Do(req)
		if err == nil {
			_, err = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close() // only read from
		}
		ended <- err
	}()
	<-now
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		r.t.Errorf("%s %s, broken off: %v", method, path, err)
	}
}

// held makes a route of the fake daemon wait: asked is closed when it is called
// first, and it goes on when goOn is called.
func held() (hook func(http.ResponseWriter, *http.Request) bool, asked chan struct{}, goOn func()) {
	asked, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	return func(http.ResponseWriter, *http.Request) bool {
		once.Do(func() { close(asked) })
		<-gate
		return false
	}, asked, sync.OnceFunc(func() { close(gate) })
}

// What a caller does that went away in the middle of a call is to call again, or
// to destroy the stage. Neither may find anything half done.
func TestAClientMayGoDuringEachCall(t *testing.T) {
	t.Parallel()
	network := agentapi.SetupRequest{Network: agentapi.Network{ID: "n1"}, Volumes: []agentapi.Volume{{Temp: &agentapi.TempVolume{ID: "v1", Name: "v"}}}}
	const setup = `{"network":{"id":"n1"},"volumes":[{"temp":{"id":"v1","name":"v"}}]}`
	for _, c := range []struct{ name, path, body, route string }{
		{"setup, while its volume is made", agentapi.PathSetup, setup, "POST /volumes/create"},
		{"setup, while its network is made", agentapi.PathSetup, setup, "POST /networks/create"},
		{"destroy, while containers are listed", agentapi.PathDestroy, `{}`, "GET /containers/json"},
		{"destroy, while the network is removed", agentapi.PathDestroy, `{}`, "DELETE /networks/{id}"},
		{"suspend", agentapi.PathSuspend, `{}`, "GET /containers/json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, fake := dockerRig(t)
			fake.Run(untilKilled)
			if c.path != agentapi.PathSetup {
				r.setup(network)
				s := in("service")
				s.Detach = true
				r.run(s)
			}
			hook, asked, goOn := held()
			t.Cleanup(goOn)
			fake.On(c.route, hook)
			r.breakOff(http.MethodPost, c.path, c.body, asked)
			goOn()
			var again any
			r.ok(c.path, json.RawMessage(c.body), &again)
			if c.path == agentapi.PathDestroy {
				left(t, fake)
				r.setup(network)
			}
			s := in("s1")
			s.Detach = true
			if got := r.run(s); got.Error != "" {
				t.Errorf("a step after it: %+v, output %q", got, r.output("s1"))
			}
			if res := r.destroy(); len(res.Leftover) > 0 {
				t.Errorf("destroy left %v", res.Leftover)
			}
			left(t, fake)
		})
	}
	t.Run("start of a step", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		s := sh("s", "echo ran >> "+r.path("count")+"; exit 3")
		body, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		for range 10 {
			ctx, cancel := context.WithCancel(t.Context())
			sent := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { cancel() }})
			req, err := http.NewRequestWithContext(sent, http.MethodPost, r.url+agentapi.PathStartStep, bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if res, err := r.client.Do(req); err == nil {
				_ = res.Body.Close() // only its end counts
			}
			cancel()
		}
		if got := r.run(s); got.ExitCode != 3 {
			t.Errorf("result %+v", got)
		}
		if got := r.read(r.path("count")); got != "ran\n" {
			t.Errorf("the step ran %d times", strings.Count(got, "\n"))
		}
	})
	t.Run("stream of a step", func(t *testing.T) {
		t.Parallel()
		r := newRig(t)
		gate := r.path("gate")
		r.start(sh("s", "echo first; while ! [ -e "+gate+" ]; do sleep 0.02; done; echo last"))
		r.shows("s", "first\n") // and goes
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := r.poll("s"); got.ExitCode != 0 {
			t.Errorf("result %+v", got)
		}
		if out := r.output("s"); out != "first\nlast\n" {
			t.Errorf("output %q", out)
		}
	})
	t.Run("health that tries the way out", func(t *testing.T) {
		t.Parallel()
		asked, ended := make(chan struct{}), make(chan struct{})
		var once sync.Once
		r := newRig(t, func(o *agent.Options) {
			o.CheckOut = func(ctx context.Context) error {
				once.Do(func() {
					close(asked)
					<-ctx.Done()
					close(ended)
				})
				return nil
			}
		})
		r.breakOff(http.MethodGet, agentapi.PathHealth+"?perform_dns_lookup=true", "", asked)
		<-ended
		if a := r.do(http.MethodGet, agentapi.PathHealth, ""); a.status != http.StatusOK {
			t.Errorf("health after it: %+v", a)
		}
	})
}
