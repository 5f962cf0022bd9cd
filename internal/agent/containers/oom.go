package containers

import "strings"

// sigkilled is the exit code of a container whose process got SIGKILL.
const sigkilled = 137

// idLen is the length of a container's id, with every daemon.
const idLen = 64

// namesOOM says whether a line of the kernel's log tells that a process of a
// container was killed for want of memory, its own or the machine's. The kernel
// names the process's control group, whose last part has the container's id with
// every daemon: "/docker/ID", "/system.slice/docker-ID.scope",
// "/machine.slice/libpod-ID.scope/container" (dump_oom_victim in mm/oom_kill.c,
// Linux 5.0 and later).
func namesOOM(line, id string) bool {
	if len(id) < idLen || !strings.Contains(line, "oom-kill:") {
		return false
	}
	_, group, ok := strings.Cut(line, ",task_memcg=")
	group, _, _ = strings.Cut(group, ",task=")
	return ok && strings.Contains(group, id)
}
