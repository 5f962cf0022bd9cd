package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/server/client"
)

func (p *program) poolCommand() *cli.Command {
	return &cli.Command{
		Name:  "pool",
		Usage: "list the pools of a running runner; stop, start and scale them",
		Subcommands: append([]*cli.Command{{
			Name:  "ls",
			Usage: "list the pools: what is wanted, what is there, who waits, what is wrong",
			Description: `WANTED is how many machines are kept warm, MACHINES how many there are of how
many there may be. * marks the default pool.

   drone-runner-aws pool ls
   drone-runner-aws pool ls --json | jq '.[].instances'`,
			Flags: askFlags(),
			Action: func(c *cli.Context) error {
				return p.ask(c, func(ctx context.Context, api *client.Client) error {
					pools, err := api.Pools(ctx)
					switch {
					case err != nil:
						return err
					case c.Bool("json"):
						return p.json(orEmpty(pools))
					default:
						return poolTable(p.stdout, pools)
					}
				})
			},
		}}, p.poolOrders()...),
	}
}

func (p *program) instanceCommand() *cli.Command {
	return &cli.Command{
		Name:  "instance",
		Usage: "list the machines of a running runner; hold and destroy them",
		Subcommands: append([]*cli.Command{{
			Name:  "ls",
			Usage: "list the machines, newest first",
			Description: `   drone-runner-aws instance ls
   drone-runner-aws instance ls --in-pool local --all`,
			Flags: askFlags(inPoolFlag(), allFlag(), limitFlag()),
			Action: func(c *cli.Context) error {
				return p.ask(c, func(ctx context.Context, api *client.Client) error {
					list, err := api.Instances(ctx, client.InstanceQuery{Pool: c.String("in-pool"), Live: !c.Bool("all"), Limit: c.Int("limit")})
					switch {
					case err != nil:
						return err
					case c.Bool("json"):
						return p.json(orEmpty(list.Instances))
					}
					p.more(list.More, c.Int("limit"))
					return instanceTable(p.stdout, time.Now(), list.Instances)
				})
			},
		}}, p.instanceOrders()...),
	}
}

func (p *program) leaseCommand() *cli.Command {
	return &cli.Command{
		Name:  "lease",
		Usage: "list the leases of a running runner; end them",
		Subcommands: append([]*cli.Command{{
			Name:  "ls",
			Usage: "list the leases, newest first, with why each waits or ended",
			Description: `   drone-runner-aws lease ls
   drone-runner-aws lease ls --all --limit 20`,
			Flags: askFlags(inPoolFlag(), allFlag(), limitFlag()),
			Action: func(c *cli.Context) error {
				return p.ask(c, func(ctx context.Context, api *client.Client) error {
					list, err := api.Leases(ctx, client.LeaseQuery{Pool: c.String("in-pool"), Live: !c.Bool("all"), Limit: c.Int("limit")})
					switch {
					case err != nil:
						return err
					case c.Bool("json"):
						return p.json(orEmpty(list.Leases))
					}
					p.more(list.More, c.Int("limit"))
					return leaseTable(p.stdout, time.Now(), list.Leases)
				})
			},
		}}, p.leaseOrders()...),
	}
}

// more says that a list was cut.
func (p *program) more(more bool, limit int) {
	if more {
		fmt.Fprintf(p.stderr, "only the first %d; more with --limit\n", limit)
	}
}

func (p *program) eventsCommand() *cli.Command {
	return &cli.Command{
		Name:  "events",
		Usage: "print what happened: why a request waited, failed or changed pool",
		Description: `   drone-runner-aws events --follow
   drone-runner-aws events --lease aKx3dQ4nT6-1
   drone-runner-aws events --in-pool local --json`,
		Flags: askFlags(inPoolFlag(), limitFlag(), followFlag(),
			&cli.StringFlag{Name: "lease", Usage: "only what belongs to the lease `ID`", EnvVars: []string{"RUNNER_LEASE"}}),
		Action: func(c *cli.Context) error {
			return p.ask(c, func(ctx context.Context, api *client.Client) error { return p.events(ctx, c, api) })
		},
	}
}

// eventsEvery is how often new events are asked for.
const eventsEvery = 500 * time.Millisecond

// events prints events a line each; with --json a JSON object a line, so that a
// program can follow them too.
func (p *program) events(ctx context.Context, c *cli.Context, api *client.Client) error {
	q := client.EventQuery{Pool: c.String("in-pool"), Lease: c.String("lease"), Limit: c.Int("limit")}
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		list, err := api.Events(ctx, q)
		if err != nil {
			return err
		}
		for _, e := range list.Events {
			if c.Bool("json") {
				err = p.jsonLine(e)
			} else {
				_, err = fmt.Fprintln(p.stdout, eventLine(e))
			}
			if err != nil {
				return err
			}
		}
		q.After = list.Next
		if !c.Bool("follow") {
			p.more(list.More, c.Int("limit"))
			return nil
		}
		if list.More {
			continue
		}
		timer.Reset(eventsEvery)
		select {
		case <-ctx.Done():
			return nil // following ends when it is interrupted
		case <-timer.C:
		}
	}
}
