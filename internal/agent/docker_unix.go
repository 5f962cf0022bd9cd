//go:build unix

package agent

const dockerSocket = "/var/run/docker.sock"
