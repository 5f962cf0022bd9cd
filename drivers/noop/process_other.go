//go:build !linux

package noop

import (
	"context"
	"fmt"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

func newProcesses(string, drivers.Options, Config, Setup) (cloud, error) {
	return nil, fmt.Errorf("%w: process: true needs Linux, where all of 127.0.0.0/8 is local", drivers.ErrUnsupported)
}

// MachineMain is the life of a child process; only on Linux is there one.
func MachineMain(context.Context, string) error {
	return fmt.Errorf("%w: machines that are processes need Linux", drivers.ErrUnsupported)
}
