package agent

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
)

// maxPatternLine bounds how much of a line waits for its end, in bytes: as much
// as a log shows of a line. A match over that border is not found.
const maxPatternLine = 71_680

// parsePatterns reads the patterns of a setup: base64 of regular expressions,
// one a line. Those that make no sense are left out and told.
func parsePatterns(content string) (all []*regexp.Regexp, problems remarks) {
	text, err := base64.StdEncoding.DecodeString(content)
	if err != nil {
		problems.add(true, "patterns to mask are not applied: log_config.sanitize_config.sanitize_patterns_content is no base64")
		return nil, problems
	}
	number := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		number++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		re, err := regexp.Compile(line)
		if err != nil {
			problems.add(true, fmt.Sprintf("the pattern to mask on line %d of log_config.sanitize_config is not applied: %s", number, syntaxOf(err)))
			continue
		}
		all = append(all, re)
	}
	return all, problems
}

// syntaxOf is what is wrong with a pattern, without the pattern.
func syntaxOf(err error) string {
	if known, ok := errors.AsType[*syntax.Error](err); ok {
		return string(known.Code)
	}
	return "it cannot be read"
}

// patterns masks what regular expressions match in a stream, line by line. It
// holds back lines that have not ended. Not safe for concurrent use.
type patterns struct {
	all  []*regexp.Regexp
	held []byte
}

func newPatterns(all []*regexp.Regexp) *patterns {
	if len(all) == 0 {
		return nil
	}
	return &patterns{all: all}
}

// mask appends to dst the lines that end in p.
func (m *patterns) mask(dst, p []byte) []byte {
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			break
		}
		dst = m.release(dst, p[:i])
		dst = append(dst, '\n')
		p = p[i+1:]
	}
	for len(m.held)+len(p) > maxPatternLine {
		n := maxPatternLine - len(m.held)
		dst = m.release(dst, p[:n])
		p = p[n:]
	}
	m.held = append(m.held, p...)
	return dst
}

// flush appends to dst what was held back.
func (m *patterns) flush(dst []byte) []byte { return m.release(dst, nil) }

// release appends to dst what was held back and p, as one line.
func (m *patterns) release(dst, p []byte) []byte {
	line := p
	if len(m.held) > 0 {
		m.held = append(m.held, p...)
		line = m.held
	}
	for _, re := range m.all {
		if re.Match(line) { // mostly not, and that copies nothing
			line = re.ReplaceAllFunc(line, starsFor)
		}
	}
	dst = append(dst, line...)
	m.held = m.held[:0]
	return dst
}

// starsFor hides a match; one of nothing hides nothing.
func starsFor(match []byte) []byte {
	if len(match) == 0 {
		return match
	}
	return stars
}
