package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/internal/loadgen"
)

func (p *program) testerCommand() *cli.Command {
	return &cli.Command{
		Name:  "tester",
		Usage: "put load on a running runner and say how long each phase takes",
		Description: `Each cycle is one stage: setup, a step if --command names one, destroy. Without
--rate it is a closed loop: --scale clients, each waiting for its answers. With
--rate it is an open loop: so many cycles are begun a second whatever the answers
take, and a latency counts from when its cycle was due.

   drone-runner-aws tester --pool pretend --scale 8 --loop 100
   drone-runner-aws tester --pool pretend --rate 200 --duration 30s --json
   drone-runner-aws tester --pool local --scale 2 --loop 5 --command true`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "pool", Usage: "the `POOL` to ask for", EnvVars: []string{"RUNNER_TESTER_POOL"}},
			&cli.IntFlag{Name: "scale", Usage: "`N` clients at a time", Value: 1, EnvVars: []string{"RUNNER_TESTER_SCALE"}},
			&cli.IntFlag{Name: "loop", Usage: "`N` cycles of each client", Value: 1, EnvVars: []string{"RUNNER_TESTER_LOOP"}},
			&cli.Float64Flag{Name: "rate", Usage: "begin `N` cycles a second (an open loop)", EnvVars: []string{"RUNNER_TESTER_RATE"}},
			&cli.DurationFlag{Name: "duration", Usage: "go on for this `TIME` instead of a number of cycles", EnvVars: []string{"RUNNER_TESTER_DURATION"}},
			&cli.StringFlag{Name: "command", Usage: "run this shell `COMMAND` as the step of each cycle", EnvVars: []string{"RUNNER_TESTER_COMMAND"}},
			&cli.DurationFlag{Name: "hold", Usage: "keep each machine for this `TIME`", EnvVars: []string{"RUNNER_TESTER_HOLD"}},
			&cli.BoolFlag{Name: "unique", Usage: "check that no machine is given to two stages", EnvVars: []string{"RUNNER_TESTER_UNIQUE"}},
			&cli.DurationFlag{Name: "timeout", Usage: "deadline of each request", DefaultText: "1000s", EnvVars: []string{"RUNNER_TESTER_TIMEOUT"}},
			jsonFlag(), urlFlag(), envFileFlag(),
		},
		Action: p.tester,
	}
}

func (p *program) tester(c *cli.Context) error {
	if c.String("pool") == "" {
		return usagef(c, "name the pool to ask for: drone-runner-aws tester --pool local")
	}
	if c.Int("scale") < 1 || c.Int("loop") < 1 {
		return usagef(c, "--scale and --loop are 1 at least")
	}
	cfg := loadgen.Config{
		URL: p.url(c), Pool: c.String("pool"), Clients: c.Int("scale"), Rate: c.Float64("rate"),
		Duration: c.Duration("duration"), Command: c.String("command"), Hold: c.Duration("hold"),
		Timeout: c.Duration("timeout"), Unique: c.Bool("unique"),
	}
	if cfg.Duration == 0 || c.IsSet("loop") {
		cfg.Cycles = c.Int("scale") * c.Int("loop")
	}
	if isTerminal(p.stderr) {
		cfg.Progress = func(g loadgen.Progress) {
			fmt.Fprintf(p.stderr, "\r%6.1f s  %d done, %d failed, %d going, %.0f a second   ", g.Elapsed.Seconds(), g.Done, g.Failed, g.InFlight, g.PerSecond)
		}
	}
	report, err := loadgen.Run(c.Context, cfg)
	if err != nil {
		return usageError{err, c.Command.HelpName}
	}
	if cfg.Progress != nil {
		fmt.Fprintln(p.stderr)
	}
	if c.Bool("json") {
		err = p.json(report)
	} else {
		err = report.Print(p.stdout)
	}
	switch {
	case err != nil:
		return err
	case report.Failed > 0:
		return fmt.Errorf("%d of %d cycles failed", report.Failed, report.Cycles)
	case report.Doubles != nil && *report.Doubles > 0:
		return fmt.Errorf("%d machines were given to two stages at a time", *report.Doubles)
	case c.Context.Err() != nil:
		return errors.New("interrupted; every machine was given back")
	default:
		return nil
	}
}
