package ec2

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2/model"
)

const (
	maxDepth = 12   // of a parameter's name
	maxList  = 1000 // elements
)

// request is a call's form, parsed.
type request struct {
	action string
	op     model.Op
	params params
}

// node is a part of a parameter's name with what follows it.
type node struct {
	value *string
	kids  map[string]*node
}

// parse reads a form by the model. It refuses what the model does not know and
// what is not of its type; whether all is there and within bounds, check says.
func parse(form string) (*request, error) {
	values, err := url.ParseQuery(form)
	if err != nil {
		return nil, refuse("MalformedQueryString", "The query string contains a syntax error: %v", err)
	}
	root := &node{}
	for key, all := range values {
		if len(all) > 1 {
			return nil, refuse("InvalidParameterCombination", "The parameter %s may only be specified once", key)
		}
		if key == "Action" || key == "Version" {
			continue
		}
		if err := root.put(key, all[0]); err != nil {
			return nil, err
		}
	}
	m := model.Get()
	action, version := values.Get("Action"), values.Get("Version")
	op, ok := m.Ops[action]
	switch {
	case action == "":
		return nil, refuse("MissingAction", "The request must contain the parameter Action")
	case !ok:
		return nil, refuse("InvalidAction", "The action %s is not valid for this web service.", action)
	case version == "":
		return nil, refuse("MissingParameter", "The request must contain the parameter Version")
	case version != m.Version:
		return nil, refuse("NoSuchVersion", "The requested version (%s) of service AmazonEC2 does not exist", version)
	}
	v, err := convert(m, op.Input, root, "")
	if err != nil {
		return nil, err
	}
	return &request{action: action, op: op, params: v.(params)}, nil
}

func (n *node) put(key, value string) error {
	parts := strings.Split(key, ".")
	if len(parts) > maxDepth {
		return refuse("UnknownParameter", "The parameter %s is not recognized", key)
	}
	for _, part := range parts {
		if n.kids == nil {
			n.kids = map[string]*node{}
		}
		if n.kids[part] == nil {
			n.kids[part] = &node{}
		}
		n = n.kids[part]
	}
	n.value = &value
	return nil
}

// convert is the value of a shape.
func convert(m *model.Model, shape string, n *node, path string) (any, error) {
	s := m.Requests[shape]
	switch s.Type {
	case "structure":
		return convertStructure(m, s, n, path)
	case "list":
		return convertList(m, s, n, path)
	}
	if n.value == nil || len(n.kids) > 0 {
		for kid := range n.kids {
			return nil, refuse("UnknownParameter", "The parameter %s.%s is not recognized", path, kid)
		}
		return nil, refuse("UnknownParameter", "The parameter %s is not recognized", path)
	}
	return scalar(s, *n.value, path)
}

func convertStructure(m *model.Model, s *model.Shape, n *node, path string) (any, error) {
	if n.value != nil {
		return nil, invalidValue(path, *n.value, "It is a structure.")
	}
	p := params{}
	for kid, below := range n.kids {
		name := join(path, kid)
		i := slices.IndexFunc(s.Members, func(m model.Member) bool { return m.Wire == kid })
		if i < 0 {
			return nil, refuse("UnknownParameter", "The parameter %s is not recognized", name)
		}
		v, err := convert(m, s.Members[i].Shape, below, name)
		if err != nil {
			return nil, err
		}
		p[s.Members[i].Name] = v
	}
	return p, nil
}

func convertList(m *model.Model, s *model.Shape, n *node, path string) (any, error) {
	if n.value != nil {
		return nil, invalidValue(path, *n.value, "It is a list: its elements are numbered from 1.")
	}
	if len(n.kids) > maxList {
		return nil, refuse("InvalidParameterValue", "The parameter %s has %d elements, at most %d", path, len(n.kids), maxList)
	}
	list := make([]any, len(n.kids))
	for kid, below := range n.kids {
		i, err := strconv.Atoi(kid)
		if err != nil || strconv.Itoa(i) != kid || i < 1 {
			return nil, refuse("UnknownParameter", "The parameter %s.%s is not recognized: elements are numbered from 1", path, kid)
		}
		if i > len(list) {
			return nil, refuse("InvalidParameterValue", "The parameter %s has a gap before element %d", path, i)
		}
		if list[i-1], err = convert(m, s.Of, below, path+"."+kid); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func scalar(s *model.Shape, text, path string) (any, error) {
	var v any
	var err error
	switch s.Type {
	case "string":
		if len(s.Enum) > 0 && !slices.Contains(s.Enum, text) {
			return nil, invalidValue(path, text, "")
		}
		return text, nil
	case "boolean":
		switch text {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, invalidValue(path, text, "It is neither true nor false.")
	case "integer":
		v, err = strconv.ParseInt(text, 10, 32)
	case "long":
		v, err = strconv.ParseInt(text, 10, 64)
	case "double", "float":
		v, err = strconv.ParseFloat(text, 64)
	case "timestamp":
		v, err = time.Parse(time.RFC3339, text)
	case "blob":
		v, err = base64.StdEncoding.DecodeString(text)
	}
	if err != nil {
		return nil, invalidValue(path, text, "It is no "+s.Type+".")
	}
	return v, nil
}

// check says what is missing in p or out of the model's bounds.
func check(m *model.Model, shape string, v any, path string) error {
	s := m.Requests[shape]
	var size float64
	switch v := v.(type) {
	case params:
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				return refuse("MissingParameter", "The request must contain the parameter %s", join(path, wire(s, name)))
			}
		}
		for _, member := range s.Members {
			if below, ok := v[member.Name]; ok {
				if err := check(m, member.Shape, below, join(path, member.Wire)); err != nil {
					return err
				}
			}
		}
		return nil
	case []any:
		for i, below := range v {
			if err := check(m, s.Of, below, path+"."+strconv.Itoa(i+1)); err != nil {
				return err
			}
		}
		size = float64(len(v))
	case string:
		size = float64(len(v))
	case int64:
		size = float64(v)
	default:
		return nil
	}
	if s.Min != nil && size < *s.Min || s.Max != nil && size > *s.Max {
		return invalidValue(path, v, "It is out of bounds.")
	}
	return nil
}

func wire(s *model.Shape, name string) string {
	for _, m := range s.Members {
		if m.Name == name {
			return m.Wire
		}
	}
	return name
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
