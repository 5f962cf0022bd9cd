// Package anka knows what a pool of machines of Anka on this host is made of:
// the keys of its spec, their defaults and rules. It does not make machines yet.
package anka

import "github.com/vm-runner/drone-runner-aws/drivers"

// Spec is the `spec` of a pool of type anka. Its zero value lacks defaults; see
// [drivers.SetDefaults].
type Spec struct {
	Account Account `spec:"account" doc:"User inside the machines."`
	VMID    string  `spec:"vm_id" required:"true" doc:"Machine that is cloned."`
	drivers.UserData

	RootDirectory string `spec:"root_directory" ignored:"known for compatibility" doc:"Written by some generators."`
}

// Account is the user inside the machines.
type Account struct {
	Username string `spec:"username" doc:"Name."`
	Password string `spec:"password" secret:"true" doc:"Password."`
}

// Resolved says what the machines are like; see [drivers.Resolver].
func (s *Spec) Resolved() (image, machineType string, diskGiB int) { return s.VMID, "", 0 }

// Registration tells cmd of this type.
var Registration = drivers.Registration{
	Name:      "anka",
	NewConfig: drivers.NewOf[Spec](),
	Check:     drivers.CheckOf(check),
}

func check(s *Spec, p *drivers.Platform) drivers.Problems {
	var out drivers.Problems
	out.Platform(p, []string{"darwin"}, []string{"amd64", "arm64"})
	out.UserData(s.UserData)
	return out
}
