//go:build !no_amazon

package amazon

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// List reads all machines and persistent disks of the scope that are ours. What
// EC2 has just made is in no list for a moment, so that a listing speaks of the
// time before.
func (d *Driver) List(ctx context.Context, q drivers.Query) (drivers.Listing, error) {
	began := time.Now()
	l := drivers.Listing{At: began.Add(-d.timing.lag).UTC()}
	ours := byTagKey(tagController)
	if q.Controller != "" {
		ours = byTag(tagController, q.Controller)
	}
	all, err := d.describe(ctx, ours)
	if err != nil {
		return l, err
	}
	d.watch.feed(all)
	names := make(map[string]string, len(all))
	for i := range all {
		inst, shown := instanceOf(&all[i])
		names[inst.ID] = inst.Name
		if errors.Is(inst.Err, drivers.ErrCapacity) {
			d.stock.addAll(placesOf(&all[i]), aws.ToTime(all[i].LaunchTime))
		}
		if shown {
			l.Instances = append(l.Instances, inst)
		}
	}
	if q.NoDisks {
		l.Complete = true
		return l, nil
	}
	volumes, err := d.volumes(ctx, byTagKey(tagDisk))
	if err != nil {
		return l, err
	}
	for i := range volumes {
		disk := diskOf(&volumes[i], names)
		if q.Controller == "" || disk.Tags.Controller == q.Controller {
			l.Disks = append(l.Disks, disk)
		}
	}
	l.Complete = true
	return l, nil
}

// instanceOf is a machine as a listing shows it; false for one that was
// destroyed.
func instanceOf(i *types.Instance) (drivers.Instance, bool) {
	tags := plain(i.Tags)
	inst := drivers.Instance{Ref: refOf(i, tags[tagName]), Tags: readTags(tags)}
	inst.Status, inst.Reason = statusOf(i)
	if inst.Status == drivers.StatusDead {
		inst.Err = endOf(i)
	}
	if inst.Status == drivers.StatusRunning {
		// Machines with a private address have no other.
		inst.Address, inst.Port = firstOf(aws.ToString(i.PublicIpAddress), aws.ToString(i.PrivateIpAddress)), agentPort
	}
	gone := stateOf(i) == types.InstanceStateNameTerminated && (byUser(i) || tags[tagEnded] != "")
	return inst, !gone
}

// Codes of state reasons.
const (
	userShutdown  = "Client.UserInitiatedShutdown"
	userHibernate = "Client.UserInitiatedHibernate"
)

func reasonOf(i *types.Instance) (code, message string) {
	if i.StateReason == nil {
		return "", ""
	}
	return aws.ToString(i.StateReason.Code), aws.ToString(i.StateReason.Message)
}

// endOf is the kind of what ended a machine before it ran: EC2 accepts some
// launches that it then has no room or quota for, and says so in the reason of
// its state, with the code of the error and whose fault it is before that.
func endOf(i *types.Instance) error {
	code, _ := reasonOf(i)
	_, code, _ = strings.Cut(code, ".")
	switch {
	case capacityCodes[code]:
		return drivers.ErrCapacity
	case strings.HasSuffix(code, "LimitExceeded"):
		return drivers.ErrQuota
	}
	return nil
}

// placesOf are the places a machine may have been launched in.
func placesOf(i *types.Instance) []place {
	zone, spot := "", i.InstanceLifecycle == types.InstanceLifecycleTypeSpot
	if i.Placement != nil {
		zone = aws.ToString(i.Placement.AvailabilityZone)
	}
	subnet := aws.ToString(i.SubnetId)
	var all []place
	for _, p := range []place{{zone: zone, subnet: subnet}, {zone: zone}, {subnet: subnet}, {}} {
		p.size, p.spot = string(i.InstanceType), spot
		all = append(all, p)
	}
	return all
}

// byUser says whether somebody has asked EC2 for the state a machine is in.
func byUser(i *types.Instance) bool {
	code, _ := reasonOf(i)
	return code == userShutdown || code == userHibernate
}

// over says whether a machine has ended or is about to.
func over(i *types.Instance) bool {
	s := stateOf(i)
	return s == types.InstanceStateNameShuttingDown || s == types.InstanceStateNameTerminated
}

// statusOf is a machine's status and, of a dead one, EC2's word on it.
func statusOf(i *types.Instance) (drivers.Status, string) {
	dead := func() (drivers.Status, string) {
		code, message := reasonOf(i)
		if message == "" || strings.HasPrefix(message, code) {
			return drivers.StatusDead, firstOf(message, code, aws.ToString(i.StateTransitionReason))
		}
		return drivers.StatusDead, code + ": " + message
	}
	switch stateOf(i) {
	case types.InstanceStateNamePending:
		return drivers.StatusPending, ""
	case types.InstanceStateNameRunning:
		return drivers.StatusRunning, ""
	case types.InstanceStateNameStopping:
		return drivers.StatusStopping, ""
	case types.InstanceStateNameStopped:
		if byUser(i) {
			return drivers.StatusSuspended, ""
		}
		return dead()
	case types.InstanceStateNameShuttingDown, types.InstanceStateNameTerminated:
		if byUser(i) {
			return drivers.StatusStopping, ""
		}
		return dead()
	default:
		return drivers.StatusUnknown, ""
	}
}

// diskOf is a disk as a listing shows it; names are machines by their id.
func diskOf(v *types.Volume, names map[string]string) drivers.Disk {
	tags := plain(v.Tags)
	disk := drivers.Disk{
		Name: tags[tagDisk], Zone: aws.ToString(v.AvailabilityZone), Tags: readTags(tags), SizeGiB: int(aws.ToInt32(v.Size)),
	}
	for _, a := range v.Attachments {
		id := aws.ToString(a.InstanceId)
		disk.AttachedTo = firstOf(names[id], id)
	}
	return disk
}
