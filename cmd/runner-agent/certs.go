package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/internal/agent"
)

// defaultServerName is the name in the certificate unless SERVER_NAME says
// otherwise.
const defaultServerName = "drone"

func certsCommand() *cli.Command {
	return &cli.Command{
		Name:  "certs",
		Usage: "write a CA and one certificate for this machine, for the name in SERVER_NAME (" + defaultServerName + ")",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "certPath", Value: "/tmp/certs", Usage: "folder to write to"},
			&cli.StringFlag{Name: "env-file", Value: defaultEnvFile, Usage: "file of variables that win over the environment"},
		},
		Action: func(c *cli.Context) error {
			log := slog.New(slog.NewTextHandler(c.App.ErrWriter, nil))
			set, err := loadSettings(c.String("env-file"), environment(), log)
			if err != nil {
				return err
			}
			dir := c.String("certPath")
			if err := writeCerts(dir, set.text("SERVER_NAME", defaultServerName)); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.App.Writer, dir)
			return err
		},
	}
}

func writeCerts(dir, serverName string) error {
	certs, err := agent.NewCertificates(serverName, time.Now())
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, pem := range map[string][]byte{
		"ca-cert.pem": certs.CACert, "ca-key.pem": certs.CAKey,
		"server-cert.pem": certs.Cert, "server-key.pem": certs.Key,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem, 0o600); err != nil {
			return err
		}
	}
	return nil
}
