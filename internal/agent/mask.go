package agent

import (
	"bytes"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
)

// stars replaces each secret, whatever its length.
var stars = []byte("**************")

// minSecret is the shortest text that is masked, in bytes: a single character
// would blacken everything and hide nothing.
const minSecret = 2

// masker replaces secrets in a stream that arrives in pieces cut anywhere. It
// holds back only what may be the beginning of a secret. Where several secrets
// begin at one place, the longest wins. Not safe for concurrent use.
type masker struct {
	byFirst [256][][]byte // secrets by first byte, longest first
	pending []byte
}

// newMasker returns a masker for secrets, or nil if nothing is to be masked.
func newMasker(secrets []string) *masker {
	parts := secretParts(secrets)
	if len(parts) == 0 {
		return nil
	}
	m := &masker{}
	for _, p := range parts {
		m.byFirst[p[0]] = append(m.byFirst[p[0]], []byte(p))
	}
	return m
}

// secretParts splits secrets at newlines, since output is masked by the line,
// and drops what is too short. Longest first.
func secretParts(secrets []string) []string {
	var parts []string
	for _, s := range secrets {
		for line := range strings.SplitSeq(s, "\n") {
			if line = strings.TrimSpace(line); len(line) >= minSecret {
				parts = append(parts, line)
			}
		}
	}
	slices.SortFunc(parts, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(parts)
}

// mask appends to dst what of the stream so far is settled after p.
func (m *masker) mask(dst, p []byte) []byte { return m.scan(dst, p, false) }

// flush appends to dst what was held back. A secret of which only the first
// part has come by then is not recognised any more.
func (m *masker) flush(dst []byte) []byte { return m.scan(dst, nil, true) }

func (m *masker) scan(dst, p []byte, final bool) []byte {
	data := p
	if len(m.pending) > 0 {
		m.pending = append(m.pending, p...)
		data = m.pending
	}
	plain := 0 // data[plain:i] is settled and not yet appended
	i := 0
	for i < len(data) {
		n, undecided := longestAt(m.byFirst[data[i]], data[i:])
		if undecided && !final {
			break
		}
		if n == 0 {
			i++
			continue
		}
		dst = append(append(dst, data[plain:i]...), stars...)
		i += n
		plain = i
	}
	dst = append(dst, data[plain:i]...)
	m.pending = append(m.pending[:0], data[i:]...)
	return dst
}

// longestAt returns the length of the longest secret data begins with, and
// whether a longer one could still come.
func longestAt(secrets [][]byte, data []byte) (n int, undecided bool) {
	for _, s := range secrets {
		if len(s) > len(data) {
			undecided = undecided || bytes.HasPrefix(s, data)
			continue
		}
		if bytes.HasPrefix(data, s) {
			return len(s), undecided
		}
	}
	return 0, undecided
}

// withoutShellVariables drops $NAME and ${NAME} from s.
func withoutShellVariables(s string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 {
			b.WriteString(s)
			return b.String()
		}
		rest := strings.TrimPrefix(s[i+1:], "{")
		n := 0
		for n < len(rest) && isWord(rest[n]) {
			n++
		}
		if n == 0 { // only a dollar
			b.WriteString(s[:i+1])
			s = s[i+1:]
			continue
		}
		b.WriteString(s[:i])
		s = strings.TrimPrefix(rest[n:], "}")
	}
}

// secretVariants are other spellings in which a secret turns up in logs:
// without its quotes, as compact JSON, without shell variables, URL-encoded.
func secretVariants(secrets []string) []string {
	var out []string
	for _, s := range secrets {
		out = append(out, s)
		trimmed := strings.TrimSpace(s)
		out = append(out, strings.Trim(trimmed, `"'`), withoutShellVariables(trimmed), url.QueryEscape(trimmed))
		var compact bytes.Buffer
		if json.Compact(&compact, []byte(trimmed)) == nil {
			out = append(out, compact.String())
		}
	}
	return out
}
