//go:build !no_google

package google

import (
	"context"
	"errors"
	"fmt"

	"cloud.google.com/go/compute/apiv1/computepb"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// largestSuspended is the most memory, in MB, of a machine that Compute Engine
// suspends.
const largestSuspended = 208 << 10

// mayHibernate is an ErrInvalid if machines of a type can never be suspended, so
// that a pool which wants to hibernate them makes none. It is asked before a
// machine is made. What cannot be found out is left to the cloud.
func (d *Driver) mayHibernate(ctx context.Context, zone, machineType string) error {
	why, err := d.a.sleepless.of(ctx, zone+"/"+machineType, func(ctx context.Context) (string, error) {
		var t *computepb.MachineType
		err := d.a.call(ctx, gets, callPatience, func(ctx context.Context) error {
			c, err := d.a.clients(ctx)
			if err != nil {
				return err
			}
			t, err = c.types.Get(ctx, &computepb.GetMachineTypeRequest{Project: d.a.project, Zone: zone, MachineType: machineType})
			return err
		})
		// A type that the first zone does not have may be had in another.
		if errors.Is(err, drivers.ErrAuth) || errors.Is(err, drivers.ErrNotFound) {
			return "", nil
		}
		return sleepless(t), err
	})
	if err != nil {
		return fmt.Errorf("machine type %s in %s: %w", machineType, zone, err)
	}
	if why != "" {
		return fmt.Errorf("%w: machines of type %s cannot be suspended: %s; choose another machine_type, or hibernate: false", drivers.ErrInvalid, machineType, why)
	}
	return nil
}

// sleepless says why machines of a type cannot be suspended, "" if they can.
func sleepless(t *computepb.MachineType) string {
	switch {
	case t.GetMemoryMb() > largestSuspended:
		return fmt.Sprintf("they have %d GB of memory, and 208 are the most", t.GetMemoryMb()>>10)
	case len(t.GetAccelerators()) > 0:
		return "they have GPUs"
	case t.GetBundledLocalSsds().GetPartitionCount() > 0:
		return "they have local SSDs"
	}
	return ""
}
