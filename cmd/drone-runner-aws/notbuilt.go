package main

import "github.com/urfave/cli/v2"

// notBuilt are the commands of older runners that this one does not have, so
// that who types one is told why rather than that it is unknown.
func notBuilt() []*cli.Command {
	not := func(name, why string) *cli.Command {
		return &cli.Command{
			Name: name, Hidden: true, SkipFlagParsing: true, Usage: why,
			Action: func(c *cli.Context) error { return usagef(c, "%s: %s", name, why) },
		}
	}
	return []*cli.Command{
		not("exec", "out of scope: Drone pipelines are not run by this program"),
		not("compile", "out of scope: Drone pipelines are not compiled by this program"),
		not("daemon", "out of scope: this program serves a delegate, see drone-runner-aws delegate --help"),
		not("dlite", "out of scope: this program serves a delegate, see drone-runner-aws delegate --help"),
	}
}
