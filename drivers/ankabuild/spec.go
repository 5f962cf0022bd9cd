// Package ankabuild knows what a pool of machines of an Anka Build Cloud is made
// of: the keys of its spec, their defaults and rules. It does not make machines
// yet.
package ankabuild

import (
	"net/url"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Spec is the `spec` of a pool of type ankabuild. Its zero value lacks
// defaults; see [drivers.SetDefaults].
type Spec struct {
	Account     Account `spec:"account" doc:"User inside the machines."`
	VMID        string  `spec:"vm_id" required:"true" doc:"Machine that is cloned."`
	RegistryURL string  `spec:"registry_url" required:"true" doc:"Address of the controller."`
	Tag         string  `spec:"tag" doc:"Tag of the machine that is cloned."`
	NodeID      string  `spec:"node_id" doc:"The only node; by default any."`
	GroupID     string  `spec:"group_id" doc:"The only group of nodes; by default any."`
	AuthToken   string  `spec:"auth_token" secret:"true" doc:"Token for the controller; by default ANKA_BUILD_TOKEN."`
	DiskSize    int     `spec:"disk_size" numeric:"true" min:"0" max:"65536" doc:"GB; 0 is the size of the machine that is cloned."`
	drivers.UserData

	RootDirectory string `spec:"root_directory" ignored:"known for compatibility" doc:"Written by some generators."`
}

// Account is the user inside the machines.
type Account struct {
	Username string `spec:"username" doc:"Name."`
	Password string `spec:"password" secret:"true" doc:"Password."`
}

// Resolved says what the machines are like; see [drivers.Resolver].
func (s *Spec) Resolved() (image, machineType string, diskGiB int) {
	image = s.VMID
	if s.Tag != "" {
		image += ":" + s.Tag
	}
	return image, "", s.DiskSize
}

// Registration tells cmd of this type.
var Registration = drivers.Registration{
	Name:      "ankabuild",
	NewConfig: drivers.NewOf[Spec](),
	Check:     drivers.CheckOf(check),
}

func check(s *Spec, p *drivers.Platform) drivers.Problems {
	var out drivers.Problems
	out.Platform(p, []string{"darwin"}, []string{"amd64", "arm64"})
	out.UserData(s.UserData)
	if u, err := url.Parse(s.RegistryURL); s.RegistryURL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		out.Errorf("registry_url", "%.60q is no address; write one such as https://anka.example.com:8090", s.RegistryURL)
	}
	return out
}
