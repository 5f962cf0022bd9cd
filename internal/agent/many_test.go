//go:build unix

package agent_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/dockertest"
)

// many is how many steps run at once in these tests.
const many = 200

// running says how many steps have begun and not ended.
func (r *rig) running() int {
	res, _ := r.agent.Health()
	return res.RunningSteps
}

func TestTwoHundredStepsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(agentapi.SetupRequest{})
	gate := r.path("gate")
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			id := "s" + strconv.Itoa(i)
			res := r.run(sh(id, fmt.Sprintf("echo a %d; while ! [ -e %s ]; do sleep 1; done; printf 'last %d'; exit %d", i, gate, i, i%7)))
			if out := r.output(id); res.ExitCode != i%7 || out != fmt.Sprintf("a %d\nlast %d", i, i) {
				t.Errorf("%s: result %+v, output %q", id, res, out)
			}
		})
	}
	eventually(t, "all steps at once", func() bool { return r.running() == many })
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

func TestTwoHundredContainersAtOnce(t *testing.T) {
	t.Parallel()
	steps := many
	if raceEnabled {
		steps /= 4
	}
	r, fake := dockerRig(t)
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	fake.Run(func(c *dockertest.FakeContainer) int {
		c.Print(1, "first\n")
		<-gate
		c.Print(1, "last of "+c.Name)
		return len(c.Name)
	})
	var wg sync.WaitGroup
	for i := range steps {
		wg.Go(func() {
			s := in("s" + strconv.Itoa(i))
			s.LogDrone = true
			res := r.run(s)
			if out := r.output(s.ID); res.ExitCode != len(s.ID) || !strings.HasSuffix(out, "first\nlast of "+s.ID) {
				t.Errorf("%s: result %+v, output %q", s.ID, res, out)
			}
		})
	}
	waited(t, fake, steps)
	open()
	wg.Wait()
	r.destroy()
	left(t, fake)
}

func TestDestroyEndsTwoHundredStepsTogether(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.setup(agentapi.SetupRequest{})
	file := r.path("pids")
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			s := sh("s"+strconv.Itoa(i), "trap '' TERM; echo $$ >> "+file+"; while :; do sleep 300; done")
			s.Detach = i%2 == 0
			r.start(s)
		})
	}
	wg.Wait()
	pids := r.pids(file, many)
	if res := r.destroy(); len(res.Leftover) > 0 {
		t.Errorf("destroy left %s", strings.Join(res.Leftover, "; "))
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d outlives the destroy", pid)
		}
	}
	if n := r.running(); n > 0 {
		t.Errorf("%d steps still run", n)
	}
}
