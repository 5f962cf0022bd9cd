//go:build !no_amazon

package amazon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// What a persistent disk is if nobody says more.
const (
	defaultDiskGiB  = 32
	defaultDiskType = types.VolumeTypeGp3
)

// mostDisks is how many names of devices there are, from /dev/sdf to /dev/sdp.
const mostDisks = 'p' - 'f' + 1

// runningPoll is the pause between two looks at a machine that starts.
const runningPoll = 2 * time.Second

func device(i int) string { return "/dev/sd" + string(rune('f'+i)) }

// volumes reads all volumes that fit and are not on their way out.
func (d *Driver) volumes(ctx context.Context, filters ...filter) (all []types.Volume, err error) {
	in := &ec2.DescribeVolumesInput{Filters: filters, MaxResults: aws.Int32(mostResults)}
	for pages := ec2.NewDescribeVolumesPaginator(d.ec2, in); pages.HasMorePages(); {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, d.explain(err, "DescribeVolumes")
		}
		for _, v := range out.Volumes {
			if v.State != types.VolumeStateDeleting && v.State != types.VolumeStateDeleted {
				all = append(all, v)
			}
		}
	}
	return all, nil
}

// volumesNamed reads the persistent disks of those names.
func (d *Driver) volumesNamed(ctx context.Context, names []string) (all []types.Volume, err error) {
	for chunk := range slices.Chunk(names, mostValues) {
		got, err := d.volumes(ctx, byTag(tagDisk, chunk...))
		if err != nil {
			return nil, err
		}
		all = append(all, got...)
	}
	return all, nil
}

// volumesSurely reads the persistent disks of a machine. One that may exist and
// is not listed is looked for until it would be: another made meanwhile would
// hide it, and what is on it.
func (d *Driver) volumesSurely(ctx context.Context, specs []drivers.DiskSpec, names []string) ([]types.Volume, error) {
	for end := time.Now().Add(d.timing.lag); ; {
		all, err := d.volumesNamed(ctx, names)
		if err != nil {
			return nil, err
		}
		missing := slices.ContainsFunc(specs, func(s drivers.DiskSpec) bool {
			return s.MayExist && !slices.ContainsFunc(all, func(v types.Volume) bool { return plain(v.Tags)[tagDisk] == s.Name })
		})
		if !missing || !time.Now().Before(end) {
			return all, nil
		}
		if err := sleep(ctx, d.timing.quick); err != nil {
			return nil, err
		}
	}
}

// disksFor finds those of a machine's disks that exist, by name. They decide
// the zone, so they must agree on one.
func (d *Driver) disksFor(ctx context.Context, specs []drivers.DiskSpec) (map[string]*types.Volume, error) {
	if len(specs) == 0 {
		return nil, nil
	}
	if len(specs) > mostDisks {
		return nil, fmt.Errorf("%w: %d persistent disks; a machine takes %d", drivers.ErrInvalid, len(specs), mostDisks)
	}
	names := make([]string, 0, len(specs))
	for _, s := range specs {
		if s.Name == "" || len([]rune(s.Name)) > longestValue {
			return nil, fmt.Errorf("%w: disk %.40q: a name has 1 to %d characters", drivers.ErrInvalid, s.Name, longestValue)
		}
		names = append(names, s.Name)
	}
	all, err := d.volumesSurely(ctx, specs, names)
	if err != nil {
		return nil, err
	}
	found := make(map[string]*types.Volume, len(all))
	for i := range all {
		v := &all[i]
		name := plain(v.Tags)[tagDisk]
		if other := found[name]; other != nil {
			return nil, fmt.Errorf("%w: there are two disks %s, %s and %s; delete the one that is not wanted", drivers.ErrInvalid, name, aws.ToString(other.VolumeId), aws.ToString(v.VolumeId))
		}
		if zone := zoneOf(found); zone != "" && zone != aws.ToString(v.AvailabilityZone) {
			return nil, fmt.Errorf("%w: disk %s is in %s and another of the machine in %s; a machine's disks must be in one zone", drivers.ErrInvalid, name, aws.ToString(v.AvailabilityZone), zone)
		}
		found[name] = v
	}
	return found, nil
}

// zoneOf is the zone of disks, "" if there are none.
func zoneOf(disks map[string]*types.Volume) string {
	for _, v := range disks {
		return aws.ToString(v.AvailabilityZone)
	}
	return ""
}

// holder is the machine that has a disk, "" for none.
func holder(v *types.Volume) string {
	for _, a := range v.Attachments {
		return aws.ToString(a.InstanceId)
	}
	return ""
}

// free checks that no other machine has one of the disks.
func (d *Driver) free(ctx context.Context, spec *drivers.Spec, disks map[string]*types.Volume) error {
	for name, v := range disks {
		id := holder(v)
		if id == "" {
			continue
		}
		got, err := d.describeIDs(ctx, []string{id})
		if err != nil {
			return err
		}
		other := id
		if len(got) > 0 {
			other = firstOf(plain(got[0].Tags)[tagName], id)
		}
		switch {
		case other == spec.Name:
		case len(got) > 0 && over(&got[0]):
			return fmt.Errorf("disk %s is still being taken from %s, which ends", name, other)
		default:
			return fmt.Errorf("%w: disk %s is in use by %s", drivers.ErrInvalid, name, other)
		}
	}
	return nil
}

// giveDisks makes the disks that do not exist, where the machine is, and gives
// it all of them. Called again it goes on where it was.
func (d *Driver) giveDisks(ctx context.Context, spec *drivers.Spec, inst *types.Instance, disks map[string]*types.Volume) error {
	zone, id := zoneOfMachine(inst), aws.ToString(inst.InstanceId)
	volumes := make([]string, len(spec.Disks))
	for i, s := range spec.Disks {
		if v := disks[s.Name]; v != nil {
			volumes[i] = aws.ToString(v.VolumeId)
			continue
		}
		v, err := d.makeDisk(ctx, spec, s, zone)
		if err != nil {
			return err
		}
		volumes[i] = v
	}
	// A disk can be given only to a machine that runs.
	if s := stateOf(inst); s != types.InstanceStateNameRunning && s != types.InstanceStateNameStopped {
		got, err := d.watch.wait(ctx, id, min(d.timing.poll, runningPoll), func(i *types.Instance) bool { return stateOf(i) != types.InstanceStateNamePending })
		switch {
		case err != nil:
			return err
		case got == nil:
			return fmt.Errorf("%s has vanished before it got its disks", spec.Name)
		case over(got):
			_, why := statusOf(got)
			return fmt.Errorf("%s has ended before it got its disks: %s", spec.Name, why)
		}
	}
	for i, s := range spec.Disks {
		if v := disks[s.Name]; v != nil && holder(v) == id {
			continue
		}
		if err := d.attach(ctx, volumes[i], id, device(i)); err != nil {
			return fmt.Errorf("disk %s: %w", s.Name, err)
		}
	}
	return nil
}

// makeDisk makes a disk, once for a machine: the token is the machine's, since
// EC2 remembers it for longer than the disk may live.
func (d *Driver) makeDisk(ctx context.Context, spec *drivers.Spec, s drivers.DiskSpec, zone string) (string, error) {
	size, kind := s.SizeGiB, types.VolumeType(s.Type)
	if size == 0 {
		size = defaultDiskGiB
	}
	if kind == "" {
		kind = defaultDiskType
	}
	in := &ec2.CreateVolumeInput{
		AvailabilityZone: aws.String(zone), Size: aws.Int32(int32(size)), VolumeType: kind, Encrypted: aws.Bool(true),
		ClientToken:       tokenOf("disk", spec.Name, s.Name, zone),
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: d.diskTags(spec, s.Name)}},
	}
	if d.cfg.Disk.KMSKeyID != "" {
		in.KmsKeyId = aws.String(d.cfg.Disk.KMSKeyID)
	}
	if kind == types.VolumeTypeIo1 || kind == types.VolumeTypeIo2 {
		in.Iops = aws.Int32(int32(max(100, d.cfg.Disk.IOPS)))
	}
	out, err := d.ec2.CreateVolume(ctx, in)
	if err != nil {
		return "", fmt.Errorf("disk %s: %w", s.Name, d.explain(err, "CreateVolume"))
	}
	return aws.ToString(out.VolumeId), nil
}

// attach gives a volume to a machine as soon as it can be given.
func (d *Driver) attach(ctx context.Context, volume, machine, device string) error {
	for {
		_, err := d.ec2.AttachVolume(ctx, &ec2.AttachVolumeInput{VolumeId: aws.String(volume), InstanceId: aws.String(machine), Device: aws.String(device)})
		switch code := codeOf(err); {
		case err == nil:
			return nil
		case code == "VolumeInUse":
			got, lookErr := d.volumes(ctx, by("volume-id", volume))
			if lookErr == nil && len(got) == 1 && holder(&got[0]) == machine {
				return nil // an earlier call's answer was lost
			}
			return fmt.Errorf("%w: %w", drivers.ErrInvalid, d.explain(err, "AttachVolume"))
		case code == "IncorrectState", code == "InvalidVolume.NotFound":
			// Being made yet, or not seen yet.
			if gone, lookErr := d.vanished(ctx, volume); lookErr != nil || gone {
				return errors.Join(d.explain(err, "AttachVolume"), lookErr)
			}
			continue
		default:
			return d.explain(err, "AttachVolume")
		}
	}
}

// vanished waits a moment, and says whether a volume is in no list for longer
// than one that was just made can be.
func (d *Driver) vanished(ctx context.Context, volume string) (bool, error) {
	for end := time.Now().Add(d.timing.lag); ; {
		if err := sleep(ctx, d.timing.quick); err != nil {
			return false, err
		}
		got, err := d.volumes(ctx, by("volume-id", volume))
		switch {
		case err != nil:
			return false, err
		case len(got) > 0:
			return false, nil
		case time.Now().After(end):
			return true, nil
		}
	}
}

// disksOf are the persistent disks of machines that are to end, by machine. A
// reading that fails fails the machines: they would lose sight of their disks.
func (d *Driver) disksOf(ctx context.Context, all []ending) map[string][]string {
	var ids []string
	for i := range all {
		if all[i].err == nil {
			ids = append(ids, all[i].ids...)
		}
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	out := map[string][]string{}
	for chunk := range slices.Chunk(ids, mostValues) {
		got, err := d.volumes(ctx, by("attachment.instance-id", chunk...), byTagKey(tagDisk))
		if err != nil {
			for i := range all {
				if all[i].err == nil {
					all[i].err = err
				}
			}
			return nil
		}
		for i := range got {
			id := holder(&got[i])
			out[id] = append(out[id], aws.ToString(got[i].VolumeId))
		}
	}
	return out
}

// deleteVolumes deletes volumes and waits until they are gone.
func (d *Driver) deleteVolumes(ctx context.Context, ids []string) error {
	for _, id := range ids {
		_, err := d.ec2.DeleteVolume(ctx, &ec2.DeleteVolumeInput{VolumeId: aws.String(id)})
		if err != nil && !strings.HasPrefix(codeOf(err), "InvalidVolume.NotFound") {
			return d.explain(err, "DeleteVolume")
		}
	}
	for {
		var left []types.Volume
		in := &ec2.DescribeVolumesInput{Filters: []filter{by("volume-id", ids...)}}
		for pages := ec2.NewDescribeVolumesPaginator(d.ec2, in); pages.HasMorePages(); {
			out, err := pages.NextPage(ctx)
			if err != nil {
				return d.explain(err, "DescribeVolumes")
			}
			left = append(left, out.Volumes...)
		}
		if !slices.ContainsFunc(left, func(v types.Volume) bool { return v.State != types.VolumeStateDeleted }) {
			return nil
		}
		if err := sleep(ctx, d.timing.quick); err != nil {
			return err
		}
	}
}

// DestroyDisks deletes persistent disks by name, in their zone if it is given.
func (d *Driver) DestroyDisks(ctx context.Context, disks []drivers.Ref) []error {
	errs := make([]error, len(disks))
	var names []string
	for _, disk := range disks {
		names = append(names, disk.Name)
	}
	slices.Sort(names)
	all, err := d.volumesNamed(ctx, slices.Compact(names))
	var wg sync.WaitGroup
	for i, disk := range disks {
		if err != nil {
			errs[i] = err
			continue
		}
		wg.Go(func() {
			var ids []string
			for j := range all {
				v := &all[j]
				if plain(v.Tags)[tagDisk] != disk.Name || disk.Zone != "" && aws.ToString(v.AvailabilityZone) != disk.Zone {
					continue
				}
				if by := holder(v); by != "" {
					errs[i] = fmt.Errorf("disk %s is in use by instance %s; destroy that first", disk.Name, by)
					return
				}
				ids = append(ids, aws.ToString(v.VolumeId))
			}
			if len(ids) > 0 {
				errs[i] = d.deleteVolumes(ctx, ids)
			}
		})
	}
	wg.Wait()
	return errs
}
