package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/internal/hostrunner"
)

// askTime is how long the runner may take to say how it is.
const askTime = 10 * time.Second

var jsonFlag = &cli.BoolFlag{Name: "json", Usage: "print for a program"}

// askFlags are the flags of commands that ask a local runner.
func askFlags() []cli.Flag {
	return append([]cli.Flag{&cli.StringFlag{Name: "url", Usage: "where the runner listens"}}, flagsOf(optionEnvFile, optionBind, optionToken)...)
}

// hostCaller asks a local runner.
type hostCaller struct{ base, token string }

// newHostCaller asks the runner of --url, or the one of this host's settings.
func newHostCaller(c *cli.Context) (hostCaller, error) {
	r, err := newReader(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return hostCaller{}, err
	}
	h := hostCaller{base: c.String("url"), token: r.token()}
	if h.base == "" {
		bind, _ := r.text(optionBind)
		h.base = "http://" + callable(bind)
	}
	return h, errors.Join(r.errs...)
}

// callable is an address to call where one to listen on was given.
func callable(bind string) string {
	host, port, err := net.SplitHostPort(bind)
	if err != nil {
		return bind
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// open asks for a path, which is escaped, and returns a body that is to be
// closed. An answer that is not a success is an error.
func (h hostCaller) open(ctx context.Context, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(h.base, "/")+path, nil)
	if err != nil {
		return nil, err
	}
	if h.token != "" {
		req.Header.Set("Authorization", "Bearer "+h.token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w; does the local runner run? Start it with: runner-agent host", err)
	}
	if res.StatusCode == http.StatusOK {
		return res.Body, nil
	}
	defer res.Body.Close()
	var said struct {
		Message string `json:"error_msg"`
	}
	_ = json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&said) // another program may answer in its own way
	err = fmt.Errorf("%s answers %s: %s", h.base, res.Status, cmp.Or(said.Message, "no local runner does so; see --url"))
	if res.StatusCode == http.StatusNotFound {
		err = notThereError{err}
	}
	return nil, err
}

// notThereError is a runner's answer about a stage or step it does not have.
type notThereError struct{ error }

// ask reads an answer that comes at once.
func (h hostCaller) ask(ctx context.Context, path string, into any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	body, err := h.open(ctx, path)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	text, err := io.ReadAll(io.LimitReader(body, 32<<20))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return nil, fmt.Errorf("%s does not answer as a local runner does: %w", h.base, err)
	}
	return text, nil
}

func statusCommand() *cli.Command {
	return &cli.Command{
		Name:  "status",
		Usage: "tell what runs on this machine's local runner, what waits, and for what",
		Description: "Asks the runner at --url, or where --bind says that it listens.\n\n" +
			"Examples:\n   runner-agent host status\n   runner-agent host status --json | jq .queue",
		Flags: append([]cli.Flag{jsonFlag}, askFlags()...),
		Action: func(c *cli.Context) error {
			h, err := newHostCaller(c)
			if err != nil {
				return err
			}
			var s hostrunner.Status
			text, err := h.ask(c.Context, hostrunner.PathStatus, &s)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				_, err = c.App.Writer.Write(text)
				return err
			}
			return printStatus(c.App.Writer, s, time.Now())
		},
	}
}

func printStatus(w io.Writer, s hostrunner.Status, now time.Time) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, version %s: stages running: %d, waiting: %d\n", s.State, s.Version, s.Stages, s.Waiting)
	for _, p := range s.Problems {
		fmt.Fprintf(&b, "problem: %s\n", p)
	}
	age := func(t time.Time) string { return now.Sub(t).Round(time.Second).String() }
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	if len(s.Running) > 0 {
		fmt.Fprintln(t, "\nSTAGE\tSTATE\tAGE\tLAST CALL\tSTEPS\tBUSY\tFOLDER")
	}
	for _, st := range s.Running {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", st.ID, st.State, age(st.Created), age(st.LastCall), st.Steps, st.Busy, st.Dir)
	}
	if len(s.Queue) > 0 {
		fmt.Fprintln(t, "\nWAITING\tSINCE\tAHEAD\tFOR")
	}
	for _, q := range s.Queue {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", q.ID, age(q.Since), q.Ahead, q.Reason)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, st := range s.Running {
		if st.Fault != "" {
			fmt.Fprintf(&b, "%s: %s\n", st.ID, st.Fault)
		}
		for _, left := range st.Leftover {
			fmt.Fprintf(&b, "%s: left behind: %s\n", st.ID, left)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "look for what makes stages fail on this machine, and say what to do",
		Description: "Looks at room and rights, git, mounts, the container daemon, its network drivers and\n" +
			"networks, and at the delegate's container. Changes nothing. Ends with 1 if something fails.\n\n" +
			"Examples:\n   runner-agent host doctor\n   runner-agent host doctor --json",
		Flags: append([]cli.Flag{jsonFlag}, hostFlags()...),
		Action: func(c *cli.Context) error {
			s, err := readHostSettings(c, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			found := hostrunner.Examine(c.Context, hostrunner.Examination{
				DataDir: s.dataDir, Limits: s.limits, Mounts: s.mounts, NetworkDriver: s.networkDriver,
				Docker: hostrunner.NewDocker(s.env.environ()),
			})
			return reportFindings(c.App.Writer, found, c.Bool("json"))
		},
	}
}

// errFindings ends a doctor who found something.
var errFindings = errors.New("stages can fail on this machine; see above")

func reportFindings(w io.Writer, found []hostrunner.Finding, asJSON bool) error {
	failed := false
	var b strings.Builder
	for _, f := range found {
		failed = failed || f.Level == hostrunner.LevelFailure
		fmt.Fprintf(&b, "%-8s %s: %s\n", f.Level, f.Check, f.Text)
		if f.Remedy != "" {
			fmt.Fprintf(&b, "%-8s %s\n", "", "→ "+f.Remedy)
		}
	}
	text := b.String()
	if asJSON {
		doc, err := json.MarshalIndent(found, "", "  ")
		if err != nil {
			return err
		}
		text = string(doc) + "\n"
	}
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	if failed {
		return errFindings
	}
	return nil
}
