package archtest_test

import (
	"bytes"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// maxLines bounds files that are not tests: one idea a file.
const maxLines = 700

func TestNoCodeSleeps(t *testing.T) {
	t.Parallel()
	for _, f := range goFiles(t) {
		ast.Inspect(f.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			switch call := x.Name + "." + sel.Sel.Name; {
			case call == "time.Sleep" && !f.test:
				t.Errorf("%s: time.Sleep; select on a timer and the context", f.at(n))
			case strings.HasPrefix(call, "log.Fatal"):
				t.Errorf("%s: %s; return an error", f.at(n), call)
			}
			return true
		})
	}
}

// TestBubblesAreMadeInOnePlace: a bubble that is made by hand breaks the race
// detector down now and then, see internal/testbubble.
func TestBubblesAreMadeInOnePlace(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, f := range goFiles(t) {
		ast.Inspect(f.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == "synctest" && (sel.Sel.Name == "Test" || sel.Sel.Name == "Run") {
				if seen++; f.pkg != "internal/testbubble" {
					t.Errorf("%s: synctest.%s; call testbubble.Run", f.at(n), sel.Sel.Name)
				}
			}
			return true
		})
	}
	if seen == 0 {
		t.Error("not even testbubble makes a bubble")
	}
}

func TestFilesAreShortAndFinished(t *testing.T) {
	t.Parallel()
	// In pieces, so that this file does not find itself.
	marks := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	for _, f := range goFiles(t) {
		src := read(t, f.name)
		if n := bytes.Count(src, []byte("\n")); n > maxLines && !f.test {
			t.Errorf("%s has %d lines, at most %d", f.name, n, maxLines)
		}
		if m := marks.Find(src); m != nil {
			t.Errorf("%s: %s: finish it, or say in an error that it is not built in yet", f.name, m)
		}
	}
}

// unwanted is what no file of the tree may contain, in pieces for the same
// reason.
var unwanted = []struct {
	what string
	re   *regexp.Regexp
}{
	{"a path of one machine", regexp.MustCompile(`(^|[^a-zA-Z0-9_.$}])/(wo` + `rk|fa` + `rm|tmp/bri` + `ef|Use` + `rs/[a-z]+)/`)},
	{"a package registry's host", regexp.MustCompile(`\b(proxy|sum)\.gol` + `ang\.org|deb\.deb` + `ian\.org|registry\.npm` + `js|py` + `pi\.org|files\.python` + `hosted|cra` + `tes\.io`)},
	{"a private key", regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----\s*(\\n)?[A-Za-z0-9+/=]{24}`)},
	{"a cloud's access key", regexp.MustCompile(`\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[0-9A-Za-z_-]{35}\b`)},
	{"a token", regexp.MustCompile(`\b(ghp|gho|ghs|glpat|dop_v1|xox[bp])[_-][0-9A-Za-z_-]{20,}`)},
}

func TestNoMachinePathsAndNoSecrets(t *testing.T) {
	t.Parallel()
	for _, name := range files(t) {
		src := read(t, name)
		if bytes.IndexByte(src, 0) >= 0 {
			continue // not text
		}
		for _, u := range unwanted {
			if m := u.re.Find(src); m != nil {
				line := 1 + bytes.Count(src[:bytes.Index(src, m)], []byte("\n"))
				t.Errorf("%s:%d: %s: %.60q", name, line, u.what, m)
			}
		}
	}
}

// TestNothingIsBuiltWithTheNextSchema: the tag is for tests of neighbouring
// versions, whose programs no script makes.
func TestNothingIsBuiltWithTheNextSchema(t *testing.T) {
	t.Parallel()
	seen := false
	for _, name := range files(t) {
		if name != "Makefile" && name != "Dockerfile" && !strings.HasPrefix(name, "scripts/") && !strings.HasSuffix(name, ".yml") {
			continue
		}
		for line := range strings.Lines(string(read(t, name))) {
			if strings.Contains(line, "nextschema") {
				seen = true
				if strings.Count(line, "-tags nextschema") != strings.Count(line, "go vet -tags nextschema") {
					t.Errorf("%s: %s", name, strings.TrimSpace(line))
				}
			}
		}
	}
	if !seen {
		t.Error("not even vet reads what the tag nextschema builds")
	}
}

func TestTheScanFindsWhatItShould(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"cd /wo" + "rk/main", "https://deb.deb" + "ian.org/debian", "-----BEGIN EC PRIVATE" + " KEY-----\nMHcCAQEEIBkq8i4Hq7f3G5x2",
		"AKIA" + "ABCDEFGHIJKLMNOP", "ghp_" + "0123456789abcdefghij0123",
	} {
		found := false
		for _, u := range unwanted {
			found = found || u.re.MatchString(bad)
		}
		if !found {
			t.Errorf("%q is not found", bad)
		}
	}
	for _, good := range []string{"internal/work/x", "$PWD/work/", "-----BEGIN CERTIFICATE-----\nMHcCAQEEIBkq8i4Hq7f3G5x2"} {
		for _, u := range unwanted {
			if u.re.MatchString(good) {
				t.Errorf("%q is taken for %s", good, u.what)
			}
		}
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return src
}
