package poolfile

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
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

// poolKey matches the path of a key of a pool or of one of its tenants.
var poolKey = regexp.MustCompile(`^instances\[(\d+)\]\.(?:tenants\[\d+\]\.)?([^.\[]+)$`)

// belowPool finds, among the unknown keys of pools and tenants, those that are
// known one level deeper.
func (p *parser) belowPool(found []drivers.Finding, all []instance) {
	specs := map[string][]drivers.Field{}
	for i := range found {
		key, m := found[i].Unknown, poolKey.FindStringSubmatch(found[i].Path)
		if key == "" || m == nil || m[2] != key {
			continue
		}
		n, err := strconv.Atoi(m[1])
		if err != nil || n >= len(all) {
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
	out.FreeAge, out.BusyAge = p.ages(path, in)
	out.Guards = p.guards(path, &in.Guards)
	reg := p.driver(path, in)
	if reg != nil {
		out.Driver = reg.Name
	}
	switch {
	case in.Spec == nil && len(in.Tenants) > 0:
		p.report(Error, path+".spec", "missing; tenants change it, so write \"spec:\" and below it the settings of all other accounts' machines")
	case in.Spec == nil:
		p.report(Error, path+".spec", "missing; write \"spec:\" and below it the machines' settings, or nothing for the defaults")
	}
	own := owner{path: path, reg: reg, platform: &out.Platform}
	own.machine, own.problems = p.machine(&own, path+".spec", in.Spec)
	own.fill(&out)
	p.running(path, in, &out)
	variants := p.variantList(path+".variants", in.Variants)
	out.Variants = p.variants(&own, &out, variants)
	out.Tenants = p.tenants(&own, &out, in, variants)
	out.Schedules = p.schedules(path, in, &out)
	p.total(path, in, &out)
	return out
}

// running is how many warm machines stay in memory.
func (p *parser) running(path string, in *instance, out *pool.PoolConfig) {
	path += ".running"
	switch {
	case in.Running == 0:
	case !out.Hibernate:
		p.report(Warning, path, "has no effect without hibernate: true in the spec; remove it")
	default:
		out.Running = in.Running
		if in.Running > out.Min && len(in.Schedules) == 0 {
			p.report(Warning, path, "%d is more than pool (%d); no machine is put on disk", in.Running, out.Min)
		}
	}
}

// What a pool's maximum ages are unless the program says otherwise.
const (
	defaultFreeAge = 72 * time.Hour
	defaultBusyAge = 24 * time.Hour
)

// ages are the pool's own maximum ages; zero where it has none.
func (p *parser) ages(path string, in *instance) (free, busy time.Duration) {
	free, busy = in.FreeMaxAge, in.BusyMaxAge
	atMost, least := cmp.Or(free, p.o.FreeAge, defaultFreeAge), cmp.Or(busy, p.o.BusyAge, defaultBusyAge)
	switch {
	case least <= atMost:
	case free != 0 && busy != 0:
		p.report(Error, path+".busy_max_age", "%s is above free_max_age (%s); lower it or raise free_max_age", short(busy), short(free))
	case busy != 0:
		p.report(Error, path+".busy_max_age", "%s is above DRONE_SETTINGS_FREE_MAX_AGE (%s); lower it or give free_max_age too", short(busy), short(atMost))
	case free != 0:
		p.report(Error, path+".free_max_age", "%s is below DRONE_SETTINGS_BUSY_MAX_AGE (%s); raise it or give busy_max_age too", short(free), short(least))
	}
	return free, busy
}

// guards are the pool's guards, whole.
func (p *parser) guards(path string, in *guards) pool.Guards {
	path += ".guards"
	out := pool.Guards{
		Failures: in.Failures, Pause: in.Pause, MaxPause: in.MaxPause,
		PerMinute: in.PerMinute, HoursPerDay: in.PerDay, KeepFailed: in.KeepFailed,
	}
	if out.Failures == 0 {
		out.Failures = -1
	}
	if out.KeepFailed == 0 {
		out.KeepFailed = -1
	}
	if out.MaxPause < out.Pause {
		if p.at.Has(path + ".max_pause") {
			p.report(Error, path+".max_pause", "%s is below pause (%s); raise it", short(in.MaxPause), short(in.Pause))
		}
		out.MaxPause = out.Pause
	}
	return out
}

// short is a duration without its zeros: "24h", not "24h0m0s".
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
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

// total looks at the warm machines of a pool together with those of its
// variants and tenants, which share its limit.
func (p *parser) total(path string, in *instance, out *pool.PoolConfig) {
	if len(in.Variants)+len(in.Tenants) == 0 {
		return
	}
	warm := out.Min
	for _, v := range out.Variants {
		warm += v.Min
	}
	for _, t := range out.Tenants {
		warm += t.Min
		for _, v := range t.Variants {
			warm += v.Min
		}
	}
	key := path + ".limit"
	if !p.at.Has(key) {
		key = path
	}
	switch {
	case warm > out.Max:
		p.loose(key, "pool, variants and tenants together want %d warm machines, which is above limit (%d), so some are missing; lower them or raise limit", warm, out.Max)
	case warm == out.Max && warm > out.Min:
		p.report(Warning, key, "limit equals the %d warm machines of pool, variants and tenants: when all are in use a request waits until one is destroyed; "+
			"raise limit to let it have a cold machine", warm)
	}
}

// driver finds the registration of a pool's type.
func (p *parser) driver(path string, in *instance) *drivers.Registration {
	path += ".type"
	if in.Type == "" {
		return nil // missing, reported by the decoder
	}
	reg := p.types.byName[in.Type]
	switch near := drivers.Nearest(in.Type, p.types.words); {
	case reg != nil && reg.New != nil:
	case reg != nil && p.o.CheckOnly:
		p.report(Warning, path, "%s is not built in yet: the pool is checked whole, but no server starts with it; %s to serve", reg.Name, p.types.choose())
	case reg != nil:
		p.report(Error, path, "%s is not built in yet, so pool %s cannot be served; %s, or take the pool out", reg.Name, quote(in.Name), p.types.choose())
	case near != "":
		p.report(Error, path, "unknown type %s; did you mean %q?", quote(in.Type), near)
	default:
		p.report(Error, path, "unknown type %s; %s", quote(in.Type), p.types.choose())
	}
	return reg
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
