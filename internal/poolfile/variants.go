package poolfile

import (
	"cmp"
	"fmt"
	"slices"

	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// Bounds of lists whose entries multiply: each tenant has every variant.
const (
	maxVariants  = 100
	maxTenants   = 1000
	maxSchedules = 1000
)

// defaultName is the variant and the tenant that a pool itself is.
const defaultName = "default"

// placed is a variant and where it stands.
type placed struct {
	*variant
	path string
}

// tooMany refuses a list that is longer than most and says whether it is.
func (p *parser) tooMany(path string, n, most int) bool {
	if n <= most {
		return false
	}
	p.report(Error, path, "%d entries; give at most %d", n, most)
	return true
}

// variantList finds the variants of one list that can be told apart.
func (p *parser) variantList(path string, all []variant) []placed {
	if p.tooMany(path, len(all), maxVariants) {
		return nil
	}
	out := make([]placed, 0, len(all))
	for i := range all {
		v := placed{&all[i], fmt.Sprintf("%s[%d]", path, i)}
		key := v.path + ".variant_id"
		switch first := index(out, v.ID); {
		case !p.at.Has(v.path) || p.wrong(v.path) || v.ID == "":
			// no mapping, or no id: reported by the decoder
		case v.ID == defaultName:
			p.report(Error, key, "%q is what the pool's own machines are called; choose another", v.ID)
		case first >= 0:
			p.report(Error, key, "%s is already the id of the variant on line %d; rename one",
				quote(v.ID), p.at.At(out[first].path+".variant_id").Line)
		default:
			out = append(out, v)
		}
	}
	return out
}

// index is where the variant with an id is, or -1.
func index(all []placed, id string) int {
	return slices.IndexFunc(all, func(v placed) bool { return v.ID == id })
}

// merged lays a tenant's variants over the pool's: one with the same id
// replaces it whole, others follow.
func merged(base, own []placed) []placed {
	out := slices.Clone(base)
	for _, v := range own {
		if i := index(out, v.ID); i >= 0 {
			out[i] = v
		} else {
			out = append(out, v)
		}
	}
	return out
}

// variants checks variants against the machines they change and resolves them.
func (p *parser) variants(o *owner, of *pool.PoolConfig, all []placed) []pool.VariantConfig {
	var out []pool.VariantConfig
	for _, v := range all {
		out = append(out, p.variant(o, of, v))
	}
	return out
}

func (p *parser) variant(o *owner, of *pool.PoolConfig, v placed) pool.VariantConfig {
	out := pool.VariantConfig{
		ID: v.ID, ResourceClass: v.ResourceClass, Nested: v.Nested, Image: v.Image, MachineType: v.MachineType,
		Zones: v.Zones, DiskGiB: v.DiskSize, DiskType: v.DiskType, GPU: v.GPU, Hibernate: o.Hibernate,
	}
	var most *int
	if v.Limit != 0 {
		most = &v.Limit
	}
	out.Min, out.Max = p.share(v.path, v.Pool, most, of.Max)
	if v.Hibernate != nil {
		out.Hibernate = *v.Hibernate
	}
	if o.Spec == nil {
		return out // of an unknown type, or wrong
	}
	if _, sleeps := o.Spec.(drivers.Sleeper); out.Hibernate && !sleeps {
		p.report(Error, v.path+".hibernate", "machines of type %s cannot be hibernated; remove the key", o.reg.Name)
	}
	if o.reg.CheckVariant == nil {
		return out
	}
	for _, problem := range o.reg.CheckVariant(o.Spec, *o.platform, drivers.Variant{
		Image: v.Image, MachineType: v.MachineType, DiskGiB: v.DiskSize, DiskType: v.DiskType,
		Zones: v.Zones, Nested: v.Nested, GPU: v.GPU,
	}) {
		p.problem(o.path, v.path, problem)
	}
	return out
}

// share is the least and the most of a part of a pool, a variant or a tenant;
// high is -1 for no limit of its own. Unlike a pool's the limit is not raised:
// the file says what the part may cost.
func (p *parser) share(path string, least int, most *int, pool int) (low, high int) {
	if least < 0 {
		p.loose(path+".pool", "%d is negative, pool is taken as 0; leave it out or give at least 0", least)
		least = 0
	}
	switch {
	case most == nil:
		return least, -1
	case *most < 0:
		p.loose(path+".limit", "%d is negative, so there is no limit but the pool's; leave it out or give at least 0", *most)
		return least, -1
	case *most > pool:
		p.loose(path+".limit", "%d is above the pool's limit (%d), which counts all; lower it or raise that", *most, pool)
	}
	if least > *most && p.at.Has(path+".pool") {
		p.loose(path+".pool", "%d is above limit (%d), pool is taken as %[2]d; lower pool or raise limit", least, *most)
	}
	return min(least, *most), *most
}

// tenants checks the tenants of a pool and merges their specs and variants.
func (p *parser) tenants(o *owner, of *pool.PoolConfig, in *instance, base []placed) []pool.TenantConfig {
	path := o.path + ".tenants"
	switch {
	case len(in.Tenants) == 0 || p.tooMany(path, len(in.Tenants), maxTenants):
		return nil
	case o.reg != nil && !o.reg.Tenants:
		p.report(Error, path, "pools of type %s have no tenants; make a pool for each, or use one of the types that have: %s",
			o.reg.Name, p.types.withTenants())
		return nil
	}
	p.tenantNames(path, in.Tenants)
	var out []pool.TenantConfig
	for i := range in.Tenants {
		t, at := &in.Tenants[i], fmt.Sprintf("%s[%d]", path, i)
		if !p.at.Has(at) || p.wrong(at) {
			continue // no mapping, reported by the decoder
		}
		out = append(out, p.tenant(o, of, in, t, at, base))
	}
	return out
}

func (p *parser) tenant(o *owner, of *pool.PoolConfig, in *instance, t *tenant, path string, base []placed) pool.TenantConfig {
	out := pool.TenantConfig{ID: t.name(), Accounts: t.IDs}
	least := of.Min
	if p.at.Has(path + ".pool") {
		least = t.Pool
	}
	var most *int
	if p.at.Has(path + ".limit") {
		most = &t.Limit
	}
	out.Min, out.Max = p.share(path, least, most, of.Max)
	platform := *o.platform
	own := owner{path: o.path, reg: o.reg, platform: &platform, known: o.problems}
	if in.Spec != nil && !p.wrong(o.path+".spec") {
		own.below = []*yaml.Node{in.Spec}
		own.machine, own.problems = p.machine(&own, path+".spec", t.Spec)
	}
	m := own.machine
	out.Spec, out.SpecJSON, out.RecipeJSON = m.Spec, m.SpecJSON, m.RecipeJSON
	out.Image, out.MachineType, out.DiskGiB, out.Hibernate = m.Image, m.MachineType, m.DiskGiB, m.Hibernate
	out.Variants = p.variants(&own, of, merged(base, p.variantList(path+".variants", t.Variants)))
	return out
}

// name is the tenant's stable id.
func (t *tenant) name() string {
	if t.GroupID == "" && len(t.IDs) > 0 {
		return t.IDs[0]
	}
	return t.GroupID
}

// tenantNames reports what does not tell tenants apart: two with one id, an
// account in two, the id of one that is an account of another.
func (p *parser) tenantNames(path string, all []tenant) {
	type place struct {
		tenant int
		path   string
	}
	names, accounts := map[string]place{}, map[string]place{}
	for i := range all {
		t, at := &all[i], fmt.Sprintf("%s[%d]", path, i)
		if !p.at.Has(at) || p.wrong(at) {
			continue
		}
		if len(t.IDs) == 0 && p.at.Has(at+".ids") && !p.wrong(at+".ids") {
			p.report(Error, at+".ids", "empty; list at least one account")
		}
		for k, id := range t.IDs {
			key := fmt.Sprintf("%s.ids[%d]", at, k)
			first, twice := accounts[id]
			switch {
			case p.wrong(key):
			case id == "":
				p.report(Error, key, "empty; give an account or remove the entry")
			case twice && first.tenant == i:
				p.report(Warning, key, "account %s is already in this list; remove it", quote(id))
			case twice:
				p.report(Error, key, "account %s is already one of tenant %s on line %d; remove it from one",
					quote(id), quote(all[first.tenant].name()), p.at.At(first.path).Line)
			default:
				accounts[id] = place{i, key}
			}
		}
		name, key := t.name(), at
		if t.GroupID != "" {
			key = at + ".group_id"
		}
		switch first, twice := names[name]; {
		case name == "":
		case name == defaultName:
			p.report(Error, key, "%q is the tenant of all other accounts; choose another group_id", name)
		case twice && (t.GroupID != "" || all[first.tenant].GroupID != ""):
			p.report(Error, key, "%s is already the id of the tenant on line %d; rename one", quote(name), p.at.At(first.path).Line)
		case !twice:
			names[name] = place{i, key}
		}
	}
	for i := range all {
		key := fmt.Sprintf("%s[%d].group_id", path, i)
		if first, ok := accounts[all[i].GroupID]; ok && first.tenant != i && !p.wrong(key) {
			p.report(Error, key, "%s is an account of tenant %s on line %d; choose another",
				quote(all[i].GroupID), quote(all[first.tenant].name()), p.at.At(first.path).Line)
		}
	}
}

// withTenants names the types whose pools can have tenants.
func (t *types) withTenants() string {
	var names []string
	for _, name := range t.names {
		if t.byName[name].Tenants {
			names = append(names, name)
		}
	}
	return cmp.Or(joined(names), "none")
}
