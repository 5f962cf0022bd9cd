// Package vmfusion knows what a pool of machines of VMware Fusion on this host
// is made of: the keys of its spec, their defaults and rules. It does not make
// machines yet.
package vmfusion

import (
	"fmt"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Spec is the `spec` of a pool of type vmfusion. Its zero value lacks defaults;
// see [drivers.SetDefaults].
type Spec struct {
	Account   Account `spec:"account" doc:"User inside the machines."`
	ISO       string  `spec:"iso" doc:"Installation medium."`
	Memory    int     `spec:"memory" default:"1024" min:"1" max:"4194304" doc:"Memory of a machine in MiB."`
	CPU       int     `spec:"cpu" default:"1" min:"1" max:"1024" doc:"Processors of a machine."`
	VDiskPath string  `spec:"v_disk_path" doc:"Disk that is copied for each machine."`
	StorePath string  `spec:"store_path" doc:"Folder the machines lie in."`
	drivers.UserData

	Name          string `spec:"name" ignored:"known for compatibility" doc:"Written by some generators."`
	RootDirectory string `spec:"root_directory" ignored:"known for compatibility" doc:"Written by some generators."`
}

// Account is the user inside the machines.
type Account struct {
	Username string `spec:"username" doc:"Name."`
	Password string `spec:"password" secret:"true" doc:"Password."`
}

// Resolved says what the machines are like; see [drivers.Resolver].
func (s *Spec) Resolved() (image, machineType string, diskGiB int) {
	return s.VDiskPath, fmt.Sprintf("%dx%d", s.CPU, s.Memory), 0
}

// Registration tells cmd of this type.
var Registration = drivers.Registration{
	Name:      "vmfusion",
	NewConfig: drivers.NewOf[Spec](),
	Check:     drivers.CheckOf(check),
}

func check(s *Spec, p *drivers.Platform) drivers.Problems {
	var out drivers.Problems
	out.Platform(p, []string{"darwin"}, nil)
	if p.Arch == "" {
		p.Arch = "amd64"
	}
	out.UserData(s.UserData)
	return out
}
