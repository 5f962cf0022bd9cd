//go:build !windows

package containers

import (
	"context"
	"errors"
	"net"
)

func dialPipe(context.Context, string) (net.Conn, error) {
	return nil, errors.New("named pipes are for Windows: DOCKER_HOST wants unix:// or tcp:// here")
}
