package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
)

// Defaults existing boot scripts rely on.
const (
	defaultEnvFile = ".env"
	defaultBind    = ":9079"
	defaultCert    = "/tmp/certs/server-cert.pem"
	defaultKey     = "/tmp/certs/server-key.pem"
	defaultCA      = "/tmp/certs/ca-cert.pem"
)

// stateDirVariable moves the agent's own files.
const stateDirVariable = "RUNNER_AGENT_STATE_DIR"

func serverCommand(stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name:  "server",
		Usage: "serve steps on this machine, with mutual TLS on port 9079",
		Description: "Settings are variables, bare or with the prefix SERVER_, which wins: HTTPS_BIND (" + defaultBind + "),\n" +
			"SERVER_CERT_FILE (" + defaultCert + "), SERVER_KEY_FILE (" + defaultKey + "),\n" +
			"CLIENT_CERT_FILE (the CA clients are checked against, " + defaultCA + "), SERVER_INSECURE, DEBUG, TRACE,\n" +
			"HARNESS_WORKDIR (moves the shared folder /tmp/engine), " + stateDirVariable + ";\n" +
			"for steps in containers DOCKER_HOST, DOCKER_CERT_PATH, DOCKER_API_VERSION.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "env-file", Value: defaultEnvFile, Usage: "file of variables that win over the environment"},
		},
		Action: func(c *cli.Context) error {
			ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
			defer stop()
			return serve(ctx, c.String("env-file"), stderr)
		},
	}
}

// serve runs the agent until ctx ends.
func serve(ctx context.Context, envFile string, stderr io.Writer) error {
	var level slog.LevelVar
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: &level}))
	set, err := loadSettings(envFile, environment(), log)
	if err != nil {
		return err
	}
	l, err := set.logLevel()
	if err != nil {
		return err
	}
	level.Set(l)
	insecure, err := set.flag("SERVER_INSECURE")
	if err != nil {
		return err
	}
	if _, err := set.flag("SKIP_PREPARE_SERVER"); err != nil { // nothing is installed either way
		return err
	}

	a, err := agent.New(agent.Options{
		Version:   version,
		SharedDir: agent.DefaultSharedDir(set.lookup("HARNESS_WORKDIR")),
		StateDir:  set.lookup(stateDirVariable),
		Env:       set.environ(),
		StepClock: true,
		Log:       log,
	})
	if err != nil {
		return err
	}
	defer dumpOnSignal(log)()
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", set.text("HTTPS_BIND", defaultBind))
	if err != nil {
		return errors.Join(fmt.Errorf("listen: %w", err), a.Close())
	}
	log.Info("listening", "addr", ln.Addr().String(), "version", version, "insecure", insecure)
	var conf *tls.Config
	if !insecure {
		a.Preparing("certificates")
		conf, err = awaitCertificates(ctx, a, certificatePaths{
			ca:   set.text("CLIENT_CERT_FILE", defaultCA),
			cert: set.text("SERVER_CERT_FILE", defaultCert),
			key:  set.text("SERVER_KEY_FILE", defaultKey),
		}, log)
		if ctx.Err() != nil {
			return errors.Join(ln.Close(), a.Close()) // told to stop while it waited
		}
		if err != nil {
			return errors.Join(err, ln.Close(), a.Close())
		}
		a.Preparing("")
	}
	if err := a.Serve(ctx, ln, conf); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

type certificatePaths struct{ ca, cert, key string }

const (
	// certificateTime is how long a boot script may take to write the files
	// after it has started the agent.
	certificateTime  = time.Minute
	certificatePause = 200 * time.Millisecond
)

// awaitCertificates loads the pair and the CA, waiting for files that are not
// there or not whole yet.
func awaitCertificates(ctx context.Context, a *agent.Agent, p certificatePaths, log *slog.Logger) (*tls.Config, error) {
	ctx, cancel := context.WithTimeout(ctx, certificateTime)
	defer cancel()
	said := false
	for {
		conf, err := loadCertificates(a, p)
		if err == nil {
			return conf, nil
		}
		if !said {
			log.Warn("waiting for certificates", "err", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("certificates: %w; write them with: runner-agent certs", err)
		case <-time.After(certificatePause):
		}
	}
}

func loadCertificates(a *agent.Agent, p certificatePaths) (*tls.Config, error) {
	var pem [3][]byte
	for i, path := range []string{p.ca, p.cert, p.key} {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		pem[i] = text
	}
	conf, err := a.TLSConfig(pem[0], pem[1], pem[2])
	if err != nil {
		return nil, fmt.Errorf("%s, %s, %s: %w", p.ca, p.cert, p.key, err)
	}
	return conf, nil
}
