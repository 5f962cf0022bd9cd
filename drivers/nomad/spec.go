// Package nomad knows what a pool of machines on a Nomad cluster is made of: the
// keys of its spec, their defaults and rules. It does not make machines yet.
package nomad

import (
	"maps"
	"regexp"
	"slices"
	"strconv"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Spec is the `spec` of a pool of type nomad. Its zero value lacks defaults;
// see [drivers.SetDefaults].
type Spec struct {
	Server Server `spec:"server" required:"true" doc:"The cluster. Its token is NOMAD_TOKEN."`
	VM     VM     `spec:"vm" doc:"The machines."`
}

// Server is a Nomad cluster.
type Server struct {
	Address        string `spec:"address" required:"true" doc:"Its address."`
	Insecure       bool   `spec:"insecure" default:"false" doc:"Whether its certificate is not checked."`
	CACertPath     string `spec:"ca_cert_path" file:"true" doc:"File with the certificate of its authority."`
	ClientKeyPath  string `spec:"client_key_path" file:"true" doc:"File with the key of this client."`
	ClientCertPath string `spec:"client_cert_path" file:"true" doc:"File with its certificate."`
}

// VM is what the machines are. Numbers are texts, as in existing files.
type VM struct {
	Image         string              `spec:"image" default:"weaveworks/ignite-ubuntu:latest" doc:"What machines boot from."`
	MemGB         string              `spec:"mem_gb" default:"6" doc:"Memory in GB."`
	CPUs          string              `spec:"cpus" default:"2" doc:"Processors."`
	DiskSize      string              `spec:"disk_size" default:"100GB" doc:"Disk, with its unit."`
	EnablePinning map[string]string   `spec:"enablePinning" doc:"Accounts, separated by commas, by the class of nodes that is theirs."`
	Noop          bool                `spec:"noop" default:"false" doc:"Whether jobs only pretend."`
	Resource      map[string]Resource `spec:"resource" doc:"Other sizes, by resource class."`
	Account       Account             `spec:"account" doc:"User inside the machines."`

	drivers.UserData
}

// Resource is the size of one resource class; empty texts are the VM's.
type Resource struct {
	MemGB    string `spec:"mem_gb" doc:"Memory in GB."`
	CPUs     string `spec:"cpus" doc:"Processors."`
	DiskSize string `spec:"disk_size" doc:"Disk, with its unit."`
}

// Account is the user inside the machines.
type Account struct {
	Username        string `spec:"username" doc:"Name."`
	Password        string `spec:"password" secret:"true" doc:"Password; by default TART_VM_PASSWORD."`
	MachinePassword string `spec:"machine_password" secret:"true" doc:"Password of the nodes; by default TART_MACHINE_PASSWORD."`
}

// Resolved says what the machines are like; see [drivers.Resolver].
func (s *Spec) Resolved() (image, machineType string, diskGiB int) { return s.VM.Image, "", 0 }

// Registration tells cmd of this type.
var Registration = drivers.Registration{
	Name:      "nomad",
	NewConfig: drivers.NewOf[Spec](),
	Check:     drivers.CheckOf(check),
}

var diskSize = regexp.MustCompile(`^[1-9][0-9]{0,5} ?[KMGT]?B?$`)

func check(s *Spec, p *drivers.Platform) drivers.Problems {
	var out drivers.Problems
	out.Platform(p, []string{"linux", "darwin"}, []string{"amd64", "arm64"})
	var data drivers.Problems
	data.UserData(s.VM.UserData)
	for _, one := range data {
		out.Errorf("vm."+one.Path, "%s", one.Message)
	}
	out.NoFile("server.ca_cert_path", s.Server.CACertPath)
	out.NoFile("server.client_key_path", s.Server.ClientKeyPath)
	out.NoFile("server.client_cert_path", s.Server.ClientCertPath)
	if (s.Server.ClientKeyPath == "") != (s.Server.ClientCertPath == "") {
		out.Errorf("server", "one of client_key_path and client_cert_path is missing; give both or neither")
	}
	checkSize("vm", Resource{s.VM.MemGB, s.VM.CPUs, s.VM.DiskSize}, &out)
	for _, class := range slices.Sorted(maps.Keys(s.VM.Resource)) {
		checkSize("vm.resource."+class, s.VM.Resource[class], &out)
	}
	return out
}

func checkSize(path string, r Resource, out *drivers.Problems) {
	number := func(key, value string, most int) {
		if n, err := strconv.Atoi(value); value != "" && (err != nil || n < 1 || n > most) {
			out.Errorf(path+"."+key, "%.40q is no size; give 1 to %d", value, most)
		}
	}
	number("mem_gb", r.MemGB, 4096)
	number("cpus", r.CPUs, 1024)
	if r.DiskSize != "" && !diskSize.MatchString(r.DiskSize) {
		out.Errorf(path+".disk_size", "%.40q is no size; write one such as 100GB", r.DiskSize)
	}
}
