//go:build no_amazon

package amazon

import "github.com/vm-runner/drone-runner-aws/drivers"

// build is nil in a program made with the build tag no_amazon: only the keys
// are known to it.
var build func(drivers.Options) (drivers.Driver, error)
