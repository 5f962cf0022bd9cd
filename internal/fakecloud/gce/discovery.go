package gce

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
)

//go:generate go run ./internal/reduce -o discovery.json

//go:embed discovery.json
var discovery []byte

// document is the API's own description, reduced.
type document struct {
	ServicePath string             `json:"servicePath"`
	Parameters  map[string]*schema `json:"parameters"`
	Methods     map[string]*method `json:"methods"`
	Schemas     map[string]*schema `json:"schemas"`
}

type method struct {
	HTTPMethod string             `json:"httpMethod"`
	Path       string             `json:"path"`
	Parameters map[string]*schema `json:"parameters"`
	Request    *schema            `json:"request"`
	Response   *schema            `json:"response"`

	id    string
	parts []string
}

// schema describes a parameter, a property or a whole body.
type schema struct {
	Type       string             `json:"type"`
	Format     string             `json:"format"`
	Ref        string             `json:"$ref"`
	Pattern    string             `json:"pattern"`
	Enum       []string           `json:"enum"`
	ReadOnly   bool               `json:"readOnly"`
	Location   string             `json:"location"`
	Repeated   bool               `json:"repeated"`
	Minimum    string             `json:"minimum"`
	Maximum    string             `json:"maximum"`
	Required   json.RawMessage    `json:"required"`
	Items      *schema            `json:"items"`
	Additional *schema            `json:"additionalProperties"`
	Properties map[string]*schema `json:"properties"`

	pattern    *regexp.Regexp
	requiredBy map[string]bool
	always     bool
}

// theDocument reads the embedded description once.
var theDocument = sync.OnceValue(func() *document {
	d, err := readDocument(discovery)
	if err != nil {
		panic(err) // the embedded document is broken: a fault of the build
	}
	return d
})

func readDocument(b []byte) (*document, error) {
	d := &document{}
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fmt.Errorf("read discovery.json: %w", err)
	}
	for id, m := range d.Methods {
		m.id, m.parts = id, strings.Split(m.Path, "/")
		for name, p := range m.Parameters {
			if err := p.prepare(id + " " + name); err != nil {
				return nil, err
			}
		}
	}
	for name, p := range d.Parameters {
		if err := p.prepare(name); err != nil {
			return nil, err
		}
	}
	for name, s := range d.Schemas {
		if err := s.prepare(name); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// prepare reads what JSON says in two ways, and compiles patterns.
func (s *schema) prepare(name string) (err error) {
	if s == nil {
		return nil
	}
	if len(s.Required) > 0 {
		var by []string
		if err := json.Unmarshal(s.Required, &s.always); err != nil {
			if err := json.Unmarshal(s.Required, &by); err != nil {
				return fmt.Errorf("%s: required: %w", name, err)
			}
		}
		s.requiredBy = map[string]bool{}
		for _, id := range by {
			s.requiredBy[id] = true
		}
	}
	if s.Pattern != "" {
		if s.pattern, err = regexp.Compile("^(?:" + s.Pattern + ")$"); err != nil {
			return fmt.Errorf("%s: pattern: %w", name, err)
		}
	}
	for _, inner := range []*schema{s.Items, s.Additional} {
		if err := inner.prepare(name); err != nil {
			return err
		}
	}
	for key, p := range s.Properties {
		if err := p.prepare(name + "." + key); err != nil {
			return err
		}
	}
	return nil
}

// resolve follows a reference.
func (d *document) resolve(s *schema) *schema {
	if s != nil && s.Ref != "" {
		return d.Schemas[s.Ref]
	}
	return s
}

// route finds the method of a request and the values of its path. A path the
// API does not have, or another verb, has no method.
func (d *document) route(r *http.Request) (*method, map[string]string) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/"+d.ServicePath)
	if !ok {
		return nil, nil
	}
	parts := strings.Split(rest, "/")
	var found *method
	var values map[string]string
	for _, m := range d.Methods {
		if m.HTTPMethod != r.Method || len(m.parts) != len(parts) {
			continue
		}
		v := map[string]string{}
		literal := true
		for i, part := range m.parts {
			if name, ok := strings.CutPrefix(part, "{"); ok {
				v[strings.TrimSuffix(name, "}")] = parts[i]
			} else if literal = part == parts[i]; !literal {
				break
			}
		}
		// images/family/{family} has the length of …/images/{image}/x: the one
		// with fewer values fits better.
		if literal && (found == nil || len(v) < len(values)) {
			found, values = m, v
		}
	}
	return found, values
}
