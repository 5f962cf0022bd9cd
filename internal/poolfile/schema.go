package poolfile

import (
	"encoding/json"
	"slices"
	"strconv"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// object is a JSON object; encoding/json sorts its keys.
type object = map[string]any

// Schema is the JSON Schema (draft 2020-12) of pool files with the types of
// regs, made from the same tables as the parser. Editors use it to complete
// and to underline; unlike the parser it minds capitals. No line end follows.
func Schema(regs []drivers.Registration) []byte {
	top := keys(Fields())
	props := top["properties"].(object)
	item := props["instances"].(object)["items"].(object)
	item["required"] = []string{"name", "spec", "type"}

	t := newTypes(regs)
	itemProps := item["properties"].(object)
	words := make([]string, 0, len(t.byName))
	for w := range t.byName {
		words = append(words, w)
	}
	slices.Sort(words)
	itemProps["type"].(object)["enum"] = words
	itemProps["type"].(object)["type"] = "string"
	itemProps["spec"].(object)["type"] = []string{"object", "null"}

	defs := object{}
	var cases []object
	for _, name := range t.names {
		reg := t.byName[name]
		var same []string
		for _, w := range words {
			if t.byName[w] == reg {
				same = append(same, w)
			}
		}
		defs[name] = keys(drivers.Fields(reg.NewConfig()))
		spec := object{"$ref": "#/$defs/" + name}
		tenants := object{"maxItems": 0}
		if reg.Tenants {
			tenants = object{"items": object{"properties": object{"spec": spec}}}
		}
		cases = append(cases, object{
			"if":   object{"properties": object{"type": object{"enum": same}}},
			"then": object{"properties": object{"spec": spec, "tenants": tenants}},
		})
	}
	item["allOf"] = cases

	props["instances"].(object)["minItems"] = 1
	props["instances"].(object)["type"] = "array"
	top["type"] = "object"
	top["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	top["title"] = "pool.yml"
	top["description"] = "Pools of virtual machines for drone-runner-aws."
	top["$defs"] = defs
	out, err := json.MarshalIndent(top, "", "  ")
	if err != nil {
		panic("poolfile: schema: " + err.Error()) // maps of texts and numbers only
	}
	return out
}

// keys is the schema of a mapping.
func keys(fields []drivers.Field) object {
	props := object{}
	var required []string
	for _, f := range fields {
		props[f.Name] = key(f)
		for _, a := range slices.Concat(f.Aliases, f.OldNames) {
			other := key(f)
			other["description"] = "Another spelling of " + f.Name + "."
			other["deprecated"] = true
			delete(other, "default")
			props[a] = other
		}
		if f.Required {
			required = append(required, f.Name)
		}
	}
	out := object{"type": []string{"object", "null"}, "properties": props, "additionalProperties": false}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

// key is the schema of one key.
func key(f drivers.Field) object {
	out := object{}
	if f.Doc != "" {
		out["description"] = f.Doc
	}
	switch {
	case f.Ignored != "":
		out["description"] = f.Doc + " It has no effect."
		return out
	case f.Unused != "":
		out["description"] = f.Doc + " It has no effect."
		out["deprecated"] = true
		return out
	case f.Later != "":
		out["description"] = f.Doc + " Not built in yet."
		out["deprecated"] = true
		return out
	}
	switch f.Kind {
	case drivers.KindObject:
		sub := keys(f.Fields)
		for k, v := range sub {
			out[k] = v
		}
	case drivers.KindList:
		items := value(f.Elem)
		if f.Elem == drivers.KindObject {
			items = keys(f.Fields)
			items["type"] = "object"
		}
		if len(f.Enum) > 0 {
			items["enum"] = f.Enum
		}
		out["items"] = items
		types := []string{"array", "null"}
		if f.Single {
			types = append(types, items["type"].(string))
		}
		out["type"] = types
	case drivers.KindMap:
		out["type"] = []string{"object", "null"}
		out["additionalProperties"] = value(f.Elem)
		if f.Elem == drivers.KindObject {
			out["additionalProperties"] = keys(f.Fields)
		}
	case drivers.KindAny:
	default:
		for k, v := range value(f.Kind) {
			out[k] = v
		}
		out["type"] = jsonTypes(f, out["type"].(string))
		bounds(f, out)
	}
	return out
}

// value is the schema of a value without bounds.
func value(k drivers.FieldKind) object {
	switch k {
	case drivers.KindBool:
		return object{"type": "boolean"}
	case drivers.KindInt:
		return object{"type": "integer"}
	case drivers.KindFloat:
		return object{"type": "number"}
	case drivers.KindDuration:
		return object{"type": "string", "pattern": `^([0-9]*\.?[0-9]+(ns|us|µs|ms|s|m|h))+$|^0$`}
	default:
		return object{"type": "string"}
	}
}

// jsonTypes are the JSON types a key takes: null is always as good as absent, and
// a number will do as a text.
func jsonTypes(f drivers.Field, own string) []string {
	out := []string{own}
	switch {
	case f.Kind == drivers.KindText && len(f.Enum) == 0:
		out = append(out, "number")
	case f.Numeric && f.Kind != drivers.KindText:
		out = append(out, "string")
	}
	if !f.Required {
		out = append(out, "null")
	}
	return out
}

// bounds adds default, enum, minimum and maximum.
func bounds(f drivers.Field, out object) {
	if len(f.Enum) > 0 {
		values := []any{}
		for _, e := range f.Enum {
			values = append(values, e)
		}
		if !slices.Contains(f.Enum, "") {
			values = append(values, "")
		}
		out["enum"] = append(values, nil)
	}
	literal := func(text string) (any, bool) {
		switch f.Kind {
		case drivers.KindInt, drivers.KindFloat:
			_, err := strconv.ParseFloat(text, 64)
			return json.Number(text), err == nil
		case drivers.KindBool:
			return text == "true", text != ""
		default:
			return text, text != ""
		}
	}
	if v, ok := literal(f.Default); ok {
		out["default"] = v
	}
	if f.Kind != drivers.KindInt && f.Kind != drivers.KindFloat {
		return
	}
	if v, ok := literal(f.Min); ok {
		out["minimum"] = v
	}
	if v, ok := literal(f.Max); ok {
		out["maximum"] = v
	}
}
