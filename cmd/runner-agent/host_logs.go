package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/internal/hostrunner"
)

// stepsEvery is how often a stage that is followed is looked at for new steps.
const stepsEvery = 500 * time.Millisecond

func logsCommand() *cli.Command {
	return &cli.Command{
		Name:      "logs",
		Usage:     "print what a step has printed, or all steps of a stage",
		ArgsUsage: "STAGE [STEP]",
		Description: "What was printed comes to stdout as it was; which step it is, is said on stderr. It is kept as\n" +
			"long as the stage and the runner's process are.\n\n" +
			"Examples:\n   runner-agent host logs STAGE\n   runner-agent host logs STAGE STEP\n   runner-agent host logs STAGE --follow        until the stage is destroyed",
		Flags: append([]cli.Flag{&cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on with what comes, until the end"}}, askFlags()...),
		Action: func(c *cli.Context) error {
			args, follow, err := logsArguments(c)
			if err != nil {
				return err
			}
			h, err := newHostCaller(c)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
			defer stop()
			if len(args) == 2 {
				err = h.log(ctx, args[0], args[1], follow, c.App.Writer)
			} else {
				err = h.logs(ctx, args[0], follow, c.App.Writer, c.App.ErrWriter)
			}
			if follow && errors.Is(err, context.Canceled) {
				return nil // following ends when it is interrupted
			}
			return err
		},
	}
}

// logsArguments are a stage and perhaps a step. Flags may stand behind them,
// where people write --follow.
func logsArguments(c *cli.Context) (args []string, follow bool, err error) {
	follow = c.Bool("follow")
	for _, a := range c.Args().Slice() {
		switch a {
		case "--follow", "-follow", "-f", "--f":
			follow = true
		default:
			if strings.HasPrefix(a, "-") {
				return nil, false, usageError{fmt.Errorf("%s stands before the stage; see runner-agent host logs --help", a)}
			}
			args = append(args, a)
		}
	}
	if len(args) < 1 || len(args) > 2 {
		return nil, false, usageError{errors.New("give a stage, and a step or none; see runner-agent host logs --help")}
	}
	return args, follow, nil
}

// log prints what one step has printed.
func (h hostCaller) log(ctx context.Context, stage, step string, follow bool, w io.Writer) error {
	body, err := h.open(ctx, fmt.Sprintf("%s%s/steps/%s/log?follow=%t", hostrunner.PathStages, url.PathEscape(stage), url.PathEscape(step), follow))
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err = io.Copy(w, body); err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// logs prints what all steps of a stage have printed, in the order of their
// start; with follow also those that start later, until the stage is gone.
func (h hostCaller) logs(ctx context.Context, stage string, follow bool, w, told io.Writer) error {
	tick := time.NewTicker(stepsEvery)
	defer tick.Stop()
	for printed := 0; ; {
		var s hostrunner.Steps
		_, err := h.ask(ctx, hostrunner.PathStages+url.PathEscape(stage)+"/steps", &s)
		if _, gone := errors.AsType[notThereError](err); gone && printed > 0 {
			return nil // it was destroyed
		}
		if err != nil {
			return err
		}
		for _, step := range s.Steps[min(printed, len(s.Steps)):] {
			_, _ = fmt.Fprintf(told, "--- %s\n", step.ID) // what matters goes to w
			err := h.log(ctx, stage, step.ID, follow, w)
			if _, gone := errors.AsType[notThereError](err); gone {
				_, err = fmt.Fprintln(told, err) // it ran before the runner was started again; others did not
			}
			if err != nil {
				return err
			}
			printed++
		}
		if !follow {
			if printed == 0 {
				_, _ = fmt.Fprintf(told, "stage %s has run no step yet\n", stage) // likewise
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
