package poolfile

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// AutoName is what findings call the pool file made from the environment, and
// AutoPool its only pool.
const (
	AutoName = "environment"
	AutoPool = "testpool"
)

// Auto is what the pool of a runner without a pool file is made from.
type Auto struct {
	// Getenv reads the environment.
	Getenv func(string) string
	// Min and Max are the pool's size and limit.
	Min, Max int
	// Local says that machines can be made on this host, which is the last
	// resort.
	Local bool
}

// The images that clouds give under these names are those of a release that is
// supported, whenever they are asked.
const (
	autoGoogleImage = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"
	autoAmazonImage = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
)

// autoPool is one way to make the pool: when, and of what.
type autoPool struct {
	// variables are those of which any, or all where every is set, must be
	// there.
	variables []string
	every     bool
	kind      string
	platform  map[string]any
	spec      func(get func(string) string) map[string]any
}

var linux = map[string]any{"os": "linux", "arch": "amd64"}

// autoPools are tried in this order; the first that fits is taken.
var autoPools = []autoPool{
	{
		variables: []string{"ANKA_VM_NAME"}, kind: "anka", platform: map[string]any{"os": "darwin", "arch": "amd64"},
		spec: func(get func(string) string) map[string]any {
			return map[string]any{"vm_id": get("ANKA_VM_NAME")}
		},
	},
	{
		variables: []string{"ANKA_BUILD_VM_NAME", "ANKA_BUILD_URL"}, every: true, kind: "ankabuild",
		platform: map[string]any{"os": "darwin", "arch": "amd64"},
		spec: func(get func(string) string) map[string]any {
			return map[string]any{
				"vm_id": get("ANKA_BUILD_VM_NAME"), "registry_url": get("ANKA_BUILD_URL"), "auth_token": get("ANKA_BUILD_TOKEN"),
			}
		},
	},
	{
		variables: []string{"AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_SUBSCRIPTION_ID", "AZURE_TENANT_ID"},
		kind:      "azure", platform: linux,
		spec: func(get func(string) string) map[string]any {
			return map[string]any{
				"account": map[string]any{
					"client_id": get("AZURE_CLIENT_ID"), "client_secret": get("AZURE_CLIENT_SECRET"),
					"subscription_id": get("AZURE_SUBSCRIPTION_ID"), "tenant_id": get("AZURE_TENANT_ID"),
				},
				// Nobody logs in with it, so nobody needs to know it.
				"image": map[string]any{
					"username": "ubuntu", "password": rand.Text() + "a1!", "publisher": "Canonical",
					"offer": "0001-com-ubuntu-server-jammy", "sku": "22_04-lts", "version": "latest",
				},
			}
		},
	},
	{
		variables: []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_SECRET"}, kind: "amazon", platform: linux,
		spec: func(get func(string) string) map[string]any {
			account := map[string]any{"region": cmp.Or(get("AWS_REGION"), get("AWS_DEFAULT_REGION"), "us-east-2")}
			if secret := get("AWS_ACCESS_KEY_SECRET"); secret != "" && get("AWS_SECRET_ACCESS_KEY") == "" {
				// A name of its own, which AWS's library does not read.
				account["access_key_id"], account["access_key_secret"] = get("AWS_ACCESS_KEY_ID"), secret
				account["aws_session_token"] = get("AWS_SESSION_TOKEN")
			}
			return map[string]any{"account": account, "ami": autoAmazonImage, "size": "t3.micro"}
		},
	},
	{
		variables: []string{"DIGITAL_OCEAN_PAT"}, kind: "digitalocean", platform: linux,
		spec: func(get func(string) string) map[string]any {
			return map[string]any{"account": map[string]any{"pat": get("DIGITAL_OCEAN_PAT")}}
		},
	},
	{
		variables: []string{"GOOGLE_PROJECT_ID"}, kind: "google", platform: linux,
		spec: func(get func(string) string) map[string]any {
			return map[string]any{
				// Without a file Google's library finds credentials in the same places and more.
				// Every step of a machine could take the token of a service account.
				"account": map[string]any{
					"project_id": get("GOOGLE_PROJECT_ID"), "json_path": get("GOOGLE_JSON_PATH"), "no_service_account": true,
				},
				"image":        autoGoogleImage,
				"machine_type": "e2-small",
				"zone":         cmp.Or(get("GOOGLE_ZONE"), "northamerica-northeast1-a"),
			}
		},
	},
}

// errNoAuto says what would make a pool.
var errNoAuto = errors.New("no pool file, and nothing in the environment to make a pool from: give a file with --pool " +
	"(examples/pool.yml is one to begin with), or set " + autoVariables() + ", or install QEMU for local machines")

func autoVariables() string {
	var names []string
	for _, a := range autoPools {
		with := ", "
		if !a.every {
			with = " or "
		}
		names = append(names, fmt.Sprintf("%s (%s)", strings.Join(a.variables, with), a.kind))
	}
	return strings.Join(names, ", ")
}

// Pools makes the one pool of a runner that has no pool file, from the first
// kind of machine the environment speaks of. source says which and why. The
// findings are about a text that nobody has written, so their places mean
// nothing.
func (a Auto) Pools(regs []drivers.Registration, o Options) (_ pool.Config, source string, _ Findings, err error) {
	for _, way := range autoPools {
		if set := way.set(a.Getenv); set != nil {
			config, found, err := a.made(way.kind, way.platform, way.spec(a.Getenv), regs, o)
			return config, way.kind + ", since " + strings.Join(set, " and ") + " is set", found, err
		}
	}
	if !a.Local {
		return pool.Config{}, "", nil, errNoAuto
	}
	config, found, err := a.made("qemu", map[string]any{"os": "linux"}, map[string]any{"image": "tiny"}, regs, o)
	return config, "qemu, on this host, since no variable speaks of a cloud", found, err
}

// FormatPublic is [Format] without credentials: for people to read, and not to
// be served.
func FormatPublic(c pool.Config) ([]byte, error) {
	pools := slices.Clone(c.Pools)
	for i := range pools {
		if recipe := pools[i].RecipeJSON; recipe != nil {
			pools[i].SpecJSON = recipe
		}
	}
	c.Pools = pools
	return Format(c)
}

// set gives the variables that make the way possible, nil if it is not.
func (w autoPool) set(get func(string) string) []string {
	var set []string
	for _, name := range w.variables {
		if get(name) != "" {
			set = append(set, name)
		}
	}
	if w.every && len(set) < len(w.variables) {
		return nil
	}
	if !w.every && len(set) > 1 {
		set = set[:1]
	}
	return set
}

func (a Auto) made(kind string, platform, spec map[string]any, regs []drivers.Registration, o Options) (pool.Config, Findings, error) {
	text, err := yaml.Marshal(map[string]any{"version": "1", "instances": []any{map[string]any{
		"name": AutoPool, "default": true, "type": kind, "pool": a.Min, "limit": a.Max, "platform": platform, "spec": filled(spec),
	}}})
	if err != nil {
		return pool.Config{}, nil, fmt.Errorf("pool from the environment: %w", err)
	}
	config, found := Parse(AutoName, text, regs, o)
	return config, found, nil
}

// filled leaves out what is empty.
func filled(spec map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range spec {
		switch v := value.(type) {
		case map[string]any:
			out[key] = filled(v)
		case string:
			if v != "" {
				out[key] = v
			}
		default:
			out[key] = v
		}
	}
	return out
}
