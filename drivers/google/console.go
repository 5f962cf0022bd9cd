//go:build !no_google

package google

import (
	"context"
	"errors"
	"fmt"
	"io"

	"cloud.google.com/go/compute/apiv1/computepb"
	"google.golang.org/protobuf/proto"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Console copies the end of a machine's first serial port, of which the cloud
// keeps a megabyte. A machine that has not booted yet has none.
func (d *Driver) Console(ctx context.Context, ref drivers.Ref, w io.Writer, most int64) error {
	if ref.Zone == "" {
		i, err := d.a.machineByName(ctx, ref.Name)
		if err != nil {
			return err
		}
		ref = refOf(i)
	}
	var text string
	err := d.a.call(ctx, gets, callPatience, func(ctx context.Context) error {
		c, err := d.a.clients(ctx)
		if err != nil {
			return err
		}
		out, err := c.instances.GetSerialPortOutput(ctx, &computepb.GetSerialPortOutputInstanceRequest{
			Project: d.a.project, Zone: ref.Zone, Instance: ref.Name, Port: proto.Int32(1), Start: proto.Int64(-max(most, 1)),
		})
		text = out.GetContents()
		return err
	})
	switch {
	case errors.Is(err, errNotReady):
		return nil
	case err != nil:
		return fmt.Errorf("console of %s in %s: %w", ref.Name, ref.Zone, err)
	}
	_, err = io.WriteString(w, text[max(0, len(text)-int(max(most, 0))):])
	return err
}
