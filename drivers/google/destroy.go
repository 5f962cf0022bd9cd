//go:build !no_google

package google

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	compute "cloud.google.com/go/compute/apiv1"
	"cloud.google.com/go/compute/apiv1/computepb"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Destroy deletes machines and waits until the cloud has confirmed it. See
// [drivers.Driver].
func (d *Driver) Destroy(ctx context.Context, refs []drivers.Ref, o drivers.DestroyOptions) []error {
	return each(refs, func(ref drivers.Ref) error { return d.destroy(ctx, ref, o) })
}

// errUnseen is a machine that was asked for a moment ago and does not show.
var errUnseen = errors.New("it was asked for a moment ago and may be there without being shown yet")

func (d *Driver) destroy(ctx context.Context, ref drivers.Ref, o drivers.DestroyOptions) error {
	asked, known := d.made.of(ref.Name)
	if ref.Zone == "" {
		ref.Zone = asked.zone
	}
	var disks []drivers.Ref
	if ref.Zone == "" || o.Disks == drivers.Delete {
		found, err := d.a.instances.byName(ctx, ref.Name)
		if err != nil {
			return err
		}
		for _, i := range found {
			if ref.Zone != "" && ref.Zone != last(i.GetZone()) {
				continue
			}
			ref.Zone = last(i.GetZone())
			disks = append(disks, persistent(i)...)
		}
	}
	young := known && !asked.shown && time.Since(asked.when) < unseenFor
	if ref.Zone == "" {
		if young {
			return fmt.Errorf("machine %s: %w", ref.Name, errUnseen)
		}
		return nil
	}
	if err := d.delete(ctx, ref, young); err != nil {
		return fmt.Errorf("machine %s in %s: %w", ref.Name, ref.Zone, err)
	}
	d.made.forget(ref.Name)
	for i, err := range each(disks, func(disk drivers.Ref) error { return d.destroyDisk(ctx, disk) }) {
		if err != nil {
			return fmt.Errorf("machine %s is gone, and its disk %s is not: %w", ref.Name, disks[i].Name, err)
		}
	}
	return nil
}

// delete ends one machine. One that does not exist is no error, unless it is so
// young that it may not be shown yet and nobody has deleted it.
func (d *Driver) delete(ctx context.Context, ref drivers.Ref, young bool) error {
	id := d.changeID("delete", ref)
	op, err := d.a.begin(ctx, func(ctx context.Context, c *clients) (*compute.Operation, error) {
		return c.instances.Delete(ctx, &computepb.DeleteInstanceRequest{Project: d.a.project, Zone: ref.Zone, Instance: ref.Name, RequestId: id})
	})
	if missing(err, ref.Name) {
		if now, ok := d.made.of(ref.Name); young && ok && !now.deleted {
			return errUnseen
		}
		return nil
	}
	if err != nil {
		return err
	}
	d.made.mark(ref.Name, func(a *asked) { a.deleted = true })
	if err := d.a.operations.await(ctx, ref.Zone, op); !missing(err, ref.Name) {
		return err
	}
	return nil
}

// missing says whether an error is that something of that name is not there: a
// project that is not found is another matter.
func missing(err error, name string) bool {
	return errors.Is(err, drivers.ErrNotFound) && strings.Contains(err.Error(), name)
}

// persistent are the disks of a machine that do not go with it.
func persistent(i *instance) []drivers.Ref {
	var out []drivers.Ref
	for _, a := range i.GetDisks() {
		if a.GetAutoDelete() || a.GetBoot() || a.GetType() == "SCRATCH" {
			continue
		}
		out = append(out, drivers.Ref{Name: last(a.GetSource()), Zone: last(i.GetZone())})
	}
	return out
}
