package google

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Spec is the `spec` of a pool of type google. Its zero value lacks defaults;
// see [drivers.SetDefaults].
type Spec struct {
	Account     Account           `spec:"account" doc:"Where machines are made, and with whose rights."`
	Image       string            `spec:"image" doc:"Image, as projects/P/global/images/I or a name in the account's project. By default one of Ubuntu 16.04, with a warning."`
	MachineType string            `spec:"machine_type" doc:"By default size, else n1-standard-1."`
	Size        string            `spec:"size" doc:"Taken as machine_type where that is not given."`
	Name        string            `spec:"name" doc:"Beginning of the machines' names."`
	Labels      map[string]string `spec:"labels" doc:"Labels of machines and disks."`
	Tags        []string          `spec:"tags" default:"allow-docker" single:"true" doc:"Network tags; networks[].tags where there are several networks."`
	drivers.UserData
	UserDataKey   string    `spec:"user_data_key" doc:"Metadata key of the boot script; user-data on linux, windows-startup-script-ps1 on windows."`
	Disk          Disk      `spec:"disk" doc:"The boot disk."`
	Network       string    `spec:"network" default:"default" doc:"The only network; networks names several."`
	Subnetwork    string    `spec:"subnetwork" doc:"Its subnetwork."`
	Networks      []Network `spec:"networks" doc:"Networks, used in turn."`
	PrivateIP     bool      `spec:"private_ip" oldname:"privateIP" default:"false" doc:"Whether machines have no public address."`
	Zone          []string  `spec:"zone" oldname:"zones" default:"us-central1-a" single:"true" doc:"Zones, tried in turn."`
	Scopes        []string  `spec:"scopes" single:"true" doc:"What the service account may do, as full addresses; by default read storage, write logs, metrics and traces."`
	Hibernate     bool      `spec:"hibernate" default:"false" doc:"Whether warm machines wait suspended."`
	Nested        bool      `spec:"enable_nested_virtualization" default:"false" doc:"Whether machines can run machines; linux on amd64 only."`
	EnableC4D     bool      `spec:"enable_c4d" default:"false" doc:"Whether the largest local SSD, which ends with the machine, is made scratch space: /mnt/ephemeral, /tmp and /harness."`
	GPU           bool      `spec:"gpu" default:"false" doc:"Whether machines have a GPU; the machine type brings it."`
	EgressControl bool      `spec:"egress_control" default:"false" doc:"Whether machines go out through the proxy of their network (networks[].proxy_url), which the boot script waits for and steps are told of."`
	MarketType    string    `spec:"market_type" enum:"on-demand,spot" doc:"spot asks for spot machines first and takes on-demand ones where there are none."`

	RootDirectory string `spec:"root_directory" ignored:"known for compatibility" doc:"Written by some generators."`
}

// Account says where machines are made, and with whose rights.
type Account struct {
	ProjectID           string   `spec:"project_id" doc:"The project."`
	JSONPath            string   `spec:"json_path" file:"true" doc:"File with a service account's key; by default what Google's programs use."`
	ServiceAccountEmail string   `spec:"service_account_email" default:"default" doc:"Service account of the machines."`
	NoServiceAccount    bool     `spec:"no_service_account" default:"false" doc:"Whether machines have no service account."`
	Scopes              []string `spec:"scopes" single:"true" ignored:"known for compatibility" doc:"See scopes beside account."`
}

// Disk is the boot disk.
type Disk struct {
	Size int    `spec:"size" default:"50" min:"0" max:"65536" doc:"GB; 0 is 50."`
	Type string `spec:"type" default:"pd-standard" doc:"Kind of disk."`
}

// Network is one network machines may be in.
type Network struct {
	Network    string   `spec:"network" doc:"Name or full id."`
	Subnetwork string   `spec:"subnetwork" doc:"Name or full id."`
	Tags       []string `spec:"tags" default:"allow-docker" single:"true" doc:"Network tags."`
	Zones      []string `spec:"zones" alias:"zone" single:"true" doc:"Zones, by default those of the spec."`
	ProxyURL   string   `spec:"proxy_url" doc:"Address of the proxy of this network, for egress_control: http://host:port, without a user."`
}

// Resolved says what the machines are like; see [drivers.Resolver].
func (s *Spec) Resolved() (image, machineType string, diskGiB int) {
	return s.Image, s.MachineType, s.Disk.Size
}

// Hibernates says whether warm machines wait on disk; see [drivers.Sleeper].
func (s *Spec) Hibernates() bool { return s.Hibernate }

// maxBoot is the longest value of a machine's metadata.
const maxBoot = 256 << 10

// BootOptions says what the boot script is made of; see [drivers.Booted].
func (s *Spec) BootOptions() (drivers.BootOptions, error) {
	text, name, err := s.Script()
	o := drivers.BootOptions{
		Template: text, TemplateName: name, MaxBytes: maxBoot,
		// Persistent disks are attached as disk-0, disk-1, …
		Disks: func(i int) []string { return []string{fmt.Sprintf("/dev/disk/by-id/google-disk-%d", i)} },
	}
	if s.EnableC4D {
		o.Scratch = []string{"/dev/disk/by-id/google-local-nvme-ssd-*", "/dev/disk/by-id/google-local-ssd-*"}
	}
	return o, err
}

// NamePrefix begins the machines' names; see [drivers.Namer].
func (s *Spec) NamePrefix() string { return s.Name }

// Setup is what the program is told about this type of machine beside pool
// files. The zero value is the real cloud, and no rule of a firewall.
type Setup struct {
	// Endpoint is another address of the API than the vendor's, for rehearsals
	// against a fake: it is called without credentials.
	Endpoint string
	// HTTP reaches the cloud, without credentials of its own making. Nil: the
	// vendor's client with the credentials of the spec.
	HTTP *http.Client
	// Ingress are the addresses from which agents are called, for the rule of the
	// firewall that is made where a spec has neither tags nor networks of its own.
	// Addresses or CIDRs; everybody is refused. None: no rule is made.
	Ingress []string
}

// Register tells cmd of this type. The drivers of one registration share what
// they know of an account: its connections and the budget of its calls.
func Register(s Setup) drivers.Registration {
	return drivers.Registration{
		Name: "google", Aliases: []string{"gcp"},
		NewConfig:    drivers.NewOf[Spec](),
		Check:        drivers.CheckOf(check),
		CheckVariant: checkVariant,
		Tenants:      true,
		New:          opener(s),
	}
}

// Registration is Register of the zero Setup.
var Registration = Register(Setup{})

// The image and the machine type that existing files get which name none.
const (
	oldImage       = "ubuntu-os-cloud/global/images/ubuntu-1604-xenial-v20170721"
	oldMachineType = "n1-standard-1"
)

// defaultScopes are what a machine's service account may do unless told.
func defaultScopes() []string {
	const prefix = "https://www.googleapis.com/auth/"
	return []string{
		prefix + "devstorage.read_only", prefix + "logging.write", prefix + "monitoring.write", prefix + "trace.append",
	}
}

// check validates a spec and fills in what depends on the platform or on
// another key.
func check(s *Spec, p *drivers.Platform) drivers.Problems {
	var out drivers.Problems
	out.Platform(p, []string{"linux", "windows"}, []string{"amd64", "arm64"})
	out.UserData(s.UserData)
	out.NoFile("account.json_path", s.Account.JSONPath)
	if s.Image == "" {
		out.Warnf("image", "missing; %s is taken, which is long past its end of support, give a current one", oldImage)
		s.Image = oldImage
	}
	if s.MachineType != "" && s.Size != "" && s.Size != s.MachineType {
		out.Warnf("size", "not used beside machine_type; remove it")
	}
	s.MachineType, s.Size = cmp.Or(s.MachineType, s.Size, oldMachineType), ""
	if s.Disk.Size == 0 {
		s.Disk.Size = 50
	}
	if s.UserDataKey == "" {
		s.UserDataKey = "user-data"
		if p.OS == "windows" {
			s.UserDataKey = "windows-startup-script-ps1"
		}
	}
	if len(s.Scopes) == 0 {
		s.Scopes = defaultScopes()
	}
	if s.Nested && !nests(*p) {
		out.Warnf("enable_nested_virtualization", "has no effect on %s/%s; only linux on amd64 can", p.OS, p.Arch)
	}
	checkEgress(s, &out)
	if s.Hibernate && s.GPU {
		out.Errorf("hibernate", "machines with a GPU cannot be suspended; remove hibernate or gpu")
	}
	checkLabels(s.Labels, &out)
	return out
}

// nests says whether machines of a platform can run machines.
func nests(p drivers.Platform) bool { return p.OS == "linux" && p.Arch == "amd64" }

func checkVariant(_ any, p drivers.Platform, v drivers.Variant) []drivers.Problem {
	var out drivers.Problems
	if v.Nested && !nests(p) {
		out.Errorf("enable_nested_virtualization", "not on %s/%s; only linux on amd64 can", p.OS, p.Arch)
	}
	return out
}

// mostLabels is what Compute Engine allows less those that the runner adds.
const mostLabels = 48

var (
	labelKey   = regexp.MustCompile(`^[\p{Ll}\p{Lo}][\p{Ll}\p{Lo}\p{N}_-]{0,62}$`)
	labelValue = regexp.MustCompile(`^[\p{Ll}\p{Lo}\p{N}_-]{0,63}$`)
)

func checkLabels(labels map[string]string, out *drivers.Problems) {
	if len(labels) > mostLabels {
		out.Errorf("labels", "%d labels; Compute Engine allows 64 in all, of which %d are yours", len(labels), mostLabels)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if !labelKey.MatchString(key) {
			out.Errorf("labels", "%.70q is no key of a label; use lower-case letters, digits, _ and -, a letter first, at most 63", key)
		}
		if value := labels[key]; !labelValue.MatchString(value) {
			out.Errorf("labels", "%.70q is no value of a label; use lower-case letters, digits, _ and -, at most 63", value)
		}
	}
}
