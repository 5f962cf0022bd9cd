package sdktest_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	fake "github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2"
)

func TestLaunchesAreRefused(t *testing.T) {
	t.Parallel()
	type in = ec2.RunInstancesInput
	disk := func(device string, ebs types.EbsBlockDevice) []types.BlockDeviceMapping {
		return []types.BlockDeviceMapping{{DeviceName: &device, Ebs: &ebs}}
	}
	tagged := func(kind types.ResourceType, pairs ...string) []types.TagSpecification {
		return []types.TagSpecification{{ResourceType: kind, Tags: tags(pairs...)}}
	}
	var many []string
	for n := range 51 {
		many = append(many, fmt.Sprint("k", n), "v")
	}
	hibernate := hibernating
	for _, test := range []struct {
		name, code string
		with       func(*in)
	}{
		{"no image", "MissingParameter", func(in *in) { in.ImageId = nil }},
		{"an image's name", "InvalidAMIID.Malformed", func(in *in) { in.ImageId = aws.String("ubuntu") }},
		{"an unknown image", "InvalidAMIID.NotFound", func(in *in) { in.ImageId = aws.String("ami-0123456789abcdef0") }},
		{"an unknown type", "InvalidParameterValue", func(in *in) { in.InstanceType = "m9.huge" }},
		{"an image of another architecture", "InvalidParameterValue", func(in *in) { in.ImageId = aws.String(ubuntuArm) }},
		{"a type that the zone has not", "Unsupported", func(in *in) {
			in.InstanceType, in.Placement = "p5.48xlarge", &types.Placement{AvailabilityZone: aws.String("us-east-1a")}
		}},
		{"a zone of another region", "InvalidParameterValue", func(in *in) { in.Placement = &types.Placement{AvailabilityZone: aws.String("eu-west-1a")} }},
		{"an unknown subnet", "InvalidSubnetID.NotFound", func(in *in) { in.SubnetId = aws.String("subnet-0123456789abcdef0") }},
		{"an unknown group", "InvalidGroup.NotFound", func(in *in) { in.SecurityGroupIds = []string{"sg-0123456789abcdef0"} }},
		{"a group's name for its id", "InvalidGroup.Malformed", func(in *in) { in.SecurityGroupIds = []string{"default"} }},
		{"a subnet beside an interface", "InvalidParameterCombination", func(in *in) {
			in.SubnetId = aws.String("subnet-0123456789abcdef0")
			in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0)}}
		}},
		{"more wanted at least than at most", "InvalidParameterValue", func(in *in) { in.MinCount = aws.Int32(2) }},
		{"an unknown key pair", "InvalidKeyPair.NotFound", func(in *in) { in.KeyName = aws.String("none") }},
		{"an unknown profile", "InvalidParameterValue", func(in *in) { in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String("none")} }},
		{"user data that are not base64", "InvalidUserData.Malformed", func(in *in) { in.UserData = aws.String("#!/bin/sh") }},
		{"user data of more than 16 KiB", "InvalidParameterValue", func(in *in) {
			in.UserData = aws.String(base64.StdEncoding.EncodeToString(make([]byte, 16<<10+1)))
		}},
		{"a root smaller than its image", "InvalidBlockDeviceMapping", func(in *in) {
			in.BlockDeviceMappings = disk("/dev/sda1", types.EbsBlockDevice{VolumeSize: aws.Int32(4)})
		}},
		{"io1 without iops", "MissingParameter", func(in *in) {
			in.BlockDeviceMappings = disk("/dev/sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(40), VolumeType: "io1"})
		}},
		{"gp2 with iops", "InvalidParameterCombination", func(in *in) {
			in.BlockDeviceMappings = disk("/dev/sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(40), VolumeType: "gp2", Iops: aws.Int32(100)})
		}},
		{"a KMS key without encryption", "InvalidParameterDependency", func(in *in) {
			in.BlockDeviceMappings = disk("/dev/sdf", types.EbsBlockDevice{VolumeSize: aws.Int32(40), KmsKeyId: aws.String("k")})
		}},
		{"a device of no kind", "InvalidBlockDeviceMapping", func(in *in) {
			in.BlockDeviceMappings = disk("/data", types.EbsBlockDevice{VolumeSize: aws.Int32(40)})
		}},
		{"credits for a type that has none", "InvalidParameterCombination", func(in *in) {
			in.CreditSpecification = &types.CreditSpecificationRequest{CpuCredits: aws.String("unlimited")}
		}},
		{"hibernation on a root that is not encrypted", "UnsupportedHibernationConfiguration", func(in *in) {
			hibernate(in)
			in.BlockDeviceMappings[0].Ebs.Encrypted = nil
		}},
		{"hibernation on a root smaller than the memory", "UnsupportedHibernationConfiguration", func(in *in) {
			hibernate(in)
			in.InstanceType, in.Placement = "r7i.2xlarge", nil
			in.BlockDeviceMappings[0].Ebs.VolumeSize = aws.Int32(63)
		}},
		{"hibernation on a slow root", "UnsupportedHibernationConfiguration", func(in *in) {
			hibernate(in)
			in.BlockDeviceMappings[0].Ebs.VolumeType, in.BlockDeviceMappings[0].Ebs.VolumeSize = "st1", aws.Int32(500)
		}},
		{"hibernation of 256 GiB", "UnsupportedHibernationConfiguration", func(in *in) {
			hibernate(in)
			in.InstanceType = "r5.8xlarge"
		}},
		{"hibernation of bare metal", "UnsupportedHibernationConfiguration", func(in *in) {
			hibernate(in)
			in.InstanceType = "m5.metal"
		}},
		{"hibernation of a spot machine", "InvalidParameterCombination", func(in *in) {
			hibernate(in)
			in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: types.MarketTypeSpot}
		}},
		{"a one-time spot machine that stops when interrupted", "InvalidParameterCombination", func(in *in) {
			in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{
				MarketType: types.MarketTypeSpot, SpotOptions: &types.SpotMarketOptions{InstanceInterruptionBehavior: types.InstanceInterruptionBehaviorStop},
			}
		}},
		{"an unknown reservation", "InvalidCapacityReservationId.NotFound", func(in *in) {
			in.CapacityReservationSpecification = &types.CapacityReservationSpecification{
				CapacityReservationTarget: &types.CapacityReservationTarget{CapacityReservationId: aws.String("cr-0123456789abcdef0")},
			}
		}},
		{"a hop limit out of bounds", "InvalidParameterValue", func(in *in) {
			in.MetadataOptions = &types.InstanceMetadataOptionsRequest{HttpPutResponseHopLimit: aws.Int32(65)}
		}},
		{"a tag of Amazon's", "InvalidParameterValue", func(in *in) { in.TagSpecifications = tagged("instance", "aws:x", "y") }},
		{"a tag's key of 129 characters", "InvalidParameterValue", func(in *in) { in.TagSpecifications = tagged("instance", strings.Repeat("ä", 129), "y") }},
		{"a tag's value of 257 characters", "InvalidParameterValue", func(in *in) { in.TagSpecifications = tagged("instance", "x", strings.Repeat("ä", 257)) }},
		{"51 tags", "TagLimitExceeded", func(in *in) { in.TagSpecifications = tagged("instance", many...) }},
		{"tags for what is not made", "InvalidParameterValue", func(in *in) { in.TagSpecifications = tagged("snapshot", "x", "y") }},
		{"tags for a spot request there is none of", "InvalidParameterCombination", func(in *in) { in.TagSpecifications = tagged("spot-instances-request", "x", "y") }},
		{"a token of 65 characters", "InvalidParameterValue", func(in *in) { in.ClientToken = aws.String(strings.Repeat("x", 65)) }},
		{"a token that is not ASCII", "InvalidParameterValue", func(in *in) { in.ClientToken = aws.String("tökén") }},
		{"what the fake does not do", fake.CodeUnmodelled, func(in *in) { in.CpuOptions = &types.CpuOptionsRequest{CoreCount: aws.Int32(1)} }},
		{"a rehearsal", "DryRunOperation", func(in *in) { in.DryRun = aws.Bool(true) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
				_, err := api.RunInstances(t.Context(), launch(test.with))
				if got := code(t, err); got != test.code || len(c.Books.Ever()) > 0 {
					t.Errorf("%v, want %s; made: %v", err, test.code, c.Books.Ever())
				}
			})
		})
	}
}

func TestClientTokens(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		token := func(in *ec2.RunInstancesInput) { in.ClientToken = aws.String("row-1-attempt-1") }
		first := *must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), launch(token))).Instances[0].InstanceId
		again := func() string {
			return *must[*ec2.RunInstancesOutput](t)(api.RunInstances(t.Context(), launch(token))).Instances[0].InstanceId
		}
		if got := again(); got != first {
			t.Errorf("the same call made %s and %s", first, got)
		}
		_, err := api.RunInstances(t.Context(), launch(token, func(in *ec2.RunInstancesInput) { in.InstanceType = "t3.nano" }))
		if code(t, err) != "IdempotentParameterMismatch" {
			t.Errorf("other parameters: %v", err)
		}
		await(t, api, first, types.InstanceStateNameRunning)
		terminate(t, api, first)
		pass(2 * time.Hour)
		if got := again(); got != first || len(listed(t, api)) != 0 {
			t.Errorf("after its end the same call made %s", got)
		}
		pass(24 * time.Hour)
		if got := again(); got == first {
			t.Error("a token holds for more than a day")
		}

		volume := &ec2.CreateVolumeInput{AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1), ClientToken: aws.String("v")}
		a := must[*ec2.CreateVolumeOutput](t)(api.CreateVolume(t.Context(), volume))
		b := must[*ec2.CreateVolumeOutput](t)(api.CreateVolume(t.Context(), volume))
		volume.Size = aws.Int32(2)
		_, err = api.CreateVolume(t.Context(), volume)
		if *a.VolumeId != *b.VolumeId || code(t, err) != "IdempotentParameterMismatch" {
			t.Errorf("volumes %s, %s, then %v", *a.VolumeId, *b.VolumeId, err)
		}
		// One of the tokens has launched twice.
		if n := strings.Count(fmt.Sprint(c.Books.Ever()), "{volume "); n != 3 {
			t.Errorf("%d volumes were made", n)
		}
	})
}

func TestTagsThatFailTakeBackWhatWasMade(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		c.FailTaggings(3)
		spec := []types.TagSpecification{{ResourceType: types.ResourceTypeInstance, Tags: tags("a", "b")}}
		with := func(in *ec2.RunInstancesInput) { in.TagSpecifications, in.ClientToken = spec, aws.String("t") }
		_, err := api.RunInstances(t.Context(), launch(with))
		if err == nil || len(c.Books.Ever()) != 3 || living(c) != "" {
			t.Errorf("%v; made %d, left: %s", err, len(c.Books.Ever()), living(c))
		}
		_, err = api.CreateVolume(t.Context(), &ec2.CreateVolumeInput{
			AvailabilityZone: aws.String("us-east-1a"), Size: aws.Int32(1),
			TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeVolume, Tags: tags("a", "b")}},
		})
		_, err2 := api.CreateSecurityGroup(t.Context(), &ec2.CreateSecurityGroupInput{
			GroupName: aws.String("g"), Description: aws.String("d"),
			TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeSecurityGroup, Tags: tags("a", "b")}},
		})
		if err == nil || err2 == nil || living(c) != "" {
			t.Errorf("%v, %v, left: %s", err, err2, living(c))
		}
		run(t, api, with) // the token is not used up
	})
}

func TestCapacityAndQuota(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{MaxInstances: 4, MaxVCPUs: 8}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		in := func(zone string, least, most int32, typ types.InstanceType) (*ec2.RunInstancesOutput, error) {
			return api.RunInstances(t.Context(), launch(func(in *ec2.RunInstancesInput) {
				in.MinCount, in.MaxCount, in.InstanceType = &least, &most, typ
				if zone != "" {
					in.Placement = &types.Placement{AvailabilityZone: &zone}
				}
			}))
		}
		c.Capacity("us-east-1a", "m5.large", 2)
		c.Capacity("us-east-1b", "m5.large", 0)
		c.Capacity("us-east-1c", "", 0)
		if _, err := in("us-east-1b", 1, 1, "m5.large"); code(t, err) != "InsufficientInstanceCapacity" {
			t.Errorf("zone b: %v", err)
		}
		if _, err := in("us-east-1a", 3, 3, "m5.large"); code(t, err) != "InsufficientInstanceCapacity" || living(c) != "" {
			t.Errorf("three in zone a: %v", err)
		}
		out := must[*ec2.RunInstancesOutput](t)(in("", 1, 3, "m5.large"))
		if len(out.Instances) != 2 || *out.Instances[0].Placement.AvailabilityZone != "us-east-1a" {
			t.Errorf("one to three anywhere: %d in %s", len(out.Instances), *out.Instances[0].Placement.AvailabilityZone)
		}
		if _, err := in("us-east-1b", 3, 3, "t3.nano"); code(t, err) != "InstanceLimitExceeded" {
			t.Errorf("five machines: %v", err)
		}
		if _, err := in("us-east-1b", 1, 1, "r5.8xlarge"); code(t, err) != "VcpuLimitExceeded" {
			t.Errorf("36 processors: %v", err)
		}
		pass(2 * time.Second)
		terminate(t, api, *out.Instances[0].InstanceId, *out.Instances[1].InstanceId)
		pass(time.Minute)
		if _, err := in("us-east-1a", 2, 2, "m5.large"); err != nil {
			t.Errorf("room that was given back: %v", err)
		}
	})
}

func TestReservations(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, c *fake.Cloud, api *ec2.Client) {
		zone := aws.String("us-east-1a")
		c.Capacity(*zone, "m5.large", 1)
		r := must[*ec2.CreateCapacityReservationOutput](t)(api.CreateCapacityReservation(t.Context(), &ec2.CreateCapacityReservationInput{
			AvailabilityZone: zone, InstanceCount: aws.Int32(1), InstanceType: aws.String("m5.large"), InstancePlatform: "Linux/UNIX",
			InstanceMatchCriteria: types.InstanceMatchCriteriaTargeted,
		})).CapacityReservation
		pass(2 * time.Second)
		at := func(in *ec2.RunInstancesInput) { in.Placement = &types.Placement{AvailabilityZone: zone} }
		target := func(in *ec2.RunInstancesInput) {
			in.CapacityReservationSpecification = &types.CapacityReservationSpecification{
				CapacityReservationTarget: &types.CapacityReservationTarget{CapacityReservationId: r.CapacityReservationId},
			}
		}
		if _, err := api.RunInstances(t.Context(), launch(at)); code(t, err) != "InsufficientInstanceCapacity" {
			t.Errorf("beside the reservation: %v", err)
		}
		i := run(t, api, at, target)
		if *i.CapacityReservationId != *r.CapacityReservationId {
			t.Errorf("runs in %v", i.CapacityReservationId)
		}
		if _, err := api.RunInstances(t.Context(), launch(at, target)); code(t, err) != "ReservationCapacityExceeded" {
			t.Errorf("a second in the reservation: %v", err)
		}
		got := must[*ec2.DescribeCapacityReservationsOutput](t)(api.DescribeCapacityReservations(t.Context(), &ec2.DescribeCapacityReservationsInput{})).CapacityReservations[0]
		if *got.AvailableInstanceCount != 0 || *got.TotalInstanceCount != 1 {
			t.Errorf("reservation %+v", got)
		}
		must[*ec2.CancelCapacityReservationOutput](t)(api.CancelCapacityReservation(t.Context(), &ec2.CancelCapacityReservationInput{CapacityReservationId: r.CapacityReservationId}))
		terminate(t, api, *i.InstanceId)
		pass(time.Minute)
		if left := living(c); left != "" {
			t.Errorf("left: %s", left)
		}
		run(t, api, at)
		_, err := api.CancelCapacityReservation(t.Context(), &ec2.CancelCapacityReservationInput{CapacityReservationId: aws.String("cr-0123456789abcdef0")})
		if code(t, err) != "InvalidCapacityReservationId.NotFound" {
			t.Errorf("cancel of none: %v", err)
		}
	})
}

func TestActsOnAllOrNone(t *testing.T) {
	t.Parallel()
	bubble(t, fake.Options{}, func(t *testing.T, _ *fake.Cloud, api *ec2.Client) {
		id := *run(t, api).InstanceId
		for want, other := range map[string]string{"InvalidInstanceID.NotFound": "i-0123456789abcdef0", "InvalidInstanceID.Malformed": "machine"} {
			_, err := api.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id, other}})
			if code(t, err) != want {
				t.Errorf("%s: %v", other, err)
			}
		}
		protect := func(on bool) {
			must[*ec2.ModifyInstanceAttributeOutput](t)(api.ModifyInstanceAttribute(t.Context(), &ec2.ModifyInstanceAttributeInput{
				InstanceId: &id, DisableApiTermination: &types.AttributeBooleanValue{Value: &on},
			}))
		}
		protect(true)
		_, err := api.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}})
		if code(t, err) != "OperationNotPermitted" {
			t.Errorf("protected: %v", err)
		}
		protect(false)
		await(t, api, id, types.InstanceStateNameRunning)
		_, err = api.ModifyInstanceAttribute(t.Context(), &ec2.ModifyInstanceAttributeInput{
			InstanceId: &id, InstanceType: &types.AttributeValue{Value: aws.String("t3.nano")},
		})
		if code(t, err) != "IncorrectInstanceState" {
			t.Errorf("type of a running machine: %v", err)
		}
		_, err = api.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{id}, Hibernate: aws.Bool(true)})
		if code(t, err) != "UnsupportedHibernationConfiguration" {
			t.Errorf("hibernation that was not configured: %v", err)
		}
		_, err = api.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{filter("state", "running")}})
		if code(t, err) != "InvalidParameterValue" {
			t.Errorf("an unknown filter: %v", err)
		}
	})
}
