package agent_test

import (
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/testhost"
)

func TestADaemonThatLeftItsSessionAndParentsIsFound(t *testing.T) {
	t.Parallel()
	testhost.Program(t, "setsid", "util-linux")
	r := newRig(t)
	r.setup(agentapi.SetupRequest{})
	r.run(sh("s", "(setsid sh -c '(sleep 300 & echo $! > "+r.path("pid")+")' >/dev/null 2>&1 </dev/null &)"))
	pids := r.pids(r.path("pid"), 1)
	r.destroy()
	r.gone(pids)
}
