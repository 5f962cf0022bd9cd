package main

import (
	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/drivers/noop"
)

// noopMachineCommand is what the noop driver starts for a machine with
// `process: true`. It is nothing for people.
func (p *program) noopMachineCommand() *cli.Command {
	return &cli.Command{
		Name:   "noop-machine",
		Hidden: true,
		Usage:  "be a pretend machine; started by the noop driver",
		Flags:  []cli.Flag{&cli.StringFlag{Name: "dir", Required: true, Usage: "`FOLDER` of the machine"}},
		Action: func(c *cli.Context) error { return noop.MachineMain(c.Context, c.String("dir")) },
	}
}
