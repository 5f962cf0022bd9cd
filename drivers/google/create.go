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
	"time"

	compute "cloud.google.com/go/compute/apiv1"
	"cloud.google.com/go/compute/apiv1/computepb"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// freshFor is how old a machine's row may be for its first Create to be certain
// to be the first: an older one is looked for before it is made, since another
// process may have made it, in any zone.
const freshFor = 10 * time.Second

// Create makes a machine, and returns when the cloud has given it room. Zones are
// tried in turn while there is none, spot machines before others where the spec
// asks for them; a quota is not. A machine of that name that is there already is
// the answer.
func (d *Driver) Create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	if err := refuse(d.spec, spec); err != nil {
		return drivers.Ref{}, err
	}
	now := time.Now()
	_, before := d.made.of(spec.Name)
	d.made.note(spec.Name, "", now)
	asked := before
	defer func() {
		if !asked {
			d.made.unnote(spec.Name, now) // nothing was asked for that could show later
		}
	}()
	if before || now.Sub(spec.Tags.Created) > freshFor {
		switch i, err := d.a.machineByName(ctx, spec.Name); {
		case err == nil:
			asked = true
			return d.adopt(i, spec)
		case !errors.Is(err, drivers.ErrNotFound):
			return drivers.Ref{}, err
		}
	}
	network := networkOf(d.spec, spec)
	zones := zonesOf(d.spec, network, spec)
	have, err := d.findDisks(ctx, spec)
	if err != nil {
		return drivers.Ref{}, err
	}
	if have.zone != "" {
		zones = []string{have.zone}
	}
	f, err := d.a.images.features(ctx, imagePath(cmp.Or(spec.Image, d.spec.Image), d.a.project))
	if err != nil {
		return drivers.Ref{}, err
	}
	d.fw.ensure(ctx, d)
	machineType := cmp.Or(spec.MachineType, d.spec.MachineType)
	if spec.Hibernate && len(zones) > 0 {
		if err := d.mayHibernate(ctx, zones[0], machineType); err != nil {
			return drivers.Ref{}, err
		}
	}
	spot := d.spec.MarketType == "spot" && spec.Tags.Kind != kindGitspace
	left := attempts(zones, spot, func(zone string, spot bool) (time.Time, bool) {
		return d.a.stockouts.since(scarce{zone, machineType, spot}, now)
	})
	var failures []error
	var hints []string
	for len(left) > 0 {
		at := left[0]
		left = left[1:]
		if len(have.missing) > 0 {
			if err := d.makeDisks(ctx, at.zone, have.missing, spec); err != nil {
				return drivers.Ref{}, err
			}
			// From now on the disks decide.
			have.missing, left = nil, inZone(left, at.zone)
		}
		what := scarce{at.zone, machineType, at.spot}
		asked = true
		ref, err := d.insert(ctx, d.resource(spec, at, network, f), at, spec)
		if err == nil {
			d.a.stockouts.clear(what)
			return ref, nil
		}
		failures = append(failures, err)
		var full *drivers.CapacityError
		switch {
		case errors.As(err, &full):
			d.a.stockouts.note(what, time.Now())
			hints = append(hints, full.Hints...)
			hinted(left, full.Hints)
			d.log.InfoContext(ctx, "no room for a machine", "zone", at.zone, "machine_type", machineType, "spot", at.spot, "left", len(left))
		case at.spot && errors.Is(err, drivers.ErrQuota):
			left = withoutSpot(left)
		default:
			return drivers.Ref{}, err
		}
	}
	err = errors.Join(failures...)
	if errors.Is(err, drivers.ErrCapacity) {
		return drivers.Ref{}, &drivers.CapacityError{Zone: zones[0], Hints: hints, Err: err}
	}
	if err == nil {
		err = fmt.Errorf("%w: zone: none to make a machine in", drivers.ErrInvalid)
	}
	return drivers.Ref{}, err
}

func inZone(all []attempt, zone string) (out []attempt) {
	for _, a := range all {
		if a.zone == zone {
			out = append(out, a)
		}
	}
	return out
}

func withoutSpot(all []attempt) (out []attempt) {
	for _, a := range all {
		if !a.spot {
			out = append(out, a)
		}
	}
	return out
}

// adopt answers with a machine that is there already, if it is ours.
func (d *Driver) adopt(i *instance, spec drivers.Spec) (drivers.Ref, error) {
	ref := refOf(i)
	if tags := tagsOf(i); tags.Controller != spec.Tags.Controller {
		return drivers.Ref{}, fmt.Errorf("%w: machine %s in %s belongs to %q, not to this runner", drivers.ErrInvalid, ref.Name, ref.Zone, tags.Controller)
	}
	d.made.note(ref.Name, ref.Zone, time.Now())
	d.made.mark(ref.Name, func(a *asked) { a.shown = true })
	return ref, nil
}

const (
	// mostRepeats is how often a request is made anew whose requestId has brought
	// back the failure of an earlier one; stale is how old that has to be.
	mostRepeats = 5
	stale       = time.Minute
)

// insert asks for a machine in one zone and waits for it.
func (d *Driver) insert(ctx context.Context, i *computepb.Instance, at attempt, spec drivers.Spec) (drivers.Ref, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(i)
	if err != nil {
		return drivers.Ref{}, fmt.Errorf("request: %w", err)
	}
	sum := sha256.Sum256(body)
	for repeat := 0; ; repeat++ {
		id := requestID(d.a.project, "insert", at.zone, spec.Name, hex.EncodeToString(sum[:]), strconv.Itoa(repeat))
		now := time.Now()
		op, err := d.a.begin(ctx, func(ctx context.Context, c *clients) (*compute.Operation, error) {
			return c.instances.Insert(ctx, &computepb.InsertInstanceRequest{
				Project: d.a.project, Zone: at.zone, InstanceResource: i, RequestId: id,
			})
		})
		if err == nil {
			d.made.note(spec.Name, at.zone, time.Now())
			err = d.a.operations.await(ctx, at.zone, op)
		}
		switch {
		case err == nil && isStale(op, now):
			return d.existing(ctx, at.zone, spec, errForgotten)
		case err == nil:
			d.made.mark(spec.Name, func(a *asked) { a.shown = true })
			return drivers.Ref{Name: spec.Name, ID: strconv.FormatUint(op.GetTargetId(), 10), Zone: at.zone}, nil
		case errors.Is(err, errExists) || errors.Is(err, errForgotten):
			return d.existing(ctx, at.zone, spec, err)
		case isUncertain(ctx, err):
			return drivers.Ref{}, err
		case op != nil && repeat < mostRepeats && isStale(op, now):
			continue
		}
		// It was refused, or has failed: there is nothing that may show later.
		d.made.forget(spec.Name)
		switch {
		case errors.Is(err, errInUse):
			return drivers.Ref{}, d.whoHas(ctx, at.zone, spec, err)
		case errors.Is(err, drivers.ErrNotFound):
			// What it is made of is not there: image, network, disk, project.
			return drivers.Ref{}, fmt.Errorf("%w: %w", drivers.ErrInvalid, err)
		}
		return drivers.Ref{}, err
	}
}

// isUncertain says whether an error leaves open what has become of a request.
func isUncertain(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, errPassing) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// isStale says whether an operation was begun by a request of long ago.
func isStale(op *computepb.Operation, now time.Time) bool {
	at, err := time.Parse(time.RFC3339, op.GetInsertTime())
	return err == nil && now.Sub(at) > stale
}

// seenWithin is how long something that exists may not be seen.
const seenWithin = 20 * time.Second

// existing reads a machine that the cloud says exists. It may take a while until
// it is shown.
func (d *Driver) existing(ctx context.Context, zone string, spec drivers.Spec, why error) (drivers.Ref, error) {
	for begun := time.Now(); ; {
		i, err := d.get(ctx, drivers.Ref{Name: spec.Name, Zone: zone})
		switch {
		case err == nil:
			return d.adopt(i, spec)
		case !errors.Is(err, drivers.ErrNotFound):
			return drivers.Ref{}, err
		case time.Since(begun) > seenWithin || pause(ctx, 2*time.Second) != nil:
			return drivers.Ref{}, fmt.Errorf("machine %s in %s is not shown: %w", spec.Name, zone, why)
		}
	}
}
