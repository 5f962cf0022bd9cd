//go:build !no_amazon

package amazon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// groupName is the security group of machines whose pool names none.
const groupName = "harness-runner"

// keepGroup is how long a group is taken to exist; one that is gone is noticed
// by the launch that names it.
const keepGroup = time.Hour

// groupPatience is how long a group that was just made may stay unseen.
const groupPatience = 15 * time.Second

// groupsFor are the security groups of a machine in a subnet, "" for the
// default VPC's.
func (d *Driver) groupsFor(ctx context.Context, subnet string) ([]string, error) {
	if named := slices.Concat(d.cfg.Network.SecurityGroups, d.cfg.Network.VPCSecurityGroups); len(named) > 0 {
		slices.Sort(named)
		return slices.Compact(named), nil
	}
	id, err := d.groups.get(ctx, subnet, keepGroup, func() (string, error) {
		vpc, err := d.vpcOf(ctx, subnet)
		if err != nil {
			return "", err
		}
		return d.findOrMakeGroup(ctx, vpc)
	})
	if err != nil {
		return nil, err
	}
	return []string{id}, nil
}

// vpcOf is the network of a subnet, or the default one.
func (d *Driver) vpcOf(ctx context.Context, subnet string) (string, error) {
	if subnet != "" {
		out, err := d.ec2.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{subnet}})
		if err != nil {
			return "", d.explain(err, "DescribeSubnets")
		}
		if len(out.Subnets) == 0 {
			return "", fmt.Errorf("%w: subnet %s is not in %s; check network.subnet_id, network.zone_details and account.region", drivers.ErrInvalid, subnet, d.region)
		}
		return aws.ToString(out.Subnets[0].VpcId), nil
	}
	if d.cfg.VPC != "" {
		return d.cfg.VPC, nil
	}
	out, err := d.ec2.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{Filters: []filter{by("is-default", "true")}})
	if err != nil {
		return "", d.explain(err, "DescribeVpcs")
	}
	if len(out.Vpcs) == 0 {
		return "", fmt.Errorf("%w: %s has no default VPC: set network.subnet_id, or network.zone_details with a subnet_id each", drivers.ErrInvalid, d.region)
	}
	return aws.ToString(out.Vpcs[0].VpcId), nil
}

func (d *Driver) findGroup(ctx context.Context, vpc string) (*types.SecurityGroup, error) {
	for pages := ec2.NewDescribeSecurityGroupsPaginator(d.ec2, &ec2.DescribeSecurityGroupsInput{
		Filters: []filter{by("group-name", groupName), by("vpc-id", vpc)},
	}); pages.HasMorePages(); {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, d.explain(err, "DescribeSecurityGroups")
		}
		if len(out.SecurityGroups) > 0 {
			return &out.SecurityGroups[0], nil
		}
	}
	return nil, nil
}

func (d *Driver) findOrMakeGroup(ctx context.Context, vpc string) (string, error) {
	g, err := d.findGroup(ctx, vpc)
	if err != nil {
		return "", err
	}
	if g == nil {
		_, err := d.ec2.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
			GroupName: aws.String(groupName), Description: aws.String("Machines of the VM pool runner"), VpcId: aws.String(vpc),
			TagSpecifications: []types.TagSpecification{{
				ResourceType: types.ResourceTypeSecurityGroup,
				Tags:         []types.Tag{{Key: aws.String(tagMade), Value: aws.String("true")}, {Key: aws.String("Name"), Value: aws.String(groupName)}},
			}},
		})
		// Somebody else may have made it, this runner's other pool for one.
		if err != nil && codeOf(err) != "InvalidGroup.Duplicate" {
			return "", d.explain(err, "CreateSecurityGroup")
		}
		if g, err = d.awaitGroup(ctx, vpc); err != nil {
			return "", err
		}
	}
	id := aws.ToString(g.GroupId)
	if opens(g) {
		return id, nil
	}
	if len(d.ingress) == 0 || plain(g.Tags)[tagMade] == "" {
		d.log.Warn("security group lets nobody call agents; add a rule for tcp 9079 from this runner's network, or set the variable before the group is made",
			"variable", drivers.IngressVariable, "group", id, "name", groupName, "vpc", vpc)
		return id, nil
	}
	_, err = d.ec2.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: g.GroupId, IpPermissions: []types.IpPermission{d.permission()}})
	if err != nil && codeOf(err) != "InvalidPermission.Duplicate" {
		return "", d.explain(err, "AuthorizeSecurityGroupIngress")
	}
	return id, nil
}

// awaitGroup waits until calls know a group that was just made.
func (d *Driver) awaitGroup(ctx context.Context, vpc string) (*types.SecurityGroup, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, groupPatience, fmt.Errorf("security group %s was made in %s and is not listed", groupName, vpc))
	defer cancel()
	for {
		g, err := d.findGroup(ctx, vpc)
		if g != nil || err != nil {
			return g, err
		}
		if sleep(ctx, d.timing.quick) != nil {
			return nil, context.Cause(ctx)
		}
	}
}

func (d *Driver) permission() types.IpPermission {
	p := types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: aws.Int32(agentPort), ToPort: aws.Int32(agentPort)}
	for _, network := range d.ingress {
		if network.Addr().Is4() {
			p.IpRanges = append(p.IpRanges, types.IpRange{CidrIp: aws.String(network.String())})
		} else {
			p.Ipv6Ranges = append(p.Ipv6Ranges, types.Ipv6Range{CidrIpv6: aws.String(network.String())})
		}
	}
	return p
}

// opens says whether a rule of the group lets somebody call an agent: one of
// all traffic, or of a range of ports with the agent's among them.
func opens(g *types.SecurityGroup) bool {
	return slices.ContainsFunc(g.IpPermissions, func(p types.IpPermission) bool {
		switch aws.ToString(p.IpProtocol) {
		case "-1":
			return true
		case "tcp", "6":
			return aws.ToInt32(p.FromPort) <= agentPort && agentPort <= aws.ToInt32(p.ToPort)
		}
		return false
	})
}
