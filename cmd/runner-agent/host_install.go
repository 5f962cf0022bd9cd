package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/internal/hostrunner/service"
)

// stopSlack is what a service may take to stop beyond the draining of stages.
const stopSlack = 30 * time.Second

var (
	nameFlag = &cli.StringFlag{Name: "name", Value: service.DefaultName, Usage: "name of the service"}
	userFlag = &cli.StringFlag{Name: "user", Usage: "user that runs it, instead of root"}
)

func installCommand() *cli.Command {
	return &cli.Command{
		Name:  "install",
		Usage: "make the local runner a service of this system: systemd, launchd or a Windows service",
		Description: "Root's service is the whole system's, another user's their own. The service reads its\n" +
			"settings from --env-file at each start; put them there.\n\n" +
			"Examples:\n   runner-agent host install --print\n   runner-agent host install --env-file /etc/harness-docker-runner.env",
		Flags: append([]cli.Flag{
			nameFlag, userFlag,
			&cli.BoolFlag{Name: "print", Usage: "print what would be installed, and change nothing"},
		}, flagsOf(optionEnvFile, optionDataDir, optionDrain)...),
		Action: func(c *cli.Context) error {
			spec, err := serviceSpec(c)
			if err != nil {
				return err
			}
			if c.Bool("print") {
				path, text, err := service.Render(spec)
				if err != nil {
					return err
				}
				if path != "" {
					_, _ = fmt.Fprintf(c.App.ErrWriter, "for %s:\n", path) // the text itself goes to the output
				}
				_, err = c.App.Writer.Write(text)
				return err
			}
			path, err := service.Install(c.Context, spec)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s is installed and runs: %s\n", spec.Name, path)
			return err
		},
	}
}

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name:        "uninstall",
		Usage:       "stop the service and remove it; stages and settings stay",
		Description: "Example:\n   runner-agent host uninstall",
		Flags:       append([]cli.Flag{nameFlag}, flagsOf(optionEnvFile, optionDataDir, optionDrain)...),
		Action: func(c *cli.Context) error {
			spec, err := serviceSpec(c)
			if err != nil {
				return err
			}
			path, err := service.Uninstall(c.Context, spec)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.App.Writer, "%s is removed: %s\n", spec.Name, path)
			return err
		},
	}
}

// serviceSpec is this program as a service, with the settings' file and the
// data directory it was told.
func serviceSpec(c *cli.Context) (service.Spec, error) {
	program, err := os.Executable()
	if err != nil {
		return service.Spec{}, err
	}
	r, err := newReader(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return service.Spec{}, err
	}
	drain := r.duration(optionDrain)
	if err := errors.Join(r.errs...); err != nil {
		return service.Spec{}, err
	}
	args := []string{"host"}
	dir, _ := r.text(optionDataDir)
	for _, f := range []struct{ flag, path string }{{optionEnvFile.flag, c.String(optionEnvFile.flag)}, {optionDataDir.flag, dir}} {
		if f.path == "" {
			continue
		}
		path, err := filepath.Abs(f.path) // the service starts in another folder
		if err != nil {
			return service.Spec{}, err
		}
		args = append(args, "--"+f.flag, path)
	}
	args = append(args, "--"+optionDrain.flag, drain.String())
	return service.Spec{
		Name: c.String(nameFlag.Name), Description: "Local runner of pipeline stages",
		Program: program, Args: args, User: c.String(userFlag.Name), StopTime: drain + stopSlack,
		Log: filepath.Join(logDir(), c.String(nameFlag.Name)+".log"),
	}, nil
}

// logDir is where services of macOS print to.
func logDir() string {
	if home, err := os.UserHomeDir(); err == nil && os.Geteuid() != 0 {
		return filepath.Join(home, "Library/Logs")
	}
	return "/var/log"
}
