//go:build unix

package agent_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

func TestSetupsThatFailLeaveNothing(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	fake.On("POST /networks/create", func(w http.ResponseWriter, _ *http.Request) bool {
		dockertest.Fail(w, http.StatusNotFound, `plugin "nat" not found`)
		return true
	})
	for range 20 {
		a := r.post(agentapi.PathSetup, `{"network":{"id":"n1"},"volumes":[{"temp":{"id":"v1","name":"v"}}]}`)
		if a.status != http.StatusInternalServerError || !strings.Contains(a.body, `plugin \"nat\" not found`) || !strings.Contains(a.body, "set NETWORK_DRIVER") {
			t.Fatalf("setup: %+v", a)
		}
	}
	left(t, fake)
}

func TestNetworksOfNobodyAreFreedWhenThereAreNoAddressesLeft(t *testing.T) {
	t.Parallel()
	const text = "Error response from daemon: could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network"
	for _, c := range []struct {
		name  string
		freed int
		tries int
		ok    bool
	}{{"some were freed", 2, 2, true}, {"there are none", 0, 1, false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			tries, reclaims := 0, 0
			r, fake := dockerRig(t, func(o *agent.Options) {
				o.ReclaimNetworks = func(context.Context) (int, error) {
					mu.Lock()
					defer mu.Unlock()
					reclaims++
					return c.freed, nil
				}
			})
			fake.On("POST /networks/create", func(w http.ResponseWriter, _ *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if tries++; tries > 1 {
					return false
				}
				dockertest.Fail(w, http.StatusInternalServerError, text)
				return true
			})
			a := r.post(agentapi.PathSetup, `{"network":{"id":"n1"}}`)
			if (a.status == http.StatusOK) != c.ok || tries != c.tries || reclaims != 1 {
				t.Errorf("setup: %+v after %d tries and %d times of freeing", a, tries, reclaims)
			}
			if !c.ok && (!strings.Contains(a.body, text) || !strings.Contains(a.body, "there are 0 networks, 0 of them of running stages")) {
				t.Errorf("error %s", a.body)
			}
		})
	}
}

// TestADaemonThatListsMoreThanItIsAskedForLosesNothingOfOthers: Podman lists
// volumes that have one of the labels, not all of them.
func TestADaemonThatListsMoreThanItIsAskedForLosesNothingOfOthers(t *testing.T) {
	t.Parallel()
	r, fake := dockerRig(t)
	const other = `"Id":"other","Name":"other","Labels":{"org.vmrunner.owner":"somebody","org.vmrunner.stage":"1"}`
	for route, list := range map[string]string{
		"GET /containers/json": `[{` + other + `}]`, "GET /networks": `[{` + other + `}]`, "GET /volumes": `{"Volumes":[{` + other + `}]}`,
	} {
		fake.On(route, func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write([]byte(list)) // the client tells
			return true
		})
	}
	for _, route := range []string{"DELETE /containers/{id}", "DELETE /networks/{id}", "DELETE /volumes/{id}"} {
		fake.On(route, func(_ http.ResponseWriter, req *http.Request) bool {
			t.Errorf("%s %s", req.Method, req.URL.Path)
			return false
		})
	}
	r.setup(agentapi.SetupRequest{Network: agentapi.Network{ID: "net1"}, Volumes: []agentapi.Volume{{Temp: &agentapi.TempVolume{ID: "vol1", Name: "v"}}}})
	if res := r.destroy(); len(res.Leftover) > 0 {
		t.Errorf("destroy left %v", res.Leftover)
	}
	want := []string{"network net1", "volume vol1"} // what the lists have hidden
	if got := fake.Objects(); !slices.Equal(got, want) {
		t.Errorf("objects %v, want %v", got, want)
	}
}
