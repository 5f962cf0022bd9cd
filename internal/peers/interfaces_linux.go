package peers

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// interfaceKind asks the kernel which driver is behind an interface. It is
// what tells a container's link to a bridge (veth) from a network card that
// the container shares with its host.
func interfaceKind(name string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return ""
	}
	kind, _, _ := bytes.Cut(info.Driver[:], []byte{0})
	return string(kind)
}
