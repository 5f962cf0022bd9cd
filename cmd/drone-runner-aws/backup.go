package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/vm-runner/drone-runner-aws/server"
	"github.com/vm-runner/drone-runner-aws/store"
	"github.com/vm-runner/drone-runner-aws/store/postgres"
	"github.com/vm-runner/drone-runner-aws/store/sqlite"
)

func (p *program) backupCommand() *cli.Command {
	return &cli.Command{
		Name:  "backup",
		Usage: "write a copy of the store to a file, also while the runner works",
		Description: `The copy is of one moment and has everything that was answered before the command
began. It is checked before it gets its name, and half a file is never left. The
secrets in it stay sealed: keep seal.key too, but in another place.

   drone-runner-aws backup --data-dir /var/lib/runner --out runner.backup
   drone-runner-aws backup inspect runner.backup
   drone-runner-aws restore --data-dir /var/lib/runner runner.backup`,
		Flags: append(storeFlags(),
			&cli.StringFlag{Name: "out", Usage: "write the copy to `FILE`", TakesFile: true, EnvVars: []string{"RUNNER_BACKUP_FILE"}},
			&cli.BoolFlag{Name: "force", Usage: "replace the file if it exists"},
			jsonFlag(),
		),
		Action: p.backup,
		Subcommands: []*cli.Command{{
			Name:      "inspect",
			Usage:     "check a copy and say what it is of",
			ArgsUsage: "FILE",
			Description: `Reads the whole file, so that a sound answer means a sound copy.

   drone-runner-aws backup inspect runner.backup
   drone-runner-aws backup inspect --json runner.backup`,
			Flags:  []cli.Flag{jsonFlag()},
			Action: p.inspect,
		}},
	}
}

func (p *program) restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "make a store of a copy, while no runner works on it",
		ArgsUsage: "FILE",
		Description: `Restores into the store that the data directory and the variables name, SQLite or
Postgres, whichever the copy was made of. Nothing is changed unless the whole
copy is sound, its schema known and its seal key at hand. A store that has rows
is replaced with --force only, and kept beside the new one.

What happened after the copy was made is not in it. So every machine that was
free then is held: it is neither lent nor destroyed until somebody has looked
(drone-runner-aws instance ls shows it).

   drone-runner-aws restore --data-dir /var/lib/runner runner.backup
   drone-runner-aws restore --force runner.backup`,
		Flags: append(storeFlags(),
			&cli.BoolFlag{Name: "force", Usage: "replace a store that has rows; it is kept under another name"},
			jsonFlag(),
		),
		Action: p.restoreStore,
	}
}

// storeFlags find the store as delegate does.
func storeFlags() []cli.Flag { return []cli.Flag{dataDirFlag(), poolFileFlag(), envFileFlag()} }

// place finds the store that the flags and variables name.
func (p *program) place(c *cli.Context) (place, error) {
	if p.envErr != nil {
		return place{}, p.envErr
	}
	dir, err := dataDir(c.String("data-dir"), c.String("pool"))
	if err != nil {
		return place{}, err
	}
	return placeOf(p.env.Config, dir), nil
}

func (p *program) backup(c *cli.Context) error {
	if c.NArg() > 0 {
		return usagef(c, "backup takes no arguments, but got %q; say --out FILE", c.Args().First())
	}
	out := c.String("out")
	if out == "" {
		return usagef(c, "name the file: drone-runner-aws backup --out FILE")
	}
	at, err := p.place(c)
	if err != nil {
		return err
	}
	info, err := writeCopy(c.Context, at, out, c.Bool("force"))
	if err != nil {
		return err
	}
	return p.describe(c, out, info)
}

// writeCopy writes and checks a copy beside out and then gives it its name.
func writeCopy(ctx context.Context, at place, out string, force bool) (info store.CopyInfo, err error) {
	exists := func() error {
		return fmt.Errorf("%s exists and was left as it is; name another file, or say --force", out)
	}
	if _, err := os.Lstat(out); err == nil && !force {
		return info, exists()
	}
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*.tmp")
	if err != nil {
		return info, fmt.Errorf("write copy %s: %w", out, err)
	}
	// CreateTemp made it 0600. After the rename there is nothing to remove.
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	now := time.Now()
	if at.postgres {
		info, err = postgres.Backup(ctx, at.source, f, now)
	} else {
		info, err = sqlite.Backup(ctx, at.source, f, now)
	}
	if err != nil {
		return info, err
	}
	if err := f.Sync(); err != nil {
		return info, fmt.Errorf("write copy %s: %w", out, err)
	}
	if _, err := checkCopy(f.Name()); err != nil {
		return info, fmt.Errorf("the copy was written, but cannot be read again: %w", err)
	}
	if force {
		err = os.Rename(f.Name(), out)
	} else if err = os.Link(f.Name(), out); errors.Is(err, fs.ErrExist) {
		return info, exists()
	}
	if err != nil {
		return info, fmt.Errorf("write copy %s: %w", out, err)
	}
	dir, err := os.Open(filepath.Dir(out))
	if err != nil {
		return info, fmt.Errorf("write copy %s: %w", out, err)
	}
	return info, errors.Join(dir.Sync(), dir.Close())
}

func checkCopy(path string) (store.CopyInfo, error) {
	f, err := os.Open(path)
	if err != nil {
		return store.CopyInfo{}, err
	}
	defer f.Close()
	info, err := store.CheckCopy(f)
	if err != nil {
		return info, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}

func (p *program) inspect(c *cli.Context) error {
	if c.NArg() != 1 {
		return usagef(c, "name one file: drone-runner-aws backup inspect FILE")
	}
	info, err := checkCopy(c.Args().First())
	if err != nil {
		return err
	}
	return p.describe(c, c.Args().First(), info)
}

// describe prints what a copy says of itself.
func (p *program) describe(c *cli.Context, file string, info store.CopyInfo) error {
	if c.Bool("json") {
		return p.json(info)
	}
	var rows []string
	for _, table := range slices.Sorted(maps.Keys(info.Rows)) {
		if n := info.Rows[table]; n > 0 && table != "meta" {
			rows = append(rows, fmt.Sprintf("%s %d", table, n))
		}
	}
	fmt.Fprintf(p.stdout, "file        %s\nmade        %s\ndialect     %s\nschema      %d\ncontroller  %s\nseal key    %s\nrows        %s\n",
		file, info.Made.Format(time.RFC3339), info.Dialect, info.Schema, dash(info.Controller), dash(info.SealKey),
		dash(strings.Join(rows, ", ")))
	return nil
}

// restored is what restore prints for a program.
type restored struct {
	store.CopyInfo
	// Kept is where the store that was there is.
	Kept string `json:"kept"`
}

func (p *program) restoreStore(c *cli.Context) error {
	if c.NArg() != 1 {
		return usagef(c, "name one file: drone-runner-aws restore FILE")
	}
	file := c.Args().First()
	at, err := p.place(c)
	if err != nil {
		return err
	}
	if err := unserved(c.Context, at.dir); err != nil {
		return err
	}
	info, err := checkCopy(file)
	if err != nil {
		return err
	}
	if info.SealKey != "" {
		if _, err := store.LoadKey(store.KeyConfig{Dir: at.dir, Want: info.SealKey}); err != nil {
			return fmt.Errorf("restore %s: %w", file, err)
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	log, now, force := newLog(p.stderr, p.env.Config), time.Now(), c.Bool("force")
	var kept string
	if at.postgres {
		kept, err = postgres.Restore(c.Context, postgres.RestoreOptions{DSN: at.source, From: f, Force: force, Now: now, Log: log})
	} else {
		kept, err = sqlite.Restore(c.Context, sqlite.RestoreOptions{Path: at.source, From: f, Force: force, Now: now, Log: log})
	}
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.json(restored{info, kept})
	}
	fmt.Fprintf(p.stdout, "restored %s of %s\n", file, info.Made.Format(time.RFC3339))
	if kept != "" {
		fmt.Fprintf(p.stdout, "the store that was there is kept: %s\n", kept)
	}
	fmt.Fprintln(p.stdout, "machines that were free then are held until somebody has looked: drone-runner-aws instance ls")
	return nil
}

// unserved refuses a data directory whose runner answers.
func unserved(ctx context.Context, dir string) error {
	path := filepath.Join(dir, server.AdminSocket)
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil // nobody listens; the store's own lock decides
	}
	return errors.Join(fmt.Errorf("a runner answers at %s; stop it before its store is replaced", path), conn.Close())
}
