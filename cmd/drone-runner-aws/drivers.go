package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// registrations lists the types of machines this program was built with. A new
// driver is one line here.
func registrations(cfg env.Config) []drivers.Registration {
	return []drivers.Registration{
		qemu.Registration,
		noop.Registration(noop.Setup{StepTime: mockStep(cfg)}),
	}
}

// mockStep is how long a step of a pretend agent takes.
func mockStep(cfg env.Config) time.Duration {
	if !cfg.MockAgent {
		return 0
	}
	return time.Duration(cfg.MockStepSeconds) * time.Second
}

// opener makes the driver of a pool: of one from the file with its decoded
// spec, of a retired one from the JSON the store kept.
func opener(regs []drivers.Registration, dataDir string, log *slog.Logger) func(pool.PoolConfig) (pool.Opened, error) {
	return func(p pool.PoolConfig) (pool.Opened, error) {
		reg, ok := find(regs, p.Driver)
		if !ok {
			return pool.Opened{}, fmt.Errorf("type %q is not built into this program", p.Driver)
		}
		if p.Spec == nil {
			spec, err := restore(reg, &p, log)
			if err != nil {
				return pool.Opened{}, err
			}
			p.Spec = spec
		}
		log := log.With("pool", p.Name, "driver", p.Driver)
		d, err := reg.New(drivers.Options{
			Pool: p.Name, Platform: p.Platform, Config: p.Spec, DataDir: dataDir, Limit: p.Max, Log: log,
		})
		if err != nil {
			return pool.Opened{}, err
		}
		o := pool.Opened{
			Client: drivers.NewClient(d, drivers.ClientOptions{Pool: p.Name, Type: reg.Name, Log: log}),
			Local:  reg.Local,
		}
		if r, ok := p.Spec.(drivers.Resolver); ok {
			o.Image, o.MachineType, o.DiskGiB = r.Resolved()
		}
		return o, nil
	}
}

func find(regs []drivers.Registration, name string) (drivers.Registration, bool) {
	for _, r := range regs {
		if r.Name == name {
			return r, true
		}
	}
	return drivers.Registration{}, false
}

// restore decodes the last spec of a pool that left the file. What this
// version of the program does not know any more of it is worth a line in the
// log, and no reason to leave the pool's machines alone.
func restore(reg drivers.Registration, p *pool.PoolConfig, log *slog.Logger) (any, error) {
	spec := reg.NewConfig()
	findings, err := drivers.DecodeJSON(p.SpecJSON, spec)
	if err != nil {
		return nil, fmt.Errorf("last spec of retired pool: %w", err)
	}
	for _, f := range findings {
		log.Warn("last spec of a retired pool", "pool", p.Name, "path", f.Path, "finding", f.Message)
	}
	if reg.Check == nil {
		return spec, nil
	}
	for _, problem := range reg.Check(spec, &p.Platform) {
		if !problem.Warning {
			return nil, fmt.Errorf("last spec of retired pool: %s: %s", problem.Path, problem.Message)
		}
	}
	return spec, nil
}
