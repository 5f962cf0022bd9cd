package poolfile_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/internal/poolfile"
)

func TestSchema(t *testing.T) {
	t.Parallel()
	golden(t, "testdata/schema.json", append(poolfile.Schema(registrations()), '\n'))
}

// TestSchemaAgreesWithParser reads files with both.
func TestSchemaAgreesWithParser(t *testing.T) {
	t.Parallel()
	s := newSchema(t, poolfile.Schema(registrations()))
	tests := []struct {
		name, pool string
		// want is a word of what the schema says, "" if it likes the file.
		want string
	}{
		{"a pool with all settings by default", "{name: p, type: noop, spec: {}}", ""},
		{"a spec without value", "{name: p, type: box, spec: }", ""},
		{"a type by its other name", "{name: p, type: carton, spec: {cpus: 2}}", ""},
		{"numbers as texts and texts as numbers", "{name: 5, type: box, spec: {image: 22.10, disk: {iops: '200'}}}", ""},
		{"nulls", "{name: p, type: box, limit: , wait: , spec: {cpus: , zone: , labels: , mode: }}", ""},
		{"a list as its only entry", "{name: p, type: box, spec: {zone: a}}", ""},
		{"a list of mappings", "{name: p, type: box, spec: {networks: [{network: n}]}}", ""},
		{"old names and aliases", "{name: p, type: box, spec: {memory: 256, zonelist: [a]}}", ""},
		{"ignored keys", "{name: p, type: box, variant_id: 5, spec: {root_directory: /}}", ""},
		{"variants", "{name: p, type: box, spec: {}, variants: [{variant_id: a, zones: z, pool: 1, hibernate: false}]}", ""},
		{"a variant without an id", "{name: p, type: box, spec: {}, variants: [{pool: 1}]}", "variant_id"},
		{"an unknown key of a variant", "{name: p, type: box, spec: {}, variants: [{variant_id: a, zone: z}]}", "zone"},
		{"tenants", "{name: p, type: box, spec: {}, tenants: [{ids: a, limit: 0, spec: {cpus: 2}, variants: [{variant_id: a}]}]}", ""},
		{"an unknown key of a tenant's spec", "{name: p, type: box, spec: {}, tenants: [{ids: [a], spec: {cpuz: 2}}]}", "cpuz"},
		{"a tenant without accounts", "{name: p, type: box, spec: {}, tenants: [{group_id: a}]}", "ids"},
		{"tenants of a type that has none", "{name: p, type: noop, spec: {}, tenants: [{ids: [a]}]}", "tenants"},
		{"a schedule", "{name: p, type: noop, spec: {}, schedules: [{days: mon, pool: 3}]}", ""},
		{"a schedule without a target", "{name: p, type: noop, spec: {}, schedules: [{days: mon}]}", "pool"},
		{"guards", "{name: p, type: noop, spec: {}, guards: {failures: 3, pause: 5m}}", ""},
		{"a guard out of its bounds", "{name: p, type: noop, spec: {}, guards: {failures: -3}}", "failures"},
		{"a type that is not built in yet", "{name: p, type: hoist, spec: {load: 2}}", ""},
		{"an unknown key of its spec", "{name: p, type: crane, spec: {laod: 2}}", "laod"},
		{"an unknown key", "{name: p, type: noop, limt: 5, spec: {}}", "limt"},
		{"an unknown key of a spec", "{name: p, type: box, spec: {cpuz: 5}}", "cpuz"},
		{"a key of another type's spec", "{name: p, type: noop, spec: {cpus: 5}}", "cpus"},
		{"no name", "{type: noop, spec: {}}", "name"},
		{"no spec", "{name: p, type: noop}", "spec"},
		{"an unknown type", "{name: p, type: nosuch, spec: {}}", "nosuch"},
		{"a text for a number", "{name: p, type: box, pool: two, spec: {}}", "two"},
		{"a number out of its bounds", "{name: p, type: box, spec: {memory_mb: 1}}", "memory_mb"},
		{"a word that is no choice", "{name: p, type: box, spec: {mode: xen}}", "xen"},
		{"a duration without unit", "{name: p, type: box, wait: '5', spec: {}}", "wait"},
		{"a list for a number", "{name: p, type: box, spec: {cpus: [1]}}", "cpus"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			text := "instances: [" + tt.pool + "]"
			var v any
			if err := yaml.Unmarshal([]byte(text), &v); err != nil {
				t.Fatal(err)
			}
			problems := strings.Join(s.check(s.root, v, ""), "\n")
			if (problems == "") != (tt.want == "") || !strings.Contains(problems, tt.want) {
				t.Errorf("the schema says %q, want something with %q", problems, tt.want)
			}
			_, found := poolfile.Parse("pool.yml", []byte(text), registrations(), poolfile.Options{Strict: true, CheckOnly: true})
			if (found.Errors() == 0) != (tt.want == "") {
				t.Errorf("the parser says %v", found)
			}
		})
	}
}

// TestSchemaHasEveryKeyOfTheExamples reads the files in examples, and complete
// ones from elsewhere, with the schema of all types.
func TestSchemaHasEveryKeyOfTheExamples(t *testing.T) {
	t.Parallel()
	s := newSchema(t, poolfile.Schema(builtIn()))
	like := func(path string, raw []byte) {
		var v any
		if err := yaml.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		for _, problem := range s.check(s.root, v, "") {
			t.Errorf("%s: %s", path, problem)
		}
	}
	for _, path := range []string{"../../examples/pool.yml", "../../examples/tenants.yml"} {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		like(path, raw)
	}
	for _, name := range []string{"all-types", "amazon", "amazon-generated", "azure", "google", "google-generated", "google-old-names", "local", "variants-tenants"} {
		in, err := txtar.ParseFile("testdata/documented/" + name + ".txtar")
		if err != nil {
			t.Fatal(err)
		}
		like(name, in.Files[0].Data)
	}
}

// schema checks values by the part of JSON Schema that ours uses; any other
// word in it is an error.
type schema struct {
	t    *testing.T
	root map[string]any
}

func newSchema(t *testing.T, text []byte) schema {
	t.Helper()
	s := schema{t: t}
	if err := json.Unmarshal(text, &s.root); err != nil {
		t.Fatal(err)
	}
	if got := s.root["$schema"]; got != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("$schema is %v", got)
	}
	return s
}

func (s schema) check(m map[string]any, v any, path string) (problems []string) {
	bad := func(format string, args ...any) {
		problems = append(problems, path+": "+fmt.Sprintf(format, args...))
	}
	for word, want := range m {
		switch word {
		case "$schema", "$defs", "title", "description", "default", "deprecated", "then", "additionalProperties":
		case "$ref":
			def := s.root["$defs"].(map[string]any)[strings.TrimPrefix(want.(string), "#/$defs/")]
			problems = append(problems, s.check(def.(map[string]any), v, path)...)
		case "type":
			names := []any{want}
			if list, ok := want.([]any); ok {
				names = list
			}
			if !slices.ContainsFunc(names, func(name any) bool { return isType(v, name.(string)) }) {
				bad("%v is no %v", v, want)
			}
		case "enum":
			if !slices.Contains(want.([]any), v) {
				bad("%v is none of %v", v, want)
			}
		case "pattern":
			if text, ok := v.(string); ok && !regexp.MustCompile(want.(string)).MatchString(text) {
				bad("%q is not like %s", v, want)
			}
		case "minimum", "maximum":
			n, ok := number(v)
			if limit := want.(float64); ok && (word == "minimum" && n < limit || word == "maximum" && n > limit) {
				bad("%v is beyond the %s %v", v, word, want)
			}
		case "maxItems":
			if list, ok := v.([]any); ok && float64(len(list)) > want.(float64) {
				bad("%d entries", len(list))
			}
		case "minItems":
			if list, ok := v.([]any); ok && float64(len(list)) < want.(float64) {
				bad("%d entries", len(list))
			}
		case "items":
			if list, ok := v.([]any); ok {
				for i, one := range list {
					problems = append(problems, s.check(want.(map[string]any), one, fmt.Sprintf("%s[%d]", path, i))...)
				}
			}
		case "required":
			if object, ok := v.(map[string]any); ok {
				for _, key := range want.([]any) {
					if _, ok := object[key.(string)]; !ok {
						bad("no %s", key)
					}
				}
			}
		case "properties":
			object, _ := v.(map[string]any)
			for key, value := range object {
				sub, known := want.(map[string]any)[key].(map[string]any)
				if known {
					problems = append(problems, s.check(sub, value, path+"."+key)...)
				} else if m["additionalProperties"] == false {
					bad("unknown key %s", key)
				}
			}
		case "allOf":
			for _, one := range want.([]any) {
				problems = append(problems, s.check(one.(map[string]any), v, path)...)
			}
		case "if":
			if len(s.check(want.(map[string]any), v, path)) == 0 {
				problems = append(problems, s.check(m["then"].(map[string]any), v, path)...)
			}
		default:
			s.t.Errorf("%s: unknown word %s in the schema", path, word)
		}
	}
	return problems
}

func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

func isType(v any, name string) bool {
	n, isNumber := number(v)
	switch name {
	case "object":
		_, ok := v.(map[string]any)
		return ok
	case "array":
		_, ok := v.([]any)
		return ok
	case "string":
		_, ok := v.(string)
		return ok
	case "boolean":
		_, ok := v.(bool)
		return ok
	case "number":
		return isNumber
	case "integer":
		return isNumber && n == float64(int64(n))
	default:
		return v == nil
	}
}
