package guestinit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vm-runner/drone-runner-aws/internal/guestlink"
)

// portsDir is where the kernel lists virtio ports.
const portsDir = "/sys/class/virtio-ports"

// port is the identity port as a plain descriptor: its reads block in the
// kernel, or return nothing while no host is connected.
type port struct{ fd int }

func (p *port) Read(b []byte) (int, error) {
	return retry(func() (int, error) { return unix.Read(p.fd, b) })
}

func (p *port) Write(b []byte) (int, error) {
	for sent := 0; sent < len(b); {
		n, err := retry(func() (int, error) { return unix.Write(p.fd, b[sent:]) })
		if err != nil {
			return sent, err
		}
		sent += n
	}
	return len(b), nil
}

func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		return n, nil
	}
}

const (
	portPause   = 5 * time.Millisecond
	portWarning = 10 * time.Second
)

// openPort waits for the identity port, which appears shortly after its module
// is loaded, and opens it. The port can be open only once, so the descriptor
// is kept over the start anew; children do not get it.
func openPort(ctx context.Context, log *slog.Logger) (*port, error) {
	warn := time.NewTimer(portWarning)
	defer warn.Stop()
	for {
		if dev, ok := findPort(portsDir); ok {
			fd, err := unix.Open(filepath.Join("/dev", dev), unix.O_RDWR|unix.O_CLOEXEC, 0)
			if err == nil {
				return &port{fd: fd}, nil
			}
			if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) {
				return nil, fmt.Errorf("open identity port %s: %w", dev, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-warn.C:
			log.Warn("still no identity port; is there a virtserialport of that name, and the module virtio_console?", "name", guestlink.PortName)
		case <-time.After(portPause):
		}
	}
}

// findPort returns the device of the identity port, known by its name: its
// number is not fixed.
func findPort(dir string) (string, bool) {
	names, err := filepath.Glob(filepath.Join(dir, "*", "name"))
	if err != nil {
		return "", false
	}
	for _, file := range names {
		text, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(text)) == guestlink.PortName {
			return filepath.Base(filepath.Dir(file)), true
		}
	}
	return "", false
}
