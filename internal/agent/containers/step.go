package containers

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	networktypes "github.com/moby/moby/api/types/network"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

// Step is what a container is made from. It is not changed.
type Step struct {
	Setup   *agentapi.SetupRequest
	Request *agentapi.StartStepRequest
	// Entrypoint and Command replace the image's where they are not empty.
	Entrypoint, Command []string
	// Env is the whole environment.
	Env map[string]string
	// SharedDir is mounted at its own path.
	SharedDir string
	// Netrc is a file that its root user has as ~/.netrc, "" for none.
	Netrc string
	// Out takes what the container prints. It must not hold up its writer.
	Out Output
}

// Output is where a step's text goes. It is safe for concurrent use.
type Output interface {
	// Write takes what the container prints, and never fails.
	Write(p []byte) (int, error)
	// Line takes a line about the step, without its newline.
	Line(text string)
	// Note takes a remark of the agent's own.
	Note(text string)
}

// usedNetwork is what a container is attached to.
type usedNetwork struct {
	mode    string
	aliases []string // only for a network the daemon resolves names in
}

// createOptions translates a step for the daemon. The notes are about what it
// asks for and does not get.
func (s *Stage) createOptions(st *Step, net usedNetwork) (createOptions, []string, error) {
	req := st.Request
	m := s.engine.mountsOf(st)
	exposed, bound, err := portsOf(req.PortBindings)
	if err != nil {
		return createOptions{}, nil, err
	}
	servers, unusable := dnsServers(req.DNS)
	notes := m.notes
	if len(unusable) > 0 {
		notes = append(notes, fmt.Sprintf("dns %s: not an address, left out", strings.Join(unusable, ", ")))
	}
	labels := s.labels(req.Labels)
	labels[LabelStep] = req.ID
	body := container.CreateRequest{
		Config: &container.Config{
			Image:        req.Image,
			Entrypoint:   st.Entrypoint,
			Cmd:          st.Command,
			Env:          environ(st.Env),
			User:         req.User,
			WorkingDir:   containerPath(req.WorkingDir),
			Tty:          st.Setup.TTY,
			AttachStdout: true,
			AttachStderr: true,
			ExposedPorts: exposed,
			Labels:       labels,
		},
		HostConfig: &container.HostConfig{
			LogConfig:    container.LogConfig{Type: "json-file"},
			NetworkMode:  container.NetworkMode(net.mode),
			PortBindings: bound,
			DNS:          servers,
			DNSSearch:    req.DNSSearch,
			ExtraHosts:   req.ExtraHosts,
			Mounts:       m.mounts,
			ShmSize:      req.ShmSize,
			Privileged:   req.Privileged && runtime.GOOS != "windows",
			Resources: container.Resources{
				CPUPeriod:  req.CPUPeriod,
				CPUQuota:   req.CPUQuota,
				CPUShares:  req.CPUShares,
				CpusetCpus: strings.Join(req.CPUSet, ","),
				Memory:     req.MemLimit,
				MemorySwap: req.MemSwapLimit,
				Devices:    m.devices,
			},
		},
	}
	if len(net.aliases) > 0 {
		body.NetworkingConfig = &networktypes.NetworkingConfig{
			EndpointsConfig: map[string]*networktypes.EndpointSettings{net.mode: {Aliases: net.aliases}},
		}
	}
	return createOptions{name: objectName(s.engine.conf.Prefix, req.ID), body: body}, notes, nil
}

// portsOf translates host → container. The host's side may have an address.
func portsOf(bindings map[string]string) (networktypes.PortSet, networktypes.PortMap, error) {
	if len(bindings) == 0 {
		return nil, nil, nil
	}
	exposed, bound := make(networktypes.PortSet), make(networktypes.PortMap)
	for _, host := range slices.Sorted(maps.Keys(bindings)) {
		port, err := networktypes.ParsePort(bindings[host])
		if err != nil {
			return nil, nil, fmt.Errorf("port_bindings: %q of the container: %w", bindings[host], err)
		}
		b := networktypes.PortBinding{HostPort: host}
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			ip, err := netip.ParseAddr(strings.Trim(host[:i], "[]"))
			if err != nil {
				return nil, nil, fmt.Errorf("port_bindings: %q of the host: %w", host, err)
			}
			b.HostIP, b.HostPort = ip, host[i+1:]
		}
		exposed[port] = struct{}{}
		bound[port] = append(bound[port], b)
	}
	return exposed, bound, nil
}

// dnsServers are the addresses among the entries, and what is none.
func dnsServers(entries []string) (servers []netip.Addr, unusable []string) {
	for _, e := range entries {
		ip, err := netip.ParseAddr(e)
		if err != nil {
			unusable = append(unusable, e)
			continue
		}
		servers = append(servers, ip)
	}
	return servers, unusable
}

// environ is env in the daemon's form, sorted.
func environ(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(env[k], "\x00") {
			continue // no process can be given such a variable
		}
		out = append(out, k+"="+env[k])
	}
	return out
}

// buildCacheStep is the one step that has names in a network it chooses itself.
const buildCacheStep = "harness-build-cache"

// networkOf is the network a step runs in: the one it names, or the stage's,
// where it is reached by its id, its name and its aliases. stage is what the
// daemon calls the stage's, "" if the step does not need it.
func (s *Stage) networkOf(st *Step, stage string) usedNetwork {
	req := st.Request
	names := aliases(append([]string{req.ID, req.Name}, req.NetworkAliases...)...)
	if stage != "" {
		return usedNetwork{mode: stage, aliases: names}
	}
	net := usedNetwork{mode: req.Network}
	if peer, ok := strings.CutPrefix(req.Network, "container:"); ok && s.engine.conf.Prefix != "" {
		net.mode = "container:" + objectName(s.engine.conf.Prefix, peer)
	}
	if req.Name == buildCacheStep {
		net.aliases = names
	}
	return net
}

// needsStageNetwork says whether a step runs in the stage's network: it names
// none, or that one.
func needsStageNetwork(st *Step) bool {
	return st.Request.Network == "" || st.Request.Network == st.Setup.Network.ID
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
