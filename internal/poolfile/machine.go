package poolfile

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// machine is what a spec says, decoded and checked. The zero value is what is
// known of one with errors.
type machine struct {
	Spec        any
	SpecJSON    json.RawMessage
	RecipeJSON  json.RawMessage
	Image       string
	MachineType string
	DiskGiB     int
	Hibernate   bool
}

// owner is whose machines are described: a pool's, or one of its tenants'.
type owner struct {
	// path is the pool's, platform its own.
	path     string
	reg      *drivers.Registration
	platform *drivers.Platform
	// below are the specs that are read first, the widest first.
	below []*yaml.Node
	// known are problems that were reported of those.
	known []drivers.Problem

	machine
	problems []drivers.Problem
}

// fill copies what the spec says into a pool.
func (o *owner) fill(to *pool.PoolConfig) {
	m := o.machine
	to.Spec, to.SpecJSON, to.RecipeJSON = m.Spec, m.SpecJSON, m.RecipeJSON
	to.Image, to.MachineType, to.DiskGiB, to.Hibernate = m.Image, m.MachineType, m.DiskGiB, m.Hibernate
}

// machine decodes and checks the spec at base, which lies over those below it,
// and returns also what the type's check found.
func (p *parser) machine(o *owner, base string, node *yaml.Node) (machine, []drivers.Problem) {
	if o.reg == nil || node == nil && len(o.below) == 0 {
		return machine{}, nil // reported as missing
	}
	cfg := o.reg.NewConfig()
	for _, n := range o.below {
		drivers.Decode(n, "", cfg) // its findings are reported where it stands
	}
	if node != nil {
		p.decodeSpec(base, node, cfg)
	}
	drivers.EachFile(cfg, func(name string) string { return find(name, p.o.Dir) })
	var problems []drivers.Problem
	if o.reg.Check != nil {
		problems = o.reg.Check(cfg, o.platform)
	}
	for _, problem := range problems {
		if !slices.Contains(o.known, problem) {
			p.problem(o.path, base, problem)
		}
	}
	if p.wrong(base) {
		return machine{}, problems
	}
	raw, err := drivers.CanonicalJSON(cfg)
	if err != nil {
		p.report(Error, base, "cannot be stored: %v; use other values", err)
		return machine{}, problems
	}
	recipe, err := drivers.RecipeJSON(cfg)
	if err != nil {
		p.report(Error, base, "cannot be compared: %v; use other values", err)
		return machine{}, problems
	}
	m := machine{Spec: cfg, SpecJSON: raw}
	if !bytes.Equal(recipe, raw) {
		m.RecipeJSON = recipe
	}
	if r, ok := cfg.(drivers.Resolver); ok {
		m.Image, m.MachineType, m.DiskGiB = r.Resolved()
	}
	if s, ok := cfg.(drivers.Sleeper); ok {
		m.Hibernate = s.Hibernates()
	}
	return m, problems
}

// decodeSpec reads a spec into cfg and takes over what was found.
func (p *parser) decodeSpec(base string, node *yaml.Node, cfg any) {
	p.at[base] = drivers.Position{Line: node.Line, Column: node.Column}
	at, found := drivers.Decode(node, base, cfg)
	maps.Copy(p.at, at)
	for i := range found {
		if key := found[i].Unknown; key != "" && found[i].Path == base+"."+key && has(p.types.pool, key) {
			found[i].Message = "unknown here, it is a key of the pool; write it beside spec"
		}
	}
	p.add(found)
}

// problem takes over what a type's check found. Its paths are relative to
// base, except those of the pool's platform. What follows from a value that
// was already refused is not worth a second line.
func (p *parser) problem(pool, base string, problem drivers.Problem) {
	full := base
	switch {
	case problem.Path == "platform" || strings.HasPrefix(problem.Path, "platform."):
		full = pool + "." + problem.Path
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
