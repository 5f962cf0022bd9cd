package agent

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// b64Prefix marks a value that is base64, so that it may have any bytes.
const b64Prefix = "__B64__"

// dotenvProblem is a line that could not be read. It does not quote the line,
// which may hold a secret.
type dotenvProblem struct {
	line int
	what string
}

func (p dotenvProblem) String() string { return fmt.Sprintf("line %d: %s", p.line, p.what) }

// pair is one variable of a dotenv file.
type pair struct{ key, value string }

// parseDotenv reads KEY=VALUE lines as steps write them: `export` before the
// key, comment lines, values in double quotes (with \n, \r, \t, \" and \\) or
// in single quotes (verbatim), both of which may span lines, and __B64__
// values. Everything else is taken verbatim: nothing is expanded, and a # in a
// plain value is part of it. Lines that make no sense are reported and left
// out; they never cost the others. Later lines win.
func parseDotenv(text string) ([]pair, []dotenvProblem) {
	var pairs []pair
	var problems []dotenvProblem
	text = strings.TrimPrefix(text, "\ufeff")
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		number := i + 1
		line := strings.TrimSuffix(lines[i], "\r")
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		key, value, found := strings.Cut(strings.TrimLeft(line, " \t"), "=")
		key = strings.TrimSpace(key)
		if rest, ok := strings.CutPrefix(key, "export "); ok {
			key = strings.TrimSpace(rest)
		}
		switch {
		case !found:
			problems = append(problems, dotenvProblem{number, `no "=" between key and value`})
			continue
		case key == "":
			problems = append(problems, dotenvProblem{number, "no key"})
			continue
		}
		value, used := quoted(value, lines[i+1:])
		i += used
		if encoded, ok := strings.CutPrefix(value, b64Prefix); ok {
			plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
			if err != nil {
				problems = append(problems, dotenvProblem{number, "value is no base64, taken as it is"})
			} else {
				value = string(plain)
			}
		}
		pairs = append(pairs, pair{key, value})
	}
	return pairs, problems
}

// quoted takes the quotes off a value that begins with one and ends, on this
// or a later line, with the same; used is how many of the later lines that
// took. Any other value comes back as it is.
func quoted(value string, later []string) (plain string, used int) {
	value = strings.TrimSuffix(value, "\r")
	start := strings.TrimLeft(value, " \t")
	if start == "" || (start[0] != '"' && start[0] != '\'') {
		return value, 0
	}
	quote := start[0]
	body := start[1:]
	scanned := 0
	for used = 0; ; used++ {
		var found bool
		if scanned, found = closing(body, quote, scanned); found {
			end := scanned
			rest := strings.TrimSpace(body[end+1:])
			if rest != "" && rest[0] != '#' {
				return value, 0 // "a" b: no quoting, just text
			}
			if quote == '"' {
				return unescape(body[:end]), used
			}
			return body[:end], used
		}
		if used == len(later) {
			return value, 0
		}
		body += "\n" + strings.TrimSuffix(later[used], "\r")
	}
}

// closing finds the quote that ends body, at or after from. Without one it
// returns where to go on once there is more text.
func closing(body string, quote byte, from int) (at int, found bool) {
	i := from
	for ; i < len(body); i++ {
		switch {
		case body[i] == '\\' && quote == '"':
			i++
		case body[i] == quote:
			return i, true
		}
	}
	return i, false
}

func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		case '"', '\\', '$':
			b.WriteByte(s[i])
		default:
			b.WriteByte('\\')
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
