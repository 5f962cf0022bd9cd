//go:build !no_google

package google

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// How patient a call is.
const (
	// callPatience bounds one try of a call, waitPatience one that waits for an
	// operation, which the cloud answers within two minutes.
	callPatience = 30 * time.Second
	waitPatience = 150 * time.Second
	// passingTries is how often a call is made that meets a passing problem,
	// limitTries one that comes too often.
	passingTries = 4
	limitTries   = 3
)

// errHangs is why a try ends that is not answered.
var errHangs = errors.New("no answer")

// call carries out one call within the account's budget. It is repeated after
// passing problems and refusals of too many calls, so it has to be one that may
// be: one that reads, or that carries a requestId. The error has its kind.
func (a *account) call(ctx context.Context, g group, patience time.Duration, try func(ctx context.Context) error) error {
	wait := time.Second
	for passing, limited := 1, 1; ; {
		if err := a.budget.take(ctx, g); err != nil {
			return err
		}
		tryCtx, cancel := context.WithTimeoutCause(ctx, patience, errHangs)
		err := try(tryCtx)
		hangs := err != nil && errors.Is(context.Cause(tryCtx), errHangs)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		if err = explain(err); hangs {
			err = fail(fmt.Sprintf("no answer within %s", patience), errPassing, err)
		}
		var limit *drivers.RateLimitError
		switch {
		case errors.As(err, &limit):
			limit.After = a.budget.limited(g, limit.After)
			if limited++; limited > limitTries {
				return err
			}
		case errors.Is(err, errPassing):
			if passing++; passing > passingTries || pause(ctx, wait+time.Duration(rand.Int64N(int64(wait)/2))) != nil {
				return err
			}
			wait *= 2
		default:
			return err
		}
	}
}
