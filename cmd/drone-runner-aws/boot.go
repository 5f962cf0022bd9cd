package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/agentfiles"
	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/internal/userdata"
	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server"
)

// releases is where this program's agents are published, version by version.
const releases = "https://github.com/vm-runner/drone-runner-aws/releases/download/"

var released = regexp.MustCompile(`^v?\d+\.\d+\.\d+(-rc\.\d+)?$`)

// bootScripts makes the renderer of boot scripts from the environment.
func bootScripts(c env.Config) (*userdata.Renderer, error) {
	b := c.Boot
	cfg := userdata.Config{
		AgentURL: b.AgentURL, FallbackURL: b.AgentFallbackURL, SHA256: map[string]string{},
		Helpers: userdata.Helpers{
			HarnessTest: b.HarnessTest, Plugin: b.Plugin, PluginFallback: b.PluginFallback, AutoInjection: b.AutoInjection,
			Annotations: b.Annotations, AnnotationsFallback: b.AnnotationsFallback,
			Envman: b.Envman, EnvmanFallback: b.EnvmanFallback, Tmate: b.Tmate, TmateFallback: b.TmateFallback,
			TmateEnabled: b.TmateEnabled, TmateImage: b.TmateImage, TmateHost: b.TmateHost, TmatePort: b.TmatePort,
			TmateRSA: b.TmateRSA, TmateEd25519: b.TmateEd25519, Diagnostics: b.Diagnostics,
			EgressNoProxy: b.EgressNoProxy, EgressCACert: b.EgressCACert,
		},
	}
	if cfg.AgentURL == "" && c.AgentBind != "" {
		url, err := agentfiles.BaseURL(c.AgentBind)
		if err != nil {
			return nil, fmt.Errorf("DRONE_AGENT_DOWNLOAD_BIND: %w", err)
		}
		cfg.AgentURL = url
	}
	// Only a release has agents that are published.
	if cfg.AgentURL == "" && released.MatchString(version) {
		cfg.AgentURL = releases + version
	}
	for _, item := range b.AgentSHA256 {
		name, sum, ok := strings.Cut(strings.TrimSpace(item), "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("RUNNER_AGENT_SHA256: %q is not of the form name=sum, for example lite-engine-linux-amd64=<64 hexadecimal digits>", item)
		}
		cfg.SHA256[name] = sum
	}
	r, err := userdata.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("DRONE_LITE_ENGINE_PATH, DRONE_LITE_ENGINE_FALLBACK_PATH, RUNNER_AGENT_SHA256: %w", err)
	}
	return r, nil
}

// egress is what stages on machines with a proxy are told.
func egress(c env.Config) server.Egress {
	return server.Egress{
		NoProxy: c.Boot.EgressNoProxy, BundleVars: c.Boot.EgressBundleVars, CAVars: c.Boot.EgressCAVars,
	}
}

// agentDir is the folder agents are served from.
func agentDir(c env.Config) (string, error) {
	if c.AgentDir != "" {
		return c.AgentDir, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program's folder: %w; set RUNNER_AGENT_DIR", err)
	}
	return filepath.Dir(self), nil
}

// serveAgents opens the listener machines download their agent from, if there is
// to be one, and puts its address into the configuration. What it returns serves
// until its context ends.
func (d *delegate) serveAgents(ctx context.Context) (func(context.Context) error, error) {
	if d.cfg.AgentBind == "" {
		return func(ctx context.Context) error { <-ctx.Done(); return nil }, nil
	}
	dir, err := agentDir(d.cfg)
	if err != nil {
		return nil, err
	}
	files, err := agentfiles.Open(dir, d.log)
	if err != nil {
		return nil, fmt.Errorf("DRONE_AGENT_DOWNLOAD_BIND, RUNNER_AGENT_DIR: %w", err)
	}
	ln, bound, err := agentfiles.Listen(ctx, d.cfg.AgentBind)
	if err != nil {
		return nil, fmt.Errorf("DRONE_AGENT_DOWNLOAD_BIND: %w", err)
	}
	d.cfg.AgentBind = bound
	d.log.Info("serving agents to machines", "address", ln.Addr().String(), "folder", dir, "files", files.Names())
	return func(ctx context.Context) error { return files.Serve(ctx, ln) }, nil
}

// checkScript adds to a type's check that of the template of a pool's own boot
// script, so that a mistake in it is found before a machine is made.
func checkScript(check func(any, *drivers.Platform) []drivers.Problem) func(any, *drivers.Platform) []drivers.Problem {
	return func(cfg any, p *drivers.Platform) []drivers.Problem {
		var problems []drivers.Problem
		if check != nil {
			problems = check(cfg, p)
		}
		booted, ok := cfg.(drivers.Booted)
		if !ok {
			return problems
		}
		o, err := booted.BootOptions()
		if err != nil || o.Template == "" {
			return problems // the type's own check says what is wrong with the file
		}
		if err := userdata.Check(o.TemplateName, o.Template); err != nil {
			key := "user_data_path"
			if o.TemplateName == "user_data" {
				key = o.TemplateName
			}
			problems = append(problems, drivers.Problem{Path: key, Message: strings.ReplaceAll(err.Error(), "\n", "; ")})
		}
		return problems
	}
}

// agentless are the pools whose machines could not get an agent.
func agentless(r *userdata.Renderer, pools []pool.PoolConfig) []string {
	var names []string
	for _, p := range pools {
		booted, ok := p.Spec.(drivers.Booted)
		if !ok || r.HasAgent() {
			continue
		}
		if o, err := booted.BootOptions(); err == nil && o.Template == "" {
			names = append(names, p.Name)
		}
	}
	return names
}
