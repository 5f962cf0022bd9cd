package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/drivers/qemu"
	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/internal/peers"
	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

func (p *program) delegateCommand() *cli.Command {
	return &cli.Command{
		Name:  "delegate",
		Usage: "serve a delegate: keep the pools of a file warm and lend their machines",
		Description: `Listens on DRONE_HTTP_BIND (:3000) at once; /healthz answers from the first
moment, /readyz says what is missing. Store, seal key, admin socket, images and
local machines lie in the data directory: beside the pool file if that can be
written, else in the working directory.

Without --pool one pool, testpool, is made from what the environment says: of the
first cloud that has its variables (GOOGLE_PROJECT_ID, AWS_ACCESS_KEY_ID, …; see
docs/environment.md), else of local machines. DRONE_MIN_POOL_SIZE (1) machines
are kept warm, at most DRONE_MAX_POOL_SIZE (2) made. The pool is printed.

SIGTERM or SIGINT stops it: requests that run may finish for 20 s, no machine is
destroyed, the exit code is 0. A second signal ends it at once. The next start
finds every machine again.

   drone-runner-aws delegate --pool pool.yml
   drone-runner-aws delegate --pool pool.yml --envfile runner.env
   GOOGLE_PROJECT_ID=my-project drone-runner-aws delegate
   DRONE_HTTP_BIND=127.0.0.1:3001 drone-runner-aws delegate --pool pool.yml --data-dir /var/lib/runner`,
		Flags:  []cli.Flag{poolFileFlag(), envFileFlag(), dataDirFlag()},
		Action: p.delegate,
	}
}

func (p *program) delegate(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef(c, "delegate takes no arguments, but got %q", c.Args().First())
	}
	file := c.String("pool")
	if p.envErr != nil {
		return p.envErr
	}
	log := newLog(p.stderr, p.env.Config)
	for _, w := range p.env.Warnings {
		log.Warn(w) //nolint:sloglint // the text is made in one place and names a variable
	}
	for _, n := range p.env.Notices {
		log.Info(n) //nolint:sloglint // likewise
	}
	dir, err := dataDir(c.String("data-dir"), file)
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	d := &delegate{p: p, log: log, cfg: p.env.Config, dir: dir, file: file}
	return d.serve(c.Context)
}

// gcPercent is how far the heap may grow before it is collected. Little lives
// long here and much passes through: collecting half as often as Go does by
// itself saves a tenth of the processor's time under load, for a few MiB.
const gcPercent = 200

// delegate is one run of the serving command.
type delegate struct {
	p    *program
	log  *slog.Logger
	cfg  env.Config
	dir  string
	file string

	server   *server.Server
	progress *server.ServiceSink
	allow    *server.AllowList
	// extra are the networks of DRONE_HTTP_ALLOW.
	extra []netip.Prefix
	// witness knows when the store was last alive, nil for Postgres.
	witness pool.Witness
}

// serve listens, starts the engine behind the listener, and stops in order:
// requests first, then the engine's loops, then the store.
func (d *delegate) serve(ctx context.Context) error {
	if err := d.newServer(); err != nil {
		return err
	}
	tcp, err := server.Listen(ctx, d.cfg.HTTPBind)
	if err != nil {
		return interrupted(ctx, err)
	}
	admin, err := d.listenAdmin(ctx)
	if err != nil {
		return errors.Join(interrupted(ctx, err), tcp.Close())
	}
	agents, err := d.serveAgents(ctx)
	if err != nil {
		return errors.Join(interrupted(ctx, err), tcp.Close(), admin.Close())
	}
	address := tcp.Addr().String()

	// The first of the two to fail ends the other; a signal ends the requests,
	// and their end the engine.
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	running, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngine()
	var g errgroup.Group
	g.Go(func() error {
		defer stopEngine()
		return d.server.Serve(serving, tcp, admin)
	})
	g.Go(func() error {
		defer stopServing()
		return agents(serving)
	})
	g.Go(func() error {
		defer stopServing()
		return d.engine(ctx, running, address)
	})
	err = g.Wait()
	last, giveUp := context.WithTimeout(context.WithoutCancel(ctx), progressGrace)
	defer giveUp()
	d.progress.Close(last)
	if err != nil {
		return err
	}
	d.log.Info("stopped; machines are left as they are")
	return nil
}

// progressGrace is how long the last lines of setups may take to their log
// services after the stop.
const progressGrace = 5 * time.Second

// listenAdmin opens the admin socket. Replicas on one host may share a data
// directory: the first has the ordinary name, each other one the next number.
func (d *delegate) listenAdmin(ctx context.Context) (net.Listener, error) {
	if !d.shared() {
		return server.ListenAdmin(ctx, d.dir, server.AdminSocket)
	}
	for n := 1; ; n++ {
		l, err := server.ListenAdmin(ctx, d.dir, adminSocket(n))
		if !errors.Is(err, server.ErrServed) || n == maxReplicas {
			return l, err
		}
		d.log.Info("another replica has the admin socket of this data directory; this one takes the next name", "socket", adminSocket(n+1))
	}
}

// maxReplicas is how many runners one data directory serves.
const maxReplicas = 16

// adminSocket is the name of a data directory's n-th admin socket: admin.sock,
// admin-2.sock, …
func adminSocket(n int) string {
	if n == 1 {
		return server.AdminSocket
	}
	return fmt.Sprintf("admin-%d.sock", n)
}

func (d *delegate) newServer() error {
	var err error
	if d.extra, err = peers.Parse(d.cfg.HTTPAllow); err != nil {
		return err
	}
	poolMap, err := server.ParsePoolMap(d.cfg.PoolMap)
	if err != nil {
		return err
	}
	volumes, warnings := server.ParseVolumes(d.cfg.Volumes)
	for _, w := range warnings {
		d.log.Warn("an item of DRONE_RUNNER_VOLUMES is left out", "why", w)
	}
	d.allow = server.NewAllowList(server.AllowConfig{Extra: d.extra, Container: peers.InContainer()})
	d.progress = server.NewServiceSink(d.log, server.LogSink(d.log))
	d.server = server.New(server.Config{
		Service: server.Starting("pool file", "store", "drivers"), Log: d.log, Allow: d.allow, Progress: d.progress,
		Edits: server.Edits{Volumes: volumes, Egress: egress(d.cfg)}, PoolMap: poolMap, FallbackPools: d.cfg.FallbackPools,
		Version: versionText(),
	})
	return nil
}

// engine opens everything behind the API and runs the loops until running
// ends. A start that is interrupted by starting's end is a clean stop.
func (d *delegate) engine(starting, running context.Context, address string) (err error) {
	world := noop.NewWorld()
	regs := registrations(d.cfg, world)
	cfg, err := d.pools(regs)
	if err != nil {
		return err
	}
	st, err := d.openStore(starting)
	if err != nil {
		return interrupted(starting, err)
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	agent, hangUp := newAgent(d.cfg, world, d.log)
	defer func() { err = errors.Join(err, hangUp()) }()
	open := &opener{regs: regs, dataDir: d.dir, log: d.log, network: d.allow.AddMachines}
	boot, err := bootScripts(d.cfg)
	if err != nil {
		return err
	}
	if names := agentless(boot, cfg.Pools); len(names) > 0 {
		d.log.Warn("machines of these pools cannot be made: this program is no release, so it knows no address of the agent; set DRONE_LITE_ENGINE_PATH", "pools", names)
	}
	m, err := pool.New(starting, pool.ManagerConfig{
		Store: st, Agent: agent, Boot: boot, Pools: cfg.Pools, Open: open.open,
		Solo:       !d.shared(),
		NamePrefix: d.cfg.RunnerName, ServerName: d.serverName(), Environment: d.cfg.Environment, ProxyCA: d.cfg.Boot.EgressCACert != "",
		KeepDrifted: d.cfg.ReusePool, Timeouts: timeouts(d.cfg), Witness: d.witness, Log: d.log,
	})
	if err != nil {
		return interrupted(starting, err)
	}
	d.server.SetService(m, cfg.Pools)
	d.banner(cfg, open, address)
	return m.Run(running)
}

// interrupted makes no error of what a signal broke off.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// pools reads the pool file and says everything that was found in it.
func (d *delegate) pools(regs []drivers.Registration) (pool.Config, error) {
	o := poolfile.Options{FreeAge: d.cfg.FreeAge(), BusyAge: d.cfg.BusyAge()}
	if d.file == "" {
		return d.autoPool(regs, o)
	}
	cfg, findings := poolfile.Load(d.file, regs, o)
	return cfg, d.tell(findings, d.file)
}

// autoPool makes the pool of a runner without a pool file, and shows it.
func (d *delegate) autoPool(regs []drivers.Registration, o poolfile.Options) (pool.Config, error) {
	_, lookErr := exec.LookPath(qemu.DefaultBinary())
	auto := poolfile.Auto{Getenv: os.Getenv, Min: d.cfg.MinPoolSize, Max: d.cfg.MaxPoolSize, Local: lookErr == nil}
	cfg, source, findings, err := auto.Pools(regs, o)
	if err != nil {
		return cfg, err
	}
	if err := d.tell(findings, "the pool made from the environment ("+source+")"); err != nil {
		return cfg, err
	}
	text, err := poolfile.FormatPublic(cfg)
	if err != nil {
		return cfg, err
	}
	d.log.Info("no pool file is given, so a pool is made from the environment", "type", source)
	fmt.Fprintf(d.p.stderr, "# the pool that is served, without credentials; save it as pool.yml to change it\n%s", text)
	return cfg, nil
}

// tell says what was found in a pool file; an error if it cannot be served.
func (d *delegate) tell(findings poolfile.Findings, file string) error {
	for _, f := range findings {
		switch f.Severity {
		case poolfile.Error:
			fmt.Fprintln(d.p.stderr, f)
		case poolfile.Warning:
			d.log.Warn("pool file", "finding", f.String())
		default:
			d.log.Info("pool file", "finding", f.String())
		}
	}
	if n := findings.Errors(); n > 0 {
		return fmt.Errorf("%s: %s; nothing is served", file, count(n, "error"))
	}
	return nil
}

func (d *delegate) serverName() string {
	if d.cfg.HA {
		return "drone-runner-ha"
	}
	return d.cfg.RunnerName
}

func timeouts(c env.Config) pool.Timeouts {
	return pool.Timeouts{
		Boot: c.HealthCold, BootWindows: c.HealthWindows, Hot: c.HealthHot, Hibernated: c.HealthHibernated,
		Setup: c.SetupTimeout, StartStep: c.StartStepTimeout,
		BusyAge: c.BusyAge(),
		FreeAge: c.FreeAge(),
	}
}

// banner says in plain words what is served, where its state lies, and who may
// call. A log for programs gets the same as one record.
func (d *delegate) banner(cfg pool.Config, open *opener, address string) {
	names := make([]string, len(cfg.Pools))
	for i, p := range cfg.Pools {
		names[i] = fmt.Sprintf("%s (%s, %d warm, at most %d)", p.Name, p.Driver, p.Min, p.Max)
	}
	callers := []string{"this host"}
	for _, n := range slices.Concat(d.allow.Local(), d.extra) {
		callers = append(callers, n.String())
	}
	if isTerminal(d.p.stderr) {
		fmt.Fprintf(d.p.stderr, "\nServing on %s\n  pools    %s\n  data     %s\n  callers  %s; others by DRONE_HTTP_ALLOW\n\n",
			address, strings.Join(names, "\n           "), d.dir, strings.Join(callers, ", "))
	} else {
		d.log.Info("serving", "address", address, "pools", names, "data", d.dir, "callers", callers)
	}
	if networks := d.allow.Open(); len(networks) > 0 {
		d.log.Warn("DRONE_HTTP_ALLOW opens the API, and with it every machine and its keys, to these networks", "networks", fmt.Sprint(networks))
	}
	if kind := volatile(d.dir, "/proc/self/mountinfo"); kind != "" {
		d.log.Warn("THE DATA DIRECTORY DOES NOT LAST: it lies on "+kind+", and the next container or boot will not find its machines; mount a volume and put the pool file there, or name a folder with --data-dir", //nolint:sloglint // one of two texts
			"data", d.dir)
	}
	if len(open.lasting) > 0 && peers.InContainer() {
		d.log.Warn("local machines end with this container; run the program on the host for machines that outlive it", "pools", open.lasting)
	}
	if len(open.passing) > 0 {
		d.log.Info("machines of these pools end with this process", "pools", open.passing)
	}
}
