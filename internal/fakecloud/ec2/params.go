package ec2

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// params are parameters by the model's names of members: of a request, or of a
// structure in it. Values are string, bool, int64, float64, time.Time, []byte,
// []any and params. A path names a member of a member: "Placement.Tenancy".
type params map[string]any

func (p params) get(path string) any {
	var v any = p
	for part := range strings.SplitSeq(path, ".") {
		inner, _ := v.(params)
		v = inner[part]
	}
	return v
}

func (p params) has(path string) bool { return p.get(path) != nil }

func (p params) str(path string) string { s, _ := p.get(path).(string); return s }

func (p params) flag(path string) bool { b, _ := p.get(path).(bool); return b }

// flagOr is the flag, or what it is where nobody says.
func (p params) flagOr(path string, otherwise bool) bool {
	if b, ok := p.get(path).(bool); ok {
		return b
	}
	return otherwise
}

func (p params) num(path string) int { n, _ := p.get(path).(int64); return int(n) }

func (p params) sub(path string) params { s, _ := p.get(path).(params); return s }

func (p params) strs(path string) []string { return elements[string](p, path) }

func (p params) subs(path string) []params { return elements[params](p, path) }

func elements[T any](p params, path string) (all []T) {
	list, _ := p.get(path).([]any)
	for _, v := range list {
		if t, ok := v.(T); ok {
			all = append(all, t)
		}
	}
	return all
}

// paths are the paths of all values that are no structures, lists of structures
// counting as one structure each.
func (p params) paths() (all []string) {
	for _, name := range slices.Sorted(maps.Keys(p)) {
		switch v := p[name].(type) {
		case params:
			all = append(all, below(name, v)...)
		case []any:
			for _, element := range v {
				if inner, ok := element.(params); ok {
					all = append(all, below(name, inner)...)
				} else {
					all = append(all, name)
				}
			}
		default:
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func below(name string, p params) []string {
	all := p.paths()
	for i := range all {
		all[i] = name + "." + all[i]
	}
	return all
}

// unknownTo is the first parameter that is none of those modelled nor below one.
func (p params) unknownTo(modelled []string) string {
	for _, path := range p.paths() {
		if path != "DryRun" && !slices.ContainsFunc(modelled, func(m string) bool { return path == m || strings.HasPrefix(path, m+".") }) {
			return path
		}
	}
	return ""
}

// sum is equal for equal parameters, whatever the members left out.
func (p params) sum(without ...string) string {
	q := maps.Clone(p)
	for _, name := range without {
		delete(q, name)
	}
	text, err := json.Marshal(q) // sorts keys; knows all types of values
	if err != nil {
		return fmt.Sprint(q)
	}
	return string(text)
}
