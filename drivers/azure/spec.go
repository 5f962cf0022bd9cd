// Package azure knows what a pool of machines on Azure is made of: the keys of
// its spec, their defaults and rules. It does not make machines yet.
package azure

import (
	"cmp"
	"strings"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Spec is the `spec` of a pool of type azure. Its zero value lacks defaults;
// see [drivers.SetDefaults].
type Spec struct {
	Account       Account `spec:"account" required:"true" doc:"Where machines are made, and with whose rights."`
	ResourceGroup string  `spec:"resource_group" default:"harness-runner-resource" doc:"Made if it is not there."`
	Location      string  `spec:"location" default:"eastus2" doc:"Where machines are made."`
	drivers.UserData
	UserDataKey       string            `spec:"user_data_key" doc:"Metadata key of the boot script."`
	Image             Image             `spec:"image" doc:"What machines boot from."`
	Size              string            `spec:"size" default:"Standard_F2s" doc:"Size of the machines."`
	Zones             []string          `spec:"zones" alias:"zone" single:"true" doc:"Zones, tried in turn."`
	Tags              map[string]string `spec:"tags" doc:"Tags of machines and disks."`
	SecurityGroupName string            `spec:"security_group_name" doc:"Network security group."`
	SecurityType      string            `spec:"security_type" doc:"For example TrustedLaunch."`
	Network           Network           `spec:"network" doc:"How machines are reached."`

	VMID          string `spec:"vm_id" ignored:"known for compatibility" doc:"Written by some generators."`
	RootDirectory string `spec:"root_directory" ignored:"known for compatibility" doc:"Written by some generators."`
}

// Account says where machines are made, and with whose rights.
type Account struct {
	SubscriptionID string `spec:"subscription_id" required:"true" doc:"The subscription."`
	ClientID       string `spec:"client_id" required:"true" doc:"The application."`
	ClientSecret   string `spec:"client_secret" secret:"true" required:"true" doc:"Its secret."`
	TenantID       string `spec:"tenant_id" required:"true" doc:"Its directory."`
}

// Image is what machines boot from.
type Image struct {
	Publisher string `spec:"publisher" doc:"Publisher of an image of the marketplace."`
	Offer     string `spec:"offer" doc:"Its offer."`
	SKU       string `spec:"sku" doc:"Its kind."`
	Version   string `spec:"version" doc:"Its version; latest."`
	ID        string `spec:"id" doc:"Id of an image of your own, instead of those four."`
	Username  string `spec:"username" doc:"Administrator of the machines."`
	Password  string `spec:"password" secret:"true" doc:"Password of the administrator; by default a random one for each machine."`
}

// Network says how machines are reached.
type Network struct {
	VNetName   string `spec:"vnet_name" doc:"An existing network; without one each machine has its own."`
	SubnetName string `spec:"subnet_name" doc:"Its subnet."`
	PrivateIP  bool   `spec:"private_ip" default:"false" doc:"Whether machines have no public address."`
}

// Resolved says what the machines are like; see [drivers.Resolver].
func (s *Spec) Resolved() (image, machineType string, diskGiB int) {
	i := s.Image
	if i.ID != "" {
		return i.ID, s.Size, 0
	}
	return strings.Join([]string{i.Publisher, i.Offer, i.SKU, i.Version}, ":"), s.Size, 0
}

// Registration tells cmd of this type.
var Registration = drivers.Registration{
	Name:      "azure",
	NewConfig: drivers.NewOf[Spec](),
	Check:     drivers.CheckOf(check),
}

// check validates a spec and fills in what depends on other keys.
func check(s *Spec, p *drivers.Platform) drivers.Problems {
	var out drivers.Problems
	out.Platform(p, []string{"windows", "linux"}, []string{"amd64", "arm64"})
	out.UserData(s.UserData)
	i := &s.Image
	switch named := i.Publisher != "" || i.Offer != "" || i.SKU != ""; {
	case i.ID != "" && named:
		out.Warnf("image", "id is used, publisher, offer and sku are not; remove one or the other")
	case i.ID == "" && (i.Publisher == "" || i.Offer == "" || i.SKU == ""):
		out.Errorf("image", "names no image; give publisher, offer and sku, or id")
	}
	i.Version = cmp.Or(i.Version, "latest")
	if (s.Network.VNetName == "") != (s.Network.SubnetName == "") {
		out.Errorf("network", "one of vnet_name and subnet_name is missing; give both or neither")
	}
	return out
}
