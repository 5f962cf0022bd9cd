// Package digitalocean knows what a pool of droplets is made of: the keys of
// its spec, their defaults and rules. It does not make machines yet.
package digitalocean

import "github.com/vm-runner/drone-runner-aws/drivers"

// Spec is the `spec` of a pool of type digitalocean. Its zero value lacks
// defaults; see [drivers.SetDefaults].
type Spec struct {
	Account    Account  `spec:"account" doc:"Where machines are made, and with whose rights."`
	Image      string   `spec:"image" default:"docker-18-04" doc:"Name or number of an image."`
	Size       string   `spec:"size" default:"s-2vcpu-4gb" doc:"Size of the machines."`
	FirewallID string   `spec:"firewall_id" doc:"Firewall; without one, harness-runner is found or made."`
	SSHKeys    []string `spec:"ssh_keys" single:"true" doc:"Fingerprints of keys."`
	Tags       []string `spec:"tags" single:"true" doc:"Tags of machines."`
	drivers.UserData

	RootDirectory string `spec:"root_directory" ignored:"known for compatibility" doc:"Written by some generators."`
}

// Account says where machines are made, and with whose rights.
type Account struct {
	PAT    string `spec:"pat" secret:"true" doc:"Personal access token."`
	Region string `spec:"region" default:"nyc1" doc:"Where machines are made."`
}

// Resolved says what the machines are like; see [drivers.Resolver].
func (s *Spec) Resolved() (image, machineType string, diskGiB int) { return s.Image, s.Size, 0 }

// Registration tells cmd of this type.
var Registration = drivers.Registration{
	Name:      "digitalocean",
	NewConfig: drivers.NewOf[Spec](),
	Check:     drivers.CheckOf(check),
}

func check(s *Spec, p *drivers.Platform) drivers.Problems {
	var out drivers.Problems
	out.Platform(p, []string{"linux"}, []string{"amd64"})
	if p.OSName == "" {
		p.OSName = "ubuntu"
	}
	out.UserData(s.UserData)
	if s.Account.PAT == "" {
		out.Errorf("account.pat", "missing; give a personal access token")
	}
	return out
}
