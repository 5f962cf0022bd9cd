package drivers

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"
)

// Finding is one thing a person should know about a configuration.
type Finding struct {
	// Line and Column count from 1, Column in characters as an editor does.
	Line, Column int
	// Path leads to the key: "instances[1].spec.cpus".
	Path string
	// Message says what is wrong and what to do.
	Message string
	// Warning marks what does not keep a server from starting; Strict a
	// warning that a strict check counts as an error.
	Warning bool
	Strict  bool
	// Unknown is the key of a finding that is about an unknown key.
	Unknown string
}

// Position is a place in a file, both numbers counted from 1.
type Position struct{ Line, Column int }

// Positions says where the values of a decoded configuration stand, by path.
type Positions map[string]Position

// At is where path's value stands or, if it is not in the file, the nearest
// mapping around it that is.
func (p Positions) At(path string) Position {
	for {
		if pos, ok := p[path]; ok {
			return pos
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return p[""]
		}
		path = path[:cut]
	}
}

// Has says whether path has a value in the file that is not null.
func (p Positions) Has(path string) bool {
	_, ok := p[path]
	return ok
}

// Decode reads node, which stands at path ("" for a whole file), into the
// struct into points to, as the tags of its fields say; see [Field]. What the
// file does not name keeps its value, and a null counts as not named; only a
// field that is itself a *yaml.Node gets the null's node. So one mapping can be
// read over another: mappings and maps are merged, lists and values replaced.
//
// Keys match whatever their capitals; aliases and merge keys ("<<") work. The
// findings hold every problem at once: an unknown key is a warning, a key given
// twice or a wrong type an error. A number where a text is wanted is taken as
// its text. Input that is nested or expands beyond [MaxValues] is one error.
// Values of keys with an error are left as they were.
func Decode(node *yaml.Node, path string, into any) (Positions, []Finding) {
	d := decoder{at: Positions{}}
	if f, ok := measure(node); !ok {
		f.Path = path
		return d.at, []Finding{f}
	}
	d.value(node, path, &Field{Kind: KindObject}, reflect.ValueOf(into).Elem())
	return d.at, d.found
}

// decoder collects findings and positions.
type decoder struct {
	found []Finding
	at    Positions
}

func (d *decoder) errorf(n *yaml.Node, path, format string, args ...any) {
	d.found = append(d.found, Finding{Line: n.Line, Column: n.Column, Path: path, Message: fmt.Sprintf(format, args...)})
}

func (d *decoder) warnf(n *yaml.Node, path string, strict bool, format string, args ...any) {
	d.found = append(d.found, Finding{
		Line: n.Line, Column: n.Column, Path: path, Message: fmt.Sprintf(format, args...), Warning: true, Strict: strict,
	})
}

// value reads n into v. It leaves v alone if n is null or wrong.
func (d *decoder) value(n *yaml.Node, path string, f *Field, v reflect.Value) {
	n = target(n)
	if isNull(n) {
		if v.Type() == reflect.PointerTo(typeNode) {
			v.Set(reflect.ValueOf(n))
		}
		return
	}
	d.at[path] = Position{n.Line, n.Column}
	if v.Kind() == reflect.Pointer && v.Type().Elem() != typeNode {
		fresh := reflect.New(v.Type().Elem())
		if !v.IsNil() {
			fresh.Elem().Set(v.Elem())
		} else if f.Kind == KindObject {
			setDefaults(fresh.Elem())
		}
		d.value(n, path, f, fresh.Elem())
		v.Set(fresh)
		return
	}
	switch f.Kind {
	case KindObject:
		d.object(n, path, v)
	case KindList:
		d.list(n, path, f, v)
	case KindMap:
		d.mapping(n, path, f, v)
	case KindAny:
		switch {
		case v.Type() == typeNode:
			v.Set(reflect.ValueOf(*n))
		case v.Kind() == reflect.Pointer:
			v.Set(reflect.ValueOf(n))
		}
	default:
		d.scalar(n, path, f, v)
	}
}

// object reads a mapping into a struct.
func (d *decoder) object(n *yaml.Node, path string, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, path, "a mapping", "write its keys indented below, one \"key: value\" a line")
		return
	}
	table := tableOf(v.Type())
	given := make(map[int]entry, len(table.rows))
	for _, e := range d.entries(n, path, true) {
		s, known := table.keys[e.name]
		if !known {
			d.unknown(e, path, table)
			continue
		}
		i := s.row
		r := &table.rows[i]
		full := join(path, r.Name)
		if first, twice := given[i]; twice {
			if !e.merged {
				d.errorf(e.key, full, "key given twice, as %q on line %d and as %q; keep one",
					first.key.Value, first.key.Line, e.key.Value)
			}
			continue
		}
		given[i] = e
		if s.old {
			d.warnf(e.key, full, false, "%q is taken as %q; write it so", e.key.Value, r.Name)
		}
		d.known(e, full, r, v)
	}
	for i := range table.rows {
		r := &table.rows[i]
		if e, ok := given[i]; r.Required && (!ok || isNull(target(e.value))) {
			at := n
			if ok {
				at = e.key
			}
			d.errorf(at, join(path, r.Name), "missing; give %s", want(&r.Field))
		}
	}
}

// known reads the value of a key of the table.
func (d *decoder) known(e entry, path string, r *row, v reflect.Value) {
	switch {
	case r.Ignored != "":
	case r.Unused != "":
		d.warnf(e.key, path, false, "%s, it has no effect in a pool file; remove it", r.Unused)
	case r.Later != "":
		if isZero(target(e.value)) {
			return
		}
		more := ""
		if r.Later != "true" {
			more = ": " + r.Later
		}
		d.errorf(e.key, path, "not built in yet%s; remove the key", more)
	default:
		d.value(e.value, path, &r.Field, v.FieldByIndex(r.index))
	}
}

// unknown warns of a key that is in no table.
func (d *decoder) unknown(e entry, path string, table *table) {
	full := join(path, label(e.key.Value))
	if near := Nearest(e.name, table.names); near != "" {
		d.warnf(e.key, full, true, "unknown key; did you mean %q?", near)
	} else {
		d.warnf(e.key, full, true, "unknown key, it has no effect; remove it")
	}
	d.found[len(d.found)-1].Unknown = e.key.Value
}

// list reads a sequence, or a single entry where that is allowed.
func (d *decoder) list(n *yaml.Node, path string, f *Field, v reflect.Value) {
	elem := Field{Kind: f.Elem, Enum: f.Enum, Numeric: f.Numeric}
	if n.Kind == yaml.ScalarNode && f.Single {
		one := reflect.New(v.Type().Elem()).Elem()
		before := len(d.found)
		d.scalar(n, path, &elem, one)
		if len(d.found) == before {
			v.Set(reflect.Append(reflect.MakeSlice(v.Type(), 0, 1), one))
		}
		return
	}
	if n.Kind != yaml.SequenceNode {
		fix := "begin each entry with \"- \""
		if n.Kind == yaml.ScalarNode {
			fix = fmt.Sprintf("write [%s]", label(n.Value))
		}
		d.wrong(n, path, "a list", fix)
		return
	}
	out := reflect.MakeSlice(v.Type(), 0, len(n.Content))
	for i, item := range n.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		one := reflect.New(v.Type().Elem()).Elem()
		if elem.Kind == KindObject && one.Kind() == reflect.Struct {
			setDefaults(one)
		}
		if isNull(target(item)) {
			d.errorf(item, at, "entry is empty; give %s or remove it", want(&elem))
		} else {
			d.value(item, at, &elem, one)
		}
		out = reflect.Append(out, one)
	}
	replace(v, out)
}

// replace sets a list. An empty one is kept apart from none only where there is
// something that it takes away.
func replace(v, by reflect.Value) {
	if by.Len() == 0 && v.Len() == 0 {
		v.SetZero()
		return
	}
	v.Set(by)
}

// mapping reads a mapping whose keys are the user's own; those v has and the
// file does not name stay.
func (d *decoder) mapping(n *yaml.Node, path string, f *Field, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, path, "a mapping of names to values", "write each as \"name: value\"")
		return
	}
	elem := Field{Kind: f.Elem}
	out := reflect.MakeMap(v.Type())
	for old := v.MapRange(); old.Next(); {
		out.SetMapIndex(old.Key(), old.Value())
	}
	for _, e := range d.entries(n, path, false) {
		one := reflect.New(v.Type().Elem()).Elem()
		if elem.Kind == KindObject && one.Kind() == reflect.Struct {
			setDefaults(one)
		}
		d.value(e.value, join(path, label(e.name)), &elem, one)
		out.SetMapIndex(reflect.ValueOf(e.name).Convert(v.Type().Key()), one)
	}
	if out.Len() > 0 {
		v.Set(out)
	}
}

// entry is one key of a mapping and its value, in the file's order.
type entry struct {
	// name is the key's text, in lower case where capitals do not matter.
	name       string
	key, value *yaml.Node
	// merged marks what came through "<<": a key of the mapping itself wins.
	merged bool
}

// entries lists the keys of a mapping, then those merged into it. Keys given
// twice are reported and the first is kept.
func (d *decoder) entries(n *yaml.Node, path string, fold bool) []entry {
	var own, merges []entry
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := target(n.Content[i]), n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.errorf(n.Content[i], path, "a key is %s, want a text; put it in quotes if braces belong to it", describe(key))
			continue
		}
		name := key.Value
		if fold {
			name = strings.ToLower(name)
		}
		// An alias used as a key stands where it is used.
		key = &yaml.Node{Kind: yaml.ScalarNode, Value: key.Value, Tag: key.Tag, Style: key.Style, Line: n.Content[i].Line, Column: n.Content[i].Column}
		if first, ok := seen[name]; ok {
			if first.Value == key.Value {
				d.errorf(key, join(path, label(key.Value)), "key given twice, first on line %d; keep one", first.Line)
			} else {
				d.errorf(key, join(path, label(key.Value)), "same key as %q on line %d, capitals do not matter; keep one", first.Value, first.Line)
			}
			continue
		}
		seen[name] = key
		if isMerge(key) {
			merges = append(merges, entry{key: key, value: value})
			continue
		}
		own = append(own, entry{name: name, key: key, value: value})
	}
	for _, m := range merges {
		for _, e := range d.merged(m, path, fold) {
			if _, ok := seen[e.name]; !ok {
				seen[e.name] = e.key
				own = append(own, e)
			}
		}
	}
	return own
}

// merged lists what a "<<" brings in. measure has made sure that it ends.
func (d *decoder) merged(m entry, path string, fold bool) []entry {
	sources := []*yaml.Node{m.value}
	if v := target(m.value); v.Kind == yaml.SequenceNode {
		sources = v.Content
	}
	var out []entry
	for _, s := range sources {
		s = target(s)
		if isNull(s) {
			continue
		}
		if s.Kind != yaml.MappingNode {
			d.errorf(m.key, join(path, "<<"), "want a mapping to merge, found %s; write <<: *name of one", describe(s))
			continue
		}
		for _, e := range d.entries(s, path, fold) {
			e.merged = true
			out = append(out, e)
		}
	}
	return out
}

// isMerge says whether a key is an unquoted "<<".
func isMerge(key *yaml.Node) bool { return key.ShortTag() == "!!merge" }

// target follows an alias to what it stands for.
func target(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode || n.Kind == yaml.DocumentNode {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		} else {
			n = n.Content[0]
		}
	}
	return n
}

func isNull(n *yaml.Node) bool {
	return n.Kind == 0 || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// isZero says whether a value asks for nothing: null, false, zero or empty.
func isZero(n *yaml.Node) bool {
	if n.Kind != yaml.ScalarNode {
		return len(n.Content) == 0
	}
	if b, ok := boolean(n); ok {
		return !b
	}
	var number float64
	switch n.ShortTag() {
	case "!!null":
		return true
	case "!!int", "!!float":
		return n.Decode(&number) == nil && number == 0
	}
	return n.Value == ""
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// label is a key from a file in a form that can stand in a path: whatever
// would break the line or the path is quoted, and it is cut if it is long.
func label(key string) string {
	const longest = 60
	if r := []rune(key); len(r) > longest {
		key = string(r[:longest]) + "…"
	}
	plain := key != "" && strings.IndexFunc(key, func(r rune) bool {
		return r == '.' || r == '[' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	}) < 0
	if plain {
		return key
	}
	return strconv.Quote(key)
}
