//go:build !linux

package guestinit

import (
	"context"
	"errors"
)

// Run is built for Linux only.
func Run(context.Context, Options) error {
	return errors.New("running as process 1 of a machine is built for Linux only")
}

// RunService is built for Linux only.
func RunService(context.Context, Options) error {
	return errors.New("running as a local machine's service is built for Linux only")
}
