// Command runner-agent is the program inside a machine that runs its steps. A
// copy named lite-engine-<os>-<arch> is the same program.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
)

// version is set by the build.
var version = "dev"

// Exit codes: 0 done, 1 failed, 2 wrong usage or asking for what is not there.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a wrong call of the program.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	os.Exit(run(context.Background(), os.Args, os.Stdout, os.Stderr))
}

// run is the program; it alone chooses the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	app := newApp(args, stdout, stderr) //nolint:contextcheck // commands get it from the library, see RunContext
	err := app.RunContext(ctx, withDefaultCommand(args, os.Getpid()))
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "runner-agent: %v\n", err) // nowhere else to say it
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// withDefaultCommand makes a kernel's first process, which is given no
// arguments or only the kernel's own, run init.
func withDefaultCommand(args []string, pid int) []string {
	if pid == 1 && (len(args) < 2 || args[1] != "init") {
		return []string{args[0], "init"}
	}
	return args
}

// meansHost says whether the program's own name makes `server` the local
// runner rather than the agent in a machine.
func meansHost(args []string) bool {
	if len(args) == 0 {
		return false
	}
	name := filepath.Base(strings.ReplaceAll(args[0], `\`, "/"))
	return strings.HasPrefix(strings.TrimSuffix(name, ".exe"), "harness-docker-runner")
}

func newApp(args []string, stdout, stderr io.Writer) *cli.App {
	server := serverCommand(stderr)
	if meansHost(args) {
		server = hostCommand("server", stderr)
	}
	wrong := func(_ *cli.Context, err error, _ bool) error { return usageError{err} }
	app := &cli.App{
		Name:            "runner-agent",
		Usage:           "runs steps inside a machine",
		Version:         version,
		Writer:          stdout,
		ErrWriter:       stderr,
		HideHelpCommand: true,
		ExitErrHandler:  func(*cli.Context, error) {},
		OnUsageError:    wrong,
		Commands:        []*cli.Command{server, hostCommand("host", stderr), certsCommand(), initCommand(), guestCommand()},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError{fmt.Errorf("unknown command %q; see runner-agent --help", c.Args().First())}
			}
			return cli.ShowAppHelp(c)
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = wrong
		for _, sub := range c.Subcommands {
			sub.OnUsageError = wrong
		}
	}
	return app
}
