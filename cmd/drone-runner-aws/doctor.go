package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/vm-runner/drone-runner-aws/drivers/noop"
	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

func (p *program) doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "try one machine of each pool, and name what fails and what to do",
		Description: `For each pool of the file, or those named: asks the cloud with the pool's
credentials, makes one machine, waits for its agent, runs a step on it, destroys it
and waits until the cloud has confirmed that. It says which part fails and what to
do about it. Nothing is left behind: what an interrupted run left is destroyed by
the next one, and ends by its own deadline. A runner that serves meanwhile is not
touched.

Without --pool the pool is made from the environment, as delegate does.

   drone-runner-aws doctor --pool pool.yml
   drone-runner-aws doctor --pool pool.yml linux-amd64 --timeout 5m
   drone-runner-aws doctor --pool pool.yml --no-machine      credentials only
   drone-runner-aws doctor --pool pool.yml --json`,
		ArgsUsage: "[POOL...]",
		Flags: []cli.Flag{
			poolFileFlag(), envFileFlag(), dataDirFlag(), jsonFlag(), doctorTimeoutFlag(),
			&cli.BoolFlag{Name: "no-machine", Usage: "make no machine, only ask the cloud", EnvVars: []string{"RUNNER_NO_MACHINE"}},
		},
		Action: p.doctor,
	}
}

func doctorTimeoutFlag() *cli.DurationFlag {
	return &cli.DurationFlag{Name: "timeout", Usage: "most `TIME` one pool may take, clean-up not counted", Value: 15 * time.Minute, EnvVars: []string{"RUNNER_DOCTOR_TIMEOUT"}}
}

// setupCommand is the way of older runners to say doctor: the pool comes from
// variables or the flags that stand for them, and is printed when it works.
func (p *program) setupCommand() *cli.Command {
	cmd := &cli.Command{
		Name:  "setup",
		Usage: "try a machine of the cloud the environment names, and print a pool file for it",
		Description: `Makes a pool from the environment as delegate does without a pool file, tries it
as doctor does, and when all is well prints a pool.yml to begin with, without
credentials.

   GOOGLE_PROJECT_ID=my-project drone-runner-aws setup > pool.yml
   drone-runner-aws setup --google-project-id my-project --google-json-path key.json`,
		Flags: []cli.Flag{envFileFlag(), dataDirFlag(), doctorTimeoutFlag()},
	}
	names := setupFlags()
	for _, f := range names {
		cmd.Flags = append(cmd.Flags, &cli.StringFlag{Name: f.flag, Usage: "`VALUE` of the variable", EnvVars: []string{f.variable}})
	}
	cmd.Action = func(c *cli.Context) error {
		if c.NArg() > 0 {
			return usagef(c, "setup takes no arguments, but got %q", c.Args().First())
		}
		for _, f := range names {
			if v := c.String(f.flag); v != "" {
				if err := os.Setenv(f.variable, v); err != nil {
					return err
				}
			}
		}
		return p.setup(c)
	}
	return cmd
}

// setupFlags are the flags of older runners and the variables they stand for.
func setupFlags() []struct{ flag, variable string } {
	return []struct{ flag, variable string }{
		{"google-project-id", "GOOGLE_PROJECT_ID"},
		{"google-json-path", "GOOGLE_JSON_PATH"},
		{"aws-access-key-id", "AWS_ACCESS_KEY_ID"},
		{"aws-access-key-secret", "AWS_ACCESS_KEY_SECRET"},
		{"azure-client-id", "AZURE_CLIENT_ID"},
		{"azure-client-secret", "AZURE_CLIENT_SECRET"},
		{"azure-subscription-id", "AZURE_SUBSCRIPTION_ID"},
		{"azure-tenant-id", "AZURE_TENANT_ID"},
		{"digital-ocean-pat", "DIGITAL_OCEAN_PAT"},
		{"anka-vm-name", "ANKA_VM_NAME"},
		{"ankabuild-vm-name", "ANKA_BUILD_VM_NAME"},
		{"ankabuild-url", "ANKA_BUILD_URL"},
		{"ankabuild-token", "ANKA_BUILD_TOKEN"},
	}
}

func (p *program) doctor(c *cli.Context) error {
	x := &examination{p: p, timeout: c.Duration("timeout"), only: c.Args().Slice(), noMachine: c.Bool("no-machine"), json: c.Bool("json")}
	if err := x.open(c.Context, c.String("pool"), c.String("data-dir")); err != nil {
		return err
	}
	err := x.run(c.Context)
	if x.json {
		return errors.Join(p.json(map[string]any{"checks": orEmpty(x.checks)}), err)
	}
	return err
}

func (p *program) setup(c *cli.Context) error {
	x := &examination{p: p, timeout: c.Duration("timeout")}
	if err := x.open(c.Context, "", c.String("data-dir")); err != nil {
		return err
	}
	if err := x.run(c.Context); err != nil {
		return err
	}
	text, err := poolfile.FormatPublic(x.served)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(p.stdout, "# Credentials are left out: they come from the environment, as in this test.\n%s", text)
	return err
}

// check is one thing that was tried.
type check struct {
	Pool string `json:"pool"`
	// Part is what was tried: "credentials", "machine", "agent", "step" or
	// "clean-up"; or what the pool has to do without, such as "disks".
	Part string `json:"part"`
	OK   bool   `json:"ok"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds"`
	// Detail is what happened, Kind the kind of an error, Fix what to do.
	Detail string `json:"detail,omitempty"`
	Kind   string `json:"kind,omitempty"`
	Fix    string `json:"fix,omitempty"`
	// Console is the end of the machine's console, where it may help.
	Console string `json:"console,omitempty"`
}

// examination is one run: an engine of its own on a store of its own, so that a
// runner that serves meanwhile has nothing to do with it.
type examination struct {
	p         *program
	timeout   time.Duration
	only      []string
	noMachine bool
	json      bool

	d      *delegate
	served pool.Config // as a server would have it
	tried  []pool.PoolConfig
	checks []check
}

// quietly keeps the engine's own records to what a person must see.
func (x *examination) log() *slog.Logger {
	if x.p.env.Config.Debug || x.p.env.Config.Trace {
		return newLog(x.p.stderr, x.p.env.Config)
	}
	return slog.New(slog.DiscardHandler)
}

func (x *examination) open(ctx context.Context, file, given string) error {
	if x.p.envErr != nil {
		return x.p.envErr
	}
	dir, err := dataDir(given, file)
	if err != nil {
		return err
	}
	x.d = &delegate{p: x.p, log: x.log(), cfg: x.p.env.Config, dir: dir, file: file}
	regs := registrations(x.d.cfg, nil)
	if x.served, err = x.d.pools(regs); err != nil {
		return err
	}
	for _, name := range x.only {
		if !slices.ContainsFunc(x.served.Pools, func(p pool.PoolConfig) bool { return p.Name == name }) {
			return fmt.Errorf("there is no pool %q; the file has %s", name, strings.Join(names(x.served.Pools), ", "))
		}
	}
	for _, p := range x.served.Pools {
		if len(x.only) == 0 || slices.Contains(x.only, p.Name) {
			x.tried = append(x.tried, onlyOnDemand(p))
		}
	}
	return ctx.Err()
}

func names(pools []pool.PoolConfig) []string {
	var out []string
	for _, p := range pools {
		out = append(out, p.Name)
	}
	return out
}

// onlyOnDemand is a pool that makes what is asked of it, and nothing by itself.
func onlyOnDemand(p pool.PoolConfig) pool.PoolConfig {
	p.Min, p.Running, p.Schedules = 0, 0, nil
	p.Variants = slices.Clone(p.Variants)
	for i := range p.Variants {
		p.Variants[i].Min = 0
	}
	p.Tenants = nil
	return p
}

// run tries the pools one after the other. The error says how many failed.
func (x *examination) run(ctx context.Context) error {
	world := noop.NewWorld()
	// The store of this command only: what it has made and an interruption kept
	// it from destroying is found there the next time.
	own := *x.d
	own.dir = filepath.Join(x.d.dir, "doctor")
	own.cfg.Distributed, own.cfg.DatabaseDriver, own.cfg.DatabaseSource = false, "", ""
	if err := os.MkdirAll(own.dir, 0o700); err != nil {
		return err
	}
	st, err := own.openStore(ctx)
	if err != nil {
		return fmt.Errorf("the store of this command: %w", err)
	}
	defer func() { _ = st.Close() }() // nothing of it is needed any more
	agent, hangUp := newAgent(x.d.cfg, world, x.d.log)
	defer func() { _ = hangUp() }() // likewise
	boot, err := bootScripts(x.d.cfg)
	if err != nil {
		return err
	}
	open := &opener{regs: registrations(x.d.cfg, world), dataDir: x.d.dir, log: x.d.log}
	m, err := pool.New(ctx, pool.ManagerConfig{
		Store: st, Agent: agent, Boot: boot, Pools: x.tried, Open: open.open, Solo: true,
		NamePrefix: "doctor", ServerName: x.d.serverName(), Timeouts: timeouts(x.d.cfg), Log: x.d.log,
	})
	if err != nil {
		return err
	}
	// The engine outlives an interruption: what was made is destroyed first.
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var loops errgroup.Group
	loops.Go(func() error { return m.Run(running) })
	// First, so that nothing of it takes the place of what is made now; but a
	// cloud that does not let go of it must not keep the pools from being tried.
	earlier := x.takeOver(ctx, m)
	cleaned := x.cleanUp(ctx, m, earlier, min(firstCleaning, x.timeout))
	failed := 0
	for _, p := range x.tried {
		if ctx.Err() != nil {
			break
		}
		before := len(x.checks)
		x.pool(ctx, m, open, p)
		if slices.ContainsFunc(x.checks[before:], func(c check) bool { return !c.OK }) {
			failed++
		}
	}
	if !cleaned {
		x.cleanUp(context.WithoutCancel(ctx), m, earlier, cleaning)
	}
	stop()
	if err := loops.Wait(); err != nil {
		return err
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case failed > 0:
		return fmt.Errorf("%s of %d failed", count(failed, "pool"), len(x.tried))
	case slices.ContainsFunc(x.checks, func(c check) bool { return !c.OK }):
		return errors.New("not everything could be destroyed")
	}
	return nil
}

// say tells of a check that is over.
func (x *examination) say(c check, begun time.Time) bool {
	c.Seconds = time.Since(begun).Round(time.Millisecond).Seconds()
	x.checks = append(x.checks, c)
	if x.json {
		return c.OK
	}
	mark := "ok    "
	switch {
	case !c.OK:
		mark = "FAILED"
	case c.Fix != "":
		mark = "note  " // a machine can be had all the same
	}
	fmt.Fprintf(x.p.stderr, "  %s  %-12s %6.1f s  %s\n", mark, c.Part, c.Seconds, c.Detail)
	if c.Console != "" {
		fmt.Fprintf(x.p.stderr, "          the end of its console:\n%s\n", indent(c.Console, "          | "))
	}
	if c.Fix != "" {
		fmt.Fprintf(x.p.stderr, "          what to do: %s\n", c.Fix)
	}
	return c.OK
}

func indent(text, with string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return with + strings.Join(lines, "\n"+with)
}

// pool tries one pool.
func (x *examination) pool(ctx context.Context, m *pool.Manager, open *opener, p pool.PoolConfig) {
	if !x.json {
		fmt.Fprintf(x.p.stderr, "%s (%s)\n", p.Name, p.Driver)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, x.timeout, fmt.Errorf("not done after %s", x.timeout))
	defer cancel()
	if !x.credentials(ctx, open, p) || x.noMachine {
		return
	}
	lease := "doctor-" + strings.ToLower(rand.Text()[:10])
	defer func() {
		begun := time.Now()
		c := check{Pool: p.Name, Part: "clean-up", OK: true, Detail: "destroyed, and confirmed by the cloud"}
		if err := end(context.WithoutCancel(ctx), m, lease); err != nil {
			c.OK, c.Detail, c.Fix = false, err.Error(), again
		}
		x.say(c, begun)
	}()
	if x.machine(ctx, m, p, lease) {
		x.step(ctx, m, p, lease)
	}
}

// again is what to do about a machine that is not destroyed yet.
const again = "run doctor again: it goes on with it; the machine's name begins with doctor-"

func (x *examination) credentials(ctx context.Context, open *opener, p pool.PoolConfig) bool {
	begun := time.Now()
	c := check{Pool: p.Name, Part: "credentials", OK: true, Detail: "the cloud answers"}
	if p.Driver == "qemu" || p.Driver == "noop" {
		c.Detail = "what local machines need is there"
	}
	opened, err := open.open(p)
	if err == nil {
		call, cancel := context.WithTimeout(ctx, time.Minute)
		err = opened.Client.Ping(call)
		cancel()
	}
	if err != nil {
		c.failed(p.Driver, "ping", err)
		return x.say(c, begun)
	}
	x.say(c, begun)
	for _, a := range opened.Client.Advice(ctx) {
		x.say(check{Pool: p.Name, Part: a.Part, OK: true, Detail: a.Detail, Fix: a.Fix}, time.Now())
	}
	return true
}

// machine makes a machine for a lease, and waits until its agent is set up.
func (x *examination) machine(ctx context.Context, m *pool.Manager, p pool.PoolConfig, lease string) bool {
	begun := time.Now()
	watching, stop := context.WithCancel(ctx)
	booting := make(chan time.Time, 1)
	go x.watch(watching, m, lease, booting)
	body, err := server.Edits{}.Setup(nil)
	if err == nil {
		_, err = m.Setup(ctx, pool.SetupRequest{
			ID: lease, Kind: pool.Build, Pools: []string{p.Name}, Want: pool.Want{Life: time.Hour}, Timeout: x.timeout, Body: body,
		})
	}
	stop()
	accepted := <-booting
	made := check{Pool: p.Name, Part: "machine", OK: true, Detail: "made, and accepted by the cloud"}
	answered := check{Pool: p.Name, Part: "agent", OK: true, Detail: "answers over mutual TLS and is set up"}
	switch {
	case err == nil && accepted.IsZero():
		return x.say(made, begun) && x.say(answered, begun)
	case err == nil:
		x.sayAt(made, begun, accepted)
		return x.say(answered, accepted)
	case ctx.Err() != nil && !errors.Is(err, context.Cause(ctx)):
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	phase := phaseOf(err)
	if phase == "claim" || phase == "create" || accepted.IsZero() {
		made.failed(p.Driver, phase, err)
		return x.say(made, begun)
	}
	x.sayAt(made, begun, accepted)
	answered.failed(p.Driver, phase, err)
	return x.say(answered, accepted)
}

// sayAt is say of a check that was over some time ago.
func (x *examination) sayAt(c check, begun, ended time.Time) {
	x.say(c, begun.Add(time.Since(ended)))
}

// watch looks at a lease's machine until ctx ends: one line when the cloud has
// accepted it. The channel is given when that was, zero for never.
func (x *examination) watch(ctx context.Context, m *pool.Manager, lease string, booting chan<- time.Time) {
	var accepted time.Time
	defer func() { booting <- accepted }()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		machines, err := m.Instances(ctx, pool.InstanceQuery{Lease: lease, Limit: 10})
		if err != nil {
			continue // the setup itself says what is wrong
		}
		for _, i := range machines {
			if i.CloudID != "" && accepted.IsZero() {
				accepted = time.Now()
				if !x.json {
					fmt.Fprintf(x.p.stderr, "          %s is made; waiting for its agent\n", i.Name)
				}
			}
		}
	}
}

// step runs a step on the lease's machine.
func (x *examination) step(ctx context.Context, m *pool.Manager, p pool.PoolConfig, lease string) {
	begun := time.Now()
	c := check{Pool: p.Name, Part: "step", OK: true, Detail: "a step ran on it"}
	entrypoint := `["sh","-c"]`
	if p.Platform.OS == "windows" {
		entrypoint = `["powershell","-Command"]`
	}
	raw := json.RawMessage(`{"id":"doctor","name":"doctor","kind":"Run","timeout":60,"run":{"entrypoint":` + entrypoint + `,"commands":["echo doctor"]}}`)
	answer, err := m.Step(ctx, pool.StepRequest{
		Lease: lease, Step: "doctor", Timeout: time.Minute,
		Body: func(exported map[string]string) (json.RawMessage, error) { return server.Edits{}.Step(raw, exported) },
	})
	var result struct {
		ExitCode int    `json:"exit_code"`
		Error    string `json:"error"`
	}
	if err == nil {
		err = json.Unmarshal(answer, &result)
	}
	if err == nil && (result.ExitCode != 0 || result.Error != "") {
		err = fmt.Errorf("echo ended with exit code %d: %s", result.ExitCode, result.Error)
	}
	if err != nil {
		c.failed(p.Driver, "step", err)
	}
	x.say(c, begun)
}

// end destroys what a lease has and waits until the cloud has confirmed it.
func end(ctx context.Context, m *pool.Manager, lease string) error {
	ctx, cancel := context.WithTimeout(ctx, cleaning)
	defer cancel()
	if err := m.Destroy(ctx, pool.DestroyRequest{Lease: lease}); err != nil {
		return err
	}
	return gone(ctx, m, pool.InstanceQuery{Lease: lease, Live: true, Limit: 10})
}

// How long the cloud may take to end machines.
const (
	cleaning = 10 * time.Minute
	// firstCleaning is for those of earlier runs, before the pools are tried, where
	// --timeout leaves so much.
	firstCleaning = 2 * time.Minute
)

func gone(ctx context.Context, m *pool.Manager, q pool.InstanceQuery) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := m.Instances(ctx, q)
		if err == nil && len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil {
				return err
			}
			return fmt.Errorf("%s is not confirmed gone: %s %s", left[0].Name, left[0].Reason, left[0].Detail)
		case <-tick.C:
		}
	}
}

// earlierRun is what runs before this one could not destroy.
type earlierRun struct {
	machines int
	err      error // it cannot be told, or destroying it was not even begun
	begun    time.Time
}

// takeOver begins to destroy what runs before this one could not: also a machine
// whose lease had ended when its run was killed, which the engine goes on with.
func (x *examination) takeOver(ctx context.Context, m *pool.Manager) earlierRun {
	e := earlierRun{begun: time.Now()}
	left, err := m.Instances(ctx, everyMachine)
	if err != nil {
		e.err = err
		return e
	}
	if e.machines = len(left); e.machines > 0 && !x.json {
		fmt.Fprintf(x.p.stderr, "an earlier run was interrupted: %s to destroy first\n", count(e.machines, "machine"))
	}
	leases, err := m.Leases(ctx, pool.LeaseQuery{Live: true, Limit: everyMachine.Limit})
	e.err = err
	for _, l := range leases {
		e.err = errors.Join(e.err, m.Destroy(ctx, pool.DestroyRequest{Lease: l.ID}))
	}
	return e
}

var everyMachine = pool.InstanceQuery{Live: true, Limit: 1000}

// cleanUp waits until the cloud has confirmed the end of what an earlier run left,
// at most so long. It tells how that went, and returns true, unless it is to be
// waited for once more.
func (x *examination) cleanUp(ctx context.Context, m *pool.Manager, e earlierRun, wait time.Duration) bool {
	if e.machines == 0 && e.err == nil {
		return true
	}
	c := check{Part: "clean-up", OK: true, Detail: count(e.machines, "machine") + " of an earlier run destroyed"}
	err := e.err
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, wait)
		err = gone(ctx, m, everyMachine)
		cancel()
		if err != nil && wait < cleaning {
			if !x.json {
				fmt.Fprintln(x.p.stderr, "still being destroyed: "+err.Error())
			}
			return false
		}
	}
	if err != nil {
		c.OK, c.Detail, c.Fix = false, err.Error(), again
	}
	x.say(c, e.begun)
	return true
}
