package drivers

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// scalar reads a value that is no list and no mapping.
func (d *decoder) scalar(n *yaml.Node, path string, f *Field, v reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		fix := "write one value"
		if n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle != 0 {
			fix += ", in quotes if the braces belong to it"
		}
		d.wrong(n, path, want(f), fix)
		return
	}
	switch tag := n.ShortTag(); tag {
	case "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!merge":
	default:
		d.errorf(n, path, "the tag %s is not understood; remove it", show(n.Tag))
		return
	}
	switch f.Kind {
	case KindText:
		d.text(n, path, f, v)
	case KindBool:
		b, ok := boolean(n)
		if !ok {
			d.wrong(n, path, want(f), unquote(n, "true", "yes", "on", "false", "no", "off"))
			return
		}
		v.SetBool(b)
	case KindInt:
		d.integer(n, path, f, v)
	case KindFloat:
		number, ok := float(n, f.Numeric)
		if !ok {
			d.wrong(n, path, want(f), unquote(n))
			return
		}
		if d.bounded(n, path, f, number) {
			v.SetFloat(number)
		}
	case KindDuration:
		d.duration(n, path, f, v)
	default: // of several values
	}
}

func (d *decoder) text(n *yaml.Node, path string, f *Field, v reflect.Value) {
	if isOldBool(n) || n.ShortTag() == "!!bool" {
		d.wrong(n, path, want(f), fmt.Sprintf("put it in quotes: %q", n.Value))
		return
	}
	if n.Value == "" && f.Required {
		d.errorf(n, path, "empty; give %s", want(f))
		return
	}
	if len(f.Enum) > 0 {
		if n.Value == "" {
			return
		}
		if !slices.Contains(f.Enum, n.Value) {
			fix := "choose one of them"
			if near := Nearest(n.Value, f.Enum); near != "" {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			d.errorf(n, path, "%s is none of %s; %s", show(n.Value), strings.Join(f.Enum, ", "), fix)
			return
		}
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		fresh := reflect.New(v.Type())
		if err := fresh.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(n.Value)); err != nil {
			d.errorf(n, path, "%s is not valid here: %v", show(n.Value), err)
			return
		}
		reflect.ValueOf(u).Elem().Set(fresh.Elem())
		return
	}
	v.SetString(n.Value)
}

func (d *decoder) integer(n *yaml.Node, path string, f *Field, v reflect.Value) {
	var whole int64
	switch tag := n.ShortTag(); {
	case tag == "!!int" && n.Decode(&whole) == nil:
	case tag == "!!str" && f.Numeric && parsesAs(n.Value, &whole):
	default:
		number, ok := float(n, f.Numeric)
		if !ok || number != math.Trunc(number) {
			d.wrong(n, path, want(f), unquote(n))
			return
		}
		// Beyond 2^53 a float names no single whole number.
		if math.Abs(number) > 1<<53 {
			d.errorf(n, path, "%s is too large; give at most %d", clip(n.Value), int64(1)<<53)
			return
		}
		whole = int64(number)
	}
	if v.OverflowInt(whole) {
		d.errorf(n, path, "%d is too large; give at most %d", whole, math.MaxInt32)
		return
	}
	if d.bounded(n, path, f, float64(whole)) {
		v.SetInt(whole)
	}
}

func parsesAs(text string, to *int64) bool {
	i, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	*to = i
	return err == nil
}

// float reads a number that is finite.
func float(n *yaml.Node, numeric bool) (float64, bool) {
	var number float64
	switch n.ShortTag() {
	case "!!int", "!!float":
		if n.Decode(&number) != nil {
			return 0, false
		}
	case "!!str":
		var err error
		if number, err = strconv.ParseFloat(strings.TrimSpace(n.Value), 64); err != nil || !numeric {
			return 0, false
		}
	default:
		return 0, false
	}
	return number, !math.IsNaN(number) && !math.IsInf(number, 0)
}

func (d *decoder) duration(n *yaml.Node, path string, f *Field, v reflect.Value) {
	number, isNumber := float(n, false)
	dur, err := time.ParseDuration(n.Value)
	switch {
	case isNumber && number == 0:
		dur = 0
	case isNumber:
		d.wrong(n, path, want(f), fmt.Sprintf("add the unit: %ss or %[1]sm", n.Value))
		return
	case err != nil:
		d.wrong(n, path, want(f), "units are ms, s, m and h")
		return
	}
	if d.bounded(n, path, f, float64(dur)) {
		v.SetInt(int64(dur))
	}
}

// bounded reports a number outside the field's bounds.
func (d *decoder) bounded(n *yaml.Node, path string, f *Field, number float64) bool {
	if f.Min == "" && f.Max == "" {
		return true
	}
	low, high, _ := bounds(f) // checked by newRow
	if number >= low && number <= high {
		return true
	}
	what := "small"
	if number > high {
		what = "large"
	}
	fix := "give at least " + f.Min
	switch {
	case f.Min == "":
		fix = "give at most " + f.Max
	case f.Max != "":
		fix = "give " + f.Min + " to " + f.Max
	}
	d.errorf(n, path, "%s is too %s; %s", clip(n.Value), what, fix)
	return false
}

// bounds are Min and Max as numbers, nanoseconds for durations. The tables
// in use have been checked by newRow, so errors are only of its interest.
func bounds(f *Field) (low, high float64, err error) {
	parse := func(s string, none float64) float64 {
		if s == "" {
			return none
		}
		if f.Kind == KindDuration {
			d, e := time.ParseDuration(s)
			err = errors.Join(err, e)
			return float64(d)
		}
		n, e := strconv.ParseFloat(s, 64)
		err = errors.Join(err, e)
		return n
	}
	low, high = parse(f.Min, math.Inf(-1)), parse(f.Max, math.Inf(1))
	return low, high, err
}

// plain says whether a scalar stands in the file without quotes or a tag that
// makes it a text.
func plain(n *yaml.Node) bool {
	const quoted = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	return n.Style&quoted == 0 && !(n.Style&yaml.TaggedStyle != 0 && n.ShortTag() == "!!str")
}

// boolean reads the booleans of YAML 1.1, which pool files are written in.
func boolean(n *yaml.Node) (value, ok bool) {
	if n.Kind != yaml.ScalarNode || !plain(n) {
		return false, false
	}
	switch n.Value {
	case "y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE":
		return true, true
	case "n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE":
		return false, true
	}
	return false, false
}

// isOldBool says whether YAML 1.1 reads a scalar as a boolean. The single
// letters are left out: they are more likely names.
func isOldBool(n *yaml.Node) bool {
	_, ok := boolean(n)
	return ok && len(n.Value) > 1
}

// wrong reports a value of another type than the wanted one.
func (d *decoder) wrong(n *yaml.Node, path, wanted, fix string) {
	if fix != "" {
		fix = "; " + fix
	}
	d.errorf(n, path, "want %s, found %s%s", wanted, describe(n), fix)
}

// unquote advises how to write a value that is no number, or with words no
// boolean.
func unquote(n *yaml.Node, words ...string) string {
	_, err := strconv.ParseFloat(n.Value, 64)
	switch {
	case len(words) > 0 && slices.Contains(words, strings.ToLower(n.Value)), len(words) == 0 && err == nil && !plain(n):
		return "remove the quotes"
	case len(words) > 0:
		return "write true or false"
	case err == nil:
		return "leave out the fraction"
	}
	return "write it in digits"
}

// want names what a field takes, with its article.
func want(f *Field) string {
	switch f.Kind {
	case KindBool:
		return "true or false"
	case KindDuration:
		return "a duration such as 90s or 10m"
	case KindText:
		if len(f.Enum) > 0 {
			return "one of " + strings.Join(f.Enum, ", ")
		}
		return "a text"
	case KindAny:
		return "a value"
	default:
		return "a " + string(f.Kind)
	}
}

// describe names what a file holds, with its article.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
	default:
		return "nothing"
	}
	if isOldBool(n) {
		return "the boolean " + n.Value
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "the boolean " + show(n.Value)
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	case "!!timestamp":
		return "the date " + clip(n.Value)
	default:
		return "the text " + show(n.Value)
	}
}

// show quotes a value from a file on one line, cut if it is long.
func show(s string) string { return strconv.Quote(clip(s)) }

func clip(s string) string {
	const longest = 40
	if r := []rune(s); len(r) > longest {
		return string(r[:longest]) + "…"
	}
	return s
}
