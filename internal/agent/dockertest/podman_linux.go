//go:build docker

package dockertest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// podmanConf makes a service of Podman that depends on nothing of this host: no
// systemd, no right to raise limits, few networks, so that a test can use them up.
const podmanConf = `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "netavark"
network_config_dir = "%s"
default_subnet_pools = [{"base" = "172.30.0.0/20", "size" = 24}]
`

// podmanScript runs Podman with folders of its own where it would use the host's.
const podmanScript = `set -e
(command -v ip && ip link set lo up) >/dev/null 2>&1 || true
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
exec podman "$@"`

// StartPodman is Start for Podman's service, which speaks Docker's interface.
func StartPodman(tb testing.TB) (host string) {
	tb.Helper()
	need(tb, map[string]string{"podman": "podman", "netavark": "netavark", "aardvark-dns": "aardvark-dns", "runc": "runc", "unshare": "util-linux", "busybox": "busybox-static"})
	d := newDaemon(tb, "podman", "/libpod_parent")
	conf := filepath.Join(d.dir, "containers.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, podmanConf, filepath.Join(d.dir, "networks")), 0o600); err != nil {
		tb.Fatal(err)
	}
	d.start(podmanScript, []string{"CONTAINERS_CONF=" + conf},
		"--root", filepath.Join(d.dir, "data"), "--runroot", filepath.Join(d.dir, "run"), "--tmpdir", filepath.Join(d.dir, "tmp"),
		// A file system that needs nothing of the one below.
		"--storage-driver", "vfs",
		"system", "service", "--time", "0", "unix://"+d.socket)
	host = "unix://" + d.socket
	importImage(tb, host)
	return host
}
