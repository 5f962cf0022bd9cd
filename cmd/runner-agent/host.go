package main

import (
	"errors"

	"github.com/urfave/cli/v2"
)

func hostCommand() *cli.Command {
	return &cli.Command{
		Name:            "host",
		Usage:           "serve stages on this machine without virtual machines (not built in yet)",
		SkipFlagParsing: true,
		Action:          hostAction,
	}
}

func hostAction(*cli.Context) error {
	return usageError{errors.New("host: the local runner is not built in yet; `runner-agent server` is the agent inside a machine")}
}
