package agent

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
	"github.com/vm-runner/drone-runner-aws/internal/agent/containers"
)

const (
	// containersTime bounds the removal of a stage's containers, networks and
	// volumes.
	containersTime = 2 * time.Minute
	// closeDockerTime bounds the same when the agent ends. What is left then is
	// removed by its next run.
	closeDockerTime = 10 * time.Second
	// sweepPause is the time between two tries to remove what killed agents have
	// left.
	sweepPause = 10 * time.Second
)

// openDocker makes the agent's engine of containers, which will remove what dead
// runs have left. Nothing is asked of the daemon.
func (a *Agent) openDocker(dead []deadRun) {
	e, err := containers.New(containers.Config{
		Host:          a.opts.DockerHost,
		Env:           a.opts.Env,
		Owner:         a.state.id,
		Prefix:        a.opts.ContainerPrefix,
		Labels:        a.opts.ContainerLabels,
		NetworkDriver: a.opts.NetworkDriver,
		Mounts:        a.opts.ContainerMounts,
		Note:          a.state.noteContainers,
		Reclaim:       a.opts.ReclaimNetworks,
		Patience:      a.opts.DockerPatience,
		Log:           a.opts.Log,
	})
	if err != nil {
		a.noDocker = err
		a.opts.Log.Warn("steps in containers cannot be run", "err", err)
		return
	}
	for _, d := range dead {
		e.Adopt(d.id, func() { d.forget(a.opts.Log) })
	}
	a.docker = e
}

// newStageLocked begins a table of steps. The caller holds the agent's lock, or
// is its only user.
func (a *Agent) newStageLocked() *stage {
	a.stages++
	st := &stage{steps: make(map[string]*step), log: &stageLog{}}
	if a.docker != nil {
		st.containers = a.docker.Stage(strconv.Itoa(a.stages))
	}
	return st
}

// nextStage is the stage a setup is for: the present one, or after a destroy
// another.
func (a *Agent) nextStage() *stage {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stage.destroyed {
		return a.newStageLocked()
	}
	return a.stage
}

// setupContainers makes a setup's volumes and network, if there is a daemon. A
// setup that fails leaves none behind, unless steps run that may use them.
func (a *Agent) setupContainers(ctx context.Context, st *stage, req *agentapi.SetupRequest) error {
	if a.docker == nil {
		if hasVolumes(req) {
			return a.noDocker
		}
		return nil
	}
	a.mu.Lock()
	lease := a.use.Of
	a.mu.Unlock()
	st.containers.For(lease)
	if !hasVolumes(req) && a.dockerState() == agentapi.DockerAbsent {
		return nil
	}
	err := st.containers.Setup(ctx, req)
	if err == nil {
		return nil
	}
	a.mu.Lock()
	idle := len(st.steps) == 0
	a.mu.Unlock()
	if idle {
		err = errors.Join(err, a.destroyContainers(ctx, st))
	}
	return err
}

// hasVolumes says whether a setup has volumes only a container daemon can make.
func hasVolumes(req *agentapi.SetupRequest) bool {
	for _, v := range req.Volumes {
		if v.Temp != nil && v.Temp.Medium != agentapi.MediumMemory {
			return true
		}
	}
	return false
}

// destroyContainers removes everything made for a stage. It goes on when its
// caller has gone: nobody else would.
func (a *Agent) destroyContainers(ctx context.Context, st *stage) error {
	if st.containers == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), containersTime)
	defer cancel()
	if err := st.containers.Destroy(ctx); err != nil {
		return fmt.Errorf("containers: %w", err)
	}
	return nil
}

// sweepNow removes what killed agents have left, as far as it can be found now.
func (a *Agent) sweepNow(ctx context.Context) error {
	if a.docker == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), containersTime)
	defer cancel()
	if _, err := a.docker.Sweep(ctx); err != nil {
		return fmt.Errorf("containers of a killed agent: %w", err)
	}
	return nil
}

// closeDocker removes what is left of the last stage.
func (a *Agent) closeDocker(st *stage) error {
	if st.containers == nil {
		return nil
	}
	// Whoever ends the agent has no context for what must be done before.
	ctx, cancel := context.WithTimeout(context.Background(), closeDockerTime)
	defer cancel()
	defer a.docker.Close()
	return a.destroyContainers(ctx, st)
}

// SweepContainers removes what killed agents with this state directory have
// left, and returns when nothing is left or ctx ends. [Agent.Serve] does so.
func (a *Agent) SweepContainers(ctx context.Context) {
	if a.docker == nil {
		return
	}
	said := false
	for {
		pending, err := a.docker.Sweep(ctx)
		if err == nil && pending == 0 || ctx.Err() != nil {
			return
		}
		if err != nil && !said {
			a.opts.Log.WarnContext(ctx, "containers of a killed agent cannot be removed yet", "err", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(sweepPause):
		}
	}
}

// Suspend prepares for a suspension of the machine: containers that have ended
// and have all the labels are removed; without labels, the agent's own.
func (a *Agent) Suspend(ctx context.Context, req *agentapi.SuspendRequest) error {
	if a.docker == nil || a.dockerState() == agentapi.DockerAbsent {
		return nil // there are none
	}
	if err := a.docker.RemoveExited(ctx, req.Labels); err != nil {
		return fmt.Errorf("failed to list stopped plugin containers: %w", err) // callers know the text
	}
	return nil
}

// dockerState tells whether there is a Docker daemon to talk to, without
// talking to it.
func (a *Agent) dockerState() string {
	if a.docker != nil && containers.Present(containers.Host(a.opts.DockerHost, a.opts.Env)) {
		return agentapi.DockerPresent
	}
	return agentapi.DockerAbsent
}
