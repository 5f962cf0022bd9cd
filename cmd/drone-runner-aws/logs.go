package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

func (p *program) logsCommand() *cli.Command {
	return &cli.Command{
		Name:      "logs",
		Usage:     "print the output of a step, or of all steps of a stage",
		ArgsUsage: "LEASE [STEP]",
		Description: `The output comes to stdout as it was printed; which step it is, is said on stderr.

   drone-runner-aws logs aKx3dQ4nT6-1
   drone-runner-aws logs aKx3dQ4nT6-1 step1 --follow`,
		Flags: []cli.Flag{followFlag(), dataDirFlag(), socketFlag(), urlFlag()},
		Action: func(c *cli.Context) error {
			if c.NArg() < 1 || c.NArg() > 2 {
				return usagef(c, "give a lease, and a step or none")
			}
			lease, step, follow := c.Args().Get(0), c.Args().Get(1), c.Bool("follow")
			return p.ask(c, func(ctx context.Context, runner *client.Client) error {
				var err error
				if step != "" {
					_, err = runner.StepLog(ctx, lease, step, 0, follow, p.stdout)
				} else {
					err = p.allLogs(ctx, runner, lease, follow)
				}
				if follow && errors.Is(err, context.Canceled) {
					return nil // following ends when it is interrupted
				}
				return err
			})
		},
	}
}

// noSteps says why nothing was printed, and what to type instead.
func noSteps(l api.Lease) string {
	if l.Ended != nil {
		return fmt.Sprintf("%s has ended, and the output of its steps went with its machine", l.ID)
	}
	return fmt.Sprintf("no step of %s was started or asked for since this runner started; its machine knows older ones by name: drone-runner-aws logs %s STEP", l.ID, l.ID)
}

// allLogs prints the output of every step in the order of their start; with
// follow also of those that start later, until the lease has ended.
func (p *program) allLogs(ctx context.Context, runner *client.Client, lease string, follow bool) error {
	printed := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		steps, err := runner.Steps(ctx, lease)
		if err != nil {
			return err
		}
		for _, s := range steps[min(printed, len(steps)):] {
			fmt.Fprintf(p.stderr, "--- %s\n", s.ID)
			if _, err := runner.StepLog(ctx, lease, s.ID, 0, follow, p.stdout); err != nil {
				return err
			}
			printed++
		}
		if !follow && printed > 0 {
			return nil
		}
		l, err := runner.Lease(ctx, lease)
		if err != nil {
			return err
		}
		if !follow {
			fmt.Fprintln(p.stderr, noSteps(l))
			return nil
		}
		if l.Ended != nil && printed >= len(steps) {
			return nil
		}
		timer.Reset(eventsEvery)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
	}
}
