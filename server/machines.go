package server

import (
	"context"
	"time"

	"github.com/vm-runner/drone-runner-aws/pool"
)

// machinesEvery is how often the addresses of machines are read. A machine has
// its address while it boots, which takes longer, and before anything of a
// caller runs on it.
const machinesEvery = 5 * time.Second

// watchMachines keeps machines out of the allow-list until ctx ends. Where
// only this host may call there is nothing to keep out. While the store does
// not answer, what was known stays.
func (s *Server) watchMachines(ctx context.Context) {
	tick := time.NewTicker(machinesEvery)
	defer tick.Stop()
	for {
		if s.c.Allow.BeyondLoopback() {
			s.readMachines(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Server) readMachines(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, machinesEvery)
	defer cancel()
	live, err := s.service().Instances(ctx, pool.InstanceQuery{Live: true})
	if err != nil {
		s.log.DebugContext(ctx, "addresses of machines not read", "err", err)
		return
	}
	addresses := make([]string, 0, len(live))
	for _, i := range live {
		if i.Address != "" {
			addresses = append(addresses, i.Address)
		}
	}
	s.c.Allow.setMachines(addresses)
}
