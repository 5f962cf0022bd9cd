// Command reduce writes the part of the Compute Engine API's discovery document
// that the fake knows: its methods and the schemas they reach, without the
// prose. It reads compute/v1/compute-api.json of the module google.golang.org/api
// as go.mod selects it, from the module cache.
//
//	go run ./internal/reduce -o discovery.json
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("reduce", flag.ContinueOnError)
	flags.SetOutput(stderr)
	out := flags.String("o", "", "file to write, standard output when empty")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	reduced, err := fromModule()
	switch {
	case err != nil:
	case *out == "":
		_, err = stdout.Write(reduced)
	default:
		err = os.WriteFile(*out, reduced, 0o644) //nolint:gosec // a file of the source tree, readable by all
	}
	if err != nil {
		fmt.Fprintln(stderr, "reduce:", err)
		return 1
	}
	return 0
}

// module is where the document comes from.
const module = "google.golang.org/api"

// fromModule reduces the document of the module that go.mod selects.
func fromModule() ([]byte, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}} {{.Dir}}", module).Output()
	if err != nil {
		return nil, fmt.Errorf("look for %s: %w", module, err)
	}
	version, dir, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if dir == "" {
		return nil, fmt.Errorf("%s %s is not in the module cache; go mod download %s", module, version, module)
	}
	full, err := os.ReadFile(filepath.Join(dir, "compute", "v1", "compute-api.json"))
	if err != nil {
		return nil, err
	}
	return reduce(full, version)
}

// uses are the methods the fake has.
var uses = map[string][]string{
	"instances": {
		"insert", "get", "list", "aggregatedList", "delete", "suspend", "resume", "start", "stop", "reset",
		"setLabels", "setMetadata", "setTags", "setDiskAutoDelete", "attachDisk", "detachDisk", "getSerialPortOutput", "getGuestAttributes",
	},
	"disks":            {"insert", "get", "delete", "list", "aggregatedList", "setLabels", "resize"},
	"zoneOperations":   {"get", "wait", "list", "delete"},
	"regionOperations": {"get", "wait", "list", "delete"},
	"globalOperations": {"get", "wait", "list", "delete"},
	"reservations":     {"insert", "get", "delete", "list"},
	"firewalls":        {"insert", "get", "list", "delete"},
	"images":           {"get", "getFromFamily", "list"},
	"machineTypes":     {"get", "list"},
	"diskTypes":        {"get", "list"},
	"regions":          {"get", "list"},
	"zones":            {"get", "list"},
	"networks":         {"get", "list"},
	"subnetworks":      {"get", "list"},
	"projects":         {"get"},
}

// reduce keeps of a discovery document what the fake uses.
func reduce(full []byte, version string) ([]byte, error) {
	var doc struct {
		ID, Revision, ServicePath string
		Parameters                map[string]map[string]any
		Resources                 map[string]struct {
			Methods map[string]map[string]any
		}
		Schemas map[string]map[string]any
	}
	if err := json.Unmarshal(full, &doc); err != nil {
		return nil, fmt.Errorf("read the discovery document: %w", err)
	}
	methods, schemas := map[string]any{}, map[string]any{}
	ids := map[string]bool{}
	for resource, names := range uses {
		for _, name := range names {
			m, ok := doc.Resources[resource].Methods[name]
			if !ok {
				return nil, fmt.Errorf("the discovery document has no method %s.%s", resource, name)
			}
			id, _ := m["id"].(string)
			ids[id] = true
			methods[id] = keep(m, "httpMethod", "path", "request", "response")
			methods[id].(map[string]any)["parameters"] = parameters(asMap(m["parameters"]))
			for _, ref := range refs(methods[id]) {
				reach(ref, doc.Schemas, schemas)
			}
		}
	}
	for _, s := range schemas {
		onlyUsed(s, ids)
	}
	params := map[string]map[string]any{}
	for name, p := range doc.Parameters {
		params[name] = p
	}
	general := map[string]any{}
	for name, p := range params {
		general[name] = parameters(map[string]any{name: p}).(map[string]any)[name]
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(map[string]any{
		"notice": "Derived by internal/reduce from compute/v1/compute-api.json of " + module + " " + version +
			", Copyright Google LLC, under the BSD 3-clause licence in LICENSE-discovery. DO NOT EDIT.",
		"id": doc.ID, "revision": doc.Revision, "servicePath": doc.ServicePath,
		"parameters": general, "methods": methods, "schemas": schemas,
	}); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func asMap(v any) map[string]any { m, _ := v.(map[string]any); return m }

func keep(m map[string]any, keys ...string) any {
	kept := map[string]any{}
	for _, k := range keys {
		if v, ok := m[k]; ok {
			kept[k] = v
		}
	}
	return kept
}

func parameters(all map[string]any) any {
	kept := map[string]any{}
	for name, p := range all {
		kept[name] = keep(asMap(p), "type", "format", "location", "required", "repeated", "pattern", "enum", "minimum", "maximum")
	}
	return kept
}

// refs are the names of the schemas that v refers to.
func refs(v any) (found []string) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if name, ok := e.(string); ok && k == "$ref" {
				found = append(found, name)
			} else {
				found = append(found, refs(e)...)
			}
		}
	case []any:
		for _, e := range v {
			found = append(found, refs(e)...)
		}
	}
	return found
}

// reach keeps a schema and those it refers to.
func reach(name string, all map[string]map[string]any, kept map[string]any) {
	if _, ok := kept[name]; ok {
		return
	}
	s := schema(all[name])
	kept[name] = s
	for _, ref := range refs(s) {
		reach(ref, all, kept)
	}
}

// schema is one without its prose. That a property is only ever an answer is
// said in the prose of most: it becomes readOnly.
func schema(s map[string]any) map[string]any {
	kept := asMap(keep(s, "type", "format", "$ref", "enum", "pattern", "readOnly"))
	description, _ := s["description"].(string)
	if d := strings.ToLower(description); strings.HasPrefix(d, "[output only]") || strings.HasPrefix(d, "output only") {
		kept["readOnly"] = true
	}
	for _, k := range []string{"items", "additionalProperties"} {
		if inner := asMap(s[k]); inner != nil {
			kept[k] = schema(inner)
		}
	}
	if inner := asMap(s["properties"]); inner != nil {
		properties := map[string]any{}
		for name, p := range inner {
			properties[name] = schema(asMap(p))
		}
		kept["properties"] = properties
	}
	if required, ok := asMap(s["annotations"])["required"]; ok {
		kept["required"] = required
	}
	return kept
}

// onlyUsed drops from the lists of methods that require a property those that
// are not used.
func onlyUsed(v any, ids map[string]bool) {
	for k, e := range asMap(v) {
		if list, ok := e.([]any); ok && k == "required" {
			list = slices.DeleteFunc(slices.Clone(list), func(id any) bool { s, ok := id.(string); return !ok || !ids[s] })
			if asMap(v)[k] = list; len(list) == 0 {
				delete(asMap(v), k)
			}
			continue
		}
		onlyUsed(e, ids)
	}
}
