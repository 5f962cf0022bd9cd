package ec2

import "strings"

func list(names string) []string { return strings.Fields(names) }

// operations are what can be called, and which parameters are modelled: each
// with all below it.
var operations = map[string]operation{
	"RunInstances": {runInstances, list(`ClientToken MinCount MaxCount ImageId InstanceType KeyName SubnetId SecurityGroupIds SecurityGroups
		PrivateIpAddress UserData DisableApiTermination EbsOptimized IamInstanceProfile InstanceInitiatedShutdownBehavior Monitoring
		NetworkInterfaces.DeviceIndex NetworkInterfaces.SubnetId NetworkInterfaces.Groups NetworkInterfaces.AssociatePublicIpAddress
		NetworkInterfaces.DeleteOnTermination NetworkInterfaces.Description NetworkInterfaces.PrivateIpAddress
		Placement.AvailabilityZone Placement.AvailabilityZoneId Placement.Tenancy TagSpecifications CreditSpecification
		InstanceMarketOptions.MarketType InstanceMarketOptions.SpotOptions.SpotInstanceType InstanceMarketOptions.SpotOptions.MaxPrice
		InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior HibernationOptions
		CapacityReservationSpecification.CapacityReservationPreference
		CapacityReservationSpecification.CapacityReservationTarget.CapacityReservationId
		MetadataOptions.HttpTokens MetadataOptions.HttpEndpoint MetadataOptions.HttpPutResponseHopLimit MetadataOptions.InstanceMetadataTags
		BlockDeviceMappings.DeviceName BlockDeviceMappings.Ebs.DeleteOnTermination BlockDeviceMappings.Ebs.Encrypted BlockDeviceMappings.Ebs.Iops
		BlockDeviceMappings.Ebs.KmsKeyId BlockDeviceMappings.Ebs.SnapshotId BlockDeviceMappings.Ebs.Throughput
		BlockDeviceMappings.Ebs.VolumeSize BlockDeviceMappings.Ebs.VolumeType`)},
	"DescribeInstances":      {describeInstances, list(`Filters InstanceIds MaxResults NextToken`)},
	"DescribeInstanceStatus": {describeInstanceStatus, list(`Filters IncludeAllInstances InstanceIds MaxResults NextToken`)},
	"TerminateInstances":     {terminateInstances, list(`InstanceIds SkipOsShutdown Force`)},
	"StopInstances":          {stopInstances, list(`Hibernate InstanceIds Force SkipOsShutdown`)},
	"StartInstances":         {startInstances, list(`InstanceIds`)},
	"RebootInstances":        {rebootInstances, list(`InstanceIds`)},
	"ModifyInstanceAttribute": {modifyInstance, list(`InstanceId DisableApiTermination InstanceInitiatedShutdownBehavior Groups InstanceType UserData
		BlockDeviceMappings.DeviceName BlockDeviceMappings.Ebs.DeleteOnTermination`)},
	"GetConsoleOutput": {consoleOutput, list(`InstanceId Latest`)},

	"CreateTags":   {createTags, list(`Resources Tags`)},
	"DeleteTags":   {deleteTags, list(`Resources Tags`)},
	"DescribeTags": {describeTags, list(`Filters MaxResults NextToken`)},

	"CreateVolume": {createVolume, list(`AvailabilityZone AvailabilityZoneId ClientToken Encrypted Iops KmsKeyId Size SnapshotId TagSpecifications
		Throughput VolumeType`)},
	"AttachVolume":    {attachVolume, list(`Device InstanceId VolumeId`)},
	"DetachVolume":    {detachVolume, list(`Device Force InstanceId VolumeId`)},
	"DeleteVolume":    {deleteVolume, list(`VolumeId`)},
	"DescribeVolumes": {describeVolumes, list(`Filters VolumeIds MaxResults NextToken`)},

	"DescribeNetworkInterfaces": {describeInterfaces, list(`Filters NetworkInterfaceIds MaxResults NextToken`)},
	"DescribeVpcs":              {describeVpcs, list(`Filters VpcIds MaxResults NextToken`)},
	"DescribeSubnets":           {describeSubnets, list(`Filters SubnetIds MaxResults NextToken`)},
	"CreateSecurityGroup":       {createSecurityGroup, list(`Description GroupName VpcId TagSpecifications`)},
	"DescribeSecurityGroups":    {describeSecurityGroups, list(`Filters GroupIds GroupNames MaxResults NextToken`)},
	"DeleteSecurityGroup":       {deleteSecurityGroup, list(`GroupId GroupName`)},
	"AuthorizeSecurityGroupIngress": {authorizeIngress, list(`GroupId GroupName CidrIp IpProtocol FromPort ToPort IpPermissions.IpProtocol
		IpPermissions.FromPort IpPermissions.ToPort IpPermissions.IpRanges IpPermissions.UserIdGroupPairs.GroupId
		IpPermissions.UserIdGroupPairs.Description IpPermissions.UserIdGroupPairs.UserId`)},

	"DescribeRegions":               {describeRegions, list(`AllRegions Filters RegionNames`)},
	"DescribeAvailabilityZones":     {describeZones, list(`AllAvailabilityZones Filters ZoneNames ZoneIds`)},
	"DescribeImages":                {describeImages, list(`Filters ImageIds Owners IncludeDeprecated MaxResults NextToken`)},
	"DescribeInstanceTypes":         {describeTypes, list(`Filters InstanceTypes MaxResults NextToken`)},
	"DescribeInstanceTypeOfferings": {describeOfferings, list(`Filters LocationType MaxResults NextToken`)},
	"DescribeAccountAttributes":     {describeAccount, list(`AttributeNames`)},

	"DescribeSpotInstanceRequests": {describeSpots, list(`Filters SpotInstanceRequestIds MaxResults NextToken`)},
	"CancelSpotInstanceRequests":   {cancelSpots, list(`SpotInstanceRequestIds`)},
	"CreateCapacityReservation": {createReservation, list(`AvailabilityZone AvailabilityZoneId ClientToken EndDate EndDateType InstanceCount
		InstanceMatchCriteria InstancePlatform InstanceType TagSpecifications Tenancy`)},
	"DescribeCapacityReservations": {describeReservations, list(`Filters CapacityReservationIds MaxResults NextToken`)},
	"CancelCapacityReservation":    {cancelReservation, list(`CapacityReservationId`)},
}
