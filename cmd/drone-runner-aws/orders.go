package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/server/api"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// The words of an order have no variables: one that is exported and forgotten
// would give the word for every order to come.

func whyFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "why", Usage: "`TEXT` for the event and for who looks later"}
}

func forceFlag() *cli.BoolFlag {
	return &cli.BoolFlag{Name: "force", Usage: "end the lease that has it, whatever runs in it"}
}

func disksFlag() *cli.BoolFlag {
	return &cli.BoolFlag{Name: "disks", Usage: "delete persistent disks too; they are kept otherwise"}
}

func everyPoolFlag() *cli.BoolFlag {
	return &cli.BoolFlag{Name: "all", Usage: "every pool"}
}

// orderer is who gives an order, for its event.
func orderer() string {
	name := "uid " + fmt.Sprint(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + cmp.Or(host, "localhost")
}

func newOrder(c *cli.Context) api.Order {
	return api.Order{By: orderer(), Why: c.String("why")}
}

func destroyOrder(c *cli.Context) api.DestroyOrder {
	return api.DestroyOrder{By: orderer(), Why: c.String("why"), Force: c.Bool("force"), Disks: c.Bool("disks")}
}

// one is a command's only argument.
func one(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", usagef(c, "give one %s", what)
	}
	return c.Args().First(), nil
}

func (p *program) instanceOrders() []*cli.Command {
	// order makes a command that does something to one machine and prints it.
	order := func(name, usage, text string, flags []cli.Flag, do func(context.Context, *cli.Context, *client.Client, string) (api.Instance, error)) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usage, ArgsUsage: "ID", Description: text, Flags: askFlags(flags...),
			Action: func(c *cli.Context) error {
				id, err := one(c, "machine, by id or name")
				if err != nil {
					return err
				}
				return p.ask(c, func(ctx context.Context, runner *client.Client) error {
					i, err := do(ctx, c, runner, id)
					switch {
					case err != nil:
						return err
					case c.Bool("json"):
						return p.json(i)
					default:
						return instanceTable(p.stdout, time.Now(), []api.Instance{i})
					}
				})
			},
		}
	}
	return []*cli.Command{
		order("destroy", "have a machine destroyed", `ID is the machine's id, or its id or name in the cloud. A machine that a lease
has is destroyed with --force only: the lease ends, what runs in it fails. A call
to the cloud that hangs is broken off. Disks are kept without --disks. A held
machine is let go first. It is tried until the cloud has confirmed the end; what
fails stands in instance ls and orphans.

   drone-runner-aws instance destroy runner-linux-k3x9
   drone-runner-aws instance destroy runner-linux-k3x9 --force --why "hangs since noon"`,
			[]cli.Flag{forceFlag(), disksFlag(), whyFlag()},
			func(ctx context.Context, c *cli.Context, runner *client.Client, id string) (api.Instance, error) {
				return runner.DestroyInstance(ctx, id, destroyOrder(c))
			}),
		order("hold", "keep a machine from being destroyed, replaced and given away", `A held machine stays, whatever its age, recipe or pool says. When its lease is
destroyed, the caller is answered as ever and the machine waits, destroying, for
instance unhold. It counts toward its pool's limit all the while.

   drone-runner-aws instance hold runner-linux-k3x9 --why "the disk fills up"
   drone-runner-aws instance unhold runner-linux-k3x9`,
			[]cli.Flag{whyFlag()},
			func(ctx context.Context, c *cli.Context, runner *client.Client, id string) (api.Instance, error) {
				return runner.HoldInstance(ctx, id, newOrder(c))
			}),
		order("unhold", "let a held machine go", `It is given away, aged or destroyed from now on like any other: one whose lease
has ended goes at once.

   drone-runner-aws instance unhold runner-linux-k3x9`,
			[]cli.Flag{whyFlag()},
			func(ctx context.Context, c *cli.Context, runner *client.Client, id string) (api.Instance, error) {
				return runner.UnholdInstance(ctx, id, newOrder(c))
			}),
	}
}

func (p *program) leaseOrders() []*cli.Command {
	return []*cli.Command{{
		Name: "end", Usage: "end a lease, whatever its state; its machine is destroyed", ArgsUsage: "ID",
		Description: `What runs in it fails. A lease that has ended already is no error. Disks are kept
without --disks.

   drone-runner-aws lease end aKx3dQ4nT6-1 --why "its delegate is gone"`,
		Flags: askFlags(disksFlag(), whyFlag()),
		Action: func(c *cli.Context) error {
			id, err := one(c, "lease")
			if err != nil {
				return err
			}
			return p.ask(c, func(ctx context.Context, runner *client.Client) error {
				l, err := runner.EndLease(ctx, id, destroyOrder(c))
				switch {
				case err != nil:
					return err
				case c.Bool("json"):
					return p.json(l)
				default:
					return leaseTable(p.stdout, time.Now(), []api.Lease{l})
				}
			})
		},
	}}
}

func (p *program) poolOrders() []*cli.Command {
	warm := &cli.IntFlag{Name: "min", Usage: "keep `N` machines warm"}
	return []*cli.Command{
		p.poolOrder("stop", "begin no machines, also not for requests, and destroy the free ones", `It lasts, also over restarts, until pool start. Machines that leases have stay
until these end. Requests for the pool wait, and explain says so.

   drone-runner-aws pool stop linux --why "image is broken"
   drone-runner-aws pool stop --all`, nil,
			func(ctx context.Context, c *cli.Context, runner *client.Client, name string) (api.Ordered, error) {
				return runner.StopPool(ctx, name, newOrder(c))
			}),
		p.poolOrder("start", "run a pool as its file says again, after stop or scale", `   drone-runner-aws pool start linux
   drone-runner-aws pool start --all`, nil,
			func(ctx context.Context, c *cli.Context, runner *client.Client, name string) (api.Ordered, error) {
				return runner.StartPool(ctx, name, newOrder(c))
			}),
		p.poolOrder("scale", "keep another number of machines warm than the file says", `It lasts, also over restarts, until pool start. The pool's limit stays.

   drone-runner-aws pool scale linux --min 0
   drone-runner-aws pool scale --all --min 1 --why "weekend"`, []cli.Flag{warm},
			func(ctx context.Context, c *cli.Context, runner *client.Client, name string) (api.Ordered, error) {
				n := c.Int("min")
				return runner.ScalePool(ctx, name, api.ScaleOrder{By: orderer(), Why: c.String("why"), Min: &n})
			}),
	}
}

func (p *program) drainCommand() *cli.Command {
	return p.poolOrder("drain", "destroy the free machines of a pool now; what a lease has stays", `The pool makes new ones, of its present image and size; drain it with pool stop
to have none.

   drone-runner-aws drain linux
   drone-runner-aws drain --all --why "new image"`, nil,
		func(ctx context.Context, c *cli.Context, runner *client.Client, name string) (api.Ordered, error) {
			return runner.DrainPool(ctx, name, newOrder(c))
		})
}

// poolOrder makes a command that does something to one pool, or to all. One
// pool that fails does not keep the others from it.
func (p *program) poolOrder(name, usage, text string, flags []cli.Flag, do func(context.Context, *cli.Context, *client.Client, string) (api.Ordered, error)) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, ArgsUsage: "NAME", Description: text,
		Flags: askFlags(append(flags, everyPoolFlag(), whyFlag())...),
		Action: func(c *cli.Context) error {
			if c.Bool("all") == (c.NArg() == 1) || c.NArg() > 1 {
				return usagef(c, "give one pool, or --all")
			}
			if name == "scale" && (!c.IsSet("min") || c.Int("min") < 0) {
				return usagef(c, "say how many machines to keep warm: --min N")
			}
			return p.ask(c, func(ctx context.Context, runner *client.Client) error {
				names := c.Args().Slice()
				if c.Bool("all") {
					pools, err := runner.Pools(ctx)
					if err != nil {
						return err
					}
					for _, one := range pools {
						names = append(names, one.Name)
					}
				}
				done := []api.Ordered{}
				var errs []error
				for _, name := range names {
					o, err := do(ctx, c, runner, name)
					if err != nil {
						errs = append(errs, fmt.Errorf("pool %s: %w", name, err))
						continue
					}
					done = append(done, o)
				}
				return errors.Join(append(errs, p.ordered(c, done))...)
			})
		},
	}
}

// ordered prints what orders have done, a line each.
func (p *program) ordered(c *cli.Context, done []api.Ordered) error {
	if c.Bool("json") {
		return p.json(done)
	}
	for _, o := range done {
		line := o.Name + ": " + o.Done
		if o.Count > 0 && o.Done == "drained" {
			line += fmt.Sprintf(" (%s)", count(o.Count, "machine"))
		}
		if _, err := fmt.Fprintln(p.stdout, line); err != nil {
			return err
		}
	}
	return nil
}

// confirm asks who sits at the terminal. Without one it is wrong usage: a
// script says --yes.
func (p *program) confirm(c *cli.Context, question string) error {
	if c.Bool("yes") {
		return nil
	}
	f, ok := p.stdin.(*os.File)
	if ok {
		info, err := f.Stat()
		ok = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	if !ok || !isTerminal(p.stderr) {
		return usagef(c, "nobody can be asked here; say --yes")
	}
	fmt.Fprintf(p.stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(p.stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	default:
		return errors.New("nothing is removed")
	}
}
