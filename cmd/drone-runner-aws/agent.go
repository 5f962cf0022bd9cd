package main

import (
	"log/slog"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentclient"
	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// pretendAddress is that of every machine which exists only in this process:
// machines of type noop without `process: true`. Real ones never have it, each
// local machine has a loopback address of its own.
const pretendAddress = "127.0.0.1"

// newAgent makes what talks to the agents in machines: a pretend agent for
// pretend machines, the client for all others. The returned function closes
// the client's connections.
func newAgent(cfg env.Config, log *slog.Logger) (pool.Agent, func() error) {
	client := agentclient.New(agentclient.Config{Log: log, StartTotal: cfg.StartStepTimeout})
	mock := agentclient.NewMock(agentclient.MockConfig{StepTime: mockStep(cfg)})
	return &agentclient.Mux{
		All: []pool.Agent{client, mock},
		Choose: func(t pool.Target) pool.Agent {
			if t.Address == pretendAddress {
				return mock
			}
			return client
		},
	}, client.Close
}
