package ec2

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// launch is what RunInstances is asked for, read and found possible; a
// persistent spot request launches it again.
type launch struct {
	token        string
	image        *Image
	typ          *Type
	subnets      []*subnet // to try in turn
	groups       []*group
	private      string // address wanted
	public       *bool  // address wanted, nil for as the subnet says
	description  string // of the network interface
	interfaceDot bool
	volumes      []mapped
	userData     []byte
	ends         string
	keyName      string
	profile      string
	protected    bool
	credits      string
	monitored    bool
	ebsOptimized bool
	metadata     metadataOptions
	hibernates   bool
	wish         answer
	target       string // capacity reservation
	spot         *spotWish
	request      *spotRequest // the one that launches, nil for a new one
	tags         map[string]map[string]string
}

// mapped is a volume to make and where it goes.
type mapped struct {
	device string
	volume *volume
}

type spotWish struct {
	persistent bool
	behaviour  string // terminate, stop, hibernate
	price      string
}

func runInstances(c *Cloud, p params) (answer, error) {
	before, err := c.remembered("RunInstances", p)
	if err != nil {
		return nil, err
	}
	if len(before) > 0 {
		return c.launched(before), nil
	}
	least, most := p.num("MinCount"), p.num("MaxCount")
	if least < 1 || most < least {
		return nil, invalidValue("minCount", least, "It must be at least 1 and at most maxCount.")
	}
	l, err := c.readLaunch(p)
	if err != nil {
		return nil, err
	}
	if least > 1 && l.private != "" {
		return nil, refuse("InvalidParameterCombination", "A private address can be given to one instance only")
	}
	if most, err = c.withinQuota(l.typ, least, most); err != nil {
		return nil, err
	}
	if err := c.takeResources("RunInstances", least); err != nil {
		return nil, err
	}
	made, err := c.launch(l, least, most)
	if err != nil {
		return nil, err
	}
	if err := c.maybeFailTagging(p); err != nil {
		for _, i := range made {
			c.rollBack(i)
		}
		return nil, err
	}
	var all []commoner
	for _, i := range made {
		all = append(all, i)
	}
	c.remember("RunInstances", p, all...)
	return c.launched(all), nil
}

// launched is the answer of the call that made those, as they are now: it may
// be the same call once more, after they have ended.
func (c *Cloud) launched(made []commoner) answer {
	var all []*instance
	for _, m := range made {
		if i, ok := m.(*instance); ok {
			all = append(all, i)
		}
	}
	return c.reservationsOf(all)[0]
}

// withinQuota is how many may be launched of those wanted.
func (c *Cloud) withinQuota(typ *Type, least, most int) (int, error) {
	for n := most; n > least; n-- {
		if c.quota(n, n*typ.VCPUs) == nil {
			return n, nil
		}
	}
	return least, c.quota(least, least*typ.VCPUs)
}

// quota refuses machines and processors beyond the account's.
func (c *Cloud) quota(machines, cpus int) error {
	for _, i := range c.instances.order {
		if i.state == pending || i.state == running {
			machines, cpus = machines+1, cpus+i.typ.VCPUs
		}
	}
	if n := c.o.MaxInstances; n > 0 && machines > n {
		return ErrInstanceLimit()
	}
	if n := c.o.MaxVCPUs; n > 0 && cpus > n {
		return ErrVCPULimit(n)
	}
	return nil
}

func (c *Cloud) readLaunch(p params) (*launch, error) {
	l := &launch{
		token: p.str("ClientToken"), ends: cmp.Or(p.str("InstanceInitiatedShutdownBehavior"), "stop"), keyName: p.str("KeyName"),
		protected: p.flag("DisableApiTermination"), monitored: p.flag("Monitoring.Enabled"), ebsOptimized: p.flag("EbsOptimized"),
		hibernates: p.flag("HibernationOptions.Configured"),
	}
	for _, read := range []func(*launch, params) error{
		c.readImage, c.readNetwork, c.readIdentity, c.readUserData, c.readMappings, c.readMarket, c.readMetadata, c.readHibernation, c.readWish,
	} {
		if err := read(l, p); err != nil {
			return nil, err
		}
	}
	var err error
	l.tags, err = c.tagsFor(p, "instance", "volume", "network-interface", "spot-instances-request")
	if err == nil && l.spot == nil && l.tags["spot-instances-request"] != nil {
		err = refuse("InvalidParameterCombination", "The resource type spot-instances-request needs a Spot market option")
	}
	return l, err
}

var amiRE = regexp.MustCompile(`^ami-([0-9a-f]{8}|[0-9a-f]{17})$`)

func (c *Cloud) imageOf(id string) (*Image, error) {
	if !amiRE.MatchString(id) {
		return nil, refuse("InvalidAMIID.Malformed", "Invalid id: \"%s\" (expecting \"ami-...\")", id)
	}
	if i := slices.IndexFunc(c.o.Images, func(i Image) bool { return i.ID == id }); i >= 0 {
		return &c.o.Images[i], nil
	}
	return nil, refuse("InvalidAMIID.NotFound", "The image id '[%s]' does not exist", id)
}

func (c *Cloud) typeNamed(name string) (*Type, error) {
	if i := slices.IndexFunc(c.o.Types, func(t Type) bool { return t.Name == name }); i >= 0 {
		return &c.o.Types[i], nil
	}
	return nil, refuse("InvalidParameterValue", "Invalid value '%s' for InstanceType.", name)
}

func errArchitecture(typ *Type, image *Image) *Error {
	return refuse("InvalidParameterValue", "The architecture '%s' of the specified instance type does not match the architecture '%s' of the specified AMI. Specify an instance type and an AMI that have matching architectures, and try again.",
		typ.Architecture, image.Architecture)
}

func (c *Cloud) readImage(l *launch, p params) (err error) {
	if p.str("ImageId") == "" {
		return refuse("MissingParameter", "The request must contain the parameter ImageId")
	}
	if l.image, err = c.imageOf(p.str("ImageId")); err != nil {
		return err
	}
	if l.typ, err = c.typeNamed(cmp.Or(p.str("InstanceType"), "m1.small")); err != nil {
		return err
	}
	if l.typ.Architecture != l.image.Architecture {
		return errArchitecture(l.typ, l.image)
	}
	l.credits = p.str("CreditSpecification.CpuCredits")
	switch {
	case l.credits == "":
	case !l.typ.Burstable:
		return refuse("InvalidParameterCombination", "Modifying 'unlimited' is not supported for the instance type %s", l.typ.Name)
	case l.credits != "standard" && l.credits != "unlimited":
		return invalidValue("CpuCredits", l.credits, "")
	}
	return nil
}

// readNetwork finds subnets and groups, from one network interface or from the
// parameters of the machine.
func (c *Cloud) readNetwork(l *launch, p params) error {
	subnetID, groupIDs := p.str("SubnetId"), p.strs("SecurityGroupIds")
	l.private, l.interfaceDot = p.str("PrivateIpAddress"), true
	if nics := p.subs("NetworkInterfaces"); len(nics) > 0 {
		nic := nics[0]
		switch {
		case len(nics) > 1:
			return unmodelled("more than one network interface")
		case subnetID != "" || len(groupIDs) > 0 || len(p.strs("SecurityGroups")) > 0 || l.private != "":
			return refuse("InvalidParameterCombination", "Network interfaces and an instance-level subnet ID, address or security groups may not be specified on the same request")
		case !nic.has("DeviceIndex"):
			return refuse("MissingParameter", "The request must contain the parameter NetworkInterface.1.DeviceIndex")
		case nic.num("DeviceIndex") != 0:
			return refuse("InvalidParameterValue", "The primary network interface must have device index 0")
		}
		subnetID, groupIDs, l.private = nic.str("SubnetId"), nic.strs("Groups"), nic.str("PrivateIpAddress")
		l.description, l.interfaceDot = nic.str("Description"), nic.flagOr("DeleteOnTermination", true)
		if public, ok := nic.get("AssociatePublicIpAddress").(bool); ok {
			l.public = &public
		}
	}
	if t := p.str("Placement.Tenancy"); t != "" && t != "default" {
		return unmodelled("tenancy %s", t)
	}
	zone, err := c.zoneOf(p.str("Placement.AvailabilityZone"), p.str("Placement.AvailabilityZoneId"))
	if err != nil {
		return err
	}
	if err := c.readSubnets(l, subnetID, zone); err != nil {
		return err
	}
	if l.private != "" && !strings.HasPrefix(l.private, l.subnets[0].prefix+".") {
		return refuse("InvalidParameterValue", "Address %s does not fall within the subnet's address range", l.private)
	}
	return c.readGroups(l, p.strs("SecurityGroups"), groupIDs)
}

func (c *Cloud) readSubnets(l *launch, id string, zone *Zone) error {
	if id != "" {
		s, err := c.subnet(id)
		switch {
		case err != nil:
			return err
		case zone != nil && s.zone != zone:
			return refuse("InvalidParameterValue", "The availability zone '%s' does not match the zone of subnet '%s'", zone.Name, id)
		case slices.Contains(l.typ.NotIn, s.zone.Name):
			return ErrUnsupported(s.zone.Name, l.typ.Name)
		}
		l.subnets = []*subnet{s}
		return nil
	}
	v := c.defaultVPC()
	if v == nil {
		return errNoDefaultVPC()
	}
	for _, s := range c.subnets {
		if s.vpc == v && (zone == nil || s.zone == zone) && !slices.Contains(l.typ.NotIn, s.zone.Name) {
			l.subnets = append(l.subnets, s)
		}
	}
	if len(l.subnets) == 0 {
		name := "any"
		if zone != nil {
			name = zone.Name
		}
		return ErrUnsupported(name, l.typ.Name)
	}
	return nil
}

func (c *Cloud) readGroups(l *launch, names, ids []string) (err error) {
	v := l.subnets[0].vpc
	if len(names) > 0 {
		if len(ids) > 0 {
			return refuse("InvalidParameterCombination", "The parameters GroupId and GroupName may not be used together")
		}
		if !v.isDefault {
			return refuse("InvalidParameterCombination", "The parameter groupName cannot be used with the parameter subnet")
		}
		for _, name := range names {
			g, err := c.groupNamed(name)
			if err != nil {
				return err
			}
			ids = append(ids, g.id)
		}
	}
	l.groups, err = c.groupsIn(ids, v)
	return err
}

// groupsIn are the groups with those ids, which must be of the network; none is
// its own.
func (c *Cloud) groupsIn(ids []string, v *vpc) ([]*group, error) {
	if len(ids) == 0 {
		return []*group{v.standard}, nil
	}
	groups, err := chosen(c, &c.groups, ids, "sg", "InvalidGroup")
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if g.vpc != v {
			return nil, refuse("InvalidParameter", "Security group %s and the subnet belong to different networks.", g.id)
		}
	}
	return groups, nil
}

func (c *Cloud) readIdentity(l *launch, p params) error {
	if l.keyName != "" && !slices.Contains(c.o.KeyPairs, l.keyName) {
		return refuse("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", l.keyName)
	}
	name, arn := p.str("IamInstanceProfile.Name"), p.str("IamInstanceProfile.Arn")
	switch {
	case name != "" && arn != "":
		return refuse("InvalidParameterCombination", "The parameter 'iamInstanceProfile.name' may not be used in combination with 'iamInstanceProfile.arn'")
	case arn != "":
		i := slices.IndexFunc(c.o.Profiles, func(known string) bool { return c.profileARN(known) == arn })
		if i < 0 {
			return refuse("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.arn is invalid. Invalid IAM Instance Profile ARN", arn)
		}
		name = c.o.Profiles[i]
	case name != "" && !slices.Contains(c.o.Profiles, name):
		return refuse("InvalidParameterValue", "Value (%s) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name", name)
	}
	l.profile = name
	return nil
}

func errUserData() *Error {
	return refuse("InvalidParameterValue", "User data is limited to %d bytes", maxUserData)
}

func (c *Cloud) readUserData(l *launch, p params) (err error) {
	if l.userData, err = base64.StdEncoding.DecodeString(p.str("UserData")); err != nil {
		return refuse("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")
	}
	if len(l.userData) > maxUserData {
		return errUserData()
	}
	return nil
}

// readMappings are the volumes to make, the root first.
func (c *Cloud) readMappings(l *launch, p params) error {
	root := mapped{l.image.RootDevice, &volume{gb: l.image.GB, kind: "gp2", snapshot: l.image.Snapshot, dot: true}}
	seen := map[string]bool{}
	for _, m := range p.subs("BlockDeviceMappings") {
		device := m.str("DeviceName")
		switch {
		case !deviceRE.MatchString(device):
			return refuse("InvalidBlockDeviceMapping", "Invalid device name %s", device)
		case seen[device]:
			return refuse("InvalidBlockDeviceMapping", "The device '%s' is used in more than one block-device mapping", device)
		case !m.has("Ebs"):
			return refuse("InvalidBlockDeviceMapping", "The mapping of '%s' has no Ebs", device)
		}
		seen[device] = true
		ebs, least := m.sub("Ebs"), 0
		if device == l.image.RootDevice {
			if id := ebs.str("SnapshotId"); id != "" && id != l.image.Snapshot {
				return refuse("InvalidBlockDeviceMapping", "snapshotId cannot be modified on root device")
			}
			least = l.image.GB
		}
		v, err := c.readVolume(ebs, "VolumeSize", least)
		if err != nil {
			if v := ebs.num("VolumeSize"); least > 0 && v > 0 && v < least {
				return refuse("InvalidBlockDeviceMapping", "Volume of size %dGB is smaller than snapshot '%s', expect size >= %dGB", v, l.image.Snapshot, least)
			}
			return err
		}
		if least > 0 {
			v.snapshot = l.image.Snapshot
			root.volume = v
			continue
		}
		l.volumes = append(l.volumes, mapped{device, v})
	}
	l.volumes = slices.Insert(l.volumes, 0, root)
	return nil
}

func (c *Cloud) readMarket(l *launch, p params) error {
	switch m := p.sub("InstanceMarketOptions"); m.str("MarketType") {
	case "":
		if m.has("SpotOptions") {
			return refuse("InvalidParameterValue", "InvalidMarketOptions: SpotOptions need the MarketType spot")
		}
		return nil
	case "spot":
	default:
		return unmodelled("the market %s", m.str("MarketType"))
	}
	o := p.sub("InstanceMarketOptions.SpotOptions")
	l.spot = &spotWish{
		persistent: o.str("SpotInstanceType") == "persistent", price: o.str("MaxPrice"),
		behaviour: cmp.Or(o.str("InstanceInterruptionBehavior"), "terminate"),
	}
	if _, err := strconv.ParseFloat(cmp.Or(l.spot.price, "1"), 64); err != nil {
		return invalidValue("maxPrice", l.spot.price, "")
	}
	if l.spot.behaviour != "terminate" && !l.spot.persistent {
		return refuse("InvalidParameterCombination", "Only persistent Spot requests can have the interruption behavior %s", l.spot.behaviour)
	}
	return nil
}

func (c *Cloud) readMetadata(l *launch, p params) error {
	o := p.sub("MetadataOptions")
	l.metadata = metadataOptions{
		tokens: cmp.Or(o.str("HttpTokens"), "optional"), endpoint: cmp.Or(o.str("HttpEndpoint"), "enabled"),
		tags: cmp.Or(o.str("InstanceMetadataTags"), "disabled"), hops: cmp.Or(o.num("HttpPutResponseHopLimit"), 1),
	}
	if l.metadata.hops < 1 || l.metadata.hops > 64 {
		return invalidValue("HttpPutResponseHopLimit", l.metadata.hops, "It must be from 1 to 64.")
	}
	return nil
}

func (c *Cloud) readHibernation(l *launch, _ params) error {
	if !l.hibernates {
		return nil
	}
	root := l.volumes[0].volume
	why := ""
	switch {
	case l.spot != nil:
		return refuse("InvalidParameterCombination", "HibernationOptions cannot be used with Spot requests: use the interruption behavior")
	case !l.typ.Hibernates || l.typ.Metal:
		why = fmt.Sprintf("The instance type %s does not support it.", l.typ.Name)
	case l.typ.MemoryMiB >= hibernateMemoryGiB<<10:
		why = fmt.Sprintf("The memory must be less than %d GiB.", hibernateMemoryGiB)
	case !l.image.Hibernates:
		why = fmt.Sprintf("The image %s does not support it.", l.image.ID)
	case !root.encrypted:
		why = "The root volume must be encrypted."
	case !slices.Contains([]string{"gp2", "gp3", "io1", "io2"}, root.kind):
		why = fmt.Sprintf("The root volume's type %s does not support it.", root.kind)
	case root.gb<<10 < l.typ.MemoryMiB:
		why = "The root volume is smaller than the memory."
	default:
		return nil
	}
	return refuse("UnsupportedHibernationConfiguration", "The instance cannot be launched with hibernation enabled. %s", why)
}

func (c *Cloud) readWish(l *launch, p params) error {
	w := p.sub("CapacityReservationSpecification")
	l.target = w.str("CapacityReservationTarget.CapacityReservationId")
	preference := w.str("CapacityReservationPreference")
	if l.target == "" {
		preference = cmp.Or(preference, "open")
		l.wish = answer{"CapacityReservationPreference": preference}
		return nil
	}
	if preference != "" && preference != "capacity-reservations-only" {
		return refuse("InvalidParameterCombination", "A capacity reservation target cannot be used with the preference %s", preference)
	}
	l.wish = answer{"CapacityReservationTarget": answer{"CapacityReservationId": l.target}}
	return nil
}
