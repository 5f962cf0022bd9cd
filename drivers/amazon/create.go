//go:build !no_amazon

package amazon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Create launches a machine where there is room for it, and gives it its
// persistent disks, for which it has to run. A machine of that name that
// exists already is returned, wherever it is.
func (d *Driver) Create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	if err := ctx.Err(); err != nil {
		return drivers.Ref{}, err
	}
	disks, err := d.disksFor(ctx, spec.Disks)
	if err != nil {
		return drivers.Ref{}, err
	}
	all := d.places(&spec, zoneOf(disks))
	if err := d.free(ctx, &spec, disks); err != nil {
		return drivers.Ref{}, err
	}
	first := d.firstTry(&spec, time.Now())
	inst := (*types.Instance)(nil)
	// One place has one token, which finds what an earlier try has made. Where
	// there are several it may be at any of them.
	if !first && (len(all) > 1 || len(spec.Disks) > 0) {
		if inst, err = d.named(ctx, spec.Name); err != nil && !errors.Is(err, drivers.ErrNotFound) {
			return drivers.Ref{}, err
		}
	}
	if inst == nil {
		if inst, err = d.launchSomewhere(ctx, &spec, all); err != nil {
			return drivers.Ref{}, err
		}
	}
	if over(inst) && byUser(inst) {
		return drivers.Ref{}, fmt.Errorf("%w: %s has been destroyed; a name is for one machine", drivers.ErrInvalid, spec.Name)
	}
	if len(spec.Disks) > 0 && !over(inst) {
		if err := d.giveDisks(ctx, &spec, inst, disks); err != nil {
			return drivers.Ref{}, err
		}
	}
	return refOf(inst, spec.Name), nil
}

// A row so young was tried by nobody else: whoever takes another's pool over
// has waited for longer.
const youngRow = 3 * time.Second

// firstTry says whether nobody can have tried to make the machine before, and
// remembers that somebody has now.
func (d *Driver) firstTry(spec *drivers.Spec, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, again := d.tried[spec.Name]
	maps.DeleteFunc(d.tried, func(_ string, at time.Time) bool { return now.Sub(at) > time.Minute })
	d.tried[spec.Name] = now
	age := now.Sub(spec.Tags.Created)
	return !again && age >= 0 && age < youngRow && spec.Tags.Created.After(d.opened)
}

// launchSomewhere tries one place after the other while there is no room.
func (d *Driver) launchSomewhere(ctx context.Context, spec *drivers.Spec, all []place) (*types.Instance, error) {
	img, err := d.imageOf(ctx, firstOf(spec.Image, d.cfg.AMI))
	if err != nil {
		return nil, err
	}
	var full []string
	var last error
	noSpot := false
	for _, p := range d.stock.worth(all, time.Now()) {
		if p.spot && noSpot {
			continue
		}
		inst, err := d.launch(ctx, spec, p, img)
		code := codeOf(err)
		switch {
		case err == nil:
			d.stock.remove(p)
			return inst, nil
		case code == "IdempotentParameterMismatch":
			// Made before, when the image or the group was another.
			return d.named(ctx, spec.Name)
		case p.spot && code == "MaxSpotInstanceCountExceeded":
			noSpot = true
		case !errors.Is(err, drivers.ErrCapacity):
			return nil, err
		default:
			d.stock.add(p, time.Now())
			d.log.Debug("no room", "name", spec.Name, "place", p.String(), "err", err)
		}
		full, last = append(full, p.String()), err
	}
	if errors.Is(last, drivers.ErrQuota) {
		return nil, last
	}
	zone := ""
	if len(all) > 0 {
		zone = all[0].zone
	}
	return nil, &drivers.CapacityError{Zone: zone, Err: fmt.Errorf("tried %s: %w", strings.Join(full, ", "), last)}
}

func firstOf(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}

// tokenOf is the idempotency token of a machine at a place. EC2 keeps tokens by
// zone, so another place needs another.
func tokenOf(parts ...string) *string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return aws.String("runner-" + hex.EncodeToString(sum[:20]))
}

// launch asks for the machine at one place.
func (d *Driver) launch(ctx context.Context, spec *drivers.Spec, p place, img image) (*types.Instance, error) {
	for again := false; ; again = true {
		in, err := d.launchInput(ctx, spec, p, img)
		if err != nil {
			return nil, err
		}
		if err := d.launches.wait(ctx); err != nil {
			return nil, err
		}
		out, err := d.ec2.RunInstances(ctx, in)
		if code := codeOf(err); strings.HasPrefix(code, "InvalidGroup.NotFound") && len(d.cfg.Network.SecurityGroups)+len(d.cfg.Network.VPCSecurityGroups) == 0 && !again {
			d.groups.forget(ctx, p.subnet) // somebody has deleted it
			continue
		}
		if err != nil {
			if doubtful(err) && ctx.Err() == nil {
				d.log.Debug("a launch may have been carried out", "name", spec.Name, "err", err)
			}
			return nil, d.explain(err, "RunInstances")
		}
		if len(out.Instances) == 0 {
			return nil, errors.New("RunInstances: EC2 accepted the launch and names no instance")
		}
		return &out.Instances[0], nil
	}
}

// launchInput is the whole request.
func (d *Driver) launchInput(ctx context.Context, spec *drivers.Spec, p place, img image) (*ec2.RunInstancesInput, error) {
	groups, err := d.groupsFor(ctx, p.subnet)
	if err != nil {
		return nil, err
	}
	root, err := d.root(spec)
	if err != nil {
		return nil, err
	}
	if err := d.able(ctx, spec, p.size, root); err != nil {
		return nil, err
	}
	boot, err := userData(spec.Boot, spec.Platform.OS)
	if err != nil {
		return nil, err
	}
	ends := types.ShutdownBehaviorTerminate
	if spec.Tags.Kind == "gitspace" {
		ends = types.ShutdownBehaviorStop
	}
	in := &ec2.RunInstancesInput{
		ClientToken: tokenOf(spec.Name, p.zone, p.subnet, p.size, strconv.FormatBool(p.spot)),
		MinCount:    aws.Int32(1), MaxCount: aws.Int32(1),
		ImageId: aws.String(img.id), InstanceType: types.InstanceType(p.size), UserData: boot,
		InstanceInitiatedShutdownBehavior: ends,
		MetadataOptions: &types.InstanceMetadataOptionsRequest{
			HttpEndpoint: types.InstanceMetadataEndpointStateEnabled, HttpTokens: types.HttpTokensStateRequired, HttpPutResponseHopLimit: aws.Int32(1),
		},
		NetworkInterfaces: []types.InstanceNetworkInterfaceSpecification{{
			DeviceIndex: aws.Int32(0), Groups: groups, AssociatePublicIpAddress: aws.Bool(!d.cfg.Network.PrivateIP), DeleteOnTermination: aws.Bool(true),
		}},
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String(firstOf(d.cfg.DeviceName, img.root)), Ebs: root}},
	}
	if p.subnet != "" {
		in.NetworkInterfaces[0].SubnetId = aws.String(p.subnet)
	}
	if p.zone != "" {
		in.Placement = &types.Placement{AvailabilityZone: aws.String(p.zone)}
	}
	if d.cfg.Account.KeyPairName != "" {
		in.KeyName = aws.String(d.cfg.Account.KeyPairName)
	}
	if d.cfg.IAMProfileARN != "" {
		in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Arn: aws.String(d.cfg.IAMProfileARN)}
	}
	if spec.Hibernate {
		in.HibernationOptions = &types.HibernationOptionsRequest{Configured: aws.Bool(true)}
	}
	tagged := map[types.ResourceType][]types.Tag{
		types.ResourceTypeInstance:         d.machineTags(spec, nil),
		types.ResourceTypeNetworkInterface: d.machineTags(spec, nil),
		types.ResourceTypeVolume:           d.machineTags(spec, d.cfg.Disk.Tags),
	}
	kinds := []types.ResourceType{types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface}
	if p.spot {
		in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{
			MarketType:  types.MarketTypeSpot,
			SpotOptions: &types.SpotMarketOptions{SpotInstanceType: types.SpotInstanceTypeOneTime, InstanceInterruptionBehavior: types.InstanceInterruptionBehaviorTerminate},
		}
		kinds = append(kinds, types.ResourceTypeSpotInstancesRequest)
		tagged[types.ResourceTypeSpotInstancesRequest] = tagged[types.ResourceTypeInstance]
	}
	for _, kind := range kinds {
		in.TagSpecifications = append(in.TagSpecifications, types.TagSpecification{ResourceType: kind, Tags: tagged[kind]})
	}
	return in, nil
}

// root is the machine's own volume, which goes with it.
func (d *Driver) root(spec *drivers.Spec) (*types.EbsBlockDevice, error) {
	disk := d.cfg.Disk
	if spec.DiskGiB > 0 {
		disk.Size = spec.DiskGiB
	}
	if spec.DiskType != "" && spec.DiskType != disk.Type {
		disk.Type = spec.DiskType
		switch {
		case disk.Type == "io1" && disk.IOPS == 0:
			disk.IOPS = 100
		case disk.Type == "io2" && disk.IOPS == 0:
			return nil, fmt.Errorf("%w: a volume of type io2 needs disk.iops; set it in the pool's spec", drivers.ErrInvalid)
		}
	}
	ebs := &types.EbsBlockDevice{
		VolumeSize: aws.Int32(int32(disk.Size)), VolumeType: types.VolumeType(disk.Type), DeleteOnTermination: aws.Bool(true),
	}
	if disk.IOPS > 0 && (disk.Type == "io1" || disk.Type == "io2" || disk.Type == "gp3") {
		ebs.Iops = aws.Int32(int32(disk.IOPS))
	}
	if disk.KMSKeyID != "" {
		ebs.KmsKeyId, ebs.Encrypted = aws.String(disk.KMSKeyID), aws.Bool(true)
	}
	if spec.Hibernate {
		ebs.Encrypted = aws.Bool(true) // it takes what was in memory
	}
	return ebs, nil
}

// named is the machine of a name that lives or, if none does, that has ended
// last; or ErrNotFound.
func (d *Driver) named(ctx context.Context, name string) (*types.Instance, error) {
	all, err := d.describeNames(ctx, []string{name})
	if err != nil {
		return nil, err
	}
	if best := living(all); best != nil {
		return best, nil
	}
	return nil, fmt.Errorf("%w: no machine %s in %s", drivers.ErrNotFound, name, d.region)
}

// living is the first machine that has not ended, else the first of all, else
// nil.
func living(all []types.Instance) *types.Instance {
	for i := range all {
		if !over(&all[i]) {
			return &all[i]
		}
	}
	if len(all) > 0 {
		return &all[0]
	}
	return nil
}

func refOf(i *types.Instance, name string) drivers.Ref {
	return drivers.Ref{Name: name, ID: aws.ToString(i.InstanceId), Zone: zoneOfMachine(i)}
}

func zoneOfMachine(i *types.Instance) string {
	if i.Placement == nil {
		return ""
	}
	return aws.ToString(i.Placement.AvailabilityZone)
}
