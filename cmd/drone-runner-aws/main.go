// Command drone-runner-aws keeps pools of virtual machines warm and hands them
// out: delegate serves the API, the other commands look at a pool file, at a
// running runner, or make images of local machines.
//
// It reads flags and variables, wires the packages together, and chooses the
// exit code: 0 done, 1 failed, 2 wrong usage. It has no other rules of its own.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/vm-runner/drone-runner-aws/internal/env"
)

func main() {
	sandboxed()
	// The first signal ends the context, the second one the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// program is what every command is given.
type program struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	// env is the environment with the files merged in; envErr what was wrong
	// in it, which only the commands that use the values report.
	env    env.Result
	envErr error
}

// run is the whole program: results go to stdout, everything else to stderr.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{stdin: stdin, stdout: stdout, stderr: stderr}
	app := p.app()
	args = flagsFirst(app, args)
	if err := p.loadEnvironment(args); err != nil {
		return p.report(err)
	}
	return p.report(app.RunContext(ctx, args))
}

// loadEnvironment merges the files into the process environment before any
// flag looks at it, so that a flag's variable may stand in a file, and so that
// libraries which read the environment themselves see them.
func (p *program) loadEnvironment(args []string) error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "" // a label only
	}
	p.env, p.envErr = env.Load(env.Options{
		Environ: os.Environ(), Dir: dir, Hostname: host, EnvFile: envFile(args),
	})
	for name, value := range p.env.Added {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}
