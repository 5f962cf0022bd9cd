// Command cmd runs the chaos modes: see scripts/chaos.sh, which builds what
// they need.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/chaos"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

const help = `Usage: chaos [flags] [mode…]

Runs the runner under load, does it harm, and audits cloud against store. It
prints a table and exits 1 if a mode failed. Without modes, those marked * run:

%s
Examples:
  make chaos                              # all of them
  make chaos MODES=kills KILLS=500
  make chaos MODES=kills SEED=42          # the same choices again

Flags:
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var o chaos.Options
	flags.StringVar(&o.Runner, "runner", "", "the `program` under test")
	flags.StringVar(&o.Static, "static", "", "the same `program` built without cgo, for the power cuts")
	flags.StringVar(&o.Images, "images", "", "`folder` with the image tiny, for the power cuts")
	flags.StringVar(&o.Postgres, "postgres", "", "`address` of a Postgres database, for the replicas")
	flags.StringVar(&o.Dir, "dir", "", "`folder` for everything; kept if a mode failed (a temporary one)")
	flags.IntVar(&o.Kills, "kills", 100, "how often a mode kills")
	flags.IntVar(&o.Cuts, "cuts", 5, "how often the power goes")
	flags.DurationVar(&o.Stopped, "stopped", time.Minute, "how long a runner is stopped")
	flags.DurationVar(&o.Watch, "watch", 6*time.Minute, "how long machines without a row are watched")
	flags.DurationVar(&o.Soak, "soak", time.Hour, "how long the soak takes")
	flags.Uint64Var(&o.Seed, "seed", 0, "decides every choice; 0: a random one")
	flags.IntVar(&o.Parallel, "parallel", 1, "modes that run at a time")
	asJSON := flags.Bool("json", false, "print the report as JSON")
	flags.Usage = func() {
		fmt.Fprintf(stderr, help, list())
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if o.Runner == "" {
		fmt.Fprintln(stderr, "name the program under test with -runner, or use make chaos")
		return 2
	}
	o.Seed, o.Progress = cmp.Or(o.Seed, rand.Uint64()>>32+1), stderr
	if err := place(&o); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintf(stderr, "seed %d, folder %s\n", o.Seed, o.Dir)
	report, err := chaos.Run(ctx, o, flags.Args())
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	if report.OK() {
		err = os.RemoveAll(o.Dir)
	}
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		err = errors.Join(err, e.Encode(report))
	} else {
		err = errors.Join(err, printTable(stdout, report))
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	if !report.OK() {
		fmt.Fprintf(stderr, "run again with the same choices: SEED=%d; data and logs: %s\n", report.Seed, o.Dir)
		return 1
	}
	return 0
}

// place makes the paths absolute and the folder.
func place(o *chaos.Options) (err error) {
	for _, p := range []*string{&o.Runner, &o.Static, &o.Images, &o.Dir} {
		if *p != "" {
			if *p, err = filepath.Abs(*p); err != nil {
				return err
			}
		}
	}
	if o.Dir != "" {
		return os.MkdirAll(o.Dir, 0o755)
	}
	o.Dir, err = os.MkdirTemp("", "chaos")
	return err
}

func list() string {
	text := ""
	for _, m := range chaos.Modes() {
		mark := " "
		if m.Default {
			mark = "*"
		}
		text += fmt.Sprintf("  %s %-9s %s\n", mark, m.Name, m.What)
		if m.Why != "" {
			text += fmt.Sprintf("              (not by itself: %s)\n", m.Why)
		}
	}
	return text
}

func printTable(w io.Writer, r chaos.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "mode\tresult\tkills\taudits\tstages\tclaims\tsteps\trefusals\tseconds\twhat")
	for _, m := range r.Results {
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%.0f\t%s\n", m.Mode, m.Outcome, m.Kills, m.Audits, m.Stages, m.Claims, m.Steps, m.Refusals, m.Seconds, m.What)
	}
	err := t.Flush()
	for _, m := range r.Results {
		for _, n := range m.Notes {
			fmt.Fprintf(w, "%s: %s\n", m.Mode, n)
		}
		if m.Why != "" {
			fmt.Fprintf(w, "%s %s: %s\n", m.Mode, m.Outcome, m.Why)
		}
		for _, f := range m.Findings {
			fmt.Fprintf(w, "  %s\n", f)
		}
		if m.Outcome == "FAILED" {
			for _, text := range m.Said {
				fmt.Fprintf(w, "  said %s\n", text)
			}
			fmt.Fprintf(w, "%s\n", m.Log)
		}
	}
	return err
}
