package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// member is one key and value of a JSON object, both as they were written.
type member struct {
	key   string
	raw   []byte // the key with its quotes
	value []byte
}

// folds says whether encoding/json would take the member for the field name.
func (m member) folds(name string) bool { return strings.EqualFold(m.key, name) }

// isNull says whether the value is null.
func (m member) isNull() bool { return string(m.value) == "null" }

var errNotObject = errors.New("is not a JSON object")

// object reads raw as a JSON object, members in order, doubles included.
// Nothing at all and null are the empty object, as for encoding/json.
func object(raw []byte) ([]member, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] != '{' || !json.Valid(raw) {
		return nil, errNotObject
	}
	var members []member
	s := scanner{raw: raw, at: 1}
	for {
		s.space()
		if s.raw[s.at] == '}' {
			return members, nil
		}
		if s.raw[s.at] == ',' {
			s.at++
			s.space()
		}
		m := member{raw: s.value()}
		if err := json.Unmarshal(m.raw, &m.key); err != nil {
			return nil, fmt.Errorf("key %s: %w", m.raw, err)
		}
		s.space()
		s.at++ // the colon
		s.space()
		m.value = s.value()
		members = append(members, m)
	}
}

// array reads raw as a JSON array. Null and nothing are empty.
func array(raw []byte) ([][]byte, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] != '[' || !json.Valid(raw) {
		return nil, errors.New("is not a JSON array")
	}
	var values [][]byte
	s := scanner{raw: raw, at: 1}
	for {
		s.space()
		if s.raw[s.at] == ']' {
			return values, nil
		}
		if s.raw[s.at] == ',' {
			s.at++
			s.space()
		}
		values = append(values, s.value())
	}
}

// scanner walks over JSON that is known to be valid, so that finding where a
// value ends needs no recursion and no second set of error paths.
type scanner struct {
	raw []byte
	at  int
}

func (s *scanner) space() {
	for strings.IndexByte(" \t\r\n", s.raw[s.at]) >= 0 {
		s.at++
	}
}

// value returns the value that begins here and moves behind it.
func (s *scanner) value() []byte {
	start, depth := s.at, 0
	for s.at < len(s.raw) {
		switch c := s.raw[s.at]; c {
		case '"':
			s.text()
			if depth == 0 {
				return s.raw[start:s.at]
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 { // the end of what holds a bare literal
				return s.raw[start:s.at]
			}
			depth--
			if depth == 0 {
				s.at++
				return s.raw[start:s.at]
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return s.raw[start:s.at]
			}
		}
		s.at++
	}
	return s.raw[start:s.at]
}

// text moves behind the string that begins here.
func (s *scanner) text() {
	for s.at++; s.raw[s.at] != '"'; s.at++ {
		if s.raw[s.at] == '\\' {
			s.at++
		}
	}
	s.at++
}

// joinObject writes members as one compact object, keys and values as given.
func joinObject(members []member) []byte {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range members {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(m.raw)
		b.WriteByte(':')
		b.Write(m.value)
	}
	b.WriteByte('}')
	return b.Bytes()
}

func joinArray(values [][]byte) []byte {
	return append(append([]byte{'['}, bytes.Join(values, []byte{','})...), ']')
}

// quote is text as a JSON string without HTML escapes.
func quote(text string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // a string cannot fail
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}
