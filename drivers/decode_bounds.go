package drivers

import (
	"fmt"

	"gopkg.in/yaml.v3"
)

// MaxValues is how many values the aliases of a configuration may make of it,
// and MaxDepth how deep its values may be nested. No real file comes near.
const (
	MaxValues = 100_000
	MaxDepth  = 100
)

// measure bounds what decoding a tree may cost before it is decoded: a small
// file can name one anchor from another ten times over and stand for billions
// of values. Each node is looked at once.
func measure(n *yaml.Node) (Finding, bool) {
	m := measurer{sizes: map[*yaml.Node]int{}}
	size := m.size(n, 0)
	switch {
	case m.bad.Message != "":
		return m.bad, false
	case size > MaxValues && m.aliases:
		return Finding{
			Line: max(n.Line, 1), Column: max(n.Column, 1),
			Message: fmt.Sprintf("its aliases expand to more than %d values, which is the limit; write the values out or use fewer aliases", MaxValues),
		}, false
	}
	return Finding{}, true
}

type measurer struct {
	// sizes has what each anchored node expands to; openSize while it is
	// being measured.
	sizes   map[*yaml.Node]int
	aliases bool
	bad     Finding
}

const openSize = -1

// size is how many values n stands for, at most a little over MaxValues per
// child, so that it cannot overflow.
func (m *measurer) size(n *yaml.Node, depth int) int {
	if m.bad.Message != "" {
		return 0
	}
	if depth > MaxDepth {
		m.bad = Finding{Line: n.Line, Column: n.Column, Message: fmt.Sprintf("nested deeper than %d levels, which is the limit; no pool needs that", MaxDepth)}
		return 0
	}
	if n.Kind == yaml.AliasNode {
		m.aliases = true
		if m.sizes[n.Alias] == openSize {
			m.bad = Finding{Line: n.Line, Column: n.Column, Message: fmt.Sprintf("*%s stands inside &%[1]s, so it would contain itself; use another anchor", n.Value)}
			return 0
		}
		n = n.Alias
	}
	if n.Anchor != "" {
		if known, ok := m.sizes[n]; ok {
			return known
		}
		m.sizes[n] = openSize
	}
	total := 1
	for _, c := range n.Content {
		if total += m.size(c, depth+1); total > MaxValues && m.aliases {
			total = MaxValues + 1
		}
	}
	if n.Anchor != "" {
		m.sizes[n] = total
	}
	return total
}
