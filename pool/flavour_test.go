package pool

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// sleeper is a driver that can hibernate.
type sleeper struct {
	closedDriver
	drivers.Hibernator
}

// fitting is a pool with variants and a tenant, on a driver that has all there
// is to ask for.
func fitting(opened Opened) *runtime {
	p := PoolConfig{
		Name: "p", Driver: "cloud", Image: "ci", MachineType: "small", DiskGiB: 50, SpecJSON: json.RawMessage(`{"a":1}`),
		Variants: []VariantConfig{
			{ID: "large", ResourceClass: "large", MachineType: "big", DiskGiB: 200, DiskType: "ssd", Max: 5},
			{ID: "large-mac", ResourceClass: "large", Image: "mac", MachineType: "apple"},
			{ID: "nested", ResourceClass: "large", Nested: true, MachineType: "n2"},
			{ID: "east", ResourceClass: "medium", Zones: []string{"e1", "e2"}},
			{ID: "medium", ResourceClass: "medium"},
			{ID: "gpu", ResourceClass: "ai", GPU: true},
		},
		Tenants: []TenantConfig{{
			ID: "acme", Accounts: []string{"acct-1", "acct-2"}, Image: "acme-ci", MachineType: "small",
			SpecJSON: json.RawMessage(`{"a":2}`),
			Variants: []VariantConfig{{ID: "large", ResourceClass: "large", MachineType: "huge", Max: -1}},
		}},
	}
	opened.Client = drivers.NewClient(sleeper{}, drivers.ClientOptions{})
	rt := &runtime{cfg: p, tenants: map[string]*tenancy{}}
	home := &tenancy{id: DefaultFlavour, cfg: p, opened: opened, client: cloud{opened.Client}}
	q := p
	q.Image, q.SpecJSON = p.Tenants[0].Image, p.Tenants[0].SpecJSON
	acme := &tenancy{id: "acme", cfg: q, opened: opened, client: cloud{opened.Client}}
	rt.tenants[DefaultFlavour], rt.tenants["acme"] = home, acme
	rt.flavours = append(flavoursOf(home, 2, -1, p.Variants), flavoursOf(acme, 1, 10, p.Tenants[0].Variants)...)
	return rt
}

var everything = Opened{Zones: true, Nested: true, GPU: true}

func TestRequestGetsTheFirstVariantThatFits(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		opened Opened
		want   Want
		tenant string
		// variant, and shape after the two names.
		variant, shape string
	}{
		{"nothing asked for is the default", everything, Want{}, "default", "default", "ci|small|50|false|false"},
		{"a resource class nobody has is the default", everything, Want{ResourceClass: "tiny"}, "default", "default", "ci|small|50|false|false"},
		{"the class decides", everything, Want{ResourceClass: "large"}, "default", "large", "ci|big|200|false|false"},
		{"and the image among those of the class", everything, Want{ResourceClass: "large", Image: "mac"}, "default", "large-mac", "mac|apple|50|false|false"},
		{
			"an image no variant has takes the class's variant without one",
			everything,
			Want{ResourceClass: "large", Image: "other"},
			"default", "large", "other|big|200|false|false",
		},
		{"nested virtualisation must be equal", everything, Want{ResourceClass: "large", Nested: true}, "default", "nested", "ci|n2|50|true|false"},
		{"nested without a variant for it is the default with it", everything, Want{Nested: true}, "default", "default", "ci|small|50|true|false"},
		{"the file's order is priority", everything, Want{ResourceClass: "medium"}, "default", "east", "ci|small|50|false|false"},
		{"a zone the first does not have takes the next", everything, Want{ResourceClass: "medium", Zone: "w9"}, "default", "medium", "ci|small|50|false|false"},
		{"a variant's GPU comes with its class", everything, Want{ResourceClass: "ai"}, "default", "gpu", "ci|small|50|false|true"},
		{"a GPU asked for rules out variants without", everything, Want{ResourceClass: "medium", GPU: true}, "default", "default", "ci|small|50|false|true"},
		{"a request's own machine type is kept", everything, Want{ResourceClass: "large", MachineType: "m9", DiskGiB: 7}, "default", "large", "ci|m9|7|false|false"},
		{"an account finds its tenant", everything, Want{Account: "acct-2"}, "acme", "default", "acme-ci|small|50|false|false"},
		{"and that tenant's variants", everything, Want{Account: "acct-1", ResourceClass: "large"}, "acme", "large", "acme-ci|huge|50|false|false"},
		{"and none of the others'", everything, Want{Account: "acct-1", ResourceClass: "ai"}, "acme", "default", "acme-ci|small|50|false|false"},
		{"an account without a tenant is the default's", everything, Want{Account: "acct-9", ResourceClass: "large"}, "default", "large", "ci|big|200|false|false"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c, err := fitting(tc.opened).choose(Build, tc.want)
			if err != nil {
				t.Fatal(err)
			}
			want := Choice{
				Pool: "p", Tenant: tc.tenant, Variant: tc.variant, Zone: tc.want.Zone,
				Shape: tc.tenant + "|" + tc.variant + "|" + tc.shape,
			}
			if diff := cmp.Diff(want, c); diff != "" {
				t.Errorf("choice (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRequestThatFitsNoVariantIsToldWhatThereIs(t *testing.T) {
	t.Parallel()
	_, err := fitting(Opened{}).choose(Build, Want{ResourceClass: "large", Nested: true})
	if err == nil {
		t.Fatal("a pool without nested virtualisation took a request for it")
	}
	for _, text := range []string{
		"no variant fits: asked resource_class \"large\", nested virtualisation (which this pool's driver does not have)",
		`there are default, large (resource_class "large"), large-mac`, "zones e1 e2",
	} {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q lacks %q", err, text)
		}
	}
}

// A machine of one flavour is never what a request for another must be given:
// the matrix of all flavours against each other.
func TestWarmMachinesFitTheirOwnFlavourOnly(t *testing.T) {
	t.Parallel()
	rt := fitting(everything)
	shapes, recipes := map[string]string{}, map[string]string{}
	for _, f := range rt.flavours {
		shape := f.shape(Want{})
		if other := shapes[shape]; other != "" {
			t.Errorf("%s and %s have one shape: %s", other, f.name(), shape)
		}
		if other := recipes[f.recipe]; other != "" {
			t.Errorf("%s and %s have one recipe", other, f.name())
		}
		shapes[shape], recipes[f.recipe] = f.name(), f.name()
		nested, gpu := shapeTraits(shape)
		if nested != f.Nested || gpu != f.GPU {
			t.Errorf("%s: traits read back are %t and %t", shape, nested, gpu)
		}
	}
	// And each is what some request is given, or it would idle for ever.
	for _, w := range []Want{
		{},
		{ResourceClass: "large"},
		{ResourceClass: "large", Image: "mac"},
		{ResourceClass: "large", Nested: true},
		{ResourceClass: "medium"},
		{ResourceClass: "medium", Zone: "w9"},
		{ResourceClass: "ai"},
		{Account: "acct-1"},
		{Account: "acct-1", ResourceClass: "large"},
	} {
		c, err := rt.choose(Build, w)
		if err != nil {
			t.Fatal(err)
		}
		delete(shapes, c.Shape)
	}
	if len(shapes) > 0 {
		t.Errorf("no request gets the warm machines of %v", shapes)
	}
}

func TestRecipeIsWhatAMachineIsMadeFrom(t *testing.T) {
	t.Parallel()
	base := fitting(everything)
	before := map[string]string{}
	for _, f := range base.flavours {
		before[f.name()] = f.recipe
	}
	change := func(f func(v *VariantConfig)) []string {
		rt := fitting(everything)
		vs := slices.Clone(rt.cfg.Variants)
		f(&vs[0])
		var changed []string
		for _, f := range flavoursOf(rt.tenants[DefaultFlavour], 2, -1, vs) {
			if f.recipe != before[f.name()] {
				changed = append(changed, f.name())
			}
		}
		return changed
	}
	if got := change(func(v *VariantConfig) { v.Min, v.Max, v.ResourceClass = 9, 9, "xl" }); got != nil {
		t.Errorf("numbers and names changed the recipe of %v", got)
	}
	for name, f := range map[string]func(v *VariantConfig){
		"image": func(v *VariantConfig) { v.Image = "x" }, "disk": func(v *VariantConfig) { v.DiskGiB++ },
		"zones": func(v *VariantConfig) { v.Zones = []string{"z"} }, "disk type": func(v *VariantConfig) { v.DiskType = "hdd" },
		"nested": func(v *VariantConfig) { v.Nested = true }, "machine type": func(v *VariantConfig) { v.MachineType = "x" },
	} {
		if got := change(f); !slices.Equal(got, []string{"large"}) {
			t.Errorf("another %s changed the recipes of %v, want large", name, got)
		}
	}
}

func TestARenewedKeyChangesNoRecipe(t *testing.T) {
	t.Parallel()
	made := func(spec string) string {
		return recipeOf(PoolConfig{SpecJSON: json.RawMessage(spec), RecipeJSON: json.RawMessage(`{"size":1}`)})
	}
	if a, b := made(`{"key":"old","size":1}`), made(`{"key":"new","size":1}`); a != b {
		t.Errorf("recipe %s with the old key, %s with the new one", a, b)
	}
	if a, b := made(`{"key":"old","size":1}`), recipeOf(PoolConfig{SpecJSON: json.RawMessage(`{"size":1}`)}); a != b {
		t.Errorf("recipe %s with a key, %s without one", a, b)
	}
}

func TestLastSpecKeepsEveryTenantsOwn(t *testing.T) {
	t.Parallel()
	plain := PoolConfig{SpecJSON: json.RawMessage(`{"a":1}`)}
	with := PoolConfig{SpecJSON: json.RawMessage(`{"a":1}`), Tenants: []TenantConfig{{ID: "acme", SpecJSON: json.RawMessage(`{"a":2}`)}}}
	for _, tc := range []struct {
		name string
		p    PoolConfig
		want map[string]json.RawMessage
	}{
		{"a pool without tenants keeps its spec as it is", plain, nil},
		{"a tenant's spec is kept beside it", with, map[string]json.RawMessage{"acme": json.RawMessage(`{"a":2}`)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			spec, tenants := specsOf(lastSpec(tc.p))
			if string(spec) != `{"a":1}` {
				t.Errorf("spec %s", spec)
			}
			if diff := cmp.Diff(tc.want, tenants); diff != "" {
				t.Errorf("tenants (-want +got):\n%s", diff)
			}
		})
	}
}

// scripted is a spec with a boot script of its own.
type scripted struct{ drivers.UserData }

func (s *scripted) BootOptions() (drivers.BootOptions, error) {
	text, name, err := s.Script()
	return drivers.BootOptions{Template: text, TemplateName: name}, err
}

func TestAChangeOfABootScriptsFileIsDrift(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "boot.sh")
	recipe := func(text string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return recipeOf(PoolConfig{Spec: &scripted{drivers.UserData{UserDataPath: file}}, SpecJSON: json.RawMessage(`{"user_data_path":"x"}`)})
	}
	a, b, again := recipe("#!/bin/sh\n"), recipe("#!/bin/sh\necho\n"), recipe("#!/bin/sh\n")
	if a == b || a != again {
		t.Errorf("recipes %s, %s, %s", a, b, again)
	}
	inline := PoolConfig{Spec: &scripted{drivers.UserData{UserData: "#!/bin/sh\n"}}, SpecJSON: json.RawMessage(`{"user_data":"x"}`)}
	plain := inline
	plain.Spec = nil
	if recipeOf(inline) != recipeOf(plain) {
		t.Error("a script that stands in the file of pools counts twice")
	}
}
