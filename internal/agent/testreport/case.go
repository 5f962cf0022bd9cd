package testreport

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Status is how a test ended.
type Status string

// The statuses.
const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	Errored Status = "error"
	Skipped Status = "skipped"
)

// Case is one test, in the form a test service takes.
type Case struct {
	Name       string `json:"name"`
	ClassName  string `json:"class_name"`
	FileName   string `json:"file_name"`
	SuiteName  string `json:"suite_name"`
	Result     Result `json:"result"`
	DurationMS int64  `json:"duration_ms"`
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
	Flaky      bool   `json:"flaky"`
}

// Result is how a test ended, and why.
type Result struct {
	Status  Status `json:"status"`
	Message string `json:"message"`
	Type    string `json:"type"`
	Desc    string `json:"desc"`
}

// Summary counts tests. Errors count as failed.
type Summary struct {
	Total, Passed, Failed, Skipped int
	Duration                       time.Duration
}

// Summarize counts cases.
func Summarize(cases []Case) Summary {
	s := Summary{Total: len(cases)}
	for _, c := range cases {
		switch c.Result.Status {
		case Passed:
			s.Passed++
		case Skipped:
			s.Skipped++
		case Failed, Errored:
			s.Failed++
		}
		s.Duration += time.Duration(c.DurationMS) * time.Millisecond
	}
	return s
}

// maxFailures is how many tests that failed a table names.
const maxFailures = 20

// Table is what people read of cases, in whole lines.
func Table(cases []Case) string {
	s := Summarize(cases)
	cells := []struct{ head, text string }{
		{"Total", fmt.Sprint(s.Total)},
		{"Passed", fmt.Sprint(s.Passed)},
		{"Failed", fmt.Sprint(s.Failed)},
		{"Skipped", fmt.Sprint(s.Skipped)},
		{"Duration", s.Duration.Round(time.Millisecond).String()},
	}
	var border, head, body strings.Builder
	for _, c := range cells {
		width := max(len(c.head), len(c.text))
		border.WriteString("+" + strings.Repeat("-", width+2))
		fmt.Fprintf(&head, "| %-*s ", width, c.head)
		fmt.Fprintf(&body, "| %*s ", width, c.text)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Harness Test Report\n%[1]s+\n%[2]s|\n%[1]s+\n%[3]s|\n%[1]s+\n", &border, &head, &body)
	named := 0
	for _, c := range cases {
		if c.Result.Status != Failed && c.Result.Status != Errored {
			continue
		}
		if named++; named > maxFailures {
			continue
		}
		name := c.Name
		if c.ClassName != "" {
			name = c.ClassName + " " + name
		}
		message, _, _ := strings.Cut(strings.TrimSpace(c.Result.Message), "\n")
		fmt.Fprintf(&b, "%s: %s", c.Result.Status, name)
		if message != "" {
			b.WriteString(": " + message)
		}
		b.WriteByte('\n')
	}
	if named > maxFailures {
		fmt.Fprintf(&b, "and %d more\n", named-maxFailures)
	}
	return b.String()
}

// maxText is how many characters of a text are kept: the last ones.
const maxText = 8000

// tail keeps the end of a text, of any length, in bounded memory.
type tail struct{ text []byte }

func (t *tail) add(p []byte) {
	const most = maxText * utf8.UTFMax
	t.text = append(t.text, p...)
	if len(t.text) > 2*most {
		t.text = append(t.text[:0], t.text[len(t.text)-most:]...)
	}
}

// String is the last maxText characters.
func (t *tail) String() string { return lastOf(strings.TrimSpace(string(t.text))) }

// lastOf is the last maxText characters of s.
func lastOf(s string) string {
	n := 0
	for i := len(s); i > 0; n++ {
		if n == maxText {
			return s[i:]
		}
		_, size := utf8.DecodeLastRuneInString(s[:i])
		i -= size
	}
	return s
}
