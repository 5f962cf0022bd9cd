package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/ec2/model"
)

// oldModel is the model of aws-sdk-go, as far as it is of use.
type oldModel struct {
	Metadata struct {
		APIVersion   string `json:"apiVersion"`
		XMLNamespace string `json:"xmlNamespace"`
	} `json:"metadata"`
	Operations map[string]struct {
		Input  ref `json:"input"`
		Output ref `json:"output"`
	} `json:"operations"`
	Shapes map[string]*oldShape `json:"shapes"`
}

type oldShape struct {
	Type     string         `json:"type"`
	Members  map[string]ref `json:"members"`
	Member   ref            `json:"member"`
	Enum     []string       `json:"enum"`
	Required []string       `json:"required"`
	Min      *float64       `json:"min"`
	Max      *float64       `json:"max"`
}

type ref struct {
	Shape     string `json:"shape"`
	Location  string `json:"locationName"`
	QueryName string `json:"queryName"`
}

func readOld(text []byte) (*oldModel, error) {
	m := &oldModel{}
	if err := json.Unmarshal(text, m); err != nil {
		return nil, fmt.Errorf("%s: %w", oldFile, err)
	}
	return m, nil
}

// add adds an operation with its shapes to m.
func (o *oldModel) add(m *model.Model, v2 *newModel, name string) error {
	op, ok := o.Operations[name]
	if !ok {
		return fmt.Errorf("not in the model")
	}
	m.Ops[name] = model.Op{Input: op.Input.Shape, Output: op.Output.Shape}
	if err := o.request(m.Requests, v2, op.Input.Shape, "OpDocument"+name+"Input"); err != nil {
		return err
	}
	if op.Output.Shape == "" {
		return nil
	}
	return o.answer(m.Answers, op.Output.Shape)
}

// open are the enumerations that Amazon adds to so often that a client's list is
// always behind: the fake knows its own types.
var open = []string{"InstanceType", "ReservedInstancesOfferingType"}

// request adds a shape of requests, joined with what the newer SDK's function
// for it writes in addition.
func (o *oldModel) request(into map[string]*model.Shape, v2 *newModel, name, function string) error {
	if into[name] != nil {
		return nil
	}
	old := o.Shapes[name]
	if old == nil {
		return fmt.Errorf("shape %s: not in the model", name)
	}
	s := &model.Shape{Type: old.Type, Required: old.Required, Min: old.Min, Max: old.Max}
	into[name] = s
	switch old.Type {
	case "list":
		s.Of = old.Member.Shape
		inner := ""
		if f := v2.function(function); f != nil && f.list {
			inner = f.member.function
		}
		return o.request(into, v2, s.Of, inner)
	case "string":
		if !slices.Contains(open, name) {
			s.Enum = union(old.Enum, v2.enums[name])
		}
		return nil
	case "structure":
	default:
		return nil
	}
	f := v2.function(function)
	if f == nil {
		f = &newFunction{}
	}
	known := map[string]bool{}
	for _, member := range sorted(old.Members) {
		r := old.Members[member]
		wire := cmp.Or(r.QueryName, upper(r.Location), member)
		known[wire] = true
		s.Members = append(s.Members, model.Member{Name: member, Wire: wire, Shape: r.Shape})
		if err := o.request(into, v2, r.Shape, f.members[wire].function); err != nil {
			return err
		}
	}
	for _, wire := range sorted(f.members) {
		if !known[wire] {
			shape, err := v2.request(into, f.members[wire])
			if err != nil {
				return err
			}
			s.Members = append(s.Members, model.Member{Name: f.members[wire].name, Wire: wire, Shape: shape})
		}
	}
	slices.SortFunc(s.Members, func(a, b model.Member) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// answer adds a shape of answers.
func (o *oldModel) answer(into map[string]*model.Shape, name string) error {
	if into[name] != nil {
		return nil
	}
	old := o.Shapes[name]
	if old == nil {
		return fmt.Errorf("shape %s: not in the model", name)
	}
	s := &model.Shape{Type: old.Type}
	into[name] = s
	if old.Type == "list" {
		s.Of, s.Item = old.Member.Shape, cmp.Or(old.Member.Location, "member")
		return o.answer(into, s.Of)
	}
	for _, member := range sorted(old.Members) {
		r := old.Members[member]
		s.Members = append(s.Members, model.Member{Name: member, Wire: cmp.Or(r.Location, member), Shape: r.Shape})
		if err := o.answer(into, r.Shape); err != nil {
			return err
		}
	}
	return nil
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func upper(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func union(a, b []string) []string {
	if len(a)+len(b) == 0 {
		return nil
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}
