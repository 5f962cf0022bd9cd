package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// version is set by the linker in releases; otherwise the build information
// tells.
var version string

// versionHelp is the part of the library's help that shows the version.
const versionHelp = `{{if .Version}}{{if not .HideVersion}}

VERSION:
   {{.Version}}{{end}}{{end}}`

func (p *program) app() *cli.App {
	app := &cli.App{
		Name:  "drone-runner-aws",
		Usage: "keep pools of virtual machines warm and lend them to CI stages and gitspaces",
		Description: `A first look, with real virtual machines on this host and no account:

   drone-runner-aws image build tiny
   drone-runner-aws delegate --pool examples/pool.yml
   drone-runner-aws pool ls

Exit codes: 0 done, 1 failed, 2 wrong usage. Variables may stand in .env or in
the file of --envfile; docs/environment.md lists them all.`,
		Version: versionText(),
		// The library's own, without the version, which --version prints.
		CustomAppHelpTemplate: strings.Replace(cli.AppHelpTemplate, versionHelp, "", 1),
		Writer:                p.stdout,
		ErrWriter:             p.stderr,
		// run alone chooses the exit code.
		ExitErrHandler:  func(*cli.Context, error) {},
		HideHelpCommand: true,
		Commands: []*cli.Command{
			p.delegateCommand(),
			p.checkCommand(),
			p.doctorCommand(),
			p.setupCommand(),
			p.schemaCommand(),
			p.poolCommand(),
			p.instanceCommand(),
			p.leaseCommand(),
			p.drainCommand(),
			p.orphansCommand(),
			p.explainCommand(),
			p.eventsCommand(),
			p.logsCommand(),
			p.backupCommand(),
			p.restoreCommand(),
			p.imageCommand(),
			p.testerCommand(),
			p.fakecloudCommand(),
			p.versionCommand(),
			p.noopMachineCommand(),
		},
	}
	app.Commands = append(app.Commands, notBuilt()...)
	cli.VersionPrinter = func(c *cli.Context) { fmt.Fprintln(c.App.Writer, c.App.Name, c.App.Version) }
	app.OnUsageError = onUsageError
	app.Action = func(c *cli.Context) error {
		if c.Args().Present() {
			return unknownCommand(app.Name, c.Args().First(), app.Commands)
		}
		fmt.Fprintln(p.stderr, "No command given. The one that serves is: drone-runner-aws delegate --pool pool.yml")
		return usageError{errors.New("no command given"), app.Name}
	}
	for _, c := range app.Commands {
		finish(app.Name, c)
	}
	return app
}

// finish gives a command, and those below it, what all have.
func finish(parent string, c *cli.Command) {
	c.OnUsageError = onUsageError
	c.HideHelpCommand = true
	name := parent + " " + c.Name
	if len(c.Subcommands) == 0 {
		return
	}
	for _, sub := range c.Subcommands {
		finish(name, sub)
	}
	if c.Action != nil {
		return // it does something by itself too
	}
	c.Action = func(ctx *cli.Context) error {
		if ctx.Args().Present() {
			return unknownCommand(name, ctx.Args().First(), c.Subcommands)
		}
		return usageError{fmt.Errorf("%s needs a command: %s", name, strings.Join(visible(c.Subcommands), ", ")), name}
	}
}

func visible(commands []*cli.Command) []string {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}

// usageError is a command line that cannot be understood: exit code 2.
type usageError struct {
	err error
	// command is what --help explains.
	command string
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usagef(c *cli.Context, format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...), strings.TrimSpace(c.Command.HelpName)}
}

func unknownCommand(parent, name string, commands []*cli.Command) error {
	err := fmt.Errorf("unknown command %q", name)
	if near := cli.SuggestCommand(slices.DeleteFunc(slices.Clone(commands), func(c *cli.Command) bool { return c.Hidden }), name); near != "" {
		err = fmt.Errorf("unknown command %q; %s", name, lower(near))
	}
	return usageError{err, parent}
}

// lower turns the library's `Did you mean "x"?` into the end of a sentence.
func lower(s string) string { return strings.ToLower(s[:1]) + s[1:] }

func onUsageError(c *cli.Context, err error, _ bool) error {
	name := c.App.Name
	flags := c.App.Flags
	if c.Command != nil && c.Command.HelpName != "" {
		name, flags = c.Command.HelpName, c.Command.Flags
	}
	if flag, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		err = fmt.Errorf("unknown flag --%s", strings.TrimLeft(flag, "-"))
		if near := cli.SuggestFlag(flags, strings.TrimLeft(flag, "-"), false); near != "" {
			err = fmt.Errorf("%w; did you mean %s?", err, near)
		}
	}
	return usageError{err, name}
}

// report prints an error, if there is one, and gives the exit code.
func (p *program) report(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		fmt.Fprintf(p.stderr, "drone-runner-aws: %v\nSee: %s --help\n", usage.err, usage.command)
		return exitUsage
	case errors.Is(err, context.Canceled) && err.Error() == context.Canceled.Error():
		fmt.Fprintln(p.stderr, "drone-runner-aws: interrupted")
		return exitFailed
	default:
		fmt.Fprintf(p.stderr, "drone-runner-aws: %v\n", err)
		return exitFailed
	}
}

func versionText() string {
	v, revision, dirty := version, "", ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && len(s.Value) >= 12:
				revision = " " + s.Value[:12]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = " with changes"
			}
		}
	}
	if v == "" || v == "(devel)" {
		v = "development"
	}
	return fmt.Sprintf("%s%s%s (%s %s/%s)", v, revision, dirty, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (p *program) versionCommand() *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "print the version",
		Action: func(*cli.Context) error {
			fmt.Fprintln(p.stdout, "drone-runner-aws", versionText())
			return nil
		},
	}
}
