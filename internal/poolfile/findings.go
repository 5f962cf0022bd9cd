package poolfile

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// Severity is how much a finding matters.
type Severity string

// The severities. An error keeps a server from starting, a warning does not,
// a note is worth knowing once.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Note    Severity = "note"
)

// Finding is one thing a person should know about a pool file.
type Finding struct {
	// File is the name the file was read under.
	File string `json:"file"`
	// Line and Column count from 1; both are 0 if the file could not be read.
	Line   int `json:"line"`
	Column int `json:"column"`
	// Path leads to the key, "instances[1].spec.cpus"; empty for the whole file.
	Path     string   `json:"path"`
	Severity Severity `json:"severity"`
	// Message says what is wrong, then what to do.
	Message string `json:"message"`
}

// String is the finding on one line:
//
//	pool.yml:14:7: instances[1].spec.machine_typ: unknown key; did you mean "machine_type"?
//	pool.yml:22:12: warning: instances[1].pool: 8 is above limit (5), …
func (f Finding) String() string {
	s := f.File
	if f.Line > 0 {
		s += fmt.Sprintf(":%d:%d", f.Line, f.Column)
	}
	if f.Severity != Error {
		s += ": " + string(f.Severity)
	}
	if f.Path != "" {
		s += ": " + f.Path
	}
	return s + ": " + f.Message
}

// Findings are what was found in one file, sorted by place.
type Findings []Finding

// Print writes one finding a line.
func (f Findings) Print(w io.Writer) error {
	for _, one := range f {
		if _, err := fmt.Fprintln(w, one); err != nil {
			return err
		}
	}
	return nil
}

// Errors counts what keeps a server from starting.
func (f Findings) Errors() int { return f.count(Error) }

// Warnings counts the warnings.
func (f Findings) Warnings() int { return f.count(Warning) }

func (f Findings) count(s Severity) int {
	n := 0
	for _, one := range f {
		if one.Severity == s {
			n++
		}
	}
	return n
}

// WriteJSON writes the findings for programs: an object with the counts
// "errors" and "warnings" and the list "findings", never null.
func (f Findings) WriteJSON(w io.Writer) error {
	if f == nil {
		f = Findings{}
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Errors   int      `json:"errors"`
		Warnings int      `json:"warnings"`
		Findings Findings `json:"findings"`
	}{f.Errors(), f.Warnings(), f})
}

// maxFindings bounds what a hostile file can make us print.
const maxFindings = 1000

// sorted orders findings by place and cuts what no person would read.
func (f Findings) sorted() Findings {
	slices.SortStableFunc(f, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
	})
	f = slices.Compact(f)
	if len(f) <= maxFindings {
		return f
	}
	rest := f[maxFindings:]
	severity := Warning
	if rest.Errors() > 0 {
		severity = Error
	}
	last := rest[0]
	return append(f[:maxFindings:maxFindings], Finding{
		File: last.File, Line: last.Line, Column: last.Column, Severity: severity,
		Message: fmt.Sprintf("%d more findings from here on; mend those above first", len(rest)),
	})
}
