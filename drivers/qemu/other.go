//go:build !linux

package qemu

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// architecture and the rest of Linux's driver are not here; Check needs to know
// that none is.
var architectures = map[string]struct{}{"amd64": {}, "arm64": {}}

// New says that local machines need Linux: locks, sealed memory and loopback
// addresses are used as Linux has them.
func New(drivers.Options) (drivers.Driver, error) {
	return nil, fmt.Errorf("%w: qemu: local machines need Linux; on other systems they are not built in yet", drivers.ErrUnsupported)
}

// WarmTemplate says the same.
func WarmTemplate(_ context.Context, o drivers.Options) error {
	_, err := New(o)
	return err
}

// ImagesDir is where the images of a data directory are.
func ImagesDir(dataDir string) string { return filepath.Join(dataDir, "images") }
