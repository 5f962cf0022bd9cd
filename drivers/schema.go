package drivers

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"gopkg.in/yaml.v3"
)

// Resolver is implemented by specs that can say what their machines are like,
// so that a request that names an image, a machine type or a disk size
// explicitly fits a warm machine of the pool. It is asked after Check.
type Resolver interface {
	// Resolved gives the image, the machine type and the disk in GiB. Empty or
	// zero: the driver has no such thing.
	Resolved() (image, machineType string, diskGiB int)
}

// Sleeper is implemented by specs of types whose warm machines can wait on
// disk. It is asked after Check.
type Sleeper interface {
	// Hibernates says whether the spec asks for that.
	Hibernates() bool
}

// Namer is implemented by specs that can say how the names of machines begin.
type Namer interface {
	// NamePrefix is that beginning, "" for the runner's own.
	NamePrefix() string
}

// FieldKind is what a key of a spec holds.
type FieldKind string

// The kinds of values.
const (
	KindText     FieldKind = "text"
	KindBool     FieldKind = "boolean"
	KindInt      FieldKind = "whole number"
	KindFloat    FieldKind = "number"
	KindDuration FieldKind = "duration"
	KindList     FieldKind = "list"
	KindMap      FieldKind = "map"
	KindObject   FieldKind = "mapping"
	KindAny      FieldKind = "anything"
)

// Field is one key of a spec, as the tags of its struct describe it:
//
//	MemoryMB int `spec:"memory_mb" alias:"memory" default:"128" min:"64" doc:"Memory in MiB."`
//
// A struct field without a spec tag is no key. Besides those above the tags are
//
//	oldname:"privateIP"  other spellings that are taken, with a warning
//	max:"4096"           highest value; like min for numbers and durations
//	enum:"auto,kvm,tcg"  the only texts allowed; the empty text is the default
//	required:"true"      the key must be there and not be empty
//	single:"true"        a list may be written as its only entry
//	numeric:"true"       a number may be written as text
//	file:"true"          the text is a path, see [EachFile]
//	secret:"true"        a credential: no part of a recipe, see [RecipeJSON]
//	later:"as a disk"    the key is known and not built in yet: using it is an
//	                     error that ends in this text ("true": no text)
//	ignored:"by design"  the key is taken silently and has no effect
//	unused:"internal"    the key is taken with a warning, and has no effect
//
// Embedded structs without a spec tag lend their keys to the struct around them.
type Field struct {
	// Name is the key, Aliases and OldNames its other spellings.
	Name     string
	Aliases  []string
	OldNames []string
	Kind     FieldKind
	// Elem is the kind of a list's or map's entries.
	Elem FieldKind
	// Default, Min and Max are as tagged, in the syntax of the pool file.
	Default, Min, Max string
	Enum              []string
	Doc               string
	Required          bool
	Single            bool
	Numeric           bool
	File              bool
	Secret            bool
	Later             string
	Ignored           string
	Unused            string
	// Fields are the keys of a mapping, or of the mappings in a list.
	Fields []Field
}

// Fields describes the keys of a spec, in the order of its struct, for a
// schema or a page of documentation. cfg is a struct or a pointer to one.
func Fields(cfg any) []Field {
	t := reflect.TypeOf(cfg)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return described(tableOf(t))
}

func described(table *table) []Field {
	fields := make([]Field, 0, len(table.rows))
	for i := range table.rows {
		f := table.rows[i].Field
		if f.Ignored == "" && f.Unused == "" {
			t := table.rows[i].typ
			for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
				t = t.Elem()
			}
			if kindOf(t) == KindObject {
				f.Fields = described(tableOf(t))
			}
		}
		fields = append(fields, f)
	}
	return fields
}

// SetDefaults sets every field of the struct cfg points to that has a default
// tag to that value. Fields without one are left as they are.
func SetDefaults(cfg any) { setDefaults(reflect.ValueOf(cfg).Elem()) }

func setDefaults(v reflect.Value) {
	rows := tableOf(v.Type()).rows
	for i := range rows {
		r := &rows[i]
		f := v.FieldByIndex(r.index)
		if r.Kind == KindObject && f.Kind() == reflect.Struct {
			setDefaults(f)
			continue
		}
		if r.Default == "" {
			continue
		}
		node := &yaml.Node{Kind: yaml.ScalarNode, Value: r.Default, Line: 1, Column: 1}
		if r.Kind == KindText {
			node.Tag = "!!str"
		}
		d := decoder{at: Positions{}}
		d.value(node, r.Name, &r.Field, f)
		if len(d.found) > 0 {
			panic(fmt.Sprintf("drivers: default %q of %s.%s: %s", r.Default, v.Type(), r.Name, d.found[0].Message))
		}
	}
}

// EachFile replaces every non-empty text of a key tagged file by what fn makes
// of it, in the struct cfg points to and the structs inside it.
func EachFile(cfg any, fn func(path string) string) { eachFile(reflect.ValueOf(cfg).Elem(), fn) }

func eachFile(v reflect.Value, fn func(string) string) {
	rows := tableOf(v.Type()).rows
	for i := range rows {
		r := &rows[i]
		f := v.FieldByIndex(r.index)
		switch {
		case r.Kind == KindObject && f.Kind() == reflect.Struct:
			eachFile(f, fn)
		case r.File && f.Kind() == reflect.String && f.String() != "":
			f.SetString(fn(f.String()))
		}
	}
}

// row is a Field and where its value is kept.
type row struct {
	Field
	index []int
	typ   reflect.Type
}

// table is what the tags of a struct say.
type table struct {
	rows []row
	// keys has all spellings in lower case, names as they are tagged.
	keys  map[string]spelling
	names []string
}

// spelling is one way to write a key: the row it means.
type spelling struct {
	row int
	old bool
}

// tables remembers what tableOf has worked out, as encoding/json does: a
// struct's tags never change.
var tables sync.Map // reflect.Type → *table

func tableOf(t reflect.Type) *table {
	if known, ok := tables.Load(t); ok {
		return known.(*table)
	}
	made := &table{rows: rowsOf(t), keys: map[string]spelling{}}
	add := func(name string, s spelling) {
		made.names = append(made.names, name)
		if _, taken := made.keys[strings.ToLower(name)]; taken {
			panic(fmt.Sprintf("drivers: %s has two keys %q", t, name))
		}
		made.keys[strings.ToLower(name)] = s
	}
	for i, r := range made.rows {
		add(r.Name, spelling{row: i})
		for _, a := range r.Aliases {
			add(a, spelling{row: i})
		}
		for _, a := range r.OldNames {
			add(a, spelling{row: i, old: true})
		}
	}
	known, _ := tables.LoadOrStore(t, made)
	return known.(*table)
}

var (
	typeDuration = reflect.TypeFor[time.Duration]()
	typeNode     = reflect.TypeFor[yaml.Node]()
	typeText     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// kindOf names the kind of values a Go type takes, "" if it takes none.
func kindOf(t reflect.Type) FieldKind {
	switch {
	case t == typeDuration:
		return KindDuration
	case t == typeNode:
		return KindAny
	case reflect.PointerTo(t).Implements(typeText):
		return KindText
	}
	switch t.Kind() {
	case reflect.Pointer:
		return kindOf(t.Elem())
	case reflect.String:
		return KindText
	case reflect.Bool:
		return KindBool
	case reflect.Int, reflect.Int32, reflect.Int64:
		return KindInt
	case reflect.Float64:
		return KindFloat
	case reflect.Slice:
		return KindList
	case reflect.Map:
		return KindMap
	case reflect.Struct:
		return KindObject
	case reflect.Interface:
		return KindAny
	}
	return ""
}

// rowsOf reads a struct's tags. A table that makes no sense is a fault of the
// program, never of its input, so it panics.
func rowsOf(t reflect.Type) []row {
	rows := make([]row, 0, t.NumField())
	for i := range t.NumField() {
		sf := t.Field(i)
		name, tagged := sf.Tag.Lookup("spec")
		if sf.Anonymous && !tagged && sf.Type.Kind() == reflect.Struct {
			for _, r := range rowsOf(sf.Type) {
				r.index = append([]int{i}, r.index...)
				rows = append(rows, r)
			}
			continue
		}
		if !tagged || name == "-" || name == "" {
			continue
		}
		rows = append(rows, newRow(t, sf, name))
	}
	return rows
}

func newRow(t reflect.Type, sf reflect.StructField, name string) row {
	tag := func(key string) string { return sf.Tag.Get(key) }
	r := row{index: sf.Index, typ: sf.Type}
	r.Field = Field{
		Name: name, Kind: kindOf(sf.Type),
		Aliases: list(tag("alias")), OldNames: list(tag("oldname")), Enum: list(tag("enum")),
		Default: tag("default"), Min: tag("min"), Max: tag("max"), Doc: tag("doc"),
		Required: tag("required") == "true", Single: tag("single") == "true",
		Numeric: tag("numeric") == "true", File: tag("file") == "true", Secret: tag("secret") == "true",
		Later: tag("later"), Ignored: tag("ignored"), Unused: tag("unused"),
	}
	elem := sf.Type
	for elem.Kind() == reflect.Pointer {
		elem = elem.Elem()
	}
	if r.Kind == KindList || r.Kind == KindMap {
		r.Elem = kindOf(elem.Elem())
	}
	if _, _, err := bounds(&r.Field); err != nil {
		panic(fmt.Sprintf("drivers: bound of %s.%s: %v", t, sf.Name, err))
	}
	if !sf.IsExported() || r.Kind == "" || (r.Kind == KindList || r.Kind == KindMap) && r.Elem == "" ||
		elem.Kind() == reflect.Map && elem.Key().Kind() != reflect.String {
		panic(fmt.Sprintf("drivers: %s.%s cannot hold a key of a spec", t, sf.Name))
	}
	return r
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}
