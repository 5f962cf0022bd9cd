//go:build !no_amazon

package amazon

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// one is the machine a ref means, or ErrNotFound.
func (d *Driver) one(ctx context.Context, ref drivers.Ref) (*types.Instance, error) {
	if machineRule.MatchString(ref.ID) {
		got, err := d.describeIDs(ctx, []string{ref.ID})
		if err != nil {
			return nil, err
		}
		if len(got) > 0 {
			return &got[0], nil
		}
	}
	return d.named(ctx, ref.Name)
}

// errEnded is a machine that cannot come back.
func errEnded(i *types.Instance) error {
	_, why := statusOf(i)
	return fmt.Errorf("%w: instance %s is %s (%s)", drivers.ErrNotFound, aws.ToString(i.InstanceId), stateOf(i), firstOf(why, "by request"))
}

// turns bounds how often a machine may change behind one call.
const turns = 8

// Suspend hibernates the machine if it was launched for that, else stops it. A
// machine that cannot hibernate yet, as EC2 says in the first minutes, is an
// error to try again later.
func (d *Driver) Suspend(ctx context.Context, ref drivers.Ref) error {
	inst, err := d.one(ctx, ref)
	if err != nil {
		return err
	}
	hibernated := false
	for range turns {
		leave := stateOf(inst)
		switch leave {
		case types.InstanceStateNameStopped:
			if code, _ := reasonOf(inst); hibernated && code != userHibernate {
				d.log.Warn("machine did not hibernate but was shut down: what was in its memory is lost", "name", ref.Name, "id", aws.ToString(inst.InstanceId))
			}
			return nil
		case types.InstanceStateNamePending, types.InstanceStateNameStopping:
		case types.InstanceStateNameRunning:
			hibernate := inst.HibernationOptions != nil && aws.ToBool(inst.HibernationOptions.Configured)
			_, err := d.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{*inst.InstanceId}, Hibernate: aws.Bool(hibernate)})
			switch code := codeOf(err); {
			case err == nil:
				hibernated = hibernate
			case code == "UnsupportedOperation" && inst.InstanceLifecycle == types.InstanceLifecycleTypeSpot:
				return fmt.Errorf("%w: a one-time spot machine cannot be stopped; remove market_type: %w", drivers.ErrUnsupported, err)
			case code == "UnsupportedOperation":
				return d.short(err, "StopInstances", code)
			case code == "IncorrectInstanceState": // it has changed meanwhile
			default:
				return d.explain(err, "StopInstances")
			}
		default:
			return errEnded(inst)
		}
		if inst, err = d.leaves(ctx, inst, leave); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s does not come to rest: it is %s", ref.Name, stateOf(inst))
}

// leaves waits until a machine is in another state than this.
func (d *Driver) leaves(ctx context.Context, inst *types.Instance, state types.InstanceStateName) (*types.Instance, error) {
	got, err := d.watch.wait(ctx, *inst.InstanceId, min(d.timing.poll, runningPoll), func(i *types.Instance) bool { return stateOf(i) != state })
	if err == nil && got == nil {
		err = fmt.Errorf("%w: instance %s is not listed any more", drivers.ErrNotFound, *inst.InstanceId)
	}
	return got, err
}

// Resume starts the machine from wherever it is, waits until it runs and has an
// address, and ends it for no reason: a start without room is a capacity error.
func (d *Driver) Resume(ctx context.Context, ref drivers.Ref) (drivers.Instance, error) {
	inst, err := d.one(ctx, ref)
	if err != nil {
		return drivers.Instance{}, err
	}
	for range turns {
		leave := stateOf(inst)
		switch leave {
		case types.InstanceStateNameRunning:
			out, _ := instanceOf(inst)
			out.Name = ref.Name
			return out, nil
		case types.InstanceStateNamePending, types.InstanceStateNameStopping:
		case types.InstanceStateNameStopped:
			if err := d.start(ctx, inst); err != nil {
				return drivers.Instance{}, err
			}
		default:
			return drivers.Instance{}, errEnded(inst)
		}
		if inst, err = d.leaves(ctx, inst, leave); err != nil {
			return drivers.Instance{}, err
		}
	}
	return drivers.Instance{}, fmt.Errorf("%s does not come up: it is %s", ref.Name, stateOf(inst))
}

func (d *Driver) start(ctx context.Context, inst *types.Instance) error {
	if err := d.starts.wait(ctx); err != nil {
		return err
	}
	_, err := d.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{*inst.InstanceId}})
	switch code := codeOf(err); {
	case code == "IncorrectInstanceState": // it has changed meanwhile
		return nil
	case capacityCodes[code]:
		return &drivers.CapacityError{Zone: zoneOfMachine(inst), Err: d.short(err, "StartInstances", code)}
	}
	return d.explain(err, "StartInstances")
}

// Console copies the end of what the machine wrote on its serial console: as of
// now where its type can, else as of its last boot or end.
func (d *Driver) Console(ctx context.Context, ref drivers.Ref, w io.Writer, limit int64) error {
	inst, err := d.one(ctx, ref)
	if err != nil {
		return err
	}
	out, err := d.ec2.GetConsoleOutput(ctx, &ec2.GetConsoleOutputInput{InstanceId: inst.InstanceId, Latest: aws.Bool(true)})
	if codeOf(err) == "UnsupportedOperation" {
		out, err = d.ec2.GetConsoleOutput(ctx, &ec2.GetConsoleOutputInput{InstanceId: inst.InstanceId})
	}
	if err != nil {
		return d.explain(err, "GetConsoleOutput")
	}
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(aws.ToString(out.Output)))
	if err != nil {
		return fmt.Errorf("read console of %s: %w", ref.Name, err)
	}
	_, err = w.Write(text[max(0, int64(len(text))-limit):])
	return err
}
