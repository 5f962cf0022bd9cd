package gce

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// filter is a list's filter, of either style: fits says whether an entry passes.
type filter struct{ root node }

func (f *filter) fits(o object) bool { return f.root.fits(o) }

// node is a part of a filter.
type node interface{ fits(o object) bool }

type (
	all    []node
	anyFit []node
	not    struct{ node }
	// comparison holds one field against a value.
	comparison struct {
		field []string
		op    string
		value string
	}
	// match holds one field against a regular expression.
	match struct {
		field []string
		re    *regexp.Regexp
		want  bool
	}
)

func (n all) fits(o object) bool {
	for _, e := range n {
		if !e.fits(o) {
			return false
		}
	}
	return true
}

func (n anyFit) fits(o object) bool {
	for _, e := range n {
		if e.fits(o) {
			return true
		}
	}
	return false
}

func (n not) fits(o object) bool { return !n.node.fits(o) }

func (n match) fits(o object) bool {
	found := false
	for _, v := range fieldsOf(o, n.field) {
		s, ok := v.(string)
		if !ok {
			s = fmt.Sprint(v)
		}
		found = found || n.re.MatchString(s)
	}
	return found == n.want
}

func (n comparison) fits(o object) bool {
	values := fieldsOf(o, n.field)
	if n.op == ":" && n.value == "*" {
		return len(values) > 0
	}
	if n.op == "!=" {
		return !comparison{n.field, "=", n.value}.fits(o)
	}
	for _, v := range values {
		if compare(v, n.op, n.value) {
			return true
		}
	}
	return false
}

// compare holds one value against the text of a filter.
func compare(v any, op, want string) bool {
	if b, ok := v.(bool); ok {
		return (op == "=" || op == ":") && strconv.FormatBool(b) == strings.ToLower(want)
	}
	have := fmt.Sprint(v)
	switch op {
	case ":":
		return strings.Contains(strings.ToLower(have), strings.ToLower(want))
	case "=":
		if prefix, ok := strings.CutSuffix(want, "*"); ok {
			return strings.HasPrefix(have, prefix)
		}
		return have == want
	}
	order := strings.Compare(have, want)
	if x, err := strconv.ParseFloat(have, 64); err == nil {
		y, err := strconv.ParseFloat(want, 64)
		if err != nil {
			return false
		}
		order = sign(x - y)
	} else if x, err := time.Parse(time.RFC3339Nano, have); err == nil {
		y, err := time.Parse(time.RFC3339Nano, want)
		if err != nil {
			return false
		}
		order = x.Compare(y)
	}
	switch op {
	case "<":
		return order < 0
	case "<=":
		return order <= 0
	case ">":
		return order > 0
	default: // ">=", the last there is
		return order >= 0
	}
}

func sign(f float64) int {
	switch {
	case f < 0:
		return -1
	case f > 0:
		return 1
	}
	return 0
}

// fieldsOf are the values a path leads to: lists count with each entry, what is
// absent or empty not at all.
func fieldsOf(v any, path []string) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		var values []any
		for _, e := range v {
			values = append(values, fieldsOf(e, path)...)
		}
		return values
	case object:
		if len(path) == 0 {
			if len(v) == 0 {
				return nil
			}
			return []any{v}
		}
		e, ok := v[path[0]]
		if !ok {
			return nil
		}
		return fieldsOf(e, path[1:])
	default:
		if len(path) > 0 || v == "" {
			return nil
		}
		return []any{v}
	}
}

// regexStyle is what only a filter of the older style has.
var regexStyle = regexp.MustCompile(`(?:^|[\s(])[A-Za-z][\w.-]*\s+(?:eq|ne)\s`)

// parseFilter reads a filter over the entries of a schema.
func parseFilter(text string, doc *document, item *schema) (*filter, error) {
	p := &parser{rest: text, doc: doc, item: item}
	var root node
	var err error
	if regexStyle.MatchString(text) {
		root, err = p.expressions()
	} else {
		root, err = p.conjunction(0)
		if p.space(); err == nil && p.rest != "" {
			err = fmt.Errorf("unexpected %q", cut(p.rest))
		}
	}
	if err != nil {
		return nil, err
	}
	return &filter{root: root}, nil
}

// parser reads a filter from the left.
type parser struct {
	rest string
	doc  *document
	item *schema
}

func (p *parser) space() { p.rest = strings.TrimLeft(p.rest, " \t\r\n") }

// word takes a word that stands alone, such as AND.
func (p *parser) word(w string) bool {
	rest, ok := strings.CutPrefix(p.rest, w)
	if !ok || rest != "" && !strings.ContainsRune(" \t\r\n(-", rune(rest[0])) {
		return false
	}
	p.rest = rest
	return true
}

// deepest bounds how far parentheses nest.
const deepest = 50

// conjunction is all of what follows, up to the end or a parenthesis: AND may be
// left out.
func (p *parser) conjunction(depth int) (node, error) {
	if depth > deepest {
		return nil, errors.New("too many parentheses")
	}
	var n all
	for {
		e, err := p.disjunction(depth)
		if err != nil {
			return nil, err
		}
		n = append(n, e)
		p.space()
		if p.word("AND") {
			continue
		}
		if p.rest == "" || p.rest[0] == ')' {
			return n, nil
		}
	}
}

// disjunction binds closer than AND, as AIP-160 has it.
func (p *parser) disjunction(depth int) (node, error) {
	var n anyFit
	for {
		e, err := p.term(depth)
		if err != nil {
			return nil, err
		}
		n = append(n, e)
		p.space()
		if !p.word("OR") {
			return n, nil
		}
	}
}

func (p *parser) term(depth int) (node, error) {
	p.space()
	if p.word("NOT") || strings.HasPrefix(p.rest, "-") {
		p.rest = strings.TrimPrefix(p.rest, "-")
		if depth > deepest {
			return nil, errors.New("too many negations")
		}
		n, err := p.term(depth + 1)
		return not{n}, err
	}
	if rest, ok := strings.CutPrefix(p.rest, "("); ok {
		p.rest = rest
		n, err := p.conjunction(depth + 1)
		if err != nil {
			return nil, err
		}
		p.space()
		if p.rest, ok = strings.CutPrefix(p.rest, ")"); !ok {
			return nil, errors.New("a parenthesis is not closed")
		}
		return n, nil
	}
	field, err := p.field()
	if err != nil {
		return nil, err
	}
	p.space()
	for _, op := range []string{"!=", "<=", ">=", "=", "<", ">", ":"} {
		if rest, ok := strings.CutPrefix(p.rest, op); ok {
			p.rest = rest
			value, err := p.value(" \t\r\n()")
			return comparison{field, op, value}, err
		}
	}
	return nil, fmt.Errorf("an operator is missing before %q", cut(p.rest))
}

var fieldRE = regexp.MustCompile(`^[A-Za-z_][\w-]*(?:\.[\w\pL-]+)*`)

// field takes the name of a field, which must be one of the entries.
func (p *parser) field() ([]string, error) {
	name := fieldRE.FindString(p.rest)
	if name == "" {
		return nil, fmt.Errorf("a field is missing before %q", cut(p.rest))
	}
	p.rest = p.rest[len(name):]
	path := strings.Split(name, ".")
	s := p.item
	for _, key := range path {
		for s != nil && s.Type == "array" {
			s = p.doc.resolve(s.Items)
		}
		var next *schema
		if s != nil {
			if next = s.Properties[key]; next == nil {
				next = s.Additional
			}
		}
		if s = p.doc.resolve(next); s == nil {
			return nil, fmt.Errorf("no such field: %s", name)
		}
	}
	return path, nil
}

// value takes a value, quoted or up to one of the bytes in end.
func (p *parser) value(end string) (string, error) {
	p.space()
	if p.rest == "" {
		return "", errors.New("a value is missing")
	}
	if q := p.rest[0]; q == '"' || q == '\'' {
		var b strings.Builder
		for i := 1; i < len(p.rest); i++ {
			switch ch := p.rest[i]; {
			case ch == '\\' && i+1 < len(p.rest):
				i++
				b.WriteByte(p.rest[i])
			case ch == q:
				p.rest = p.rest[i+1:]
				return b.String(), nil
			default:
				b.WriteByte(ch)
			}
		}
		return "", errors.New("a quotation mark is not closed")
	}
	i := strings.IndexAny(p.rest, end)
	if i < 0 {
		i = len(p.rest)
	}
	if i == 0 {
		return "", fmt.Errorf("a value is missing before %q", cut(p.rest))
	}
	v := strings.TrimRight(p.rest[:i], " \t\r\n")
	p.rest = p.rest[i:]
	if strings.ContainsAny(v, `"'`) {
		return "", fmt.Errorf("a quotation mark stands inside %q", cut(v))
	}
	return v, nil
}

// expressions reads a filter of regular expressions: one, or several in
// parentheses, all of one field.
func (p *parser) expressions() (node, error) {
	var n all
	var of string
	for p.space(); p.rest != ""; p.space() {
		rest, closed := strings.CutPrefix(p.rest, "(")
		if p.rest = rest; !closed && len(n) > 0 {
			return nil, errors.New("several expressions must stand in parentheses, and the two styles of filter cannot be mixed")
		}
		p.space()
		field, err := p.field()
		if err != nil {
			return nil, err
		}
		if name := strings.Join(field, "."); of == "" {
			of = name
		} else if of != name {
			return nil, errors.New("regular expressions of several fields cannot be combined")
		}
		p.space()
		want := p.word("eq")
		if !want && !p.word("ne") {
			return nil, errors.New("the two styles of filter cannot be mixed")
		}
		end := " \t\r\n"
		if closed {
			end += ")"
		}
		literal, err := p.value(end)
		if err != nil {
			return nil, err
		}
		re, err := regexp.Compile("^(?:" + literal + ")$")
		if err != nil {
			return nil, err
		}
		if closed {
			p.space()
			if p.rest, closed = strings.CutPrefix(p.rest, ")"); !closed {
				return nil, errors.New("a parenthesis is not closed")
			}
		}
		n = append(n, match{field, re, want})
	}
	return n, nil
}
