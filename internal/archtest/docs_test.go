package archtest_test

import (
	"fmt"
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/internal/env"
	"github.com/vm-runner/drone-runner-aws/pool"
)

// markdown lists the documentation.
func markdown(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, name := range files(t) {
		if strings.HasSuffix(name, ".md") && !strings.Contains(name, "testdata/") {
			all = append(all, name)
		}
	}
	if len(all) < 5 {
		t.Fatalf("only %d pages found", len(all))
	}
	return all
}

var (
	codeRE   = regexp.MustCompile("`([^`\n]+)`")
	treeRE   = regexp.MustCompile(`^(cmd|drivers|pool|store|server|internal|docs|examples|scripts)(/[A-Za-z0-9_.*-]+)*/?$`)
	varRE    = regexp.MustCompile(`\b(?:DRONE|DLITE|RUNNER|HEALTH_CHECK|TEST|SERVER|CLIENT)_[A-Z0-9_]*[A-Z0-9]\b\*?`)
	linkRE   = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
	makeRE   = regexp.MustCompile(`(?m)(?:^|[\x60\s])make ([a-z][a-z-]*)`)
	targetRE = regexp.MustCompile(`(?m)^([a-z][a-z-]*):.*##`)
	// commandRE finds the program with up to two words behind it.
	commandRE = regexp.MustCompile(`(?m)(?:^|[\x60\s/])drone-runner-aws ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?`)
)

func TestDocumentationNamesPathsThatExist(t *testing.T) {
	t.Parallel()
	for _, page := range markdown(t) {
		text := string(read(t, page))
		for _, m := range codeRE.FindAllStringSubmatch(text, -1) {
			name := strings.TrimSuffix(m[1], "/")
			if !treeRE.MatchString(m[1]) || !strings.Contains(name, "/") {
				continue
			}
			found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(name)))
			if err != nil || len(found) == 0 {
				t.Errorf("%s names %s, which does not exist", page, m[1])
			}
		}
		for _, m := range linkRE.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, path.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s, which does not exist", page, m[1])
			}
		}
	}
}

func TestDocumentationNamesVariablesThatAreRead(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, v := range env.Table() {
		known[v.Name] = true
		known[v.Name+"_FILE"] = v.Secret
	}
	for _, r := range env.RemovedNames() {
		known[r.Name] = true
	}
	known["RUNNER_URL"] = true // the delegate's own
	// Other programs and the tests read some of theirs.
	for _, f := range goFiles(t) {
		ast.Inspect(f.file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok {
				if s, err := strconv.Unquote(lit.Value); err == nil && varRE.FindString(s) == s {
					known[s] = true
				}
			}
			return true
		})
	}
	for _, page := range markdown(t) {
		for _, name := range varRE.FindAllString(string(read(t, page)), -1) {
			if !known[name] {
				t.Errorf("%s names the variable %s, which nothing reads", page, name)
			}
		}
	}
}

func TestDocumentationNamesCommandsAndTargetsThatExist(t *testing.T) {
	t.Parallel()
	commands := commandNames(t)
	if !slices.Contains(commands, "delegate") {
		t.Fatalf("no command found in the source: %v", commands)
	}
	var targets []string
	for _, m := range targetRE.FindAllStringSubmatch(string(read(t, "Makefile")), -1) {
		targets = append(targets, m[1])
	}
	for _, page := range markdown(t) {
		// Only code is taken at its word: prose says "make sure".
		text := code(string(read(t, page)))
		for _, m := range commandRE.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(commands, m[1]) {
				t.Errorf("%s names the command %q, which does not exist", page, m[1])
			}
			if sub := m[1] + " " + m[2]; slices.Contains(groupNames, m[1]) && m[2] != "" && !slices.Contains(commands, sub) {
				t.Errorf("%s names the command %q, which does not exist", page, sub)
			}
		}
		for _, m := range makeRE.FindAllStringSubmatch(text, -1) {
			if !slices.Contains(targets, m[1]) {
				t.Errorf("%s names make %s, which the Makefile does not have", page, m[1])
			}
		}
	}
}

// code is what a page shows as code, a line each.
func code(text string) string {
	var b strings.Builder
	fenced := false
	for line := range strings.SplitSeq(text, "\n") {
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			fenced = !fenced
		case fenced || strings.HasPrefix(line, "    "):
			b.WriteString(line + "\n")
		default:
			for _, m := range codeRE.FindAllStringSubmatch(line, -1) {
				b.WriteString(m[1] + "\n")
			}
		}
	}
	return b.String()
}

// groupNames are the commands with commands below them.
var groupNames = []string{"pool", "instance", "lease", "image"}

// commandNames reads the names of the commands from the source of the command,
// those below another as "parent child".
func commandNames(t *testing.T) []string {
	t.Helper()
	names := []string{"help"}
	for _, f := range goFiles(t) {
		if f.pkg != "cmd/drone-runner-aws" || f.test {
			continue
		}
		ast.Inspect(f.file, func(n ast.Node) bool {
			// not("name", "why") is a command that says what it is not.
			if call, ok := n.(*ast.CallExpr); ok && len(call.Args) == 2 {
				if fun, ok := call.Fun.(*ast.Ident); ok && fun.Name == "not" {
					names = append(names, text(call.Args[0]))
				}
			}
			lit, ok := n.(*ast.CompositeLit)
			if !ok || !isCommand(lit.Type) {
				return true
			}
			parent := field(lit, "Name")
			names = append(names, parent)
			list := value(lit, "Subcommands")
			if call, ok := list.(*ast.CallExpr); ok && len(call.Args) > 0 {
				list = call.Args[0] // append(…, p.poolOrders()...)
			}
			subs, _ := list.(*ast.CompositeLit)
			if subs == nil {
				return true
			}
			for _, e := range subs.Elts {
				if child, ok := e.(*ast.CompositeLit); ok {
					names = append(names, parent+" "+field(child, "Name"))
				}
			}
			return true
		})
		for _, d := range f.file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				names = append(names, orderNames(fn)...)
			}
		}
	}
	return names
}

// orderNames finds the commands that are made by a call with their name first:
// order("hold", …), poolOrder("stop", …). Those of a function called xOrders
// stand below x, with its literal commands.
func orderNames(fn *ast.FuncDecl) []string {
	group, below := strings.CutSuffix(fn.Name.Name, "Orders")
	prefix := ""
	if below {
		prefix = group + " "
	}
	var names []string
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			called := ""
			switch fun := n.Fun.(type) {
			case *ast.Ident:
				called = fun.Name
			case *ast.SelectorExpr:
				called = fun.Sel.Name
			}
			if (called == "order" || called == "poolOrder") && len(n.Args) > 0 {
				names = append(names, prefix+text(n.Args[0]))
			}
		case *ast.CompositeLit:
			if below && isElided(n) {
				names = append(names, prefix+field(n, "Name"))
			}
		}
		return true
	})
	return names
}

// isElided says whether a literal's type stands with its list.
func isElided(lit *ast.CompositeLit) bool { return lit.Type == nil && value(lit, "Name") != nil }

func isCommand(e ast.Expr) bool {
	sel, ok := e.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "Command"
}

func value(lit *ast.CompositeLit, key string) ast.Expr {
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		if id, ok := kv.Key.(*ast.Ident); ok && id.Name == key {
			return kv.Value
		}
	}
	return nil
}

func field(lit *ast.CompositeLit, key string) string { return text(value(lit, key)) }

// text is the value of a string literal, "" of anything else.
func text(e ast.Expr) string {
	basic, ok := e.(*ast.BasicLit)
	if !ok {
		return ""
	}
	s, err := strconv.Unquote(basic.Value)
	if err != nil {
		return ""
	}
	return s
}

var edgeRE = regexp.MustCompile(`(?m)^\s*([a-z]+) --> ([a-z]+)`)

// TestTheStateGraphsAreTheTables compares the drawings of docs/architecture.md
// with the tables of pool.
func TestTheStateGraphsAreTheTables(t *testing.T) {
	t.Parallel()
	text := string(read(t, "docs/architecture.md"))
	drawn := func(marker string) []string {
		t.Helper()
		_, rest, ok := strings.Cut(text, "<!-- states: "+marker+" -->")
		if !ok {
			t.Fatalf("docs/architecture.md draws no graph of %s", marker)
		}
		graph, _, _ := strings.Cut(rest, "<!-- end -->")
		var edges []string
		for _, m := range edgeRE.FindAllStringSubmatch(graph, -1) {
			edges = append(edges, m[1]+" → "+m[2])
		}
		slices.Sort(edges)
		return edges
	}
	compare(t, drawn("instance"), edges(pool.InstanceStates()))
	compare(t, drawn("lease"), edges(pool.LeaseStates()))
}

func edges[S interface {
	~string
	May(S) bool
}](states []S,
) []string {
	var all []string
	for _, from := range states {
		for _, to := range states {
			if from.May(to) {
				all = append(all, fmt.Sprintf("%s → %s", from, to))
			}
		}
	}
	slices.Sort(all)
	return all
}

func compare(t *testing.T, drawn, table []string) {
	t.Helper()
	for _, e := range drawn {
		if !slices.Contains(table, e) {
			t.Errorf("docs/architecture.md draws %s, which the table forbids", e)
		}
	}
	for _, e := range table {
		if !slices.Contains(drawn, e) {
			t.Errorf("docs/architecture.md does not draw %s", e)
		}
	}
}

var (
	testRE     = regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*)`")
	sentenceRE = regexp.MustCompile(`"([^"]+)"`)
)

// TestDocumentationNamesTestsThatExist: a page that says what proves something
// names real tests, and docs/rules.md real sentences of the contract suites
// and of the simulation.
func TestDocumentationNamesTestsThatExist(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	texts := map[string]bool{}
	for _, f := range goFiles(t) {
		ast.Inspect(f.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				tests[n.Name.Name] = true
			case *ast.BasicLit:
				if s, err := strconv.Unquote(n.Value); err == nil {
					texts[s] = true
				}
			}
			return true
		})
	}
	for _, page := range markdown(t) {
		for _, m := range testRE.FindAllStringSubmatch(string(read(t, page)), -1) {
			if !tests[m[1]] {
				t.Errorf("%s names the test %s, which does not exist", page, m[1])
			}
		}
	}
	for _, m := range sentenceRE.FindAllStringSubmatch(string(read(t, "docs/rules.md")), -1) {
		if !texts[m[1]] {
			t.Errorf("docs/rules.md quotes %q, which no test says", m[1])
		}
	}
}

var ruleRE = regexp.MustCompile(`(?m)^\| ([A-Z]\d+(?:, [A-Z]\d+)*) [^|]*\|([^|]*)\|$`)

// TestNoRuleOfTheEngineIsWithoutATest: docs/rules.md has every rule about
// machines, states, limits and crashes, each with a test or a suite's sentence.
func TestNoRuleOfTheEngineIsWithoutATest(t *testing.T) {
	t.Parallel()
	proven := map[string]bool{}
	for _, row := range ruleRE.FindAllStringSubmatch(string(read(t, "docs/rules.md")), -1) {
		if testRE.MatchString(row[2]) || sentenceRE.MatchString(row[2]) {
			for _, rule := range strings.Split(row[1], ", ") {
				proven[rule] = true
			}
		}
	}
	for _, part := range []struct {
		letter   string
		from, to int
	}{{"A", 1, 15}, {"B", 16, 25}, {"C", 26, 34}, {"D", 35, 47}, {"F", 58, 69}} {
		for n := part.from; n <= part.to; n++ {
			if rule := part.letter + strconv.Itoa(n); !proven[rule] {
				t.Errorf("docs/rules.md names no test of rule %s", rule)
			}
		}
	}
}
