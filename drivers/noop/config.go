package noop

import (
	"fmt"
	"math"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Config is the `spec` of a pool of type noop. The zero value is valid:
// instant machines in this process, as many as wanted.
type Config struct {
	CreateDelay  time.Duration `spec:"create_delay" default:"0s" min:"0s" doc:"time until the pretend cloud accepts a machine"`
	BootDelay    time.Duration `spec:"boot_delay" default:"0s" min:"0s" doc:"time from there until its agent answers; also after a resume"`
	DestroyDelay time.Duration `spec:"destroy_delay" default:"0s" min:"0s" doc:"time until a destroyed machine is gone"`
	FailRate     float64       `spec:"fail_rate" default:"0" min:"0" max:"1" doc:"share of creations, 0 to 1, that fail with a transient error; which ones follows from the machine's name"`
	Capacity     int           `spec:"capacity" default:"0" min:"0" doc:"most machines at a time in the pretend cloud of this pool, 0 for no bound; above it a creation fails with no capacity"`
	Hibernate    bool          `spec:"hibernate" default:"false" doc:"suspend warm machines and resume them when claimed"`
	Process      bool          `spec:"process" default:"false" doc:"make each machine a child process that survives the runner"`
}

// check reports every value out of its range.
func check(cfg any, _ *drivers.Platform) []drivers.Problem {
	c, ok := cfg.(*Config)
	if !ok {
		return []drivers.Problem{{Message: fmt.Sprintf("the configuration is a %T, not a *noop.Config", cfg)}}
	}
	var ps []drivers.Problem
	for _, d := range []struct {
		path  string
		value time.Duration
	}{
		{"create_delay", c.CreateDelay},
		{"boot_delay", c.BootDelay},
		{"destroy_delay", c.DestroyDelay},
	} {
		if d.value < 0 {
			ps = append(ps, drivers.Problem{Path: d.path, Message: fmt.Sprintf("%v is below zero; give a duration such as 1.5s or 2m", d.value)})
		}
	}
	if math.IsNaN(c.FailRate) || c.FailRate < 0 || c.FailRate > 1 {
		ps = append(ps, drivers.Problem{Path: "fail_rate", Message: fmt.Sprintf("%v is not between 0 and 1; 0.1 fails every tenth creation", c.FailRate)})
	}
	if c.Capacity < 0 {
		ps = append(ps, drivers.Problem{Path: "capacity", Message: fmt.Sprintf("%d is below zero; 0 means no bound", c.Capacity)})
	}
	return ps
}

// Hibernates says whether warm machines wait suspended; see [drivers.Sleeper].
func (c *Config) Hibernates() bool { return c.Hibernate }

// Setup is what is not in the pool file. The zero value is right for a
// runner's registration.
type Setup struct {
	// World is where machines without `process` live. Nil: one of its own per
	// registration. Tests share one between driver objects, so that a driver
	// dies and its cloud does not.
	World *World
	// Faults, if set, are asked before and after every call.
	Faults *Faults
	// Binary is what a child process executes, with the arguments
	// "noop-machine --dir DIR". Empty: the running program.
	Binary string
	// StepTime is how long a pretend step of a child takes. Zero: it ends at once.
	StepTime time.Duration
}

// Registration describes the driver to cmd. All drivers made from one
// registration share one World.
//
// Dies is set, since it is so by default; whether it holds for one pool
// depends on its `process` key and is told by the driver ([drivers.Ephemeral]).
func Registration(s Setup) drivers.Registration {
	if s.World == nil {
		s.World = NewWorld()
	}
	return drivers.Registration{
		Name:      "noop",
		NewConfig: func() any { return new(Config) },
		Check:     check,
		Tenants:   true, // so that they can be tried without a cloud
		New: func(o drivers.Options) (drivers.Driver, error) {
			return New(o, s)
		},
		Local: true,
		Dies:  true,
	}
}
