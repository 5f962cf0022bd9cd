package sdktest_test

import (
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/google/go-cmp/cmp"

	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
)

func TestADiskOutlivesItsMachine(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		at := func(in *ec2.RunInstancesInput) {
			in.Placement = &types.Placement{AvailabilityZone: aws.String("us-east-1b")}
		}
		id := *run(t, api, at).InstanceId
		volume := func(zone string) string {
			return *must[*ec2.CreateVolumeOutput](t)(api.CreateVolume(t.Context(), &ec2.CreateVolumeInput{
				AvailabilityZone: &zone, Size: aws.Int32(10), VolumeType: "gp3", Iops: aws.Int32(3000),
				TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: tags("gitspace", "g1")}},
			})).VolumeId
		}
		disk, far := volume("us-east-1b"), volume("us-east-1a")
		pass(2 * time.Second)
		attach := func(id, disk, device string) error {
			_, err := api.AttachVolume(t.Context(), &ec2.AttachVolumeInput{InstanceId: &id, VolumeId: &disk, Device: &device})
			return err
		}
		if err := attach(id, disk, "/dev/sdf"); err != nil && code(t, err) != "IncorrectState" {
			t.Errorf("attach of a volume that is being made: %v", err)
		}
		pass(5 * time.Second)
		if err := attach(id, disk, "/dev/sdf"); err != nil && code(t, err) != "VolumeInUse" {
			t.Fatal(err)
		}
		for want, err := range map[string]error{
			"VolumeInUse":                attach(id, disk, "/dev/sdg"),
			"InvalidVolume.ZoneMismatch": attach(id, far, "/dev/sdg"),
			"InvalidVolume.NotFound":     attach(id, "vol-0123456789abcdef0", "/dev/sdg"),
		} {
			if code(t, err) != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
		describe := func(filters ...types.Filter) []types.Volume {
			return must[*ec2.DescribeVolumesOutput](t)(api.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{Filters: filters})).Volumes
		}
		pass(5 * time.Second)
		got := describe(filter("tag:gitspace", "g1"), filter("attachment.instance-id", id))
		if len(got) != 1 || *got[0].VolumeId != disk || got[0].State != types.VolumeStateInUse || got[0].Attachments[0].State != types.VolumeAttachmentStateAttached {
			t.Errorf("attached: %+v", got)
		}
		_, err := api.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: &disk})
		if code(t, err) != "VolumeInUse" {
			t.Errorf("delete of an attached volume: %v", err)
		}
		must[*ec2.DetachVolumeOutput](t)(api.DetachVolume(t.Context(), &ec2.DetachVolumeInput{VolumeId: &disk, InstanceId: &id}))
		pass(5 * time.Second)
		_, err = api.DetachVolume(t.Context(), &ec2.DetachVolumeInput{VolumeId: &disk})
		if code(t, err) != "IncorrectState" {
			t.Errorf("detach of a detached volume: %v", err)
		}
		if err := attach(id, disk, "/dev/sdf"); err != nil {
			t.Error(err)
		}
		root := *describe(filter("attachment.instance-id", id), filter("attachment.device", "/dev/sda1"))[0].VolumeId
		_, err = api.DetachVolume(t.Context(), &ec2.DetachVolumeInput{VolumeId: &root})
		if code(t, err) != "OperationNotPermitted" {
			t.Errorf("detach of a root: %v", err)
		}
		terminate(t, api, id)
		pass(time.Minute)
		if left := living(c); left != "volume volume" {
			t.Errorf("left: %s", left)
		}
		got = describe(filter("status", "available"), filter("tag-key", "gitspace"))
		if len(got) != 2 || len(got[0].Attachments) != 0 {
			t.Errorf("after the machine's end: %+v", got)
		}
		for range 2 {
			if _, err := api.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: &disk}); err != nil {
				t.Error(err)
			}
		}
		pass(5 * time.Second)
		_, err = api.DeleteVolume(t.Context(), &ec2.DeleteVolumeInput{VolumeId: &disk})
		if code(t, err) != "InvalidVolume.NotFound" || living(c) != "volume" {
			t.Errorf("deleted: %v, left: %s", err, living(c))
		}
	})
}

func TestAGuestIsToldOfTheDisksItIsGiven(t *testing.T) {
	t.Parallel()
	var boots []fake.Machine
	var given []fake.Volume
	o := fake.Options{
		Boots: func(m fake.Machine) { boots = append(boots, m) },
		Attaches: func(m fake.Machine, v fake.Volume) {
			given = append(given, fake.Volume{ID: m.ID + " " + v.ID, Device: v.Device})
		},
	}
	bubble(t, o, func(t *testing.T, _ *fake.Cloud, api *ec2.Client) {
		i := run(t, api)
		id, zone := *i.InstanceId, *i.Placement.AvailabilityZone
		disk := *must[*ec2.CreateVolumeOutput](t)(api.CreateVolume(t.Context(), &ec2.CreateVolumeInput{AvailabilityZone: &zone, Size: aws.Int32(10), VolumeType: "gp3"})).VolumeId
		pass(8 * time.Second)
		must[*ec2.AttachVolumeOutput](t)(api.AttachVolume(t.Context(), &ec2.AttachVolumeInput{InstanceId: &id, VolumeId: &disk, Device: aws.String("/dev/sdf")}))
		pass(8 * time.Second)
		must[*ec2.StopInstancesOutput](t)(api.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}}))
		await(t, api, id, types.InstanceStateNameStopped)
		must[*ec2.StartInstancesOutput](t)(api.StartInstances(t.Context(), &ec2.StartInstancesInput{InstanceIds: []string{id}}))
		await(t, api, id, types.InstanceStateNameRunning)
		if diff := cmp.Diff([]fake.Volume{{ID: id + " " + disk, Device: "/dev/sdf"}}, given); diff != "" {
			t.Errorf("told of disks (-want +got):\n%s", diff)
		}
		if len(boots) != 2 || len(boots[0].Volumes) != 0 || !cmp.Equal(boots[1].Volumes, []fake.Volume{{ID: disk, Device: "/dev/sdf"}}) {
			t.Errorf("told of boots: %+v", boots)
		}
	})
}

func TestADiskMayBeKeptOrGo(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		disk := func(device string, goes bool) types.BlockDeviceMapping {
			return types.BlockDeviceMapping{DeviceName: &device, Ebs: &types.EbsBlockDevice{VolumeSize: aws.Int32(10), DeleteOnTermination: &goes}}
		}
		i := run(t, api, func(in *ec2.RunInstancesInput) {
			in.BlockDeviceMappings = []types.BlockDeviceMapping{disk("/dev/sdf", true), disk("/dev/sdg", false), disk("/dev/sdh", false)}
		})
		must[*ec2.ModifyInstanceAttributeOutput](t)(api.ModifyInstanceAttribute(t.Context(), &ec2.ModifyInstanceAttributeInput{
			InstanceId: i.InstanceId,
			BlockDeviceMappings: []types.InstanceBlockDeviceMappingSpecification{{
				DeviceName: aws.String("/dev/sdh"), Ebs: &types.EbsInstanceBlockDeviceSpecification{DeleteOnTermination: aws.Bool(true)},
			}},
		}))
		terminate(t, api, *i.InstanceId)
		pass(time.Minute)
		if left := living(c); left != "volume" {
			t.Errorf("left: %s", left)
		}
	})
}

func TestTags(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, _ *fake.Cloud, api *ec2.Client) {
		i := run(t, api)
		ids := []string{*i.InstanceId, *i.BlockDeviceMappings[0].Ebs.VolumeId, *i.NetworkInterfaces[0].NetworkInterfaceId}
		must[*ec2.CreateTagsOutput](t)(api.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: ids, Tags: tags("a", "1", "b", "2", "C", "3")}))
		must[*ec2.DeleteTagsOutput](t)(api.DeleteTags(t.Context(), &ec2.DeleteTagsInput{Resources: ids[:2], Tags: tags("a", "other", "b", "2")}))
		got := map[string]int{}
		p := ec2.NewDescribeTagsPaginator(api, &ec2.DescribeTagsInput{Filters: []types.Filter{filter("resource-id", ids...)}})
		for p.HasMorePages() {
			for _, tag := range must[*ec2.DescribeTagsOutput](t)(p.NextPage(t.Context())).Tags {
				got[*tag.Key+"="+*tag.Value]++
			}
		}
		if diff := cmp.Diff(map[string]int{"a=1": 3, "b=2": 1, "C=3": 3}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		_, err := api.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: append(ids, "i-0123456789abcdef0"), Tags: tags("d", "4")})
		if code(t, err) != "InvalidInstanceID.NotFound" || len(listed(t, api, filter("tag:d", "4"))) != 0 {
			t.Errorf("one that is not there: %v", err)
		}
		_, err = api.DescribeTags(t.Context(), &ec2.DescribeTagsInput{Filters: []types.Filter{{Name: aws.String("key")}}})
		if code(t, err) != "InvalidParameterValue" {
			t.Errorf("a filter without values: %v", err)
		}
		if n := len(listed(t, api, filter("tag:c", "3"))); n != 0 {
			t.Error("case does not count in tags")
		}
	})
}

func TestGroupsAndNetworks(t *testing.T) {
	t.Parallel()
	for _, noDefault := range []bool{false, true} {
		name := map[bool]string{false: "with a default network", true: "without one"}[noDefault]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{NoDefaultVPC: noDefault}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
				vpcs := must[*ec2.DescribeVpcsOutput](t)(api.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{Filters: []types.Filter{filter("is-default", "false")}})).Vpcs
				subnets := must[*ec2.DescribeSubnetsOutput](t)(api.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{
					Filters: []types.Filter{filter("vpc-id", *vpcs[0].VpcId), filter("availability-zone", "us-east-1b")},
				})).Subnets
				if len(vpcs) != 1 || len(subnets) != 1 {
					t.Fatalf("%d networks that are not the default, %d subnets in b", len(vpcs), len(subnets))
				}
				create := func(vpc *string) (*ec2.CreateSecurityGroupOutput, error) {
					return api.CreateSecurityGroup(t.Context(), &ec2.CreateSecurityGroupInput{
						GroupName: aws.String("harness-runner"), Description: aws.String("d"), VpcId: vpc,
					})
				}
				group := *must[*ec2.CreateSecurityGroupOutput](t)(create(vpcs[0].VpcId)).GroupId
				pass(2 * time.Second)
				_, again := create(vpcs[0].VpcId)
				_, plain := create(nil)
				_, machine := api.RunInstances(t.Context(), launch())
				_, named := api.DescribeSecurityGroups(t.Context(), &ec2.DescribeSecurityGroupsInput{GroupNames: []string{"harness-runner"}})
				_, both := api.RunInstances(t.Context(), launch(func(in *ec2.RunInstancesInput) {
					in.SubnetId, in.SecurityGroups = subnets[0].SubnetId, []string{"harness-runner"}
				}))
				none := map[bool]string{true: "VPCIdNotSpecified"}[noDefault]
				// Names are those of the default network alone, so the group is found by its name there, or not at all.
				for what, is := range map[string][2]string{
					"the same name again": {"InvalidGroup.Duplicate", code(t, again)}, "no network said": {none, code(t, plain)},
					"a machine without subnet": {none, code(t, machine)}, "groups by name": {none, code(t, named)},
					"a name beside a subnet": {"InvalidParameterCombination", code(t, both)},
				} {
					if what == "groups by name" && !noDefault && is[1] == "InvalidGroup.NotFound" {
						continue // the other group is not seen yet
					}
					if is[0] != is[1] {
						t.Errorf("%s: %q, want %q", what, is[1], is[0])
					}
				}
				permit := func() error {
					_, err := api.AuthorizeSecurityGroupIngress(t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{
						GroupId: &group,
						IpPermissions: []types.IpPermission{{
							IpProtocol: aws.String("tcp"), FromPort: aws.Int32(9000), ToPort: aws.Int32(9100),
							IpRanges: []types.IpRange{{CidrIp: aws.String("10.0.0.0/16")}, {CidrIp: aws.String("10.2.0.0/16")}},
						}},
					})
					return err
				}
				if err := permit(); err != nil {
					t.Fatal(err)
				}
				if err := permit(); code(t, err) != "InvalidPermission.Duplicate" {
					t.Errorf("the same rule again: %v", err)
				}
				groups := must[*ec2.DescribeSecurityGroupsOutput](t)(api.DescribeSecurityGroups(t.Context(), &ec2.DescribeSecurityGroupsInput{
					Filters: []types.Filter{filter("group-name", "harness-runner"), filter("vpc-id", *vpcs[0].VpcId)},
				})).SecurityGroups
				if len(groups) != 1 || len(groups[0].IpPermissions) != 1 || len(groups[0].IpPermissions[0].IpRanges) != 2 {
					t.Errorf("groups %+v", groups)
				}
				i := run(t, api, func(in *ec2.RunInstancesInput) {
					in.SubnetId, in.SecurityGroupIds = subnets[0].SubnetId, []string{group}
				})
				if i.PublicIpAddress != nil || *i.Placement.AvailabilityZone != "us-east-1b" || *i.SecurityGroups[0].GroupId != group {
					t.Errorf("in a private subnet: %+v", i)
				}
				nics := must[*ec2.DescribeNetworkInterfacesOutput](t)(api.DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{
					Filters: []types.Filter{filter("attachment.instance-id", *i.InstanceId)},
				})).NetworkInterfaces
				if len(nics) != 1 || *nics[0].PrivateIpAddress != *i.PrivateIpAddress {
					t.Errorf("interfaces %+v", nics)
				}
				remove := func() error {
					_, err := api.DeleteSecurityGroup(t.Context(), &ec2.DeleteSecurityGroupInput{GroupId: &group})
					return err
				}
				if err := remove(); code(t, err) != "DependencyViolation" {
					t.Errorf("delete of a group in use: %v", err)
				}
				terminate(t, api, *i.InstanceId)
				pass(time.Minute)
				if err := remove(); err != nil {
					t.Error(err)
				}
				c.Settle()
				public := run(t, api, func(in *ec2.RunInstancesInput) {
					in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{
						DeviceIndex: aws.Int32(0), SubnetId: subnets[0].SubnetId, AssociatePublicIpAddress: aws.Bool(true), DeleteOnTermination: aws.Bool(false),
					}}
				})
				if public.PublicIpAddress == nil {
					t.Error("no public address though one was asked for")
				}
			})
		})
	}
}

func TestTheCatalogue(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{Account: "111122223333"}, func(t *testing.T, _ *fake.Cloud, api *ec2.Client) {
		images := must[*ec2.DescribeImagesOutput](t)(api.DescribeImages(t.Context(), &ec2.DescribeImagesInput{
			Owners: []string{"amazon", "self"}, Filters: []types.Filter{filter("name", "al2023-ami-*-x86_64")},
		})).Images
		if len(images) != 2 || *images[0].CreationDate >= *images[1].CreationDate || *images[0].RootDeviceName != "/dev/xvda" {
			t.Errorf("images: %+v", images)
		}
		kinds := must[*ec2.DescribeInstanceTypesOutput](t)(api.DescribeInstanceTypes(t.Context(), &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"m5.large"}})).InstanceTypes
		if len(kinds) != 1 || !*kinds[0].HibernationSupported || *kinds[0].MemoryInfo.SizeInMiB != 8192 || kinds[0].ProcessorInfo.SupportedArchitectures[0] != "x86_64" {
			t.Errorf("types: %+v", kinds)
		}
		_, err := api.DescribeInstanceTypes(t.Context(), &ec2.DescribeInstanceTypesInput{InstanceTypes: []types.InstanceType{"m9.huge"}})
		if code(t, err) != "InvalidInstanceType" {
			t.Errorf("an unknown type: %v", err)
		}
		offered := must[*ec2.DescribeInstanceTypeOfferingsOutput](t)(api.DescribeInstanceTypeOfferings(t.Context(), &ec2.DescribeInstanceTypeOfferingsInput{
			LocationType: types.LocationTypeAvailabilityZone, Filters: []types.Filter{filter("instance-type", "p5.48xlarge")},
		})).InstanceTypeOfferings
		if len(offered) != 1 || *offered[0].Location != "us-east-1b" {
			t.Errorf("offerings: %+v", offered)
		}
		zones := must[*ec2.DescribeAvailabilityZonesOutput](t)(api.DescribeAvailabilityZones(t.Context(), &ec2.DescribeAvailabilityZonesInput{})).AvailabilityZones
		regions := must[*ec2.DescribeRegionsOutput](t)(api.DescribeRegions(t.Context(), &ec2.DescribeRegionsInput{RegionNames: []string{"us-east-1"}})).Regions
		account := must[*ec2.DescribeAccountAttributesOutput](t)(api.DescribeAccountAttributes(t.Context(), &ec2.DescribeAccountAttributesInput{
			AttributeNames: []types.AccountAttributeName{types.AccountAttributeNameDefaultVpc},
		})).AccountAttributes
		if len(zones) != 3 || *zones[0].ZoneId == "" || len(regions) != 1 || len(account) != 1 || len(*account[0].AttributeValues[0].AttributeValue) != 21 {
			t.Errorf("zones %+v, regions %+v, account %+v", zones, regions, account)
		}
	})
}
