package gce

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// object is a JSON object as it was decoded, numbers as json.Number.
type object = map[string]any

// maxBody bounds a request, as the API's front end does.
const maxBody = 16 << 20

// request is a call that has passed the description's checks.
type request struct {
	*method
	path  map[string]string
	query map[string]string
	// body has no output-only properties.
	body object
	// raw is what came, to tell one request from another with its requestId.
	raw []byte
}

// has says whether the query names a parameter.
func (r *request) has(name string) bool { _, ok := r.query[name]; return ok }

// yes is a boolean parameter, false where it is absent.
func (r *request) yes(name string) bool { return r.query[name] == "true" }

// read checks a request against the description.
func (d *document) read(m *method, path map[string]string, r *http.Request) (*request, error) {
	req := &request{method: m, path: path, query: map[string]string{}}
	for _, name := range slices.Sorted(mapKeys(path)) {
		if err := d.parameter(name, m.Parameters[name], path[name]); err != nil {
			return nil, err
		}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("", "Invalid query: %v", err)
	}
	for _, name := range slices.Sorted(mapKeys(query)) {
		values := query[name]
		p, general := m.Parameters[name], d.Parameters[name]
		switch {
		case p != nil && p.Location == "query":
		case general == nil:
			return nil, badRequest("", "Invalid JSON payload received. Unknown name \"%s\": Cannot bind query parameter. Field '%[1]s' could not be found in request message.", name)
		case name == "alt" && values[0] == "json" || name == "prettyPrint":
			p = general
		default:
			return nil, notModelled("the query parameter " + name)
		}
		if len(values) > 1 && !p.Repeated {
			return nil, badRequest(name, "Invalid value at '%s': the parameter is given %d times", name, len(values))
		}
		for _, v := range values {
			if err := d.parameter(name, p, v); err != nil {
				return nil, err
			}
		}
		req.query[name] = values[0]
	}
	for _, name := range slices.Sorted(mapKeys(m.Parameters)) {
		if p := m.Parameters[name]; p.always && p.Location == "query" && !req.has(name) {
			return nil, &Error{Status: http.StatusBadRequest, Reason: "required", Location: name, Message: "Required parameter: " + name}
		}
	}
	if id, ok := req.query["requestId"]; ok && !isUUID(id) {
		return nil, invalid("requestId", id, "The requestId must be a valid UUID that is not zero.")
	}
	return req, d.readBody(req, r)
}

func (d *document) readBody(req *request, r *http.Request) error {
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil:
		return badRequest("", "The body could not be read: %v", err)
	case len(raw) > maxBody:
		return &Error{Status: http.StatusRequestEntityTooLarge, Reason: "uploadTooLarge", Message: "Request payload size exceeds the limit"}
	case req.Request == nil:
		if body := strings.TrimSpace(string(raw)); body != "" && body != "{}" {
			return badRequest("", "Invalid JSON payload received. Unknown name: %s has no body", req.id)
		}
		return nil
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return badRequest("", "The content type %q is not application/json", r.Header.Get("Content-Type"))
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return badRequest("", "Invalid JSON payload received. %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badRequest("", "Invalid JSON payload received. Expected end of input")
	}
	if _, ok := v.(object); !ok {
		return badRequest("", "Invalid JSON payload received. The body is not an object")
	}
	c := checker{doc: d, method: req.id}
	clean, err := c.value(req.Request, v, "resource")
	if err != nil {
		return err
	}
	req.raw = raw
	req.body, _ = clean.(object)
	return nil
}

// parameter checks a value of path or query, which is text there.
func (d *document) parameter(name string, s *schema, v string) error {
	bad := func(kind string) error {
		return badRequest(name, "Invalid value at '%s' (%s), %q", name, kind, v)
	}
	switch s.Type {
	case "boolean":
		if v != "true" && v != "false" {
			return bad("TYPE_BOOL")
		}
	case "integer":
		if !isInteger(v, s.Format) {
			return bad(kindOf(s))
		}
		n, _ := strconv.ParseInt(v, 10, 64)
		if least, err := strconv.ParseInt(s.Minimum, 10, 64); err == nil && n < least {
			return invalid(name, v, "Value must be greater than or equal to %d.", least)
		}
		if most, err := strconv.ParseInt(s.Maximum, 10, 64); err == nil && n > most {
			return invalid(name, v, "Value must be less than or equal to %d.", most)
		}
	case "string":
		if !isFormat(v, s.Format) {
			return bad(kindOf(s))
		}
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		return bad("TYPE_ENUM")
	}
	if s.pattern != nil && !s.pattern.MatchString(v) {
		return invalid(name, v, "Must be a match of regex '%s'", s.Pattern)
	}
	return nil
}

// checker holds a body against its schema.
type checker struct {
	doc    *document
	method string
	// answer is set for what the fake says itself: output-only properties are
	// kept, and none is required.
	answer bool
}

// value checks v and returns it without output-only properties and nulls.
func (c *checker) value(s *schema, v any, at string) (any, error) {
	if s = c.doc.resolve(s); s == nil {
		return nil, fmt.Errorf("%s: the description lacks a schema", at)
	}
	switch s.Type {
	case "object":
		o, ok := v.(object)
		if !ok {
			return nil, c.bad(s, v, at)
		}
		return c.object(s, o, at)
	case "array":
		list, ok := v.([]any)
		if !ok {
			return nil, c.bad(s, v, at)
		}
		clean := make([]any, len(list))
		for i, e := range list {
			var err error
			if clean[i], err = c.value(s.Items, e, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return nil, err
			}
		}
		return clean, nil
	case "boolean":
		if _, ok := v.(bool); !ok {
			return nil, c.bad(s, v, at)
		}
	case "integer":
		if n, ok := v.(json.Number); !ok || !isInteger(n.String(), s.Format) {
			return nil, c.bad(s, v, at)
		}
	case "number":
		if _, ok := v.(json.Number); !ok {
			return nil, c.bad(s, v, at)
		}
	case "string":
		text, ok := v.(string)
		if !ok || !isFormat(text, s.Format) || len(s.Enum) > 0 && !slices.Contains(s.Enum, text) {
			return nil, c.bad(s, v, at)
		}
		if s.pattern != nil && !s.pattern.MatchString(text) {
			return nil, invalid(at, text, "Must be a match of regex '%s'", s.Pattern)
		}
	}
	return v, nil
}

func (c *checker) object(s *schema, o object, at string) (object, error) {
	clean := object{}
	for _, key := range slices.Sorted(mapKeys(o)) {
		p := s.Properties[key]
		if p == nil {
			p = s.Additional
		}
		if p == nil {
			return nil, badRequest(at, "Invalid JSON payload received. Unknown name \"%s\" at '%s': Cannot find field.", key, at)
		}
		if o[key] == nil {
			continue
		}
		v, err := c.value(p, o[key], at+"."+key)
		if err != nil {
			return nil, err
		}
		// A property of the kind of answers is checked like any other, and ignored.
		if c.answer || !p.ReadOnly {
			clean[key] = v
		}
	}
	for _, key := range slices.Sorted(mapKeys(s.Properties)) {
		if p := s.Properties[key]; !c.answer && p.requiredBy[c.method] {
			if v, ok := clean[key]; !ok || v == "" && key == "name" {
				return nil, required(at + "." + key)
			}
		}
	}
	return clean, nil
}

func (c *checker) bad(s *schema, v any, at string) error {
	text, _ := json.Marshal(v)
	return badRequest(at, "Invalid value at '%s' (%s), %s", at, kindOf(s), text)
}

// kindOf is the type as the API's front end names it.
func kindOf(s *schema) string {
	switch {
	case len(s.Enum) > 0:
		return "TYPE_ENUM"
	case s.Type == "boolean":
		return "TYPE_BOOL"
	case s.Format == "byte":
		return "TYPE_BYTES"
	case s.Format != "":
		return "TYPE_" + strings.ToUpper(s.Format)
	default:
		return "TYPE_" + strings.ToUpper(s.Type)
	}
}

func isInteger(v, format string) bool {
	bits, signed := 64, true
	switch format {
	case "int32":
		bits = 32
	case "uint32":
		bits, signed = 32, false
	case "uint64":
		signed = false
	}
	if !signed {
		_, err := strconv.ParseUint(v, 10, bits)
		return err == nil
	}
	_, err := strconv.ParseInt(v, 10, bits)
	return err == nil
}

// isFormat says whether a string has the format that the description gives it:
// 64-bit numbers travel as strings.
func isFormat(v, format string) bool {
	switch format {
	case "int64", "uint64":
		return isInteger(v, format)
	case "byte":
		_, std := base64.StdEncoding.DecodeString(v)
		_, web := base64.URLEncoding.DecodeString(v)
		return std == nil || web == nil
	case "google-datetime":
		_, err := time.Parse(time.RFC3339Nano, v)
		return err == nil
	case "google-duration":
		_, err := time.ParseDuration(v)
		return err == nil && strings.HasSuffix(v, "s")
	default:
		return true
	}
}

func isUUID(v string) bool {
	if len(v) != 36 {
		return false
	}
	zero := true
	for i, r := range v {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if r != '-' {
				return false
			}
		case !strings.ContainsRune("0123456789abcdefABCDEF", r):
			return false
		case r != '0':
			zero = false
		}
	}
	return !zero
}
