package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

func (p *program) orphansCommand() *cli.Command {
	foreign := &cli.BoolFlag{Name: "foreign", Usage: "what other controllers made too"}
	list := func(c *cli.Context) error {
		if c.Args().Present() {
			return usagef(c, "unknown command %q; there is: orphans rm NAME...", c.Args().First())
		}
		return p.ask(c, func(ctx context.Context, runner *client.Client) error {
			o, err := runner.Orphans(ctx)
			if err != nil {
				return err
			}
			if !c.Bool("foreign") {
				theirs := func(o api.Orphan) bool { return o.Foreign }
				all := len(o.Machines) + len(o.Disks)
				o.Machines, o.Disks = slices.DeleteFunc(o.Machines, theirs), slices.DeleteFunc(o.Disks, theirs)
				if n := all - len(o.Machines) - len(o.Disks); n > 0 {
					fmt.Fprintf(p.stderr, "%d made by other controllers are left out; --foreign lists them\n", n)
				}
			}
			if c.Bool("json") {
				return p.json(o)
			}
			return orphanTables(p.stdout, time.Now(), o)
		})
	}
	return &cli.Command{
		Name:  "orphans",
		Usage: "list machines and disks without a row, rows without a machine, and destroys that fail",
		Description: `What carries this runner's tags in a cloud and has no row in its store is listed
with the reason why it is left alone, and what would make it go. The last sweep
tells, and no cloud is asked. What is certainly garbage is destroyed by itself.

   drone-runner-aws orphans
   drone-runner-aws orphans --json | jq '.machines[].name'
   drone-runner-aws orphans rm runner-linux-k3x9`,
		Flags:  askFlags(foreign),
		Action: list,
		Subcommands: []*cli.Command{{
			Name: "rm", Usage: "destroy machines or disks that have no row", ArgsUsage: "NAME...",
			Description: `NAME is the name in the cloud, as orphans lists it. What has a row is refused:
instance destroy ends that. Asks at a terminal; elsewhere say --yes. Who removed
it stands in the events.

   drone-runner-aws orphans rm runner-linux-k3x9
   drone-runner-aws orphans rm runner-dev-a runner-dev-b --gitspace --yes
   drone-runner-aws orphans rm disk-old --disks --yes`,
			Flags: askFlags(
				&cli.BoolFlag{Name: "foreign", Usage: "also what another controller made, or nobody says who"},
				&cli.BoolFlag{Name: "gitspace", Usage: "also what may hold somebody's work"},
				&cli.BoolFlag{Name: "disks", Usage: "delete disks: those named, and those of the machines"},
				&cli.BoolFlag{Name: "yes", Usage: "do not ask"}, whyFlag()),
			Action: p.removeOrphans,
		}},
	}
}

func (p *program) removeOrphans(c *cli.Context) error {
	names := c.Args().Slice()
	if len(names) == 0 {
		return usagef(c, "name what to remove, as drone-runner-aws orphans lists it")
	}
	if err := p.confirm(c, "Destroy "+strings.Join(names, ", ")+"?"); err != nil {
		return err
	}
	return p.ask(c, func(ctx context.Context, runner *client.Client) error {
		done := []api.Ordered{}
		var errs []error
		for _, name := range names {
			o, err := runner.RemoveOrphan(ctx, name, api.RemovalOrder{
				By: orderer(), Why: c.String("why"), Foreign: c.Bool("foreign"), Gitspace: c.Bool("gitspace"), Disks: c.Bool("disks"),
			})
			if err != nil {
				errs = append(errs, err)
				continue
			}
			done = append(done, o)
		}
		return errors.Join(append(errs, p.ordered(c, done))...)
	})
}

// orphanTables prints a part for each kind of difference there is.
func orphanTables(w io.Writer, now time.Time, o api.Orphans) error {
	empty := true
	part := func(title, heading string, rows [][]string) error {
		if len(rows) == 0 {
			return nil
		}
		if !empty {
			fmt.Fprintln(w)
		}
		empty = false
		fmt.Fprintln(w, title)
		return table(w, heading, rows)
	}
	return errors.Join(
		part("Machines without a row:", "NAME SCOPE POOL KIND CREATED AGE REASON EXPLANATION", orphanRows(now, o.Machines)),
		part("Disks without a row:", "NAME SCOPE POOL KIND CREATED AGE REASON EXPLANATION", orphanRows(now, o.Disks)),
		part("Rows without a machine:", "NAME POOL STATE LEASE MISSED SINCE", missingRows(now, o.Missing)),
		part("Destroys that fail and are tried again:", "NAME POOL LEASE SINCE ATTEMPTS REASON", failingRows(now, o.Failing)),
		part("Held:", "NAME POOL STATE LEASE SINCE REASON", heldRows(now, o.Held)),
		part("Rows of accounts that are not open:", "NAME POOL STATE LEASE SINCE REASON", heldRows(now, o.Unreachable)),
		part("Accounts that cannot be looked at:", "SCOPE POOLS LISTED PROBLEM", scopeRows(now, o.Scopes)),
		func() error {
			if !empty {
				return nil
			}
			_, err := fmt.Fprintln(w, "Clouds and store agree.")
			return err
		}(),
	)
}

func orphanRows(now time.Time, list []api.Orphan) [][]string {
	rows := make([][]string, len(list))
	for i, o := range list {
		created, age := "-", "-"
		if o.Created != nil {
			created, age = o.Created.UTC().Format("2006-01-02T15:04Z"), ago(now, *o.Created)
		}
		rows[i] = []string{o.Name, o.Scope, dash(o.Pool), dash(o.Kind), created, age, o.Reason, o.Explanation}
	}
	return rows
}

func missingRows(now time.Time, list []api.Missing) [][]string {
	rows := make([][]string, len(list))
	for i, m := range list {
		rows[i] = []string{m.Instance.Name, m.Instance.Pool, m.Instance.State, dash(m.Instance.LeaseID), fmt.Sprintf("%dx", m.Times), ago(now, m.Since)}
	}
	return rows
}

func failingRows(now time.Time, list []api.Instance) [][]string {
	rows := make([][]string, len(list))
	for i, m := range list {
		rows[i] = []string{m.Name, m.Pool, dash(m.LeaseID), ago(now, m.Since), fmt.Sprint(m.Attempts), dash(because(m.Reason, m.Detail))}
	}
	return rows
}

func heldRows(now time.Time, list []api.Instance) [][]string {
	rows := make([][]string, len(list))
	for i, m := range list {
		rows[i] = []string{m.Name, m.Pool, m.State, dash(m.LeaseID), ago(now, m.Since), dash(because(m.Reason, m.Detail))}
	}
	return rows
}

func scopeRows(now time.Time, list []api.Scope) [][]string {
	var rows [][]string
	for _, s := range list {
		problem := s.Problem
		if problem == "" && s.Listed != nil && !s.Complete {
			problem = "the last listing was not complete"
		}
		if problem == "" {
			continue
		}
		listed := "-"
		if s.Listed != nil {
			listed = ago(now, *s.Listed)
		}
		rows = append(rows, []string{s.Scope, dash(strings.Join(s.Pools, ",")), listed, problem})
	}
	return rows
}
