package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/server"
	"github.com/vm-runner/drone-runner-aws/server/client"
)

// askFlags are those of every command that asks a running runner.
func askFlags(more ...cli.Flag) []cli.Flag {
	return append(more, jsonFlag(), dataDirFlag(), socketFlag(), urlFlag())
}

func urlFlag() *cli.StringFlag {
	return &cli.StringFlag{
		Name: "url", EnvVars: []string{"RUNNER_API_URL"},
		Usage: "`URL` of the runner when there is no socket (default: this host at the port of DRONE_HTTP_BIND, http://127.0.0.1:3000)",
	}
}

// ask makes a client for the running runner and calls f with it: over the
// admin socket that is named or lies in the data directory, else over HTTP.
func (p *program) ask(c *cli.Context, f func(ctx context.Context, api *client.Client) error) error {
	target, err := p.target(c)
	if err != nil {
		return err
	}
	api, err := client.New(target)
	if err != nil {
		return usageError{err, c.Command.HelpName}
	}
	defer api.Close()
	return unreachable(target, f(c.Context, api))
}

// unreachable turns the error of a runner that is not there into what to do.
func unreachable(target string, err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no runner answers at %s; start one with drone-runner-aws delegate, or name it with --data-dir, --socket or --url", target)
	}
	if refused, ok := errors.AsType[*client.Error](err); ok {
		return errors.New(refused.Message)
	}
	return err
}

func (p *program) target(c *cli.Context) (string, error) {
	if s := c.String("socket"); s != "" {
		path, err := filepath.Abs(s)
		return "unix://" + path, err
	}
	dir := c.String("data-dir")
	if dir == "" {
		var err error
		if dir, err = os.Getwd(); err != nil {
			return "", err
		}
	}
	path, err := filepath.Abs(filepath.Join(dir, server.AdminSocket))
	if err != nil {
		return "", err
	}
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeSocket != 0 && !c.IsSet("url") {
		return "unix://" + path, nil
	}
	return p.url(c), nil
}

// url is the runner's address over HTTP.
func (p *program) url(c *cli.Context) string {
	if u := c.String("url"); u != "" {
		return u
	}
	host, port, err := net.SplitHostPort(p.env.Config.HTTPBind)
	if err != nil {
		return "http://127.0.0.1:3000"
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}
