package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// rehearsalAgents is where machines of a fake cloud download their agent from.
// Nobody has this host: the machines' sandboxes answer for it.
const rehearsalAgents = "http://agents.rehearsal.invalid"

// booksPath shows what exists in a fake cloud, beside its API.
const booksPath = "/rehearsal/books"

func (p *program) fakecloudCommand() *cli.Command {
	sub := func(name, usage, example string) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usage,
			Description: `Answers the cloud's API on --listen, as strictly as the cloud does, and boots a
sandbox on this host for each machine: it applies the machine's boot data and runs
a real agent. Nothing costs anything, and nothing is left when it ends. As root, or
where users may have namespaces of their own; Linux only.

It prints the variables a runner needs to take it for the cloud. ` + booksPath + `
shows what exists, and what ever did.

   drone-runner-aws fakecloud ` + name + `
   ` + example + ` drone-runner-aws delegate --pool examples/rehearsal-` + name + `.yml`,
			Flags: []cli.Flag{
				&cli.StringFlag{Name: "listen", Usage: "`ADDRESS` of the API", Value: "127.0.0.1:8090", EnvVars: []string{"RUNNER_FAKECLOUD_LISTEN"}},
				&cli.StringFlag{Name: "network", Usage: "loopback `NETWORK` of the machines' addresses", Value: "127.88.0.0/16", EnvVars: []string{"RUNNER_FAKECLOUD_NETWORK"}},
				&cli.StringFlag{Name: "agent", Usage: "the agent, runner-agent's `FILE` (default: beside this program, else from PATH)", TakesFile: true, EnvVars: []string{"RUNNER_AGENT_BINARY"}},
				&cli.BoolFlag{Name: "real-times", Usage: "let things take as long as in the real cloud, not a second", EnvVars: []string{"RUNNER_FAKECLOUD_REAL_TIMES"}},
			},
			Action: func(c *cli.Context) error { return p.fakecloud(c, name) },
		}
	}
	return &cli.Command{
		Name:  "fakecloud",
		Usage: "be a cloud on this host: a rehearsal without an account and without a bill",
		Subcommands: []*cli.Command{
			sub("gce", "be Google Compute Engine", "RUNNER_GOOGLE_ENDPOINT=http://127.0.0.1:8090"),
			sub("ec2", "be Amazon EC2", "AWS_ENDPOINT_URL=http://127.0.0.1:8090"),
		},
	}
}

// rehearsed is a fake cloud with its machines.
type rehearsed struct {
	handler http.Handler
	// look carries out what is due.
	look  func()
	books *fakecloud.Books
	close func() error
	// variables are what a runner needs to find it.
	variables []string
}

func (p *program) fakecloud(c *cli.Context, name string) error {
	if c.NArg() > 0 {
		return usagef(c, "fakecloud %s takes no arguments, but got %q", name, c.Args().First())
	}
	network, err := netip.ParsePrefix(c.String("network"))
	if err != nil {
		return usagef(c, "--network %q: %v", c.String("network"), err)
	}
	agent, err := findAgent(c.String("agent"))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "rehearsal")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	served, err := serveAgent(agent, dir)
	if err != nil {
		return err
	}
	log := newLog(p.stderr, p.env.Config)
	cloud, err := rehearse(name, network, served, c.Bool("real-times"), log)
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(c.Context, "tcp", c.String("listen"))
	if err != nil {
		return errors.Join(err, cloud.close())
	}
	p.sayRehearsal(name, l.Addr().String(), cloud)
	err = cloud.serve(c.Context, l, log)
	living := cloud.books.Living()
	err = errors.Join(err, cloud.close())
	fmt.Fprintf(p.stderr, "%s made, %s not destroyed, %s\n", count(len(cloud.books.Ever()), "thing"), count(len(living), "thing"), count(cloud.books.Total(), "call"))
	for _, t := range living {
		fmt.Fprintf(p.stderr, "  %s %s %s since %s\n", t.Kind, t.Name, t.Zone, t.Made.Format(time.RFC3339))
	}
	return err
}

func (p *program) sayRehearsal(name, address string, cloud rehearsed) {
	fmt.Fprintf(p.stderr, "\nThis is %s at http://%s; what exists is at http://%s%s. In another shell:\n\n", name, address, address, booksPath)
	for _, v := range append(cloud.variables, "DRONE_LITE_ENGINE_PATH="+rehearsalAgents) {
		fmt.Fprintf(p.stderr, "   export %s\n", strings.ReplaceAll(v, "ADDRESS", address))
	}
	fmt.Fprintf(p.stderr, "   drone-runner-aws setup      # one machine, to see that all is well\n   drone-runner-aws delegate --pool examples/rehearsal-%s.yml\n\n", name)
}

// serveAgent is what machines can download: the agent and its checksum, as a
// release has them.
func serveAgent(agent, dir string) (map[string]string, error) {
	agent, err := filepath.Abs(agent)
	if err != nil {
		return nil, err
	}
	sum, err := sha256File(agent)
	if err != nil {
		return nil, err
	}
	asset := "lite-engine-linux-" + runtime.GOARCH
	sums := filepath.Join(dir, "SHA256SUMS")
	if err := os.WriteFile(sums, []byte(sum+"  "+asset+"\n"), 0o600); err != nil {
		return nil, err
	}
	return map[string]string{rehearsalAgents + "/" + asset: agent, rehearsalAgents + "/SHA256SUMS": sums}, nil
}

// serve answers until ctx ends.
func (r rehearsed) serve(ctx context.Context, l net.Listener, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("/", r.handler)
	mux.HandleFunc("GET "+booksPath, func(w http.ResponseWriter, _ *http.Request) {
		r.look()
		w.Header().Set("Content-Type", "application/json")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		err := e.Encode(map[string]any{"living": orEmpty(r.books.Living()), "ever": orEmpty(r.books.Ever()), "calls": r.books.Calls()})
		if err != nil {
			log.Debug("books not sent", "err", err)
		}
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	var g errgroup.Group
	g.Go(func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	ctx, stop := context.WithCancel(ctx)
	g.Go(func() error {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return s.Close()
			case <-tick.C:
				r.look()
			}
		}
	})
	defer stop()
	return g.Wait()
}
