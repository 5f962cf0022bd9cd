package poolfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// tree reads the first document of a file. Without a tree there is exactly one
// error; beside it there may be a warning.
func tree(name string, data []byte) (*yaml.Node, Findings) {
	fail := func(line, column int, format string, args ...any) (*yaml.Node, Findings) {
		return nil, Findings{{File: name, Line: line, Column: column, Severity: Error, Message: fmt.Sprintf(format, args...)}}
	}
	if len(data) > MaxBytes {
		return fail(1, 1, "file is larger than 1 MiB, which is the limit; a pool file is a few kilobytes")
	}
	if line, column, what := badText(data); what != "" {
		return fail(line, column, "%s", what)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return fail(1, 1, "file is empty; list at least one pool under \"instances\"")
	case err != nil:
		line, column, message := syntaxError(err, data)
		return fail(line, column, "%s", message)
	}
	if dec.Decode(&second) == nil {
		return &doc, Findings{{
			File: name, Line: second.Line, Column: second.Column, Severity: Warning,
			Message: "a second document begins here, only the first is read; make one of them",
		}}
	}
	return &doc, nil
}

// badText finds what no YAML file may contain, with its place.
func badText(data []byte) (line, column int, what string) {
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return 1, 1, "file is UTF-16; save it as UTF-8"
	}
	line, column = 1, 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return line, column, fmt.Sprintf("byte 0x%02x is not UTF-8; save the file as UTF-8", data[i])
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r >= 0x7f && r < 0xa0 && r != 0x85, r == 0xfffe, r == 0xffff:
			return line, column, fmt.Sprintf("control character %U is not allowed; remove it", r)
		}
		if column++; r == '\n' {
			line, column = line+1, 1
		}
		i += size
	}
	return 0, 0, ""
}

var (
	yamlLine  = regexp.MustCompile(`^line (\d+): `)
	yamlAlias = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// syntaxError turns the YAML library's error into a place and a message with
// what to do. The library gives a line, sometimes that of where the broken
// value began, and no column.
func syntaxError(err error, data []byte) (line, column int, message string) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	lines := strings.Split(string(data), "\n")
	line = 1
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = text[len(m[0]):]
		if n, err := strconv.Atoi(m[1]); err == nil {
			// The library counts the lines of its parser's errors from 0, and
			// those of its scanner's from 1.
			if strings.Contains(text, "did not find expected") {
				n++
			}
			line = min(max(n, 1), len(lines))
		}
	}
	if m := yamlAlias.FindStringSubmatch(text); m != nil {
		line, column = locate(lines, "*"+m[1])
		return line, column, fmt.Sprintf("*%s refers to nothing above it; write &%[1]s before the value it stands for", m[1])
	}
	if strings.Contains(text, "unexpected end of stream") && !strings.ContainsAny(lines[line-1], `"'`) {
		// The library calls line 0 no line, and then tells where the file ends.
		line = 1
	}
	if l, c, ok := tab(lines, line); ok {
		return l, c, "not YAML: a tab is used for indentation; use spaces"
	}
	fix := "look at this line and the one above it"
	for _, h := range hints {
		if strings.Contains(text, h.text) {
			fix = h.fix
			if h.block {
				line = brokenLine(data, lines, text, line)
			}
			break
		}
	}
	return line, firstText(lines[line-1]), fmt.Sprintf("not YAML: %s; %s", text, fix)
}

// brokenLine is the last line of the shortest beginning of the file that is
// broken in the same way: the library only tells where the mapping or list
// around the fault began.
func brokenLine(data []byte, lines []string, text string, line int) int {
	// A search reads the file some ten times over.
	const largest = 64 << 10
	if len(data) > largest {
		return line
	}
	return 1 + sort.Search(len(lines)-1, func(i int) bool {
		var n yaml.Node
		err := yaml.NewDecoder(strings.NewReader(strings.Join(lines[:i+1], "\n") + "\n")).Decode(&n)
		return err != nil && strings.HasSuffix(err.Error(), text)
	})
}

// hints say what to do about the library's messages. Those marked block are
// about a line of its own, the others about what begins where the library says.
var hints = []struct {
	text, fix string
	block     bool
}{
	{"mapping values are not allowed", "indent keys of one mapping alike, and put a value that contains \": \" in quotes", true},
	{"cannot start any token", "put a value that begins with @, ` or % in quotes", true},
	{"unexpected end of stream", "close the quote that is opened here", false},
	{"did not find expected ',' or ']'", "close the list with ] and separate its entries by commas", false},
	{"did not find expected ',' or '}'", "close the mapping with } and separate its keys by commas", false},
	{"did not find expected '-' indicator", "indent every \"- \" of one list and the keys of its entries alike", true},
	{"did not find expected key", "indent keys of one mapping alike", true},
	{"could not find expected ':'", "write each key as \"key: value\"", true},
	{"unknown escape", "in double quotes write \\\\ for a backslash, or use single quotes", true},
	{"exceeded max depth", "no pool needs such deep nesting", false},
	{"block sequence entries are not allowed", "begin the list on a line of its own", true},
	{"did not find expected node content", "give a value, and close what is opened here", false},
	{"unknown directive", "a line that begins with % is for YAML itself; remove it", true},
	{"alphabetic or numeric character", "put a value that begins with * or & in quotes", true},
}

// tab finds a tab in the indentation of a line near the one the library
// complains about.
func tab(lines []string, line int) (int, int, bool) {
	for _, l := range []int{line, line + 1, line - 1} {
		if l < 1 || l > len(lines) {
			continue
		}
		text := lines[l-1]
		if i := strings.IndexByte(text, '\t'); i >= 0 && strings.Trim(text[:i], " -") == "" && strings.TrimSpace(text) != "" {
			return l, i + 1, true
		}
	}
	return 0, 0, false
}

// locate is where word first stands in the text.
func locate(lines []string, word string) (line, column int) {
	for i, l := range lines {
		if j := strings.Index(l, word); j >= 0 {
			return i + 1, utf8.RuneCountInString(l[:j]) + 1
		}
	}
	return 1, 1
}

// firstText is the column of a line's first character that is no space.
func firstText(line string) int {
	return min(len(line)-len(strings.TrimLeft(line, " \t"))+1, max(len(line), 1))
}
