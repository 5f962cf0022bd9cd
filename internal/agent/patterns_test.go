package agent

import (
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func encodedPatterns(lines ...string) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Join(lines, "\n")))
}

func TestPatternsMaskWholeLinesHoweverTheyArrive(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name     string
		patterns []string
		in, want string
	}{
		{"none", nil, "text", "text"},
		{"one match, and another", []string{`token=\S+`}, "a token=x1 b token=y\nc", "a " + starsText + " b " + starsText + "\nc"},
		{"two patterns", []string{`a+`, `b$`}, "aab\nb", starsText + starsText + "\n" + starsText},
		{"a line that does not end", []string{`\d{3}`}, "x 123", "x " + starsText},
		{"the end of a line is one", []string{`^x$`}, "x\ny\nx\n", starsText + "\ny\n" + starsText + "\n"},
		{"a match of nothing hides nothing", []string{`z*`}, "azb", "a" + starsText + "b"},
		{"blanks around a pattern do not count", []string{"  abc\r"}, "abc", starsText},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			all, problems := parsePatterns(encodedPatterns(c.patterns...))
			if len(problems) > 0 {
				t.Fatal(problems)
			}
			for n := 1; n <= len(c.in); n++ {
				m := newPatterns(all)
				if m == nil {
					return
				}
				var got []byte
				for piece := range slices.Chunk([]byte(c.in), n) {
					got = m.mask(got, piece)
				}
				if got = m.flush(got); string(got) != c.want {
					t.Errorf("in pieces of %d: got %q, want %q", n, got, c.want)
				}
			}
		})
	}
}

func TestPatternsHoldBackNoEndlessLine(t *testing.T) {
	t.Parallel()
	all, _ := parsePatterns(encodedPatterns("secret"))
	m := newPatterns(all)
	in := strings.Repeat("x", 10*maxPatternLine)
	got := m.mask(nil, []byte(in))
	if held := len(in) - len(got); held > maxPatternLine || len(m.held) != held {
		t.Errorf("%d bytes are held back", held)
	}
	if got = m.flush(got); string(got) != in {
		t.Error("the text is not as it was")
	}
}

func TestPatternsThatMakeNoSenseCostOnlyThemselves(t *testing.T) {
	t.Parallel()
	all, problems := parsePatterns(encodedPatterns("good", "look(?!ahead)", "", "[bad"))
	if len(all) != 1 {
		t.Errorf("%d patterns, want 1", len(all))
	}
	want := remarks{
		"the pattern to mask on line 2 of log_config.sanitize_config is not applied: invalid or unsupported Perl syntax",
		"the pattern to mask on line 4 of log_config.sanitize_config is not applied: missing closing ]",
	}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, problems := parsePatterns("%"); len(problems) != 1 {
		t.Errorf("no base64: %v", problems)
	}
}
