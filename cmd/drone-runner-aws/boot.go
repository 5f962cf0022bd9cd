package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/internal/userdata"
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
