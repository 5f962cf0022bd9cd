//go:build !linux

package agent

import "errors"

// readUsage has no source on this system: statistics stay empty.
func readUsage() (usage, error) { return usage{}, errors.ErrUnsupported }

// readDisk has no source either.
func readDisk() (diskUsage, error) { return diskUsage{}, errors.ErrUnsupported }
