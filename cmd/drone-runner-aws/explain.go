package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

func (p *program) explainCommand() *cli.Command {
	return &cli.Command{
		Name:      "explain",
		Usage:     "say how a lease, a machine or a pool stands, why, and how it came to that",
		ArgsUsage: "[lease|instance|pool] ID",
		Description: `ID is a lease, a machine by id or name, or a pool; the word before it is needed
only where two of them are called the same.

   drone-runner-aws explain aKx3dQ4nT6-1
   drone-runner-aws explain pool local
   drone-runner-aws explain aKx3dQ4nT6-1 --json | jq '.why[].code'`,
		Flags: askFlags(),
		Action: func(c *cli.Context) error {
			var subject, id string
			switch c.NArg() {
			case 1:
				id = c.Args().Get(0)
			case 2:
				subject, id = c.Args().Get(0), c.Args().Get(1)
			}
			switch pool.Subject(subject) {
			case "", pool.SubjectLease, pool.SubjectInstance, pool.SubjectPool:
			default:
				return usagef(c, "%q is not lease, instance or pool", subject)
			}
			if id == "" {
				return usagef(c, "give one lease, instance or pool")
			}
			return p.ask(c, func(ctx context.Context, runner *client.Client) error {
				story, err := runner.Explain(ctx, subject, id)
				switch {
				case err != nil:
					return err
				case c.Bool("json"):
					return p.json(story)
				default:
					return tell(p.stdout, story, time.Now())
				}
			})
		},
	}
}

// tell prints a story: the present, why, and what happened, with the time that
// passed since the line before.
func tell(w io.Writer, s api.Story, now time.Time) error {
	fmt.Fprintln(w, s.Summary)
	for _, y := range s.Why {
		line := y.Code
		if y.Pool != "" {
			line = "pool " + y.Pool + ": " + line
		}
		if y.Until != nil {
			line += ", until " + y.Until.UTC().Format("15:04:05Z")
			if left := y.Until.Sub(now); left > 0 {
				line += fmt.Sprintf(" (in %s)", left.Round(time.Second))
			}
		}
		fmt.Fprintf(w, "  %s: %s\n", line, y.Message)
	}
	if len(s.Lines) > 0 {
		fmt.Fprintln(w)
	}
	var rows [][]string
	for i, l := range s.Lines {
		since := ""
		if i > 0 {
			since = "+" + l.At.Sub(s.Lines[i-1].At).Round(time.Millisecond).String()
		}
		message := because("", l.Message)
		if l.Instance != "" && s.Subject != string(pool.SubjectInstance) {
			message = l.Instance + ": " + message
		}
		rows = append(rows, []string{l.At.UTC().Format("2006-01-02 15:04:05.000Z"), dash(since), l.Code, message})
	}
	if len(rows) == 0 {
		return nil
	}
	return table(w, "TIME PASSED WHAT MESSAGE", rows)
}
