package poolfile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// Parse reads a pool file from data; name is what findings call it. Findings
// hold every problem at once, sorted by place. If one of them is an error the
// Config is empty, so that nothing half-read can be served.
func Parse(name string, data []byte, regs []drivers.Registration, o Options) (pool.Config, Findings) {
	p := parser{name: name, o: o, types: newTypes(regs), errs: map[string]bool{}}
	root, found := tree(name, data)
	p.found = found
	var config pool.Config
	if root != nil {
		config = p.file(root)
	}
	p.found = p.found.sorted()
	if p.found.Errors() > 0 {
		return pool.Config{}, p.found
	}
	return config, p.found
}

// parser collects the findings of one file.
type parser struct {
	name  string
	o     Options
	types types
	found Findings
	at    drivers.Positions
	// errs are the paths that have an error.
	errs map[string]bool
}

// note adds a finding.
func (p *parser) note(line, column int, s Severity, path, message string) {
	if s == Error {
		p.errs[path] = true
	}
	p.found = append(p.found, Finding{
		File: p.name, Line: max(line, 1), Column: max(column, 1), Path: path, Severity: s, Message: message,
	})
}

// report adds a finding at a path's place.
func (p *parser) report(s Severity, path, format string, args ...any) {
	pos := p.at.At(path)
	p.note(pos.Line, pos.Column, s, path, fmt.Sprintf(format, args...))
}

// loose is a warning that a strict check takes as an error.
func (p *parser) loose(path, format string, args ...any) {
	s := Warning
	if p.o.Strict {
		s = Error
	}
	p.report(s, path, format, args...)
}

// add takes over what the decoder found.
func (p *parser) add(found []drivers.Finding) {
	for _, f := range found {
		s := Error
		if f.Warning && !(f.Strict && p.o.Strict) {
			s = Warning
		}
		p.note(f.Line, f.Column, s, f.Path, f.Message)
	}
}

// wrong says whether path, or a mapping around it, already has an error.
func (p *parser) wrong(path string) bool {
	for {
		if p.errs[path] {
			return true
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return false
		}
		path = path[:cut]
	}
}

func (p *parser) file(root *yaml.Node) pool.Config {
	p.at = drivers.Positions{"": {Line: 1, Column: 1}}
	top := root.Content[0]
	if top.Kind == yaml.ScalarNode && top.ShortTag() == "!!null" {
		p.report(Error, "", "file is empty; list at least one pool under \"instances\"")
		return pool.Config{}
	}
	var f file
	at, found := drivers.Decode(top, "", &f)
	p.at = at
	if top.Kind == yaml.MappingNode {
		found = p.noInstances(found)
	}
	p.belowPool(found, f.Instances)
	p.add(found)
	if f.Version != "" && f.Version != "1" {
		p.report(Warning, "version", "%s is not a version of this format; write version: \"1\"", quote(f.Version))
	}
	if p.at.Has("instances") && len(f.Instances) == 0 && !p.wrong("instances") {
		p.report(Error, "instances", "no pools; list at least one")
	}
	var config pool.Config
	for i := range f.Instances {
		config.Pools = append(config.Pools, p.instance(i, &f.Instances[i]))
	}
	p.names(f.Instances)
	p.defaults(f.Instances, config.Pools)
	return config
}

// noInstances words the decoder's "missing" for the one key without which
// there is nothing to do.
func (p *parser) noInstances(found []drivers.Finding) []drivers.Finding {
	for i := range found {
		if found[i].Path == "instances" && strings.HasPrefix(found[i].Message, "missing") {
			found[i].Message = "missing, so there are no pools; list at least one under this key"
		}
	}
	return found
}

// belowPool finds, among the unknown keys of pools, those that are known one
// level deeper.
func (p *parser) belowPool(found []drivers.Finding, all []instance) {
	specs := map[string][]drivers.Field{}
	for i := range found {
		key := found[i].Unknown
		if key == "" {
			continue
		}
		rest, _ := strings.CutPrefix(found[i].Path, "instances[")
		index, rest, _ := strings.Cut(rest, "].")
		n, err := strconv.Atoi(index)
		if err != nil || n >= len(all) || rest != key {
			continue
		}
		reg := p.types.byName[all[n].Type]
		if reg == nil {
			continue
		}
		if specs[reg.Name] == nil {
			specs[reg.Name] = drivers.Fields(reg.NewConfig())
		}
		if has(specs[reg.Name], key) {
			found[i].Message = "unknown here, it is a key of spec; write it below spec"
		}
	}
}

// has says whether a table has a key.
func has(fields []drivers.Field, key string) bool {
	return slices.ContainsFunc(fields, func(f drivers.Field) bool { return strings.EqualFold(f.Name, key) })
}

// instance checks one pool and resolves its spec.
func (p *parser) instance(i int, in *instance) pool.PoolConfig {
	path := fmt.Sprintf("instances[%d]", i)
	out := pool.PoolConfig{
		Name: in.Name, Wait: in.Wait,
		Platform: drivers.Platform{
			OS: in.Platform.OS, Arch: in.Platform.Arch, Variant: in.Platform.Variant,
			Version: in.Platform.Version, OSName: in.Platform.OSName,
		},
	}
	if !p.at.Has(path) || p.errs[path] {
		return out // no mapping, reported by the decoder
	}
	if strings.IndexFunc(in.Name, unicode.IsControl) >= 0 || strings.TrimSpace(in.Name) != in.Name {
		p.report(Error, path+".name", "%s has spaces around it or control characters in it; use letters, digits and dashes", quote(in.Name))
	}
	out.Min, out.Max = p.size(path, in)
	reg := p.driver(path, in.Type)
	switch {
	case in.Spec == nil:
		p.report(Error, path+".spec", "missing; write \"spec:\" and below it the machines' settings, or nothing for the defaults")
		return out
	case reg == nil:
		return out
	}
	out.Driver = reg.Name
	p.spec(path, in.Spec, reg, &out)
	return out
}

// size is the least and the most machines of a pool, as upstream reads the two
// numbers, with a warning where that is not what the file says.
func (p *parser) size(path string, in *instance) (least, most int) {
	least, most = in.Pool, in.Limit
	if least < 0 {
		p.loose(path+".pool", "%d is negative, pool is taken as 0; leave it out or give at least 0", least)
		least = 0
	}
	said := p.at.Has(path + ".limit")
	if most < 0 {
		p.loose(path+".limit", "%d is negative, limit is taken as %d; leave it out or give at least 1", most, defaultLimit)
	}
	if most <= 0 {
		most, said = defaultLimit, false
	}
	switch {
	case least > most && said:
		p.loose(path+".pool", "%d is above limit (%d), limit is taken as %[1]d; lower pool or raise limit", least, most)
	case least > most:
		p.loose(path+".pool", "%d is above limit (%d by default), limit is taken as %[1]d; lower pool or give a limit", least, most)
	case least == most:
		key := ".limit"
		if !said {
			key = ".pool"
		}
		p.report(Warning, path+key, "limit equals pool (%d): when all are in use a request waits until one is destroyed; "+
			"raise limit to let it have a cold machine", most)
	}
	return least, max(least, most)
}

// driver finds the registration of a type.
func (p *parser) driver(path, word string) *drivers.Registration {
	path += ".type"
	if word == "" {
		return nil // missing, reported by the decoder
	}
	if reg := p.types.byName[word]; reg != nil {
		return reg
	}
	if name := p.types.later(word); name != "" {
		p.report(Error, path, "%s is not built in yet; %s", name, p.types.choose())
		return nil
	}
	if near := drivers.Nearest(word, p.types.words); near != "" {
		p.report(Error, path, "unknown type %s; did you mean %q?", quote(word), near)
		return nil
	}
	p.report(Error, path, "unknown type %s; %s", quote(word), p.types.choose())
	return nil
}

// spec decodes and checks the driver's own block into out.
func (p *parser) spec(path string, node *yaml.Node, reg *drivers.Registration, out *pool.PoolConfig) {
	base := path + ".spec"
	cfg := reg.NewConfig()
	p.at[base] = drivers.Position{Line: node.Line, Column: node.Column}
	at, found := drivers.Decode(node, base, cfg)
	maps.Copy(p.at, at)
	for i := range found {
		if key := found[i].Unknown; key != "" && found[i].Path == base+"."+key && has(p.types.pool, key) {
			found[i].Message = "unknown here, it is a key of the pool; write it beside spec"
		}
	}
	p.add(found)
	drivers.EachFile(cfg, func(name string) string { return find(name, p.o.Dir) })
	if reg.Check != nil {
		for _, problem := range reg.Check(cfg, &out.Platform) {
			p.problem(path, problem)
		}
	}
	if p.wrong(base) {
		return
	}
	raw, err := drivers.CanonicalJSON(cfg)
	if err != nil {
		p.report(Error, base, "cannot be stored: %v; use other values", err)
		return
	}
	out.Spec, out.SpecJSON = cfg, raw
	if r, ok := cfg.(drivers.Resolver); ok {
		out.Image, out.MachineType, out.DiskGiB = r.Resolved()
	}
}

// problem takes over what a driver's check found. Its paths are relative to
// spec, except those of the platform. What follows from a value that was
// already refused is not worth a second line.
func (p *parser) problem(path string, problem drivers.Problem) {
	full := path + ".spec"
	switch {
	case problem.Path == "platform" || strings.HasPrefix(problem.Path, "platform."):
		full = path + "." + problem.Path
	case problem.Path != "":
		full += "." + problem.Path
	}
	if p.wrong(full) {
		return
	}
	s := Error
	if problem.Warning {
		s = Warning
	}
	p.report(s, full, "%s", problem.Message)
}

// names reports pools with one name.
func (p *parser) names(all []instance) {
	first := make(map[string]int, len(all))
	for i, in := range all {
		if in.Name == "" {
			continue
		}
		j, twice := first[in.Name]
		if !twice {
			first[in.Name] = i
			continue
		}
		path := fmt.Sprintf("instances[%d].name", i)
		p.report(Error, path, "%s is already the name of instances[%d] on line %d; rename one",
			quote(in.Name), j, p.at.At(fmt.Sprintf("instances[%d].name", j)).Line)
	}
}

// defaults marks the first pool that says default: true.
func (p *parser) defaults(all []instance, pools []pool.PoolConfig) {
	first := -1
	for i, in := range all {
		switch {
		case !in.Default:
		case first < 0:
			first = i
			pools[i].Default = true
		default:
			p.report(Note, fmt.Sprintf("instances[%d].default", i), "instances[%d] is the default already and stays it", first)
			return // once is enough
		}
	}
}

// quote shows a value from the file on one line, cut if it is long.
func quote(s string) string {
	const longest = 40
	if r := []rune(s); len(r) > longest {
		s = string(r[:longest]) + "…"
	}
	return strconv.Quote(s)
}
