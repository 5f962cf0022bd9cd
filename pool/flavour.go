package pool

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// DefaultFlavour names the tenant of every account that has none of its own,
// and what a tenant's machines are where no variant is chosen.
const DefaultFlavour = "default"

// tenancy is one tenant's account in a pool: its driver, and what its machines
// are unless a variant or a request says otherwise.
type tenancy struct {
	rt *runtime
	id string
	// cfg is the pool's with the tenant's own spec.
	cfg    PoolConfig
	opened Opened
	client cloud
	scope  string
}

// tenantConfig is a pool's configuration with a tenant's own spec.
func tenantConfig(p PoolConfig, t TenantConfig) PoolConfig {
	p.Spec, p.SpecJSON, p.RecipeJSON = t.Spec, t.SpecJSON, t.RecipeJSON
	p.Image, p.MachineType, p.DiskGiB, p.Hibernate = t.Image, t.MachineType, t.DiskGiB, t.Hibernate
	return p
}

// label names the tenancy to people: the pool, and the tenant if there are
// several.
func (tn *tenancy) label() string {
	if tn.id == DefaultFlavour {
		return tn.cfg.Name
	}
	return tn.cfg.Name + "/" + tn.id
}

// flavour is one kind of machine of a pool: a tenant's variant, with every
// field resolved.
type flavour struct {
	VariantConfig
	tenant *tenancy
	// own says that the variant names an image of its own.
	own    bool
	recipe string
}

// name is how messages call a flavour: "large", or "acme/large" of a tenant.
func (f *flavour) name() string {
	if f.tenant.id == DefaultFlavour {
		return f.ID
	}
	return f.tenant.id + "/" + f.ID
}

// shape is what a machine of this flavour made for w is.
func (f *flavour) shape(w Want) string {
	return ShapeOf(f.tenant.id, f.ID,
		cmp.Or(w.Image, f.Image), cmp.Or(w.MachineType, f.MachineType), cmp.Or(w.DiskGiB, f.DiskGiB),
		f.Nested || w.Nested, f.GPU || w.GPU)
}

// hibernates says whether its free machines are put to disk.
func (f *flavour) hibernates() bool { return f.Hibernate && f.tenant.client.CanHibernate() }

// flavoursOf lists a tenant's flavours: its own default first, then its
// variants in the file's order.
func flavoursOf(tn *tenancy, minWarm, maxAll int, variants []VariantConfig) []*flavour {
	c := tn.cfg
	out := []*flavour{{
		VariantConfig: VariantConfig{
			ID: DefaultFlavour, Min: minWarm, Max: maxAll,
			Image: c.Image, MachineType: c.MachineType, DiskGiB: c.DiskGiB, Hibernate: c.Hibernate,
		},
		tenant: tn, recipe: recipeOf(c),
	}}
	for _, v := range variants {
		f := &flavour{VariantConfig: v, tenant: tn, own: v.Image != "", recipe: variantRecipe(c, tn.id, v)}
		f.Image = cmp.Or(v.Image, c.Image)
		f.MachineType = cmp.Or(v.MachineType, c.MachineType)
		f.DiskGiB = cmp.Or(v.DiskGiB, c.DiskGiB)
		f.Hibernate = v.Hibernate || c.Hibernate
		out = append(out, f)
	}
	if tn.id != DefaultFlavour {
		out[0].recipe = variantRecipe(c, tn.id, VariantConfig{ID: DefaultFlavour})
	}
	return out
}

// recipeOf identifies everything a pool makes machines from; a warm machine of
// another recipe is drift. Whose credentials make it is no part of it: a key
// that is renewed changes no machine.
func recipeOf(p PoolConfig) string {
	platform, err := json.Marshal(p.Platform)
	if err != nil {
		platform = nil // a struct of strings always encodes
	}
	spec := p.SpecJSON
	if p.RecipeJSON != nil {
		spec = p.RecipeJSON
	}
	made := p.Driver + "\x00" + string(platform) + "\x00" + string(spec)
	if script := scriptFile(p); script != "" {
		made += "\x00" + script
	}
	sum := sha256.Sum256([]byte(made))
	return hex.EncodeToString(sum[:8])
}

// scriptFile is the text of a boot script that stands in a file, of which the
// spec knows only the name. A file that cannot be read changes nothing: the
// next machine's creation says what is wrong with it.
func scriptFile(p PoolConfig) string {
	booted, ok := p.Spec.(drivers.Booted)
	if !ok {
		return ""
	}
	options, err := booted.BootOptions()
	if err != nil || options.TemplateName == "user_data" {
		return ""
	}
	return options.Template
}

// variantRecipe is recipeOf for a flavour: what chooses it or counts it is no
// part of it.
func variantRecipe(p PoolConfig, tenant string, v VariantConfig) string {
	made, err := json.Marshal([]any{
		tenant, v.ID, v.Image, v.MachineType, v.Zones, v.DiskGiB, v.DiskType, v.Nested, v.GPU, v.Hibernate,
	})
	if err != nil {
		made = nil // strings, numbers and booleans always encode
	}
	sum := sha256.Sum256([]byte(recipeOf(p) + "\x00" + string(made)))
	return hex.EncodeToString(sum[:8])
}

// tenantOf is whose machines an account's requests get.
func (rt *runtime) tenantOf(account string) string {
	if account != "" {
		for _, t := range rt.cfg.Tenants {
			if slices.Contains(t.Accounts, account) {
				return t.ID
			}
		}
	}
	return DefaultFlavour
}

// flavour finds a flavour by name; nil if the pool has none such (any more).
func (rt *runtime) flavour(tenant, variant string) *flavour {
	tenant, variant = cmp.Or(tenant, DefaultFlavour), cmp.Or(variant, DefaultFlavour)
	for _, f := range rt.flavours {
		if f.tenant.id == tenant && f.ID == variant {
			return f
		}
	}
	return nil
}

// driver is what made, and ends, a machine. It never reaches into another
// account than the machine's: for one that is not open here its calls fail.
func (rt *runtime) driver(inst Instance) cloud {
	if tn := rt.tenancyOf(inst); tn != nil {
		return tn.client
	}
	return cloud{drivers.NewClient(closed(inst), drivers.ClientOptions{Pool: rt.cfg.Name, Type: rt.cfg.Driver})}
}

// tenancyOf is whose account an instance is in: its tenant's, or another's in
// the same account; nil if none of the pool's is.
func (rt *runtime) tenancyOf(inst Instance) *tenancy {
	if tn := rt.tenants[cmp.Or(inst.Tenant, DefaultFlavour)]; tn != nil && (inst.Scope == "" || tn.scope == inst.Scope) {
		return tn
	}
	for _, id := range slices.Sorted(maps.Keys(rt.tenants)) {
		if tn := rt.tenants[id]; tn.scope == inst.Scope {
			return tn
		}
	}
	return nil
}

// home is the default tenant's.
func (rt *runtime) home() *tenancy { return rt.tenants[DefaultFlavour] }

// scopes are where the pool's machines are found, each once.
func (rt *runtime) scopes() []string {
	var out []string
	for _, tn := range rt.tenants {
		out = append(out, tn.scope)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// choose resolves what a request wants to the flavour it gets in this pool: of
// its tenant, the first variant in the file's order whose resource class and
// nested virtualisation are equal and whose image is the one wanted, else the
// first such without an image of its own, else the tenant's default.
func (rt *runtime) choose(kind Kind, w Want) (Choice, error) {
	tenant := rt.tenantOf(w.Account)
	tn := rt.tenants[tenant]
	if kind == Gitspace && !tn.client.CanHibernate() {
		return Choice{}, fmt.Errorf("the pool cannot run gitspaces: its driver %s cannot suspend machines", rt.cfg.Driver)
	}
	if kind == Gitspace && w.Storage != "" && !tn.client.CanKeepDisks() {
		return Choice{}, fmt.Errorf("the pool cannot keep disks (storage_config.identifier): its driver %s has none that outlive a machine", rt.cfg.Driver)
	}
	var there []*flavour
	for _, f := range rt.flavours {
		if f.tenant.id == tenant {
			there = append(there, f)
		}
	}
	var found *flavour
	image := cmp.Or(w.Image, tn.cfg.Image)
	for _, fits := range []func(f *flavour) bool{
		func(f *flavour) bool { return f.matches(w) && f.Image == image },
		func(f *flavour) bool { return f.matches(w) && !f.own },
		func(f *flavour) bool {
			return f.ID == DefaultFlavour && (!w.Nested || tn.opened.Nested) && (!w.GPU || tn.opened.GPU)
		},
	} {
		if i := slices.IndexFunc(there, fits); i >= 0 {
			found = there[i]
			break
		}
	}
	if found == nil {
		return Choice{}, fmt.Errorf("no variant fits: asked %s, there are %s", asked(w, tn.opened), listed(there))
	}
	c := Choice{Pool: rt.cfg.Name, Shape: found.shape(w), Tenant: tenant, Variant: found.ID}
	if tn.opened.Zones {
		c.Zone = w.Zone
	}
	return c, nil
}

// matches says whether a request may have this variant, its image aside.
func (f *flavour) matches(w Want) bool {
	o := f.tenant.opened
	return f.ID != DefaultFlavour && f.ResourceClass == w.ResourceClass && f.Nested == w.Nested &&
		(!w.Nested || o.Nested) && (!w.GPU || f.GPU && o.GPU) &&
		(w.Zone == "" || !o.Zones || len(f.Zones) == 0 || slices.Contains(f.Zones, w.Zone))
}

// asked is what of a request decides its flavour, for people.
func asked(w Want, o Opened) string {
	parts := []string{"resource_class " + quote(w.ResourceClass)}
	need := func(what string, wanted, possible bool) {
		switch {
		case wanted && possible:
			parts = append(parts, what)
		case wanted:
			parts = append(parts, what+" (which this pool's driver does not have)")
		}
	}
	need("nested virtualisation", w.Nested, o.Nested)
	need("a GPU", w.GPU, o.GPU)
	if w.Zone != "" {
		parts = append(parts, "zone "+w.Zone)
	}
	if w.Image != "" {
		parts = append(parts, "image "+w.Image)
	}
	return strings.Join(parts, ", ")
}

// listed is what flavours there are, for people.
func listed(there []*flavour) string {
	if len(there) == 0 {
		return "none"
	}
	parts := make([]string, len(there))
	for i, f := range there {
		var has []string
		if f.ID != DefaultFlavour {
			has = append(has, "resource_class "+quote(f.ResourceClass))
		}
		if f.Nested {
			has = append(has, "nested")
		}
		if f.GPU {
			has = append(has, "gpu")
		}
		if len(f.Zones) > 0 {
			has = append(has, "zones "+strings.Join(f.Zones, " "))
		}
		parts[i] = f.name()
		if len(has) > 0 {
			parts[i] += " (" + strings.Join(has, ", ") + ")"
		}
	}
	return strings.Join(parts, ", ")
}

// shapeTraits reads back from a shape what stands in no field of a row.
func shapeTraits(shape string) (nested, gpu bool) {
	parts := strings.Split(shape, "|")
	if len(parts) < 2 {
		return false, false
	}
	return parts[len(parts)-2] == "true", parts[len(parts)-1] == "true"
}

// lastSpec is what the store keeps to open a pool once more after it, or one of
// its tenants, has left the file: the spec, or for a pool with tenants the
// specs of all.
func lastSpec(p PoolConfig) json.RawMessage {
	if len(p.Tenants) == 0 {
		return p.SpecJSON
	}
	specs := map[string]json.RawMessage{DefaultFlavour: p.SpecJSON}
	for _, t := range p.Tenants {
		specs[t.ID] = t.SpecJSON
	}
	all, err := json.Marshal(storedSpecs{Tenants: specs})
	if err != nil {
		return p.SpecJSON // specs are JSON by now and always encode
	}
	return all
}

type storedSpecs struct {
	Tenants map[string]json.RawMessage `json:"tenants"`
}

// specsOf reads what lastSpec wrote: the default tenant's spec and the others'.
func specsOf(raw json.RawMessage) (json.RawMessage, map[string]json.RawMessage) {
	var fields map[string]json.RawMessage
	var s storedSpecs
	if json.Unmarshal(raw, &fields) != nil || len(fields) != 1 || json.Unmarshal(raw, &s) != nil {
		return raw, nil
	}
	spec, ok := s.Tenants[DefaultFlavour]
	if !ok {
		return raw, nil
	}
	delete(s.Tenants, DefaultFlavour)
	return spec, s.Tenants
}

// closedDriver stands in for an account that is not open here: its machines are
// left alone, and every try says why.
type closedDriver struct{ pool, tenant, scope string }

func closed(inst Instance) closedDriver {
	return closedDriver{pool: inst.Pool, tenant: inst.Tenant, scope: inst.Scope}
}

func (d closedDriver) err() error {
	return fmt.Errorf("account %q of tenant %s of pool %s is not open here; put it back into the pool file to have its machines looked after", d.scope, d.tenant, d.pool)
}

// Scope implements drivers.Driver.
func (d closedDriver) Scope() string { return d.scope }

// Ping implements drivers.Driver.
func (d closedDriver) Ping(context.Context) error { return d.err() }

// Create implements drivers.Driver.
func (d closedDriver) Create(context.Context, drivers.Spec) (drivers.Ref, error) {
	return drivers.Ref{}, d.err()
}

// Destroy implements drivers.Driver.
func (d closedDriver) Destroy(_ context.Context, refs []drivers.Ref, _ drivers.DestroyOptions) []error {
	return slices.Repeat([]error{d.err()}, len(refs))
}

// List implements drivers.Driver.
func (d closedDriver) List(context.Context, drivers.Query) (drivers.Listing, error) {
	return drivers.Listing{}, d.err()
}
