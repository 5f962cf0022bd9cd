//go:build !no_google

package google

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	compute "cloud.google.com/go/compute/apiv1"
	"cloud.google.com/go/compute/apiv1/computepb"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// disksOf is what there is of the disks that a machine is to have.
type disksOf struct {
	// zone is where those are that exist, "" if there are none.
	zone    string
	missing []drivers.DiskSpec
}

// findDisks looks for a machine's persistent disks in every zone.
func (d *Driver) findDisks(ctx context.Context, spec drivers.Spec) (disksOf, error) {
	var out disksOf
	for _, want := range spec.Disks {
		found, err := d.a.disks.byName(ctx, want.Name)
		switch {
		case err != nil:
			return out, fmt.Errorf("disk %s: %w", want.Name, err)
		case len(found) == 0:
			out.missing = append(out.missing, want)
			continue
		case len(found) > 1:
			return out, fmt.Errorf("%w: disk %s is there in %s and in %s; keep the one with the data", drivers.ErrInvalid, want.Name, last(found[0].GetZone()), last(found[1].GetZone()))
		}
		disk := diskOf(found[0])
		switch {
		case disk.AttachedTo != "" && disk.AttachedTo != spec.Name:
			return out, fmt.Errorf("%w: machine %s has disk %s", drivers.ErrInvalid, disk.AttachedTo, disk.Name)
		case out.zone != "" && out.zone != disk.Zone:
			return out, fmt.Errorf("%w: the machine's disks are in two zones, %s in %s and another in %s; move one by a snapshot", drivers.ErrInvalid, disk.Name, disk.Zone, out.zone)
		}
		out.zone = disk.Zone
	}
	return out, nil
}

// The size and kind of a disk that says neither.
const (
	diskSize = 50
	diskType = "pd-balanced"
)

// makeDisks makes the disks of a machine that do not exist yet.
func (d *Driver) makeDisks(ctx context.Context, zone string, disks []drivers.DiskSpec, spec drivers.Spec) error {
	labels := diskLabels(labelsOf(spec, d.spec.Labels), diskLasts)
	for _, want := range disks {
		path := "projects/" + d.a.project + "/zones/" + zone
		body := &disk{
			Name: proto.String(want.Name), SizeGb: proto.Int64(int64(cmp.Or(want.SizeGiB, diskSize))),
			Type:   proto.String(path + "/diskTypes/" + cmp.Or(want.Type, diskType)),
			Labels: labels, Description: proto.String(description(spec.Tags)),
		}
		if err := d.makeDisk(ctx, zone, body); err != nil && !errors.Is(err, errExists) {
			return fmt.Errorf("disk %s in %s: %w", want.Name, zone, err)
		}
	}
	return nil
}

func (d *Driver) makeDisk(ctx context.Context, zone string, body *disk) error {
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(text)
	for repeat := 0; ; repeat++ {
		id := requestID(d.a.project, "disk", zone, hex.EncodeToString(sum[:]), strconv.Itoa(repeat))
		now := time.Now()
		op, err := d.a.change(ctx, zone, func(ctx context.Context, c *clients) (*compute.Operation, error) {
			return c.disks.Insert(ctx, &computepb.InsertDiskRequest{Project: d.a.project, Zone: zone, DiskResource: body, RequestId: id})
		})
		// A request of long ago has failed, or has made a disk that is gone since:
		// there was none when it was looked for.
		if op != nil && isStale(op, now) && !isUncertain(ctx, err) && repeat < mostRepeats {
			continue
		}
		return err
	}
}

// whoHas names the machine that has a disk which the cloud would not attach.
func (d *Driver) whoHas(ctx context.Context, zone string, spec drivers.Spec, why error) error {
	for _, want := range spec.Disks {
		found, err := d.a.disks.byName(ctx, want.Name)
		if err != nil {
			continue
		}
		for _, f := range found {
			if disk := diskOf(f); disk.AttachedTo != "" && disk.AttachedTo != spec.Name {
				return fmt.Errorf("%w: machine %s has disk %s in %s: %w", drivers.ErrInvalid, disk.AttachedTo, disk.Name, zone, why)
			}
		}
	}
	return why
}

// DestroyDisks deletes disks. See [drivers.DiskKeeper].
func (d *Driver) DestroyDisks(ctx context.Context, disks []drivers.Ref) []error {
	return each(disks, func(ref drivers.Ref) error { return d.destroyDisk(ctx, ref) })
}

func (d *Driver) destroyDisk(ctx context.Context, ref drivers.Ref) error {
	zones := []string{ref.Zone}
	if ref.Zone == "" {
		found, err := d.a.disks.byName(ctx, ref.Name)
		if err != nil {
			return err
		}
		zones = nil
		for _, disk := range found {
			zones = append(zones, last(disk.GetZone()))
		}
	}
	for _, zone := range zones {
		err := d.change(ctx, "delete disk", drivers.Ref{Name: ref.Name, Zone: zone}, func(ctx context.Context, c *clients, id *string) (*compute.Operation, error) {
			return c.disks.Delete(ctx, &computepb.DeleteDiskRequest{Project: d.a.project, Zone: zone, Disk: ref.Name, RequestId: id})
		})
		if err != nil && !errors.Is(err, drivers.ErrNotFound) {
			return fmt.Errorf("disk %s in %s: %w", ref.Name, zone, err)
		}
	}
	return nil
}

// atOnce bounds the calls of one batch.
const atOnce = 16

// each does something for every ref, several at a time, and answers in order.
func each(refs []drivers.Ref, do func(drivers.Ref) error) []error {
	errs := make([]error, len(refs))
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(atOnce, len(refs)) {
		wg.Go(func() {
			for i := range next {
				errs[i] = do(refs[i])
			}
		})
	}
	for i := range refs {
		next <- i
	}
	close(next)
	wg.Wait()
	return errs
}
