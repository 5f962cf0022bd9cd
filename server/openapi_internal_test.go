package server

import (
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/pool"
	"github.com/vm-runner/drone-runner-aws/server/api"
)

type openAPIParameter struct {
	Ref  string `yaml:"$ref"`
	Name string `yaml:"name"`
	In   string `yaml:"in"`
}

type openAPISchema struct {
	Required   []string               `yaml:"required"`
	Properties map[string]openAPIType `yaml:"properties"`
	Rest       map[string]any         `yaml:",inline"`
}

type openAPIType struct {
	Ref  string         `yaml:"$ref"`
	Type string         `yaml:"type"`
	Enum []string       `yaml:"enum"`
	Rest map[string]any `yaml:",inline"`
}

type openAPIFile struct {
	Paths map[string]map[string]struct {
		Parameters []openAPIParameter `yaml:"parameters"`
		Responses  map[string]any     `yaml:"responses"`
	} `yaml:"paths"`
	Components struct {
		Parameters map[string]openAPIParameter `yaml:"parameters"`
		Schemas    map[string]openAPISchema    `yaml:"schemas"`
	} `yaml:"components"`
}

func readOpenAPI(t *testing.T) openAPIFile {
	t.Helper()
	raw, err := os.ReadFile("../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var f openAPIFile
	if err := yaml.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestOpenAPIListsTheRoutes: the file has our routes and no others, each with
// the parameters its handler reads.
func TestOpenAPIListsTheRoutes(t *testing.T) {
	t.Parallel()
	f := readOpenAPI(t)
	s := New(Config{})
	var ours []string
	for _, route := range s.v1Routes() {
		ours = append(ours, route.path)
		described := f.Paths[route.path][strings.ToLower(route.method)]
		if len(f.Paths[route.path]) != 1 || described.Responses["200"] == nil || described.Responses["default"] == nil {
			t.Errorf("%s: want one operation, %s, with the responses 200 and default", route.path, route.method)
		}
		var inQuery, inPath []string
		for _, p := range described.Parameters {
			if p.Ref != "" {
				p = f.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")]
			}
			switch p.In {
			case "query":
				inQuery = append(inQuery, p.Name)
			case "path":
				inPath = append(inPath, "{"+p.Name+"}")
			default:
				t.Errorf("%s: parameter %+v", route.path, p)
			}
		}
		// A handler that is given an unknown parameter names those it knows.
		err := route.serve(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/?no_such=1", nil))
		var known []string
		if _, list, found := strings.Cut(err.Error(), "there are: "); found {
			known = strings.Split(list, ", ")
		}
		slices.Sort(known)
		slices.Sort(inQuery)
		if diff := cmp.Diff(known, inQuery); diff != "" {
			t.Errorf("%s: query parameters -handler +file:\n%s", route.path, diff)
		}
		var placeholders []string
		for part := range strings.SplitSeq(route.path, "/") {
			if strings.HasPrefix(part, "{") {
				placeholders = append(placeholders, part)
			}
		}
		if diff := cmp.Diff(placeholders, inPath); diff != "" {
			t.Errorf("%s: path parameters -route +file:\n%s", route.path, diff)
		}
	}
	var listed []string
	for path := range f.Paths {
		listed = append(listed, path)
	}
	slices.Sort(ours)
	slices.Sort(listed)
	if diff := cmp.Diff(ours, listed); diff != "" {
		t.Errorf("-routes +file:\n%s", diff)
	}
}

// TestOpenAPIDescribesTheTypes: each schema has exactly the fields of its Go
// type, required where they are always there.
func TestOpenAPIDescribesTheTypes(t *testing.T) {
	t.Parallel()
	f := readOpenAPI(t)
	types := []any{
		api.ErrorBody{},
		api.ErrorDetail{},
		api.PoolList{},
		api.Pool{},
		api.InstanceList{},
		api.Instance{},
		api.LeaseList{},
		api.Lease{},
		api.Cause{},
		api.EventList{},
		api.Event{},
		api.Story{},
		api.Why{},
		api.StoryLine{},
		api.StepList{},
		api.Step{},
		api.Version{},
		api.Order{},
		api.DestroyOrder{},
		api.ScaleOrder{},
		api.RemovalOrder{},
		api.Ordered{},
		api.Override{},
		api.Orphan{},
		api.Missing{},
		api.Scope{},
		api.Orphans{},
	}
	kinds := map[reflect.Kind]string{
		reflect.String: "string", reflect.Bool: "boolean", reflect.Int: "integer", reflect.Int64: "integer",
		reflect.Slice: "array", reflect.Map: "object",
	}
	if len(types) != len(f.Components.Schemas) {
		t.Errorf("the file has %d schemas, there are %d types", len(f.Components.Schemas), len(types))
	}
	for _, v := range types {
		goType := reflect.TypeOf(v)
		schema := f.Components.Schemas[goType.Name()]
		var fields, required, properties []string
		for i := range goType.NumField() {
			field := goType.Field(i)
			name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
			fields = append(fields, name)
			if !strings.Contains(options, "omit") {
				required = append(required, name)
			}
			base := field.Type
			if base.Kind() == reflect.Pointer {
				base = base.Elem()
			}
			want := kinds[base.Kind()]
			if base.Kind() == reflect.Struct && base.Name() == "Time" {
				want = "string"
			}
			if got := schema.Properties[name]; got.Type != want && got.Ref != "#/components/schemas/"+base.Name() {
				t.Errorf("%s.%s: the file says %q %q, the type is %s", goType.Name(), name, got.Type, got.Ref, base)
			}
		}
		for name := range schema.Properties {
			properties = append(properties, name)
		}
		slices.Sort(fields)
		slices.Sort(required)
		slices.Sort(properties)
		slices.Sort(schema.Required)
		if diff := cmp.Diff(fields, properties); diff != "" {
			t.Errorf("%s: fields -type +file:\n%s", goType.Name(), diff)
		}
		if diff := cmp.Diff(required, schema.Required); diff != "" {
			t.Errorf("%s: required -type +file:\n%s", goType.Name(), diff)
		}
	}
}

func TestOpenAPIListsTheStates(t *testing.T) {
	t.Parallel()
	f := readOpenAPI(t)
	if diff := cmp.Diff(convert(pool.InstanceStates(), func(s pool.InstanceState) string { return string(s) }),
		f.Components.Schemas["Instance"].Properties["state"].Enum); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(convert(pool.LeaseStates(), func(s pool.LeaseState) string { return string(s) }),
		f.Components.Schemas["Lease"].Properties["state"].Enum); diff != "" {
		t.Error(diff)
	}
}
