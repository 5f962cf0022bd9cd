package testreport

import (
	"bufio"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"
)

// Bounds of what is taken: a step writes these files.
const (
	maxFile  = 256 << 20 // bytes
	maxCases = 100_000   // of all files together
	maxDepth = 1000      // of elements
)

// errTooMany ends the reading of reports that would not fit into memory.
var errTooMany = fmt.Errorf("more than %d tests", maxCases)

// Read reads files. One that cannot be read is left out and told; the others
// count. Files that are no reports have no tests and are no problem. It gives
// up when ctx ends.
func Read(ctx context.Context, files []string) (cases []Case, problems []error) {
	for _, name := range files {
		if ctx.Err() != nil {
			return cases, append(problems, fmt.Errorf("report %s: %w", name, context.Cause(ctx)))
		}
		more, err := readFile(name, maxCases-len(cases))
		cases = append(cases, more...)
		if err != nil {
			problems = append(problems, fmt.Errorf("report %s: %w", name, err))
		}
		if errors.Is(err, errTooMany) {
			break
		}
	}
	return cases, problems
}

func readFile(name string, most int) ([]Case, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	switch info, err := f.Stat(); {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%d bytes are more than %d", info.Size(), maxFile)
	}
	return parse(io.LimitReader(f, maxFile), most)
}

// parse reads a report of either kind, element by element.
func parse(r io.Reader, most int) ([]Case, error) {
	d := xml.NewDecoder(&printable{bufio.NewReader(r)})
	d.Strict = false
	d.CharsetReader = charset
	p := parser{most: most, classes: make(map[string]string)}
	for {
		token, err := d.RawToken()
		if errors.Is(err, io.EOF) {
			if p.depth > 0 {
				return p.finish(), io.ErrUnexpectedEOF
			}
			return p.finish(), nil
		}
		if err == nil {
			err = p.take(token)
		}
		if err != nil {
			return p.finish(), err
		}
	}
}

// parser is where the reading of a report stands. Its elements are told by
// their names alone: those of the two kinds are different.
type parser struct {
	most   int
	depth  int
	suites []string // names, outermost first
	now    *Case    // the test that is being read
	into   *tail    // where its text goes, nil for nowhere
	store  func()   // what is done with that text
	until  string   // the element that ends it
	cases  []Case

	// A TRX has the tests' classes in another place than their results.
	definition string            // the id of the one that is being read
	classes    map[string]string // by id
	ids        []string          // of cases, "" for those of JUnit
	id         string            // of now
}

func (p *parser) take(token xml.Token) error {
	switch t := token.(type) {
	case xml.StartElement:
		if p.depth++; p.depth > maxDepth {
			return fmt.Errorf("more than %d elements in each other", maxDepth)
		}
		return p.begin(t)
	case xml.EndElement:
		p.depth--
		p.end(t.Name.Local)
	case xml.CharData:
		if p.into != nil {
			p.into.add(t)
		}
	}
	return nil
}

// attr is the value of an attribute, "" if there is none.
func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

func (p *parser) begin(e xml.StartElement) error {
	switch e.Name.Local {
	case "testsuite":
		p.suites = append(p.suites, attr(e, "name"))
	case "testcase":
		suite := ""
		if len(p.suites) > 0 {
			suite = p.suites[len(p.suites)-1]
		}
		p.start("", Case{
			Name: lastOf(attr(e, "name")), ClassName: lastOf(attr(e, "classname")), FileName: lastOf(attr(e, "file")), SuiteName: lastOf(suite),
			DurationMS: milliseconds(attr(e, "time")), Result: Result{Status: Passed},
		})
	case "UnitTest":
		p.definition = attr(e, "id")
	case "TestMethod":
		if p.definition != "" && len(p.classes) < maxCases {
			p.classes[p.definition] = attr(e, "className")
		}
	case "UnitTestResult":
		p.start(attr(e, "testId"), Case{
			Name: lastOf(attr(e, "testName")), DurationMS: milliseconds(attr(e, "duration")),
			Result: Result{Status: outcome(attr(e, "outcome"))},
		})
	default:
		if p.now != nil && p.into == nil {
			p.inside(e)
		}
	}
	if len(p.cases) >= p.most {
		return errTooMany
	}
	return nil
}

func (p *parser) start(id string, c Case) {
	p.id, p.now, p.into = id, &c, nil
}

// inside takes an element of a test.
func (p *parser) inside(e xml.StartElement) {
	c := p.now
	switch name := e.Name.Local; name {
	case "failure", "error", "skipped":
		status := map[string]Status{"failure": Failed, "error": Errored, "skipped": Skipped}[name]
		if rank(status) < rank(c.Result.Status) {
			return
		}
		c.Result = Result{Status: status, Message: lastOf(attr(e, "message")), Type: lastOf(attr(e, "type"))}
		p.keep(name, &c.Result.Desc)
	case "flakyFailure", "flakyError":
		c.Flaky = true
	case "system-out", "StdOut":
		p.keep(name, &c.Stdout)
	case "system-err", "StdErr":
		p.keep(name, &c.Stderr)
	case "Message":
		p.keep(name, &c.Result.Message)
	case "StackTrace":
		p.keep(name, &c.Result.Desc)
	}
}

// rank orders what a test may say about itself more than once.
func rank(s Status) int {
	switch s {
	case Errored:
		return 3
	case Failed:
		return 2
	case Skipped:
		return 1
	case Passed:
	}
	return 0
}

// keep stores the text up to the end of the element in to.
func (p *parser) keep(element string, to *string) {
	text := &tail{}
	p.into, p.until = text, element
	p.store = func() { *to = text.String() }
}

func (p *parser) end(name string) {
	switch {
	case p.into != nil && name == p.until:
		p.store()
		p.into = nil
	case name == "testsuite" && len(p.suites) > 0:
		p.suites = p.suites[:len(p.suites)-1]
	case name == "UnitTest":
		p.definition = ""
	case (name == "testcase" || name == "UnitTestResult") && p.now != nil:
		p.cases = append(p.cases, *p.now)
		p.ids = append(p.ids, p.id)
		p.now, p.into = nil, nil
	}
}

// finish returns the tests with all that is known about them.
func (p *parser) finish() []Case {
	for i, id := range p.ids {
		if class := p.classes[id]; id != "" && class != "" {
			p.cases[i].ClassName = lastOf(class)
			p.cases[i].SuiteName = lastOf(class)
		}
	}
	return p.cases
}

// outcome is a status in the words of TRX.
func outcome(text string) Status {
	switch strings.ToLower(text) {
	case "passed", "passedbutrunaborted", "warning", "completed":
		return Passed
	case "failed":
		return Failed
	case "error", "timeout", "aborted", "disconnected":
		return Errored
	}
	return Skipped // NotExecuted, Inconclusive, NotRunnable, Pending
}

// milliseconds reads seconds ("1,234.5"), a duration ("1.5s") or a clock
// ("00:00:01.5"); what is none of them is 0.
func milliseconds(text string) int64 {
	text = strings.ReplaceAll(strings.TrimSpace(text), ",", "")
	if d, err := time.ParseDuration(text); err == nil {
		return max(0, d.Milliseconds())
	}
	seconds := 0.0
	for part := range strings.SplitSeq(text, ":") {
		n, err := strconv.ParseFloat(part, 64)
		if err != nil {
			return 0
		}
		seconds = seconds*60 + n
	}
	if ms := math.Round(seconds * 1000); ms > 0 && ms < math.MaxInt32*1000 {
		return int64(ms)
	}
	return 0
}

// printable replaces bytes that XML does not allow and programs print all the
// same, such as those that begin colours.
type printable struct{ r *bufio.Reader }

func (p *printable) Read(buf []byte) (int, error) {
	n, err := p.r.Read(buf)
	for i, c := range buf[:n] {
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' {
			buf[i] = '?'
		}
	}
	return n, err
}

// charset reads Latin-1 as what it is and everything else as UTF-8.
func charset(label string, in io.Reader) (io.Reader, error) {
	switch strings.ToLower(label) {
	case "iso-8859-1", "latin1", "windows-1252":
		return &latin1{r: bufio.NewReader(in)}, nil
	case "utf-16", "utf-16le", "utf-16be":
		return nil, errors.New("UTF-16 is not read; write the report as UTF-8")
	}
	return in, nil
}

// latin1 turns Latin-1 into UTF-8.
type latin1 struct {
	r    *bufio.Reader
	rest []byte
}

func (l *latin1) Read(buf []byte) (int, error) {
	if len(l.rest) == 0 {
		c, err := l.r.ReadByte()
		if err != nil {
			return 0, err
		}
		l.rest = append(l.rest[:0], string(rune(c))...)
	}
	n := copy(buf, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}
