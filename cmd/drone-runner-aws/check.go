package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
)

func (p *program) checkCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "look for mistakes in a pool file, without touching a cloud",
		Description: `Prints every finding with file, line and column. A server starts with warnings;
--strict takes those that are probably mistakes (unknown keys, numbers that are
not used as written) for errors.

   drone-runner-aws check --pool pool.yml
   drone-runner-aws check --pool pool.yml --strict --json`,
		Flags: []cli.Flag{
			poolFileFlag(), envFileFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "strict", Usage: "take warnings for errors", EnvVars: []string{"RUNNER_STRICT"}},
		},
		Action: p.check,
	}
}

func (p *program) check(c *cli.Context) error {
	file := c.String("pool")
	switch {
	case file == "" && c.NArg() == 1:
		file = c.Args().First()
	case file == "":
		return usagef(c, "name the pool file: drone-runner-aws check --pool pool.yml")
	case c.NArg() > 0:
		return usagef(c, "check takes one file, not also %q", c.Args().First())
	}
	cfg, findings := poolfile.Load(file, registrations(p.env.Config, nil), poolfile.Options{
		Strict: c.Bool("strict"), CheckOnly: true,
		FreeAge: p.env.Config.FreeAge(), BusyAge: p.env.Config.BusyAge(),
	})
	if c.Bool("json") {
		if err := findings.WriteJSON(p.stdout); err != nil {
			return err
		}
	} else if err := findings.Print(p.stdout); err != nil {
		return err
	}
	if n := findings.Errors(); n > 0 {
		return fmt.Errorf("%s: %s", file, count(n, "error"))
	}
	if !c.Bool("json") {
		remark := ""
		if n := findings.Warnings(); n > 0 {
			remark = ", " + count(n, "warning")
		}
		fmt.Fprintf(p.stdout, "%s: %s%s\n", file, count(len(cfg.Pools), "pool"), remark)
	}
	return nil
}

// count is "1 pool" or "2 pools".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (p *program) schemaCommand() *cli.Command {
	return &cli.Command{
		Name:  "schema",
		Usage: "print the JSON Schema of pool files, for editors",
		Description: `For editors with the YAML language server: write the schema to a file and name it
in the first line of the pool file.

   drone-runner-aws schema > pool.schema.json
   # yaml-language-server: $schema=pool.schema.json`,
		Action: func(*cli.Context) error {
			_, err := p.stdout.Write(append(poolfile.Schema(registrations(p.env.Config, nil)), '\n'))
			return err
		},
	}
}
