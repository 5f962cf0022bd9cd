package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/amazon"
	"github.com/vm-runner/drone-runner-aws/drivers/anka"
	"github.com/vm-runner/drone-runner-aws/drivers/ankabuild"
	"github.com/vm-runner/drone-runner-aws/drivers/azure"
	"github.com/vm-runner/drone-runner-aws/drivers/digitalocean"
	"github.com/vm-runner/drone-runner-aws/drivers/google"
	"github.com/vm-runner/drone-runner-aws/drivers/nomad"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
	"github.com/vm-runner/drone-runner-aws/drivers/vmfusion"
	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// registrations lists the types of machines pool files may name. A new driver is
// one line here; of those without a driver yet only the keys are known. World is where pretend machines live; nil where none
// are made.
func registrations(cfg env.Config, world *noop.World) []drivers.Registration {
	regs := []drivers.Registration{
		qemu.Registration,
		noop.Registration(noop.Setup{World: world, StepTime: mockStep(cfg)}),

		amazon.Registration,
		anka.Registration,
		ankabuild.Registration,
		azure.Registration,
		digitalocean.Registration,
		google.Register(google.Setup{Endpoint: cfg.GoogleEndpoint, Ingress: cfg.AgentIngress}),
		nomad.Registration,
		vmfusion.Registration,
	}
	for i := range regs {
		regs[i].Check = checkScript(regs[i].Check)
	}
	return regs
}

// mockStep is how long a step of a pretend agent takes.
func mockStep(cfg env.Config) time.Duration {
	if !cfg.MockAgent {
		return 0
	}
	return time.Duration(cfg.MockStepSeconds) * time.Second
}

// opener makes the drivers of pools.
type opener struct {
	regs    []drivers.Registration
	dataDir string
	log     *slog.Logger
	// network, if set, is told of the networks of local machines.
	network func(netip.Prefix)

	// lasting and passing are the opened pools whose machines live on this
	// host, and outlive this process or do not.
	lasting, passing []string
}

// open makes the driver of a pool: of one from the file with its decoded
// spec, of a retired one from the JSON the store kept.
func (o *opener) open(p pool.PoolConfig) (pool.Opened, error) {
	reg, ok := find(o.regs, p.Driver)
	if !ok || reg.New == nil {
		return pool.Opened{}, fmt.Errorf("type %q is not built into this program", p.Driver)
	}
	if p.Spec == nil {
		spec, err := restore(reg, &p, o.log)
		if err != nil {
			return pool.Opened{}, err
		}
		p.Spec = spec
	}
	d, err := reg.New(drivers.Options{
		Pool: p.Name, Platform: p.Platform, Config: p.Spec, DataDir: o.dataDir, Limit: p.Max,
		Log: o.log.With("pool", p.Name),
	})
	if err != nil {
		return pool.Opened{}, err
	}
	// The client names pool and driver in its records itself.
	client := drivers.NewClient(d, drivers.ClientOptions{Pool: p.Name, Type: reg.Name, Dies: reg.Dies, Log: o.log})
	opened := pool.Opened{Client: client, Local: reg.Local}
	if r, ok := p.Spec.(drivers.Resolver); ok {
		opened.Image, opened.MachineType, opened.DiskGiB = r.Resolved()
	}
	switch cfg := p.Spec.(type) {
	case *qemu.Config:
		// Machines that boot share this host's processors.
		opened.Concurrency = max(2, runtime.NumCPU())
		if network, err := netip.ParsePrefix(cfg.AddressRange); err == nil && o.network != nil {
			o.network(network) // the driver has refused what is none
		}
	case *noop.Config:
		// Nothing runs in a pretend machine that could miss these.
		opened.Nested, opened.GPU = true, true
	}
	switch {
	case client.Dies():
		o.passing = append(o.passing, p.Name)
	case reg.Local:
		o.lasting = append(o.lasting, p.Name)
	}
	return opened, nil
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
