package main

import (
	"context"
	"log/slog"

	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// newAgent makes what talks to the agents in machines: a pretend agent for the
// machines of the pretend world, which answers while they live, and the client
// for all others, also for pretend machines that are processes. The returned
// function closes the client's connections.
func newAgent(cfg env.Config, world *noop.World, log *slog.Logger) (pool.Agent, func() error) {
	client := agentclient.New(agentclient.Config{Log: log, StartTotal: cfg.StartStepTimeout})
	mock := agentclient.NewMock(agentclient.MockConfig{
		StepTime: mockStep(cfg),
		Hook: func(_ context.Context, _ string, t pool.Target, _ string) error {
			return world.Alive(t.Instance)
		},
	})
	return &agentclient.Mux{
		All: []pool.Agent{client, mock},
		Choose: func(t pool.Target) pool.Agent {
			if world.Has(t.Instance) {
				return mock
			}
			return client
		},
	}, client.Close
}
