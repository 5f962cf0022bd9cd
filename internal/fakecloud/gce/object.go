package gce

import (
	"encoding/json"
	"iter"
	"maps"
	"strconv"
)

// What follows reads JSON objects that have passed the description's checks: a
// property that is there has its type.

func mapKeys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }

func text(o object, key string) string { s, _ := o[key].(string); return s }

func truth(o object, key string) bool { b, _ := o[key].(bool); return b }

func inner(o object, key string) object { m, _ := o[key].(object); return m }

func items(o object, key string) []any { l, _ := o[key].([]any); return l }

// whole is a number, also one that travels as a string; 0 where it is absent.
func whole(o object, key string) int64 {
	switch v := o[key].(type) {
	case string:
		n, _ := strconv.ParseInt(v, 10, 64)
		return n
	case json.Number:
		n, _ := v.Int64()
		return n
	case int:
		return int64(v)
	default:
		return 0
	}
}

// labelsOf is an object's labels.
func labelsOf(o object) map[string]string {
	m := map[string]string{}
	for k, v := range inner(o, "labels") {
		m[k], _ = v.(string)
	}
	return m
}

// anyOf is a map of strings as JSON has it.
func anyOf(m map[string]string) object {
	o := object{}
	for k, v := range m {
		o[k] = v
	}
	return o
}

// list is a slice as JSON has it.
func list[T any](l []T) []any {
	all := make([]any, len(l))
	for i, v := range l {
		all[i] = v
	}
	return all
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }
