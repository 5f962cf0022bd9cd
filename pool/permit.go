package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// permit is the gate's leave to destroy one machine or disk. Only permitRow
// and permitOrphan make one that allows anything, by asking mayDestroy, and a
// cloud destroys nothing without: no path of the engine can go around the
// gate. A permit is asked for right before the call and used once, since what
// it rests on is soon out of date. The zero permit allows nothing.
type permit struct {
	granted bool
	// why is the reason it was given for, or why it was not.
	why   Reason
	ref   drivers.Ref
	disks drivers.DiskPolicy
}

// errNoPermit is a bug of the engine's: it went on after the gate had said no.
var errNoPermit = errors.New("the gate has not allowed this destroy")

// permitRow asks the gate about the machine of a row.
func permitRow(row Instance, e evidence, now time.Time) permit {
	may, why := mayDestroy(&row, e, now)
	p := permit{granted: may, why: why, ref: row.Ref(), disks: row.Disks}
	if row.StorageID != "" {
		// Its disks have rows, and go by those once the machine is gone.
		p.disks = drivers.Keep
	}
	return p
}

// permitOrphan asks the gate about a machine or disk no row describes.
func permitOrphan(e evidence, disks drivers.DiskPolicy, now time.Time) permit {
	may, why := mayDestroy(nil, e, now)
	p := permit{granted: may, why: why, disks: disks}
	switch {
	case e.Machine != nil:
		p.ref = e.Machine.Ref
	case e.Disk != nil:
		p.ref = drivers.Ref{Name: e.Disk.Name, Zone: e.Disk.Zone}
	}
	return p
}

// cloud is a pool's driver as the engine has it: everything of a
// drivers.Client, but what destroys needs a permit.
type cloud struct {
	*drivers.Client
}

// Destroy ends the permit's machine; nil means that the cloud has confirmed it.
func (c cloud) Destroy(ctx context.Context, p permit) error {
	if !p.granted {
		return fmt.Errorf("destroy %s: %w: %s", p.ref.Name, errNoPermit, p.why)
	}
	return errors.Join(c.Client.Destroy(ctx, []drivers.Ref{p.ref}, drivers.DestroyOptions{Disks: p.disks})...)
}

// DestroyDisks deletes the permit's disk.
func (c cloud) DestroyDisks(ctx context.Context, p permit) error {
	if !p.granted || p.disks != drivers.Delete {
		return fmt.Errorf("destroy disk %s: %w: %s", p.ref.Name, errNoPermit, p.why)
	}
	return errors.Join(c.Client.DestroyDisks(ctx, []drivers.Ref{p.ref})...)
}
