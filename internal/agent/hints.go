package agent

import (
	"bytes"

	"github.com/vm-runner/drone-runner-aws/internal/agent/agentapi"
)

const (
	// hintLines is how many of the last lines of a failed step are looked at,
	// hintBytes how many bytes.
	hintLines = 10
	hintBytes = 16 << 10
)

// hintsFor are what the last lines of a failed step usually mean.
func hintsFor(output []byte) remarks {
	lines := bytes.Split(bytes.TrimSuffix(output, []byte{'\n'}), []byte{'\n'})
	if extra := len(lines) - hintLines; extra > 0 {
		lines = lines[extra:]
	}
	var killed, certificate, docker bool
	for _, l := range lines {
		killed = killed || bytes.Contains(l, []byte("Killed")) || bytes.Contains(l, []byte("killed"))
		_, after, found := bytes.Cut(l, []byte("git"))
		certificate = certificate || found && bytes.Contains(after, []byte(" SSL certificate problem"))
		docker = docker || bytes.Contains(l, []byte("Cannot connect to the Docker daemon"))
	}
	var hints remarks
	hints.add(killed, "hint: a process was killed. If nobody did that, the machine was out of memory: give it more, or do less at once")
	hints.add(certificate, "hint: git does not trust the server's certificate. Add its CA to the trust store of the machine or image, or name it in GIT_SSL_CAINFO")
	hints.add(docker, "hint: no Docker daemon answers. Use a machine or image with a running one, and see whether the step has its socket (mount_docker_socket)")
	return hints
}

// hint adds what is known about a failure to the step's output.
func (s *step) hint(res *agentapi.PollStepResponse) {
	if res.ExitCode == 0 {
		return
	}
	if res.OOMKilled { // the daemon knows, whatever was printed
		s.remark(remarks{"hint: the container had no memory left. Raise its limit (mem_limit) if it has one, else use a machine with more memory"})
		return
	}
	s.remark(hintsFor(s.out.last(hintBytes)))
}
