package main

import (
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst lets flags stand behind arguments ("logs a1 --follow"): it moves
// the flags of the command in front of its arguments. What it does not know it
// leaves where it is, for the library to refuse.
func flagsFirst(app *cli.App, args []string) []string {
	commands, flags := app.Commands, app.Flags
	i := 1
	for i < len(args) && !strings.HasPrefix(args[i], "-") {
		at := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(args[i]) })
		if at < 0 {
			break
		}
		commands, flags = commands[at].Subcommands, commands[at].Flags
		i++
	}
	if i == 1 {
		return args
	}
	var moved, rest []string
	for j := i; j < len(args); j++ {
		arg := args[j]
		if arg == "--" {
			rest = append(rest, args[j:]...)
			break
		}
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			rest = append(rest, arg)
			continue
		}
		moved = append(moved, arg)
		if !strings.Contains(arg, "=") && takesValue(flags, strings.TrimLeft(arg, "-")) && j+1 < len(args) {
			j++
			moved = append(moved, args[j])
		}
	}
	return slices.Concat(args[:i], moved, rest)
}

func takesValue(flags []cli.Flag, name string) bool {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			_, isBool := f.(*cli.BoolFlag)
			return !isBool
		}
	}
	return false
}

// envFile finds the file of --envfile before the flags are parsed, because the
// variables of other flags may stand in it.
func envFile(args []string) string {
	for i, arg := range args {
		name, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !strings.HasPrefix(arg, "-") || name != "envfile" {
			continue
		}
		if hasValue {
			return value
		}
		if i+1 < len(args) {
			return args[i+1]
		}
	}
	return os.Getenv("DRONE_ENV_FILE")
}
