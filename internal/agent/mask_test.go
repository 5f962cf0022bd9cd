package agent

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// masked runs pieces through a masker and returns everything it lets out.
func masked(secrets []string, pieces ...string) string {
	m := newMasker(secrets)
	var out []byte
	for _, p := range pieces {
		if m == nil {
			out = append(out, p...)
			continue
		}
		out = m.mask(out, []byte(p))
	}
	if m != nil {
		out = m.flush(out)
	}
	return string(out)
}

const starsText = "**************"

func TestMaskerReplacesSecrets(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name    string
		secrets []string
		in      string
		want    string
	}{
		{"no secrets", nil, "text", "text"},
		{"fourteen asterisks whatever the length", []string{"ab"}, "xaby", "x" + starsText + "y"},
		{"a short secret does not hide the longer one it begins", []string{"pass", "password1"}, "password1 pass", starsText + " " + starsText},
		{"the longer secret comes first in the list", []string{"password1", "pass"}, "password pass", starsText + "word " + starsText},
		{"a secret of several lines is masked line by line", []string{"one\n  two  \n\nx\n"}, "one two x", starsText + " " + starsText + " x"},
		{"single characters and blanks are no secrets", []string{"x", " ", "\n", ""}, "x y", "x y"},
		{"a secret right after another", []string{"ab"}, "abab", starsText + starsText},
		{"what begins like a secret and is none", []string{"secret"}, "secre secrets", "secre " + starsText + "s"},
		{"a false start that contains the real one", []string{"aab"}, "aaab", "a" + starsText},
		{"bytes that are no text", []string{"\xff\xfe"}, "a\xff\xfeb", "a" + starsText + "b"},
		{"blanks around a secret do not count", []string{"  key\t"}, "key", starsText},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := masked(c.secrets, c.in); got != c.want {
				t.Errorf("whole: got %q, want %q", got, c.want)
			}
			for i := range len(c.in) + 1 {
				if got := masked(c.secrets, c.in[:i], c.in[i:]); got != c.want {
					t.Errorf("cut at byte %d: got %q, want %q", i, got, c.want)
				}
			}
			pieces := strings.Split(c.in, "")
			if got := masked(c.secrets, pieces...); got != c.want {
				t.Errorf("byte by byte: got %q, want %q", got, c.want)
			}
		})
	}
}

func TestMaskerHoldsBackOnlyTheBeginningOfASecret(t *testing.T) {
	t.Parallel()
	m := newMasker([]string{"hunter2"})
	if got := string(m.mask(nil, []byte("Password: hunt"))); got != "Password: " {
		t.Errorf("let out %q, want only what cannot be a secret", got)
	}
	if len(m.pending) == 0 {
		t.Error("nothing is held back")
	}
	if got := string(m.mask(nil, []byte("\n"))); got != "hunt\n" {
		t.Errorf("after the newline let out %q", got)
	}
	if len(m.pending) > 0 {
		t.Error("a newline settles everything, and something is still held")
	}
}

// TestMaskedTextDoesNotDependOnHowItArrives compares random cuts of random
// texts over a tiny alphabet, where secrets overlap all the time, with the
// text in one piece and with a plain reference.
func TestMaskedTextDoesNotDependOnHowItArrives(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	word := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "ab\n"[rnd.IntN(3)]
		}
		return string(b)
	}
	for range 5000 {
		var secrets []string
		for range 1 + rnd.IntN(4) {
			secrets = append(secrets, word(1+rnd.IntN(6)))
		}
		text := word(rnd.IntN(40))
		want := reference(secrets, text)
		var pieces []string
		for rest := text; rest != ""; {
			n := 1 + rnd.IntN(len(rest))
			pieces = append(pieces, rest[:n])
			rest = rest[n:]
		}
		if got := masked(secrets, pieces...); got != want {
			t.Fatalf("secrets %q, pieces %q: got %q, want %q", secrets, pieces, got, want)
		}
	}
}

// reference masks a whole text the plain way: leftmost, longest.
func reference(secrets []string, text string) string {
	var parts []string
	for _, s := range secrets {
		for _, l := range strings.Split(s, "\n") {
			if l = strings.TrimSpace(l); len(l) >= 2 {
				parts = append(parts, l)
			}
		}
	}
	slices.SortFunc(parts, func(a, b string) int { return len(b) - len(a) })
	var out strings.Builder
next:
	for text != "" {
		for _, p := range parts {
			if strings.HasPrefix(text, p) {
				out.WriteString(starsText)
				text = text[len(p):]
				continue next
			}
		}
		out.WriteByte(text[0])
		text = text[1:]
	}
	return out.String()
}

func TestSecretVariants(t *testing.T) {
	t.Parallel()
	got := secretVariants([]string{"{\"a\": \"b c\"}", `"quoted"`, "pre$VAR-post", "a/b c"})
	for _, want := range []string{`{"a":"b c"}`, "quoted", "pre-post", "a%2Fb+c"} {
		if !slices.Contains(got, want) {
			t.Errorf("variants %q lack %q", got, want)
		}
	}
}

func TestShellVariablesAreDropped(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                "",
		"plain":           "plain",
		"$A":              "",
		"pre$VAR-post":    "pre-post",
		"a${B_1}c":        "ac",
		"a${B c":          "a c",
		"$A}b":            "b",
		"cost $ 5, $, ${": "cost $ 5, $, ${",
		"${}":             "${}",
		"$$A":             "$",
		"$A$B":            "",
		"$1é":             "é",
	} {
		if got := withoutShellVariables(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func FuzzMasker(f *testing.F) {
	f.Add("hunter2\nhunter", []byte("my hunter2 is hunte"), uint8(3))
	f.Add("aa\naab", []byte("aaabaaab"), uint8(1))
	f.Fuzz(func(t *testing.T, secret string, text []byte, step uint8) {
		m := newMasker([]string{secret})
		if m == nil {
			return
		}
		whole := masked([]string{secret}, string(text))
		var out []byte
		n := max(1, int(step))
		for rest := text; len(rest) > 0; {
			cut := min(n, len(rest))
			out = m.mask(out, rest[:cut])
			rest = rest[cut:]
		}
		out = m.flush(out)
		if string(out) != whole {
			t.Fatalf("in pieces of %d: %q, whole: %q", n, out, whole)
		}
		if want := reference([]string{secret}, string(text)); whole != want {
			t.Fatalf("got %q, want %q", whole, want)
		}
	})
}

func BenchmarkMasker(b *testing.B) {
	secrets := make([]string, 50)
	for i := range secrets {
		secrets[i] = strings.Repeat(string(rune('a'+i%26)), 8) + "-secret-" + strings.Repeat("x", i)
	}
	text := bytes.Repeat([]byte("an ordinary line of a build's output, 1234567890\n"), 700)
	m := newMasker(secrets)
	b.SetBytes(int64(len(text)))
	var out []byte
	for b.Loop() {
		out = m.mask(out[:0], text)
	}
}
