package gce

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
)

// CheckAnswer holds what the fake has answered to a request against the API's
// description.
func CheckAnswer(r *http.Request, status int, body []byte) error {
	if status != http.StatusOK {
		return nil
	}
	d := theDocument()
	m, _ := d.route(r)
	if m == nil {
		return fmt.Errorf("%s %s is answered with 200", r.Method, r.URL.Path)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return fmt.Errorf("%s: %w", m.id, err)
	}
	if m.Response == nil {
		if o, ok := v.(object); !ok || len(o) > 0 {
			return fmt.Errorf("%s has no answer, the fake gave %s", m.id, body)
		}
		return nil
	}
	c := checker{doc: d, method: m.id, answer: true}
	if _, err := c.value(m.Response, v, "answer"); err != nil {
		return fmt.Errorf("%s: %w: %s", m.id, err, body)
	}
	return nil
}

// MethodsAndHandlers are the description's methods and those the fake has code
// for.
func MethodsAndHandlers() (methods, coded []string) {
	for id := range theDocument().Methods {
		methods = append(methods, id)
	}
	for id, h := range handlers {
		if h.at != nil || h.waits != nil {
			coded = append(coded, id)
		}
	}
	return methods, coded
}

// ReadBody checks a body as one of a method's.
func ReadBody(id string, r *http.Request) error {
	d := theDocument()
	m := d.Methods[id]
	return d.readBody(&request{method: m, query: map[string]string{}}, r)
}

// Fits says whether an instance, as JSON, passes a filter.
func Fits(filter, instance string) (bool, error) {
	d := theDocument()
	f, err := parseFilter(filter, d, d.Schemas["Instance"])
	if err != nil {
		return false, err
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(instance)))
	dec.UseNumber()
	var o object
	if err := dec.Decode(&o); err != nil {
		return false, err
	}
	return f.fits(o), nil
}

// UsualImages are those of a cloud that is told nothing else.
func UsualImages() []Image { return usualImages }
