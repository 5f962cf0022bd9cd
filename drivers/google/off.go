//go:build no_google

package google

import "github.com/vm-runner/drone-runner-aws/drivers"

// opener is nil: only the keys of the type are known to a program without the
// vendor's client.
func opener(Setup) func(drivers.Options) (drivers.Driver, error) { return nil }
