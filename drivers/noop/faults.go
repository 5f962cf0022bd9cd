package noop

import (
	"context"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Faults lets tests and simulations break the pretend cloud. The operations
// are "ping", "create", "destroy", "destroy disk", "list", "suspend", "resume" and
// "console"; name is the machine's or disk's, "" for ping and list. A destroy of several machines
// asks for each. The functions may be nil, may block (they get the call's
// context) and must be safe for concurrent use.
type Faults struct {
	// Before is called before the cloud hears of the call; its error is
	// returned and the cloud never hears.
	Before func(ctx context.Context, op, name string) error
	// After is called when the cloud has done its part, with the call's error,
	// and its result is returned in its place: an answer that is lost.
	After func(ctx context.Context, op, name string, err error) error
	// Listing may change a listing before it is returned: drop, age, reorder.
	Listing func(l *drivers.Listing)
}

func (f *Faults) around(ctx context.Context, op, name string, call func() error) error {
	if f == nil {
		return call()
	}
	if f.Before != nil {
		if err := f.Before(ctx, op, name); err != nil {
			return err
		}
	}
	err := call()
	if f.After != nil {
		err = f.After(ctx, op, name, err)
	}
	return err
}
