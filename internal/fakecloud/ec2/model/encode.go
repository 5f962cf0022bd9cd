package model

import (
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Answer is a structure of an answer by the model's names of members. Values are
// string, bool, int, float64, time.Time, []byte, Answer, []Answer, []string and
// []int; an empty string, a zero time and nil are left out.
type Answer map[string]any

// Encode is an answer's XML by the model. It fails on what the model does not
// know.
func Encode(action string, a Answer, requestID string) (string, error) {
	m := Get()
	op := m.Ops[action]
	var b strings.Builder
	fmt.Fprintf(&b, "%s<%sResponse xmlns=%q><requestId>%s</requestId>", xml.Header, action, m.Namespace+"/", requestID)
	if op.Output == "" {
		b.WriteString("<return>true</return>")
	} else if err := encodeMembers(&b, m, op.Output, a); err != nil {
		return "", fmt.Errorf("answer of %s: %w", action, err)
	}
	fmt.Fprintf(&b, "</%sResponse>", action)
	return b.String(), nil
}

func encodeMembers(b *strings.Builder, m *Model, shape string, a Answer) error {
	s := m.Answers[shape]
	left := len(a)
	for _, member := range s.Members {
		v, ok := a[member.Name]
		if !ok {
			continue
		}
		left--
		if err := encodeValue(b, m, member.Shape, member.Wire, v); err != nil {
			return fmt.Errorf("%s: %w", member.Name, err)
		}
	}
	if left > 0 {
		return fmt.Errorf("%s has %d members that the model does not know", shape, left)
	}
	return nil
}

func encodeValue(b *strings.Builder, m *Model, shape, tag string, v any) error {
	s := m.Answers[shape]
	text, err := "", error(nil)
	switch v := v.(type) {
	case nil:
		return nil
	case Answer:
		if v == nil {
			return nil
		}
		if s.Type != "structure" {
			return fmt.Errorf("%s is no structure", shape)
		}
		fmt.Fprintf(b, "<%s>", tag)
		err = encodeMembers(b, m, shape, v)
		fmt.Fprintf(b, "</%s>", tag)
		return err
	case []Answer:
		return encodeList(b, m, s, tag, v)
	case []string:
		return encodeList(b, m, s, tag, v)
	case []int:
		return encodeList(b, m, s, tag, v)
	case string:
		if v == "" {
			return nil
		}
		text, err = v, want(s, "string")
	case bool:
		text, err = strconv.FormatBool(v), want(s, "boolean")
	case int:
		text, err = strconv.Itoa(v), want(s, "integer", "long")
	case float64:
		text, err = strconv.FormatFloat(v, 'f', -1, 64), want(s, "double", "float")
	case []byte:
		text, err = base64.StdEncoding.EncodeToString(v), want(s, "blob")
	case time.Time:
		if v.IsZero() {
			return nil
		}
		text, err = v.UTC().Format("2006-01-02T15:04:05.000Z"), want(s, "timestamp")
	default:
		return fmt.Errorf("%T is no type of an answer", v)
	}
	fmt.Fprintf(b, "<%s>%s</%s>", tag, Escape(text), tag)
	return err
}

func encodeList[T any](b *strings.Builder, m *Model, s *Shape, tag string, list []T) error {
	if err := want(s, "list"); err != nil {
		return err
	}
	fmt.Fprintf(b, "<%s>", tag)
	for i, v := range list {
		if err := encodeValue(b, m, s.Of, s.Item, v); err != nil {
			return fmt.Errorf("element %d: %w", i+1, err)
		}
	}
	fmt.Fprintf(b, "</%s>", tag)
	return nil
}

func want(s *Shape, kinds ...string) error {
	for _, kind := range kinds {
		if s.Type == kind {
			return nil
		}
	}
	return fmt.Errorf("the model says %s", s.Type)
}

// Escape is a text as XML has it.
func Escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder does not fail
	return b.String()
}
