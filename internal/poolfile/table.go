package poolfile

import (
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// file is the top level of a pool file.
type file struct {
	Version   string     `spec:"version" doc:"Format of the file: \"1\"."`
	Timestamp *yaml.Node `spec:"timestamp" ignored:"written by generators" doc:"When a generator wrote the file."`
	Instances []instance `spec:"instances" required:"true" doc:"The pools, in order."`
}

// instance is one pool, in the words of the file.
type instance struct {
	Name      string        `spec:"name" required:"true" doc:"Name of the pool, which callers ask for. Unique in the file."`
	Default   bool          `spec:"default" default:"false" doc:"Whether requests that may omit a pool get this one. The first pool that says so counts."`
	Type      string        `spec:"type" required:"true" doc:"Kind of machine: one of the types below."`
	Pool      int           `spec:"pool" default:"0" doc:"How many machines are kept warm."`
	Limit     int           `spec:"limit" default:"100" doc:"How many machines exist at most, in any state that costs money. Enforced: at the limit a request waits. 0 and no value mean 100; a limit below pool is raised to it."`
	Wait      time.Duration `spec:"wait" default:"10m" min:"1ms" doc:"How long a request waits when the pool is at its limit, never past its own deadline."`
	Platform  platform      `spec:"platform" doc:"What the machines are. Checked by the type."`
	Spec      *yaml.Node    `spec:"spec" doc:"The machines' settings; which keys there are depends on type. Must be there; without a value all settings have their defaults."`
	VariantID *yaml.Node    `spec:"variant_id" ignored:"known for compatibility" doc:"Written by some generators."`
	Variants  *yaml.Node    `spec:"variants" later:"a pool has one kind of machine so far" doc:"Alternative machines of one pool."`
	Tenants   *yaml.Node    `spec:"tenants" later:"all callers share a pool so far" doc:"Machines apart for some accounts."`
}

// platform is what the machines of a pool are.
type platform struct {
	OS      string `spec:"os" doc:"linux, windows or darwin."`
	Arch    string `spec:"arch" doc:"amd64 or arm64."`
	Variant string `spec:"variant" doc:"For information only."`
	Version string `spec:"version" doc:"For information only."`
	OSName  string `spec:"os_name" doc:"Distribution, for example ubuntu."`
}

// defaultLimit is the limit of a pool that names none.
const defaultLimit = 100

// known are the types pool files may name, with their other spellings,
// whether or not this program has them built in.
var known = []struct {
	name    string
	aliases []string
}{
	{"amazon", []string{"aws"}},
	{"anka", nil},
	{"ankabuild", nil},
	{"azure", nil},
	{"digitalocean", nil},
	{"google", []string{"gcp"}},
	{"nomad", nil},
	{"noop", nil},
	{"qemu", nil},
	{"vmfusion", nil},
}

// types finds registrations by the word in a file.
type types struct {
	byName map[string]*drivers.Registration
	// built are the registered names, sorted; words all that a file may say.
	built, words []string
	// pool are the keys of a pool.
	pool []drivers.Field
}

func newTypes(regs []drivers.Registration) types {
	t := types{byName: make(map[string]*drivers.Registration, len(regs)), pool: drivers.Fields(instance{})}
	for i := range regs {
		r := &regs[i]
		t.built = append(t.built, r.Name)
		for _, word := range append([]string{r.Name}, r.Aliases...) {
			t.byName[word] = r
		}
	}
	slices.Sort(t.built)
	t.words = slices.Clone(t.built)
	for _, k := range known {
		t.words = append(t.words, k.name)
		for _, a := range k.aliases {
			if r := t.byName[k.name]; r != nil && t.byName[a] == nil {
				t.byName[a] = r
			}
		}
	}
	slices.Sort(t.words)
	t.words = slices.Compact(t.words)
	return t
}

// later is the type's name if pool files may name it and this program does
// not have it yet, else "".
func (t *types) later(word string) string {
	for _, k := range known {
		if (word == k.name || slices.Contains(k.aliases, word)) && t.byName[word] == nil {
			return k.name
		}
	}
	return ""
}

// choose ends a message by naming what can be used.
func (t *types) choose() string {
	if len(t.built) == 1 {
		return "use " + t.built[0]
	}
	return "use one of " + strings.Join(t.built, ", ")
}

// Fields describes the keys of a pool file; those of spec are the types' own,
// see [drivers.Fields].
func Fields() []drivers.Field { return drivers.Fields(file{}) }
