//go:build !no_google

package google

import (
	"context"
	"errors"
	"fmt"
	"time"

	compute "cloud.google.com/go/compute/apiv1"
	"cloud.google.com/go/compute/apiv1/computepb"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// lookEvery is how often a machine is looked at that is on its way from one
// state to another without an operation of ours.
const lookEvery = 3 * time.Second

// Suspend saves a machine's memory. The image has to support it, and the machine
// may have neither a GPU nor more than 208 GB of memory. The cloud ends a
// suspension after 60 days: the machine is then stopped, and starts anew.
func (d *Driver) Suspend(ctx context.Context, ref drivers.Ref) error {
	for {
		i, err := d.get(ctx, ref)
		if err != nil {
			return err
		}
		at := refOf(i)
		switch status := i.GetStatus(); status {
		case "SUSPENDED":
			return nil
		case "RUNNING":
			err := d.change(ctx, "suspend", at, func(ctx context.Context, c *clients, id *string) (*compute.Operation, error) {
				return c.instances.Suspend(ctx, &computepb.SuspendInstanceRequest{Project: d.a.project, Zone: at.Zone, Instance: at.Name, RequestId: id})
			})
			if !d.moved(ctx, at, status, err) {
				return wrongState(at, err)
			}
		case "SUSPENDING", "PROVISIONING", "STAGING", "REPAIRING", "PENDING":
			if err := pause(ctx, lookEvery); err != nil {
				return fmt.Errorf("machine %s in %s is %s: %w", at.Name, at.Zone, status, err)
			}
		default:
			return fmt.Errorf("machine %s in %s is %s: only one that runs can be suspended", at.Name, at.Zone, status)
		}
	}
}

// moved says whether to look at a machine again after a call that was to change
// its state: it did, or the machine was in another state by then.
func (d *Driver) moved(ctx context.Context, ref drivers.Ref, from string, err error) bool {
	if err == nil {
		return true
	}
	if !errors.Is(err, errNotReady) && !errors.Is(err, errWrongState) && !errors.Is(err, errForgotten) {
		return false
	}
	i, getErr := d.get(ctx, ref)
	return getErr == nil && i.GetStatus() != from && pause(ctx, lookEvery) == nil
}

func wrongState(ref drivers.Ref, err error) error {
	err = fmt.Errorf("machine %s in %s: %w", ref.Name, ref.Zone, err)
	if errors.Is(err, errWrongState) {
		return fmt.Errorf("%w: %w", drivers.ErrInvalid, err)
	}
	return err
}

// Resume wakes a machine that sleeps, starts one that is stopped, waits for one
// that is on its way, and answers where it is once it runs. It never deletes
// anything. Where there is no room for the machine the error is an ErrCapacity:
// its disks keep it in its zone.
func (d *Driver) Resume(ctx context.Context, ref drivers.Ref) (drivers.Instance, error) {
	for {
		i, err := d.get(ctx, ref)
		if err != nil {
			return drivers.Instance{}, err
		}
		at := refOf(i)
		switch status := i.GetStatus(); status {
		case "RUNNING":
			return d.instanceOf(i), nil
		case "SUSPENDED":
			err := d.change(ctx, "resume", at, func(ctx context.Context, c *clients, id *string) (*compute.Operation, error) {
				return c.instances.Resume(ctx, &computepb.ResumeInstanceRequest{Project: d.a.project, Zone: at.Zone, Instance: at.Name, RequestId: id})
			})
			if !d.moved(ctx, at, status, err) {
				return d.instanceOf(i), wrongState(at, err)
			}
		case "TERMINATED", "STOPPED":
			err := d.change(ctx, "start", at, func(ctx context.Context, c *clients, id *string) (*compute.Operation, error) {
				return c.instances.Start(ctx, &computepb.StartInstanceRequest{Project: d.a.project, Zone: at.Zone, Instance: at.Name, RequestId: id})
			})
			if !d.moved(ctx, at, status, err) {
				return d.instanceOf(i), wrongState(at, err)
			}
		case "PROVISIONING", "STAGING", "REPAIRING", "PENDING", "SUSPENDING", "STOPPING", "PENDING_STOP", "DEPROVISIONING":
			if err := pause(ctx, lookEvery); err != nil {
				return d.instanceOf(i), fmt.Errorf("machine %s in %s is %s: %w", at.Name, at.Zone, status, err)
			}
		default:
			return d.instanceOf(i), fmt.Errorf("machine %s in %s is %s, which this version does not know", at.Name, at.Zone, status)
		}
	}
}
