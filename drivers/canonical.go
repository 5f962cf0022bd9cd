package drivers

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"time"

	"gopkg.in/yaml.v3"
)

// CanonicalJSON writes a spec as JSON with its keys sorted: equal specs give
// equal bytes, and [DecodeJSON] reads it back. A value that is zero and whose
// default is zero is left out, so that a key that a later version adds does
// not change the JSON of an old file. cfg is a struct or a pointer to one.
func CanonicalJSON(cfg any) (json.RawMessage, error) { return writeJSON(cfg, asStored) }

// FullJSON is [CanonicalJSON] with the values that are zero by default, for
// comparing two specs key by key.
func FullJSON(cfg any) (json.RawMessage, error) { return writeJSON(cfg, spelledOut) }

// RecipeJSON is [CanonicalJSON] without credentials: what a machine is made
// from, whoever makes it. A machine does not drift because a key was renewed.
func RecipeJSON(cfg any) (json.RawMessage, error) { return writeJSON(cfg, asRecipe) }

// writing is what of a spec is written.
type writing int

const (
	asStored writing = iota
	spelledOut
	asRecipe
)

func writeJSON(cfg any, how writing) (json.RawMessage, error) {
	v := reflect.ValueOf(cfg)
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	tree, err := canonical(v, how)
	if err != nil {
		return nil, fmt.Errorf("write %T: %w", cfg, err)
	}
	out, err := json.Marshal(tree)
	if err != nil {
		return nil, fmt.Errorf("write %T: %w", cfg, err)
	}
	return out, nil
}

// canonical turns a value into what encoding/json writes sorted.
func canonical(v reflect.Value, how writing) (any, error) {
	if v.Kind() == reflect.Pointer {
		return canonical(v.Elem(), how)
	}
	if v.Type() == typeDuration {
		return time.Duration(v.Int()).String(), nil
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		text, err := m.MarshalText()
		return string(text), err
	}
	switch v.Kind() {
	case reflect.Struct:
		out := map[string]any{}
		rows := tableOf(v.Type()).rows
		for i := range rows {
			r := &rows[i]
			f := v.FieldByIndex(r.index)
			if r.Later != "" || r.Ignored != "" || r.Unused != "" || r.Kind == KindAny || absent(f, &r.Field, how) {
				continue
			}
			one, err := canonical(f, how)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.Name, err)
			}
			if sub, ok := one.(map[string]any); ok && len(sub) == 0 && f.Kind() == reflect.Struct {
				continue
			}
			out[r.Name] = one
		}
		return out, nil
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			one, err := canonical(v.Index(i), how)
			if err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
			out[i] = one
		}
		return out, nil
	case reflect.Map:
		out := make(map[string]any, v.Len())
		for it := v.MapRange(); it.Next(); {
			one, err := canonical(it.Value(), how)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", it.Key(), err)
			}
			out[it.Key().String()] = one
		}
		return out, nil
	default:
		return v.Interface(), nil
	}
}

// absent says whether a value is not written: since it is read back the same
// without, or is not asked for.
func absent(v reflect.Value, f *Field, how writing) bool {
	if f.Secret && how == asRecipe {
		return true
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return v.IsNil()
	case reflect.Struct:
		if f.Kind == KindObject {
			return false
		}
	}
	return how != spelledOut && v.IsZero() && slices.Contains([]string{"", "0", "0s", "false"}, f.Default)
}

// DecodeJSON reads what [CanonicalJSON] wrote into the struct into points to,
// which holds the defaults. Findings have paths and no positions: a key that
// this version does not know any more is a warning.
func DecodeJSON(data []byte, into any) ([]Finding, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, fmt.Errorf("read stored spec: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("read stored spec: more than one value")
	}
	_, found := Decode(nodeOf(tree), "", into)
	return found, nil
}

// nodeOf is the YAML of a JSON value.
func nodeOf(v any) *yaml.Node {
	switch v := v.(type) {
	case map[string]any:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			n.Content = append(n.Content, text(k), nodeOf(v[k]))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for _, e := range v {
			n.Content = append(n.Content, nodeOf(e))
		}
		return n
	case string:
		return text(v)
	case json.Number:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: v.String()}
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v)}
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	}
}

// text is a scalar that is nothing but text, whatever it looks like.
func text(s string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s, Style: yaml.DoubleQuotedStyle}
}
