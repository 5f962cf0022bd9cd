package main

import "github.com/urfave/cli/v2"

// The flags several commands share. Each names its variable, see internal/env.

func poolFileFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "pool", Usage: "pool `FILE`", EnvVars: []string{"DRONE_POOL_FILE"}, TakesFile: true}
}

func envFileFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "envfile", Usage: "`FILE` with more variables, NAME=value a line", EnvVars: []string{"DRONE_ENV_FILE"}, TakesFile: true}
}

func dataDirFlag() *cli.StringFlag {
	return &cli.StringFlag{
		Name: "data-dir", EnvVars: []string{"RUNNER_DATA_DIR"}, TakesFile: true,
		Usage: "`FOLDER` of store, seal key, socket, images and local machines (default: the pool file's, else the working directory)",
	}
}

func jsonFlag() *cli.BoolFlag {
	return &cli.BoolFlag{Name: "json", Usage: "print JSON", EnvVars: []string{"RUNNER_JSON"}}
}

func socketFlag() *cli.StringFlag {
	return &cli.StringFlag{
		Name: "socket", EnvVars: []string{"RUNNER_ADMIN_SOCKET"}, TakesFile: true,
		Usage: "admin `SOCKET` of the running runner (default: admin.sock in the data directory)",
	}
}

func limitFlag() *cli.IntFlag {
	return &cli.IntFlag{Name: "limit", Usage: "list at most `N`", Value: 100, EnvVars: []string{"RUNNER_LIMIT"}}
}

func inPoolFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "in-pool", Usage: "only what belongs to the pool `NAME`", EnvVars: []string{"RUNNER_POOL"}}
}

func allFlag() *cli.BoolFlag {
	return &cli.BoolFlag{Name: "all", Usage: "what has ended too", EnvVars: []string{"RUNNER_ALL"}}
}

func followFlag() *cli.BoolFlag {
	return &cli.BoolFlag{Name: "follow", Aliases: []string{"f"}, Usage: "go on until it ends or is interrupted", EnvVars: []string{"RUNNER_FOLLOW"}}
}
