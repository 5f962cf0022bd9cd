package server

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/vm-runner/drone-runner-aws/server/api"
)

// query reads a request's parameters and remembers the first thing wrong.
// Unknown and repeated parameters are wrong.
type query struct {
	r      *http.Request
	values url.Values
	known  []string
	err    error
}

func newQuery(r *http.Request) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	q := &query{r: r, values: values}
	if err != nil {
		q.bad("the query cannot be read: %v", err)
	}
	return q
}

func (q *query) bad(format string, a ...any) {
	if q.err == nil {
		q.err = badRequest(format, a...)
	}
}

// path is a parameter of the path, as decoded text.
func (q *query) path(name string) string {
	value := q.r.PathValue(name)
	if err := checkID(name, value); err != nil && q.err == nil {
		q.err = err
	}
	return value
}

func (q *query) text(name string) string {
	q.known = append(q.known, name)
	values := q.values[name]
	if len(values) == 0 {
		return ""
	}
	if len(values) > 1 {
		q.bad("parameter %q is given %d times", name, len(values))
	}
	if err := checkID(name, values[0]); err != nil && q.err == nil {
		q.err = err
	}
	return values[0]
}

func (q *query) bool(name string) bool {
	switch text := q.text(name); text {
	case "", "false":
		return false
	case "true":
		return true
	default:
		q.bad("parameter %q is %q, want true or false", name, text)
		return false
	}
}

// number is at least 0.
func (q *query) number(name string) int64 {
	text := q.text(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		q.bad("parameter %q is %q, want a whole number from 0 on", name, text)
	}
	return n
}

func (q *query) limit() int {
	text := q.text("limit")
	if text == "" {
		return api.DefaultLimit
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > api.MaxLimit {
		q.bad("parameter \"limit\" is %q, want a whole number from 1 to %d", text, api.MaxLimit)
	}
	return n
}

// states is a list of states separated by commas.
func states[S ~string](q *query, name string, all []S) []S {
	text := q.text(name)
	if text == "" {
		return nil
	}
	var list []S
	for part := range strings.SplitSeq(text, ",") {
		if !slices.Contains(all, S(part)) {
			names := make([]string, len(all))
			for i, s := range all {
				names[i] = string(s)
			}
			q.bad("parameter %q has %q, want some of %s", name, part, strings.Join(names, ", "))
		}
		list = append(list, S(part))
	}
	return list
}

// done is the first thing that was wrong, after all parameters were read.
func (q *query) done() error {
	for name := range q.values {
		if !slices.Contains(q.known, name) {
			if len(q.known) == 0 {
				q.bad("unknown parameter %q, there are none here", name)
			}
			q.bad("unknown parameter %q, there are: %s", name, strings.Join(q.known, ", "))
		}
	}
	return q.err
}
