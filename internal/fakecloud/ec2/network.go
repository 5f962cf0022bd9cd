package ec2

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// vpc is a network; subnet a part of it in one zone.
type vpc struct {
	thing
	cidr      string
	isDefault bool
	standard  *group // the one that machines get that name none
}

type subnet struct {
	thing
	vpc    *vpc
	zone   *Zone
	cidr   string
	prefix string // of its addresses
	public bool   // machines get public addresses unless they say otherwise
	given  int    // addresses
}

// group is a security group.
type group struct {
	thing
	name, description string
	vpc               *vpc
	rules             []rule
}

// rule lets something in.
type rule struct {
	protocol             string
	from, to             int
	cidr, group, comment string
}

type networkInterface struct {
	thing
	inst        *instance
	subnet      *subnet
	groups      []*group
	description string
	private     string
	dot         bool // it goes with its machine
}

// makeNetworks makes what an account has from the beginning.
func (c *Cloud) makeNetworks() {
	c.now = c.o.Now()
	for i, isDefault := range []bool{true, false} {
		if isDefault && c.o.NoDefaultVPC {
			continue
		}
		base := []string{"172.31", "10.0"}[i]
		v := &vpc{thing: c.old("vpc"), cidr: base + ".0.0/16", isDefault: isDefault}
		v.standard = &group{thing: c.old("sg"), name: "default", description: "default VPC security group", vpc: v}
		c.groups.put(v.standard)
		c.vpcs = append(c.vpcs, v)
		for z := range c.o.Zones {
			c.subnets = append(c.subnets, &subnet{
				thing: c.old("subnet"), vpc: v, zone: &c.o.Zones[z], public: isDefault,
				cidr: fmt.Sprintf("%s.%d.0/20", base, z*16), prefix: base, given: z * 16 << 8,
			})
		}
	}
}

// old makes what is common to something that was there before.
func (c *Cloud) old(prefix string) thing {
	t := c.thing(prefix, map[string]string{})
	t.seen = c.now
	return t
}

// address is the subnet's next.
func (s *subnet) address() string {
	s.given++
	n := s.given + 3 // the first four are the network's own
	return fmt.Sprintf("%s.%d.%d", s.prefix, n>>8&255, n&255)
}

func (c *Cloud) defaultVPC() *vpc {
	if i := slices.IndexFunc(c.vpcs, func(v *vpc) bool { return v.isDefault }); i >= 0 {
		return c.vpcs[i]
	}
	return nil
}

func errNoDefaultVPC() *Error {
	return refuse("VPCIdNotSpecified", "No default VPC for this user")
}

// vpcOr is the VPC with that id, or the default one if it is empty.
func (c *Cloud) vpcOr(id string) (*vpc, error) {
	if id == "" {
		if v := c.defaultVPC(); v != nil {
			return v, nil
		}
		return nil, errNoDefaultVPC()
	}
	if i := slices.IndexFunc(c.vpcs, func(v *vpc) bool { return v.id == id }); i >= 0 {
		return c.vpcs[i], nil
	}
	return nil, refuse("InvalidVpcID.NotFound", "The vpc ID '%s' does not exist", id)
}

func describeVpcs(c *Cloud, p params) (answer, error) {
	all := slices.Clone(c.vpcs)
	for _, id := range p.strs("VpcIds") {
		if _, err := c.vpcOr(id); err != nil {
			return nil, err
		}
	}
	if ids := p.strs("VpcIds"); len(ids) > 0 {
		all = slices.DeleteFunc(all, func(v *vpc) bool { return !slices.Contains(ids, v.id) })
	}
	got, next, err := page(c, "DescribeVpcs", p, all, seqOf, func(v *vpc) facts {
		isDefault := []string{strconv.FormatBool(v.isDefault)}
		return facts{"vpc-id": {v.id}, "is-default": isDefault, "isDefault": isDefault, "cidr": {v.cidr}, "state": {"available"}, "owner-id": {c.o.Account}}.with(v.tags)
	})
	list := []answer{}
	for _, v := range got {
		list = append(list, answer{
			"VpcId": v.id, "CidrBlock": v.cidr, "IsDefault": v.isDefault, "State": "available", "OwnerId": c.o.Account,
			"InstanceTenancy": "default", "Tags": tagSet(v.tags),
		})
	}
	return answer{"Vpcs": list, "NextToken": next}, err
}

func describeSubnets(c *Cloud, p params) (answer, error) {
	all := slices.Clone(c.subnets)
	if ids := p.strs("SubnetIds"); len(ids) > 0 {
		for _, id := range ids {
			if _, err := c.subnet(id); err != nil {
				return nil, err
			}
		}
		all = slices.DeleteFunc(all, func(s *subnet) bool { return !slices.Contains(ids, s.id) })
	}
	got, next, err := page(c, "DescribeSubnets", p, all, seqOf, func(s *subnet) facts {
		isDefault := []string{strconv.FormatBool(s.vpc.isDefault)}
		return facts{
			"subnet-id": {s.id}, "vpc-id": {s.vpc.id}, "availability-zone": {s.zone.Name}, "availabilityZone": {s.zone.Name},
			"availability-zone-id": {s.zone.ID}, "default-for-az": isDefault, "defaultForAz": isDefault,
			"map-public-ip-on-launch": {strconv.FormatBool(s.public)}, "state": {"available"}, "cidr-block": {s.cidr},
		}.with(s.tags)
	})
	list := []answer{}
	for _, s := range got {
		list = append(list, answer{
			"SubnetId": s.id, "VpcId": s.vpc.id, "AvailabilityZone": s.zone.Name, "AvailabilityZoneId": s.zone.ID, "CidrBlock": s.cidr,
			"DefaultForAz": s.vpc.isDefault, "MapPublicIpOnLaunch": s.public, "State": "available", "OwnerId": c.o.Account,
			"AvailableIpAddressCount": 4091, "Tags": tagSet(s.tags),
		})
	}
	return answer{"Subnets": list, "NextToken": next}, err
}

func (c *Cloud) subnet(id string) (*subnet, error) {
	if i := slices.IndexFunc(c.subnets, func(s *subnet) bool { return s.id == id }); i >= 0 {
		return c.subnets[i], nil
	}
	return nil, refuse("InvalidSubnetID.NotFound", "The subnet ID '%s' does not exist", id)
}

func createSecurityGroup(c *Cloud, p params) (answer, error) {
	name := p.str("GroupName")
	v, err := c.vpcOr(p.str("VpcId"))
	if err != nil {
		return nil, err
	}
	tags, err := c.tagsFor(p, "security-group")
	if err != nil {
		return nil, err
	}
	switch {
	case name == "" || len(name) > 255 || strings.HasPrefix(name, "sg-") || name == "default":
		return nil, invalidValue("GroupName", name, "")
	case p.str("Description") == "" || len(p.str("Description")) > 255:
		return nil, invalidValue("GroupDescription", p.str("Description"), "")
	}
	for _, g := range c.groups.order {
		if g.name == name && g.vpc == v {
			return nil, refuse("InvalidGroup.Duplicate", "The security group '%s' already exists for VPC '%s'", name, v.id)
		}
	}
	g := &group{thing: c.thing("sg", tags["security-group"]), name: name, description: p.str("Description"), vpc: v}
	if err := c.maybeFailTagging(p); err != nil {
		return nil, err
	}
	c.groups.put(g)
	c.book("security-group", &g.thing, name, "")
	return answer{"GroupId": g.id, "Tags": tagSet(g.tags)}, nil
}

// groupOf is the group a call names, by id, or by name in the default VPC.
func (c *Cloud) groupOf(p params) (*group, error) {
	if p.str("GroupId") != "" {
		return one(c, &c.groups, p.str("GroupId"), "sg", "InvalidGroup")
	}
	if p.str("GroupName") == "" {
		return nil, refuse("MissingParameter", "The request must contain the parameter groupName or groupId")
	}
	return c.groupNamed(p.str("GroupName"))
}

func (c *Cloud) groupNamed(name string) (*group, error) {
	v := c.defaultVPC()
	if v == nil {
		return nil, errNoDefaultVPC()
	}
	for _, g := range c.groups.visible(c.now) {
		if g.name == name && g.vpc == v {
			return g, nil
		}
	}
	return nil, refuse("InvalidGroup.NotFound", "The security group '%s' does not exist in default VPC '%s'", name, v.id)
}

func deleteSecurityGroup(c *Cloud, p params) (answer, error) {
	g, err := c.groupOf(p)
	if err != nil {
		return nil, err
	}
	if g == g.vpc.standard {
		return nil, refuse("CannotDelete", "the specified group: \"%s\" name: \"default\" cannot be deleted by a user", g.id)
	}
	for _, nic := range c.interfaces.order {
		if slices.Contains(nic.groups, g) {
			return nil, refuse("DependencyViolation", "resource %s has a dependent object", g.id)
		}
	}
	c.groups.drop(g.id)
	c.Books.End("security-group", g.id, c.now)
	return answer{}, nil
}

func authorizeIngress(c *Cloud, p params) (answer, error) {
	g, err := c.groupOf(p)
	if err != nil {
		return nil, err
	}
	permissions := p.subs("IpPermissions")
	if p.has("IpProtocol") || p.has("CidrIp") || p.has("FromPort") || p.has("ToPort") {
		if len(permissions) > 0 {
			return nil, refuse("InvalidParameterCombination", "The parameter IpPermissions may not be used together with IpProtocol, CidrIp, FromPort or ToPort")
		}
		flat := params{"IpProtocol": p.str("IpProtocol"), "IpRanges": []any{params{"CidrIp": p.str("CidrIp")}}}
		for _, name := range []string{"FromPort", "ToPort"} {
			if p.has(name) {
				flat[name] = p.get(name)
			}
		}
		permissions = []params{flat}
	}
	if len(permissions) == 0 {
		return nil, refuse("MissingParameter", "The request must contain the parameter IpPermissions")
	}
	var rules []rule
	for _, permission := range permissions {
		more, err := readRules(permission)
		if err != nil {
			return nil, err
		}
		rules = append(rules, more...)
	}
	for _, r := range rules {
		if slices.ContainsFunc(g.rules, func(old rule) bool { old.comment, r.comment = "", ""; return old == r }) {
			return nil, refuse("InvalidPermission.Duplicate", "the specified rule \"peer: %s%s, %s, from port: %d, to port: %d, ALLOW\" already exists", r.cidr, r.group, r.protocol, r.from, r.to)
		}
	}
	g.rules = append(g.rules, rules...)
	return answer{"Return": true}, nil
}

// readRules are the rules of one permission, one for each peer.
func readRules(p params) (rules []rule, err error) {
	r := rule{protocol: p.str("IpProtocol"), from: p.num("FromPort"), to: p.num("ToPort")}
	switch r.protocol {
	case "-1":
		r.from, r.to = -1, -1
	case "icmp":
	case "tcp", "udp":
		if !p.has("FromPort") || !p.has("ToPort") {
			return nil, refuse("InvalidParameterValue", "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.")
		}
		if r.from < 0 || r.to > 65535 || r.from > r.to {
			return nil, invalidValue("portRange", fmt.Sprintf("%d-%d", r.from, r.to), "")
		}
	default:
		return nil, invalidValue("IpProtocol", r.protocol, "Only tcp, udp, icmp and -1.")
	}
	for _, peer := range p.subs("IpRanges") {
		if r.cidr = peer.str("CidrIp"); !validCIDR(r.cidr) {
			return nil, refuse("InvalidParameterValue", "CIDR block %s is malformed", r.cidr)
		}
		r.comment = peer.str("Description")
		rules = append(rules, r)
	}
	r.cidr = ""
	for _, peer := range p.subs("UserIdGroupPairs") {
		r.group, r.comment = peer.str("GroupId"), peer.str("Description")
		rules = append(rules, r)
	}
	if len(rules) == 0 {
		return nil, refuse("MissingParameter", "The request must contain the parameter CidrIp or GroupId")
	}
	return rules, nil
}

func describeSecurityGroups(c *Cloud, p params) (answer, error) {
	all, err := chosen(c, &c.groups, p.strs("GroupIds"), "sg", "InvalidGroup")
	if err != nil {
		return nil, err
	}
	if names := p.strs("GroupNames"); len(names) > 0 {
		all = nil
		for _, name := range names {
			g, err := c.groupNamed(name)
			if err != nil {
				return nil, err
			}
			all = append(all, g)
		}
	}
	got, next, err := page(c, "DescribeSecurityGroups", p, all, seqOf, func(g *group) facts {
		return facts{"group-id": {g.id}, "group-name": {g.name}, "vpc-id": {g.vpc.id}, "description": {g.description}, "owner-id": {c.o.Account}}.with(g.tags)
	})
	list := []answer{}
	for _, g := range got {
		list = append(list, answer{
			"GroupId": g.id, "GroupName": g.name, "Description": g.description, "VpcId": g.vpc.id, "OwnerId": c.o.Account,
			"Tags": tagSet(g.tags), "IpPermissions": c.permissions(g),
			"IpPermissionsEgress": []answer{{"IpProtocol": "-1", "IpRanges": []answer{{"CidrIp": "0.0.0.0/0"}}}},
		})
	}
	return answer{"SecurityGroups": list, "NextToken": next}, err
}

// permissions are a group's rules as EC2 shows them: those with equal ports
// together.
func (c *Cloud) permissions(g *group) []answer {
	type key struct {
		protocol string
		from, to int
	}
	list := []answer{}
	at := map[key]int{}
	for _, r := range g.rules {
		k := key{r.protocol, r.from, r.to}
		i, ok := at[k]
		if !ok {
			a := answer{"IpProtocol": r.protocol, "IpRanges": []answer{}, "UserIdGroupPairs": []answer{}}
			if r.protocol != "-1" {
				a["FromPort"], a["ToPort"] = r.from, r.to
			}
			i, at[k] = len(list), len(list)
			list = append(list, a)
		}
		if r.cidr != "" {
			list[i]["IpRanges"] = append(list[i]["IpRanges"].([]answer), answer{"CidrIp": r.cidr, "Description": r.comment})
		} else {
			list[i]["UserIdGroupPairs"] = append(list[i]["UserIdGroupPairs"].([]answer), answer{"GroupId": r.group, "UserId": c.o.Account, "Description": r.comment})
		}
	}
	return list
}

func describeInterfaces(c *Cloud, p params) (answer, error) {
	all, err := chosen(c, &c.interfaces, p.strs("NetworkInterfaceIds"), "eni", "InvalidNetworkInterfaceID")
	if err != nil {
		return nil, err
	}
	got, next, err := page(c, "DescribeNetworkInterfaces", p, all, seqOf, func(n *networkInterface) facts {
		f := facts{
			"network-interface-id": {n.id}, "status": {n.status()}, "subnet-id": {n.subnet.id}, "vpc-id": {n.subnet.vpc.id},
			"availability-zone": {n.subnet.zone.Name}, "private-ip-address": {n.private}, "description": {n.description},
		}
		for _, g := range n.groups {
			f["group-id"] = append(f["group-id"], g.id)
		}
		if n.inst != nil {
			f["attachment.instance-id"] = []string{n.inst.id}
		}
		return f.with(n.tags)
	})
	list := []answer{}
	for _, n := range got {
		a := answer{
			"NetworkInterfaceId": n.id, "Status": n.status(), "SubnetId": n.subnet.id, "VpcId": n.subnet.vpc.id, "OwnerId": c.o.Account,
			"AvailabilityZone": n.subnet.zone.Name, "PrivateIpAddress": n.private, "Description": n.description, "InterfaceType": "interface",
			"Groups": groupSet(n.groups), "TagSet": tagSet(n.tags), "SourceDestCheck": true,
		}
		if n.inst != nil {
			a["Attachment"] = answer{"InstanceId": n.inst.id, "DeviceIndex": 0, "Status": "attached", "DeleteOnTermination": n.dot, "AttachmentId": "eni-attach" + n.id[3:]}
		}
		list = append(list, a)
	}
	return answer{"NetworkInterfaces": list, "NextToken": next}, err
}

func (n *networkInterface) status() string {
	if n.inst == nil {
		return "available"
	}
	return "in-use"
}

func groupSet(groups []*group) []answer {
	list := []answer{}
	for _, g := range groups {
		list = append(list, answer{"GroupId": g.id, "GroupName": g.name})
	}
	return list
}

func tagSet(tags map[string]string) []answer {
	list := []answer{}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		list = append(list, answer{"Key": key, "Value": tags[key]})
	}
	return list
}
