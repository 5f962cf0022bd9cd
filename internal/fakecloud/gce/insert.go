package gce

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
)

// modelled are the properties of a new instance that mean something to the
// fake. A star stands for any key.
var modelled = pathSet(`
	name description machineType minCpuPlatform canIpForward deletionProtection labels labels.*
	metadata metadata.items metadata.items.key metadata.items.value metadata.fingerprint tags tags.items tags.fingerprint
	disks disks.autoDelete disks.boot disks.deviceName disks.mode disks.type disks.source disks.interface disks.initializeParams
	disks.initializeParams.diskName disks.initializeParams.diskSizeGb disks.initializeParams.diskType disks.initializeParams.labels
	disks.initializeParams.labels.* disks.initializeParams.sourceImage disks.initializeParams.description
	disks.initializeParams.provisionedIops disks.initializeParams.provisionedThroughput
	networkInterfaces networkInterfaces.network networkInterfaces.subnetwork networkInterfaces.nicType networkInterfaces.stackType
	networkInterfaces.accessConfigs networkInterfaces.accessConfigs.type networkInterfaces.accessConfigs.name
	networkInterfaces.accessConfigs.networkTier
	scheduling scheduling.automaticRestart scheduling.onHostMaintenance scheduling.preemptible scheduling.provisioningModel
	scheduling.instanceTerminationAction scheduling.maxRunDuration scheduling.maxRunDuration.seconds scheduling.maxRunDuration.nanos
	serviceAccounts serviceAccounts.email serviceAccounts.scopes
	shieldedInstanceConfig shieldedInstanceConfig.enableSecureBoot shieldedInstanceConfig.enableVtpm
	shieldedInstanceConfig.enableIntegrityMonitoring advancedMachineFeatures advancedMachineFeatures.enableNestedVirtualization
	guestAccelerators guestAccelerators.acceleratorType guestAccelerators.acceleratorCount
	reservationAffinity reservationAffinity.consumeReservationType reservationAffinity.key reservationAffinity.values`)

func pathSet(paths string) map[string]bool {
	set := map[string]bool{}
	for _, p := range strings.Fields(paths) {
		set[p] = true
	}
	return set
}

// onlyModelled refuses what is set and not in the set.
func onlyModelled(set map[string]bool, v any, at, field string) error {
	switch v := v.(type) {
	case object:
		for _, key := range slices.Sorted(mapKeys(v)) {
			here := strings.TrimPrefix(at+"."+key, ".")
			if !set[here] && !set[at+".*"] {
				return notModelled(field + "." + key)
			}
			if err := onlyModelled(set, v[key], here, field+"."+key); err != nil {
				return err
			}
		}
	case []any:
		for i, e := range v {
			if err := onlyModelled(set, e, at, fmt.Sprintf("%s[%d]", field, i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Cloud) insertInstance(r *request, call fakecloud.Call, now time.Time) (object, error) {
	if r.has("sourceInstanceTemplate") || r.has("sourceMachineImage") {
		return nil, notModelled("instances made of templates or machine images")
	}
	return c.once(r, func() (*operation, error) {
		i, err := c.newInstance(r, now)
		if err != nil {
			return nil, err
		}
		c.instances[i.key()] = i
		for _, a := range i.disks {
			if a.local {
				continue
			}
			if a.disk.user, a.disk.attached = i, now; c.disks[a.disk.key()] == nil {
				c.addDisk(a.disk, now)
			}
		}
		c.Books.Make(fakecloud.Thing{Kind: "instance", ID: number(i.id), Name: i.name, Zone: i.zone, Tags: i.labels, Made: now})
		op := c.spoil(c.begin(now, "insert", i.project, "zones/"+i.zone, i.path(), number(i.id)), call)
		c.rise(i, op, now, func(at time.Time) {
			// What was made for it goes with it, whatever it was told to do at the end.
			for _, a := range i.disks {
				if !a.local && a.disk.with == i {
					a.autoDelete = true
				} else {
					a.autoDelete = false
				}
			}
			c.remove(i, at)
		})
		return op, nil
	})
}

// newInstance reads the body of a request for one.
func (c *Cloud) newInstance(r *request, now time.Time) (*instance, error) {
	b := r.body
	if err := onlyModelled(modelled, b, "", "resource"); err != nil {
		return nil, err
	}
	i := &instance{
		project: r.path["project"], zone: r.path["zone"], name: text(b, "name"), description: text(b, "description"),
		created: now, canForward: truth(b, "canIpForward"), protected: truth(b, "deletionProtection"),
		labels: labelsOf(b), attributes: map[string]string{}, asked: fakecloud.Minute{Most: attributeRate},
	}
	if err := checkName("resource.name", i.name); err != nil {
		return nil, err
	}
	if err := checkLabels("resource.labels", i.labels); err != nil {
		return nil, err
	}
	var err error
	if i.metadata, err = readMetadata("resource.metadata", inner(b, "metadata")); err != nil {
		return nil, err
	}
	if i.tags, err = readTags("resource.tags", inner(b, "tags")); err != nil {
		return nil, err
	}
	for _, read := range []func(*instance, object) error{
		c.readMachineType, c.readScheduling, c.readAccelerators, c.readAccount, c.readAffinity,
	} {
		if err := read(i, b); err != nil {
			return nil, err
		}
	}
	if c.instances[i.key()] != nil {
		return nil, alreadyExists(i.path())
	}
	i.id = c.id()
	i.appears = now.Add(c.draw(c.o.Appears, "appear", i.zone, i.name))
	if err := c.readDisks(i, b, now); err != nil {
		return nil, err
	}
	if err := c.readFeatures(i, b); err != nil {
		return nil, err
	}
	// Last, since it takes an address.
	if err := c.readInterfaces(i, b); err != nil {
		for _, n := range i.nics {
			delete(c.taken, n.internal)
		}
		return nil, err
	}
	return i, nil
}

func (c *Cloud) readMachineType(i *instance, b object) error {
	const field = "resource.machineType"
	url := text(b, "machineType")
	if url == "" {
		return required(field)
	}
	ref, ok := readReference(url, "machineTypes")
	switch {
	case !ok || !strings.HasPrefix(ref.scope, "zones/"):
		return malformed(field, url)
	case ref.scope != "zones/"+i.zone:
		return invalid(field, url, "Machine type must be in the same zone as the instance: %s.", i.zone)
	case ref.project != "" && ref.project != i.project:
		return invalid(field, url, "Machine type must be in the project of the instance.")
	}
	t, ok := c.machineType(i.zone, ref.name)
	if !ok {
		return invalid(field, url, "The referenced resource does not exist.")
	}
	i.machine = t
	return nil
}

// The bounds of maxRunDuration.
const (
	leastRun = 30 * time.Second
	mostRun  = 120 * 24 * time.Hour
)

func (c *Cloud) readScheduling(i *instance, b object) error {
	s := inner(b, "scheduling")
	const field = "resource.scheduling"
	i.scheduling = scheduling{
		spot: text(s, "provisioningModel") == "SPOT", preemptible: truth(s, "preemptible"),
		maintenance: text(s, "onHostMaintenance"), action: text(s, "instanceTerminationAction"),
	}
	switch text(s, "provisioningModel") {
	case "", "SPOT", "STANDARD":
	default:
		return notModelled("the provisioning model " + text(s, "provisioningModel"))
	}
	if i.scheduling.preemptible && text(s, "provisioningModel") == "STANDARD" {
		return invalid(field+".provisioningModel", "STANDARD", "An instance with provisioning model STANDARD cannot be preemptible.")
	}
	cheap := i.scheduling.spot || i.scheduling.preemptible
	i.scheduling.preemptible = cheap
	i.scheduling.restarts = !cheap
	if v, ok := s["automaticRestart"].(bool); ok {
		if v && cheap {
			return invalid(field, "", "Scheduling must have automaticRestart be false when preemptible is true.")
		}
		i.scheduling.restarts = v
	}
	if i.scheduling.maintenance == "" {
		if i.scheduling.maintenance = "MIGRATE"; cheap || i.machine.GPU || len(items(b, "guestAccelerators")) > 0 {
			i.scheduling.maintenance = "TERMINATE"
		}
	}
	if cheap && i.scheduling.maintenance == "MIGRATE" {
		return invalid(field+".onHostMaintenance", "MIGRATE", "Scheduling must have onHostMaintenance be TERMINATE when preemptible is true.")
	}
	if d := inner(s, "maxRunDuration"); d != nil {
		if i.scheduling.most = time.Duration(whole(d, "seconds"))*time.Second + time.Duration(whole(d, "nanos")); i.scheduling.most < leastRun || i.scheduling.most > mostRun {
			return invalid(field+".maxRunDuration", i.scheduling.most, "The duration must be between 30 seconds and 120 days.")
		}
		if i.scheduling.action == "" {
			return invalid(field+".instanceTerminationAction", "", "You must specify an instance termination action when maxRunDuration is set.")
		}
		if i.scheduling.maintenance == "MIGRATE" && i.machine.GPU {
			return invalid(field+".onHostMaintenance", "MIGRATE", "Instances with accelerators do not support live migration.")
		}
	}
	if i.scheduling.action != "" && !i.scheduling.spot && i.scheduling.most == 0 {
		return invalid(field+".instanceTerminationAction", i.scheduling.action, "An instance termination action needs provisioning model SPOT or a limited run time.")
	}
	if i.scheduling.spot && i.scheduling.action == "" {
		i.scheduling.action = "STOP"
	}
	return nil
}

// acceleratorTypes are those of every zone.
var acceleratorTypes = []string{"nvidia-tesla-t4", "nvidia-tesla-p4", "nvidia-l4"}

func (c *Cloud) readAccelerators(i *instance, b object) error {
	i.accelerators = nil
	for n, e := range items(b, "guestAccelerators") {
		a, _ := e.(object)
		field := fmt.Sprintf("resource.guestAccelerators[%d].acceleratorType", n)
		url := text(a, "acceleratorType")
		ref, ok := readReference(url, "acceleratorTypes")
		switch {
		case !ok || ref.scope != "zones/"+i.zone:
			return malformed(field, url)
		case !slices.Contains(acceleratorTypes, ref.name):
			return invalid(field, url, "The referenced resource does not exist.")
		case whole(a, "acceleratorCount") < 1:
			return invalid(strings.TrimSuffix(field, "Type")+"Count", whole(a, "acceleratorCount"), "The number of accelerators must be at least 1.")
		case !strings.HasPrefix(i.machine.Name, "n1-"):
			return invalid(field, url, "Accelerators can be attached to N1 machine types only, not to %s.", i.machine.Name)
		}
		i.accelerators = append(i.accelerators, object{
			"acceleratorType": link("projects/" + i.project + "/zones/" + i.zone + "/acceleratorTypes/" + ref.name), "acceleratorCount": whole(a, "acceleratorCount"),
		})
	}
	if (len(i.accelerators) > 0 || i.machine.GPU) && i.scheduling.maintenance != "TERMINATE" {
		return invalid("resource.scheduling.onHostMaintenance", i.scheduling.maintenance, "Instances with guest accelerators do not support live migration.")
	}
	return nil
}

func (c *Cloud) readAccount(i *instance, b object) error {
	accounts := items(b, "serviceAccounts")
	if len(accounts) > 1 {
		return invalid("resource.serviceAccounts", "", "At most one service account is currently supported.")
	}
	for _, e := range accounts {
		a, _ := e.(object)
		email := text(a, "email")
		field := "resource.serviceAccounts[0]"
		if email == "" {
			return required(field + ".email")
		}
		if email == "default" {
			email = defaultAccount
		}
		_, domain, _ := strings.Cut(email, "@")
		if !strings.HasSuffix(domain, ".gserviceaccount.com") || c.o.ServiceAccounts != nil && email != defaultAccount && !slices.Contains(c.o.ServiceAccounts, email) {
			return &Error{Status: http.StatusBadRequest, Reason: "invalid", Message: fmt.Sprintf("The resource '%s' of type 'serviceAccount' was not found.", email)}
		}
		i.scopes = items(a, "scopes")
		if len(i.scopes) == 0 {
			return required(field + ".scopes")
		}
		for n, s := range i.scopes {
			if s, _ := s.(string); !strings.HasPrefix(s, "https://www.googleapis.com/auth/") {
				return invalid(fmt.Sprintf("%s.scopes[%d]", field, n), s, "The scope is not a URL of the form https://www.googleapis.com/auth/...")
			}
		}
		i.account = email
	}
	return nil
}

// readFeatures checks what the boot disk's image has to allow.
func (c *Cloud) readFeatures(i *instance, b object) error {
	var img *Image
	for _, a := range i.disks {
		if a.boot && a.disk != nil {
			img = a.disk.image
		}
	}
	if img != nil && img.Arm != i.machine.Arm {
		return invalid("resource.machineType", i.machine.Name, "The architecture of the image %s and of the machine type are not compatible.", img.Name)
	}
	if s := inner(b, "shieldedInstanceConfig"); s != nil {
		if img != nil && img.BIOS {
			return invalid("resource.shieldedInstanceConfig", "", "Shielded VM Config can only be set when using a UEFI-compatible disk.")
		}
		vtpm, given := s["enableVtpm"].(bool)
		vtpm = vtpm || !given
		if watch, given := s["enableIntegrityMonitoring"].(bool); given && watch && !vtpm {
			return invalid("resource.shieldedInstanceConfig.enableIntegrityMonitoring", true, "Integrity monitoring needs the virtual TPM.")
		}
		i.shielded = object{"enableSecureBoot": truth(s, "enableSecureBoot"), "enableVtpm": vtpm, "enableIntegrityMonitoring": vtpm && s["enableIntegrityMonitoring"] != false}
	} else if img != nil && !img.BIOS {
		i.shielded = object{"enableSecureBoot": false, "enableVtpm": true, "enableIntegrityMonitoring": true}
	}
	if f := inner(b, "advancedMachineFeatures"); f != nil {
		if truth(f, "enableNestedVirtualization") && !i.machine.Nested {
			return invalid("resource.advancedMachineFeatures.enableNestedVirtualization", true, "Nested virtualization is not supported on machine type %s.", i.machine.Name)
		}
		i.features = f
	}
	return nil
}

func (c *Cloud) readInterfaces(i *instance, b object) error {
	all := items(b, "networkInterfaces")
	if len(all) == 0 {
		return invalid("resource.networkInterfaces", "", "At least one network interface is required.")
	}
	if len(all) > 1 {
		return notModelled("several network interfaces")
	}
	for n, e := range all {
		if err := c.readInterface(i, e.(object), fmt.Sprintf("resource.networkInterfaces[%d]", n)); err != nil { //nolint:forcetypeassert // checked against its schema
			return err
		}
	}
	return nil
}

func (c *Cloud) readInterface(i *instance, o object, field string) error {
	region := c.regionOf(i.zone)
	netURL, subURL := text(o, "network"), text(o, "subnetwork")
	if netURL == "" && subURL == "" {
		return invalid(field, "", "At least one of network or subnetwork must be specified.")
	}
	var network Network
	var sub Subnetwork
	if netURL != "" {
		ref, ok := readReference(netURL, "networks")
		if !ok || ref.scope != "global" {
			return malformed(field+".network", netURL)
		}
		if network, ok = c.network(cmp.Or(ref.project, i.project), ref.name); !ok {
			return invalid(field+".network", netURL, "The referenced network resource cannot be found.")
		}
	}
	if subURL == "" {
		if !network.Auto {
			return invalid(field+".network", netURL, "The network has custom subnet mode: a subnetwork must be specified.")
		}
		sub = c.subnetworks(network, region)[len(c.subnetworks(network, region))-1]
	} else {
		ref, ok := readReference(subURL, "subnetworks")
		if !ok || !strings.HasPrefix(ref.scope, "regions/") {
			return malformed(field+".subnetwork", subURL)
		}
		if ref.scope != "regions/"+region {
			return invalid(field+".subnetwork", subURL, "The subnetwork must be in the region of the instance: %s.", region)
		}
		of, found, ok := c.subnetwork(cmp.Or(ref.project, i.project), region, ref.name)
		if !ok {
			return invalid(field+".subnetwork", subURL, "The referenced subnetwork resource cannot be found.")
		}
		if netURL != "" && (of.Name != network.Name || of.Project != network.Project) {
			return invalid(field+".subnetwork", subURL, "The subnetwork is not of the network %s.", netURL)
		}
		network, sub = of, found
	}
	if stack := text(o, "stackType"); stack != "" && stack != "IPV4_ONLY" {
		return notModelled("stack type " + stack)
	}
	e := &nic{network: "projects/" + network.Project + "/global/networks/" + network.Name, kind: text(o, "nicType")}
	e.subnetwork = "projects/" + network.Project + "/regions/" + region + "/subnetworks/" + sub.Name
	access := items(o, "accessConfigs")
	if len(access) > 1 {
		return invalid(field+".accessConfigs", "", "At most one access config currently supported.")
	}
	for _, a := range access {
		a, _ := a.(object)
		if kind := text(a, "type"); kind != "" && kind != "ONE_TO_ONE_NAT" {
			return invalid(field+".accessConfigs[0].type", kind, "The only type of an access config for IPv4 is ONE_TO_ONE_NAT.")
		}
		e.outside, e.access, e.tier = true, cmp.Or(text(a, "name"), "external-nat"), cmp.Or(text(a, "networkTier"), "PREMIUM")
	}
	ip, ok := c.insideAddress(i, e.subnetwork, sub)
	if !ok {
		return &Error{Status: http.StatusBadRequest, Reason: "ipSpaceExhausted", Code: "IP_SPACE_EXHAUSTED", Message: fmt.Sprintf("IP space of '%s' is exhausted.", e.subnetwork)}
	}
	e.internal = ip
	i.nics = append(i.nics, e)
	return nil
}
