package agent

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDotenv(t *testing.T) {
	t.Parallel()
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	cases := []struct {
		name     string
		in       string
		want     []pair
		problems []string
	}{
		{name: "empty file", in: ""},
		{name: "plain values", in: "A=1\nB=two words\n", want: []pair{{"A", "1"}, {"B", "two words"}}},
		{name: "no newline at the end", in: "A=1", want: []pair{{"A", "1"}}},
		{name: "empty value", in: "A=\n", want: []pair{{"A", ""}}},
		{name: "Windows line ends and a byte order mark", in: "\ufeffA=1\r\nB=2\r\n", want: []pair{{"A", "1"}, {"B", "2"}}},
		{name: "export and comments", in: "# hi\n\nexport A=1\n  # more\n", want: []pair{{"A", "1"}}},
		{name: "a value may contain separators and hashes", in: "A=b=c #5\n", want: []pair{{"A", "b=c #5"}}},
		{name: "dollars are not expanded", in: "A=pa$$word${X}\n", want: []pair{{"A", "pa$$word${X}"}}},
		{name: "double quotes with escapes", in: `A="x\ny \"z\" \\ \$"` + "\n", want: []pair{{"A", "x\ny \"z\" \\ $"}}},
		{name: "single quotes are verbatim", in: `A='x\n"y"'` + "\n", want: []pair{{"A", `x\n"y"`}}},
		{name: "quotes over several lines", in: "A=\"x\ny=1\nz\"\nB=2\n", want: []pair{{"A", "x\ny=1\nz"}, {"B", "2"}}},
		{name: "a comment after quotes", in: "A='x' # why\n", want: []pair{{"A", "x"}}},
		{name: "a quote that never ends is text", in: "A=\"x\nB=2\n", want: []pair{{"A", `"x`}, {"B", "2"}}},
		{name: "quotes in the middle are text", in: "A=\"x\" y\nB=it's\n", want: []pair{{"A", `"x" y`}, {"B", "it's"}}},
		{name: "base64 with several lines", in: "A=__B64__" + b64("one\ntwo=2\n") + "\n", want: []pair{{"A", "one\ntwo=2\n"}}},
		{name: "empty base64", in: "A=__B64__\n", want: []pair{{"A", ""}}},
		{name: "the prefix as text", in: "A=__B64__%%\n", want: []pair{{"A", "__B64__%%"}}, problems: []string{"line 1: value is no base64, taken as it is"}},
		{name: "a line without a separator costs only itself", in: "A=1\nrest of A\nB=2\n", want: []pair{{"A", "1"}, {"B", "2"}}, problems: []string{`line 2: no "=" between key and value`}},
		{name: "no key", in: "=1\n", problems: []string{"line 1: no key"}},
		{name: "a line of over 64 KiB", in: "A=" + strings.Repeat("x", 70<<10) + "\n", want: []pair{{"A", strings.Repeat("x", 70<<10)}}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, problems := parseDotenv(c.in)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(pair{})); diff != "" {
				t.Errorf("pairs (-want +got):\n%s", diff)
			}
			var texts []string
			for _, p := range problems {
				texts = append(texts, p.String())
			}
			if diff := cmp.Diff(c.problems, texts); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseDotenv(f *testing.F) {
	f.Add("A=\"x\ny\"\nexport B='z'\nC=__B64__eA==\nbroken\n")
	f.Add("A=\"\\")
	f.Fuzz(func(t *testing.T, text string) {
		pairs, problems := parseDotenv(text)
		lines := strings.Count(text, "\n") + 1
		if len(pairs)+len(problems) > 2*lines {
			t.Fatalf("%d pairs and %d problems out of %d lines", len(pairs), len(problems), lines)
		}
		for _, p := range pairs {
			if p.key == "" {
				t.Error("a pair without a key")
			}
			// Written the way steps of ours write it, it comes back as it is.
			if strings.ContainsAny(p.key, "=\n\r") || strings.TrimSpace(p.key) != p.key || strings.HasPrefix(p.key, "#") || strings.HasPrefix(p.key, "export ") || strings.HasPrefix(p.key, "\ufeff") {
				continue
			}
			again, _ := parseDotenv(p.key + "=" + b64Prefix + base64.StdEncoding.EncodeToString([]byte(p.value)) + "\n")
			if diff := cmp.Diff([]pair{p}, again, cmp.AllowUnexported(pair{})); diff != "" {
				t.Errorf("round trip (-want +got):\n%s", diff)
			}
		}
		for _, p := range problems {
			if p.line < 1 || p.line > lines {
				t.Errorf("problem on line %d of %d", p.line, lines)
			}
		}
	})
}
