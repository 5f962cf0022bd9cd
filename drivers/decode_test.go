package drivers_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// crate has a key of every kind.
type crate struct {
	common
	Text     string            `spec:"text" alias:"txt" doc:"A text."`
	Mode     string            `spec:"mode" default:"auto" enum:"auto,kvm"`
	Count    int               `spec:"count" default:"3" min:"1" max:"9"`
	Big      int64             `spec:"big"`
	Small    int32             `spec:"small"`
	Share    float64           `spec:"share" default:"0.5"`
	Flag     bool              `spec:"flag" default:"true"`
	Wait     time.Duration     `spec:"wait" default:"10m" min:"0s" max:"1h"`
	MaybeNum *int              `spec:"maybe_num"`
	MaybeSub *part             `spec:"maybe_sub"`
	Sub      part              `spec:"sub"`
	Parts    []part            `spec:"parts"`
	Words    []string          `spec:"words" oldname:"wordlist" single:"true"`
	Labels   map[string]string `spec:"labels"`
	Counts   map[string]int    `spec:"counts"`
	Range    netip.Prefix      `spec:"range"`
	Raw      *yaml.Node        `spec:"raw"`
	Later    any               `spec:"later" later:"true"`
	Ignored  any               `spec:"ignored" ignored:"for old files"`
	Unused   any               `spec:"unused" unused:"written by others"`
	Sizes    map[string]part   `spec:"sizes"`
	File     string            `spec:"file" file:"true"`
	// Computed has no tag and is no key.
	Computed string
}

type common struct {
	Zone string `spec:"zone" default:"here"`
}

type part struct {
	Size int    `spec:"size" default:"10" numeric:"true"`
	Path string `spec:"path" file:"true"`
}

func newCrate() *crate {
	c := new(crate)
	drivers.SetDefaults(c)
	return c
}

// decode reads text into a crate with its defaults; findings come as lines.
func decode(t testing.TB, text string) (*crate, drivers.Positions, string) {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(text), &n); err != nil {
		t.Fatal(err)
	}
	c := newCrate()
	at, found := drivers.Decode(&n, "spec", c)
	var b strings.Builder
	for _, f := range found {
		kind := "error"
		if f.Warning {
			kind = "warning"
		}
		fmt.Fprintf(&b, "%d:%d: %s: %s: %s\n", f.Line, f.Column, kind, f.Path, f.Message)
	}
	return c, at, b.String()
}

func TestDecodeValues(t *testing.T) {
	t.Parallel()
	seven := 7
	tests := []struct {
		name, text string
		want       func(*crate)
	}{
		{"nothing is given", "{}", func(*crate) {}},
		{"everything is null, which is not given", "{text: , count: ~, flag: null, wait: , maybe_num: , maybe_sub: , sub: , parts: , words: , labels: , zone: }", func(*crate) {}},
		{"a text", "text: a b", func(c *crate) { c.Text = "a b" }},
		{"a text by its alias", "TXT: a", func(c *crate) { c.Text = "a" }},
		{"numbers and dates are texts as they stand", "text: 0x10", func(c *crate) { c.Text = "0x10" }},
		{"a version is a text as it stands", "text: 1.10", func(c *crate) { c.Text = "1.10" }},
		{"a date is a text as it stands", "text: 2026-11-21", func(c *crate) { c.Text = "2026-11-21" }},
		{"a quoted word is a text", "text: 'no'", func(c *crate) { c.Text = "no" }},
		{"a single letter is a text", "text: y", func(c *crate) { c.Text = "y" }},
		{"a block is a text", "text: |\n  #!/bin/sh\n  true\n", func(c *crate) { c.Text = "#!/bin/sh\ntrue\n" }},
		{"a tag makes a text", "text: !!str true", func(c *crate) { c.Text = "true" }},
		{"an empty text is the default of a choice", "mode: ''", func(*crate) {}},
		{"whole numbers in YAML's spellings", "{big: 0x7fffffffffffffff, count: 0b11, small: -1_000}", func(c *crate) { c.Big, c.Count, c.Small = 1<<63-1, 3, -1000 }},
		{"a float without a fraction is whole", "big: 1e3", func(c *crate) { c.Big = 1000 }},
		{"a number in quotes where that is allowed", "sub: {size: '12'}", func(c *crate) { c.Sub.Size = 12 }},
		{"a whole number is a number", "share: 1", func(c *crate) { c.Share = 1 }},
		{"a boolean of YAML 1.1", "flag: Off", func(c *crate) { c.Flag = false }},
		{"a boolean of one letter", "flag: n", func(c *crate) { c.Flag = false }},
		{"a duration", "wait: 1m30s", func(c *crate) { c.Wait = 90 * time.Second }},
		{"zero needs no unit", "wait: 0", func(c *crate) { c.Wait = 0 }},
		{"a pointer tells a zero from none", "{maybe_num: 7, maybe_sub: {}}", func(c *crate) { c.MaybeNum, c.MaybeSub = &seven, &part{Size: 10} }},
		{"mappings in a list have their defaults", "parts: [{}, {size: 1}]", func(c *crate) { c.Parts = []part{{Size: 10}, {Size: 1}} }},
		{"a list", "words: [a, 1]", func(c *crate) { c.Words = []string{"a", "1"} }},
		{"the only entry of a list", "words: a", func(c *crate) { c.Words = []string{"a"} }},
		{"an empty list is none", "words: []", func(*crate) {}},
		{"keys of a map keep their capitals", "labels: {Team: ci, team: 5}", func(c *crate) { c.Labels = map[string]string{"Team": "ci", "team": "5"} }},
		{"a map of mappings, which have their defaults", "sizes: {a: {}, b: {size: 1}}", func(c *crate) { c.Sizes = map[string]part{"a": {Size: 10}, "b": {Size: 1}} }},
		{"a map of numbers", "counts: {a: 1}", func(c *crate) { c.Counts = map[string]int{"a": 1} }},
		{"a type with a syntax of its own", "range: 127.77.0.0/16", func(c *crate) { c.Range = netip.MustParsePrefix("127.77.0.0/16") }},
		{"a key of an embedded struct", "Zone: there", func(c *crate) { c.Zone = "there" }},
		{"what is not built in yet, but not asked for", "later: []", func(*crate) {}},
		{"what is ignored, whatever it is", "ignored: [1, {a: b}]", func(*crate) {}},
		{"a merged key", "{<<: {text: a, big: 1}, big: 2}", func(c *crate) { c.Text, c.Big = "a", 2 }},
		{"the first of merged mappings wins", "<<: [{text: a}, {Text: b, big: 1}]", func(c *crate) { c.Text, c.Big = "a", 1 }},
		{"a merged alias loses to the key itself", "{<<: {txt: a}, text: b}", func(c *crate) { c.Text = "b" }},
		{"merged mappings that merge", "<<: {<<: {text: a, big: 1}, big: 2}", func(c *crate) { c.Text, c.Big = "a", 2 }},
		{"an anchor and its alias", "{sub: &a {size: 1}, maybe_sub: *a}", func(c *crate) { c.Sub.Size, c.MaybeSub = 1, &part{Size: 1} }},
		{"an alias as a key", "{text: &k zone, *k : there}", func(c *crate) { c.Text, c.Zone = "zone", "there" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, _, found := decode(t, tt.text)
			if found != "" {
				t.Errorf("found %s", found)
			}
			want := newCrate()
			tt.want(want)
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(crate{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestDecodeFindings(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{"not a mapping", "[a]", `1:1: error: spec: want a mapping, found a list; write its keys indented below, one "key: value" a line`},
		{"an unknown key that is near a known one", "txet: a", `1:1: warning: spec.txet: unknown key; did you mean "text"?`},
		{"an unknown key that is near an alias", "tx_t: a", `1:1: warning: spec.tx_t: unknown key; did you mean "txt"?`},
		{"an unknown key", "colour: a", `1:1: warning: spec.colour: unknown key, it has no effect; remove it`},
		{"an old name", "wordList: a", `1:1: warning: spec.words: "wordList" is taken as "words"; write it so`},
		{"an old name and the new one", "{words: a, wordlist: b}", `1:12: error: spec.words: key given twice, as "words" on line 1 and as "wordlist"; keep one`},
		{"a key twice", "text: a\nTEXT: b", `2:1: error: spec.TEXT: same key as "text" on line 1, capitals do not matter; keep one`},
		{"a key of a map twice", "labels: {a: b, a: c}", `1:16: error: spec.labels.a: key given twice, first on line 1; keep one`},
		{"what has no effect here", "{unused: 5, Unusd: 5}", "1:2: warning: spec.unused: written by others, it has no effect in a pool file; remove it\n" +
			`1:13: warning: spec.Unusd: unknown key; did you mean "unused"?`},
		{"what is not built in yet", "later: yes", `1:1: error: spec.later: not built in yet; remove the key`},
		{"too small", "count: 0", `1:8: error: spec.count: 0 is too small; give 1 to 9`},
		{"too long", "wait: 2h", `1:7: error: spec.wait: 2h is too large; give 0s to 1h`},
		{"too large for its type", "small: 3000000000", `1:8: error: spec.small: 3000000000 is too large; give at most 2147483647`},
		{"not a choice", "mode: tcg", `1:7: error: spec.mode: "tcg" is none of auto, kvm; choose one of them`},
		{"a syntax of its own is broken", "range: 127.77", `1:8: error: spec.range: "127.77" is not valid here: netip.ParsePrefix("127.77"): no '/'`},
		{"not a number", "share: .nan", `1:8: error: spec.share: want a number, found the number .nan; write it in digits`},
		{"a quoted number", "count: '3'", `1:8: error: spec.count: want a whole number, found the text "3"; remove the quotes`},
		{"a value that would break the line", "mode: \"a\\nb\"", `1:7: error: spec.mode: "a\nb" is none of auto, kvm; choose one of them`},
		{"a value that is long", "count: " + strings.Repeat("x", 99), `1:8: error: spec.count: want a whole number, found the text "` + strings.Repeat("x", 40) + `…"; write it in digits`},
		{"a key that would break the path", "a.b: c", `1:1: warning: spec."a.b": unknown key, it has no effect; remove it`},
		{"an anchor inside itself", "sub: &a {path: *a}", `1:16: error: spec: *a stands inside &a, so it would contain itself; use another anchor`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, _, got := decode(t, tt.text)
			if want := tt.want + "\n"; got != want {
				t.Errorf("got  %swant %s", got, want)
			}
			if strings.Contains(tt.want, " error: spec.") && !strings.Contains(tt.name, "twice") && !strings.Contains(tt.name, "old name") {
				if diff := cmp.Diff(newCrate(), c, cmp.AllowUnexported(crate{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
					t.Errorf("a refused value changed the spec (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestPositions(t *testing.T) {
	t.Parallel()
	_, at, _ := decode(t, "text: a\nsub:\n  size: 5\nparts:\n  - {size: 1}\ncount:\n")
	tests := []struct {
		name, path string
		want       drivers.Position
		has        bool
	}{
		{"a value", "spec.text", drivers.Position{Line: 1, Column: 7}, true},
		{"a value inside", "spec.sub.size", drivers.Position{Line: 3, Column: 9}, true},
		{"a value in a list", "spec.parts[0].size", drivers.Position{Line: 5, Column: 12}, true},
		{"an absent value stands where its mapping does", "spec.sub.path", drivers.Position{Line: 3, Column: 3}, false},
		{"a null is absent", "spec.count", drivers.Position{Line: 1, Column: 1}, false},
		{"an absent mapping", "spec.maybe_sub.size", drivers.Position{Line: 1, Column: 1}, false},
		{"nothing of it is there", "else", drivers.Position{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := at.At(tt.path); got != tt.want {
				t.Errorf("At(%q) = %v, want %v", tt.path, got, tt.want)
			}
			if got := at.Has(tt.path); got != tt.has {
				t.Errorf("Has(%q) = %v, want %v", tt.path, got, tt.has)
			}
		})
	}
}

func TestRawKeepsANull(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, text string
		want       string
	}{
		{"absent", "{}", "<nil>"},
		{"null", "raw:", "!!null"},
		{"a mapping", "raw: {a: b}", "!!map"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, _, _ := decode(t, tt.text)
			got := "<nil>"
			if c.Raw != nil {
				got = c.Raw.ShortTag()
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestCanonicalJSON(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{
			"defaults that are not zero are written, so that they stay when the default changes", "{}",
			`{"count":3,"flag":true,"mode":"auto","share":0.5,"sub":{"size":10},"wait":"10m0s","zone":"here"}`,
		},
		{
			"a zero is written where the default is another", "{flag: no, share: 0, count: 1, wait: 0, zone: '', sub: {size: 0}}",
			`{"count":1,"flag":false,"mode":"auto","share":0,"sub":{"size":0},"wait":"0s","zone":""}`,
		},
		{
			"everything, whatever its order and spelling",
			"{txt: \"a<b\\u2028\\x7f\", parts: [{path: p}], labels: {b: '1', a: 'no'}, counts: {n: 1}, maybe_num: 0, maybe_sub: {}, WORDS: w, range: 10.0.0.0/8, big: 0x7fffffffffffffff, ignored: x, raw: y}",
			`{"big":9223372036854775807,"count":3,"counts":{"n":1},"flag":true,"labels":{"a":"no","b":"1"},"maybe_num":0,"maybe_sub":{"size":10},` +
				`"mode":"auto","parts":[{"path":"p","size":10}],"range":"10.0.0.0/8","share":0.5,"sub":{"size":10},"text":"a\u003cb\u2028` + "\x7f" + `","wait":"10m0s","words":["w"],"zone":"here"}`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, _, found := decode(t, tt.text)
			if found != "" {
				t.Fatal(found)
			}
			got, err := drivers.CanonicalJSON(c)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			c.Raw = nil // not stored: its keys are another table's
			again := newCrate()
			stored, err := drivers.DecodeJSON(got, again)
			if err != nil || len(stored) > 0 {
				t.Fatalf("read back: %v, %v", stored, err)
			}
			if diff := cmp.Diff(c, again, cmp.AllowUnexported(crate{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("read back, -want +got:\n%s", diff)
			}
		})
	}
}

func TestCredentialsAreNoPartOfARecipe(t *testing.T) {
	t.Parallel()
	type account struct {
		User string `spec:"user"`
		Key  string `spec:"key" secret:"true"`
	}
	cfg := struct {
		Account account `spec:"account"`
		Size    int     `spec:"size"`
	}{account{"me", "hush"}, 3}
	stored, err := drivers.CanonicalJSON(cfg)
	if want := `{"account":{"key":"hush","user":"me"},"size":3}`; err != nil || string(stored) != want {
		t.Errorf("stored %s, %v; want %s", stored, err, want)
	}
	recipe, err := drivers.RecipeJSON(cfg)
	if want := `{"account":{"user":"me"},"size":3}`; err != nil || string(recipe) != want {
		t.Errorf("recipe %s, %v; want %s", recipe, err, want)
	}
}

func TestDecodeJSONOfAnotherVersion(t *testing.T) {
	t.Parallel()
	c := newCrate()
	found, err := drivers.DecodeJSON([]byte(`{"gone": 1, "text": "a"}`), c)
	if err != nil || len(found) != 1 || !found[0].Warning || found[0].Path != "gone" || c.Text != "a" {
		t.Errorf("found %v, error %v, text %q; want a warning and the rest", found, err, c.Text)
	}
	for _, broken := range []string{"", "{", "{} {}", `{"a":}`} {
		if _, err := drivers.DecodeJSON([]byte(broken), c); err == nil {
			t.Errorf("DecodeJSON(%q): no error", broken)
		}
	}
}

func TestFields(t *testing.T) {
	t.Parallel()
	byName := map[string]drivers.Field{}
	var names []string
	for _, f := range drivers.Fields(newCrate()) {
		byName[f.Name] = f
		names = append(names, f.Name)
	}
	want := strings.Fields("zone text mode count big small share flag wait maybe_num maybe_sub sub parts words labels counts range raw later ignored unused sizes file")
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names, -want +got:\n%s", diff)
	}
	size := drivers.Field{Name: "size", Kind: drivers.KindInt, Default: "10", Numeric: true}
	path := drivers.Field{Name: "path", Kind: drivers.KindText, File: true}
	for _, want := range []drivers.Field{
		{Name: "text", Aliases: []string{"txt"}, Kind: drivers.KindText, Doc: "A text."},
		{Name: "mode", Kind: drivers.KindText, Default: "auto", Enum: []string{"auto", "kvm"}},
		{Name: "wait", Kind: drivers.KindDuration, Default: "10m", Min: "0s", Max: "1h"},
		{Name: "maybe_num", Kind: drivers.KindInt},
		{Name: "maybe_sub", Kind: drivers.KindObject, Fields: []drivers.Field{size, path}},
		{Name: "parts", Kind: drivers.KindList, Elem: drivers.KindObject, Fields: []drivers.Field{size, path}},
		{Name: "words", OldNames: []string{"wordlist"}, Kind: drivers.KindList, Elem: drivers.KindText, Single: true},
		{Name: "counts", Kind: drivers.KindMap, Elem: drivers.KindInt},
		{Name: "range", Kind: drivers.KindText},
		{Name: "later", Kind: drivers.KindAny, Later: "true"},
	} {
		if diff := cmp.Diff(want, byName[want.Name]); diff != "" {
			t.Errorf("%s, -want +got:\n%s", want.Name, diff)
		}
	}
}

func TestEachFile(t *testing.T) {
	t.Parallel()
	c, _, _ := decode(t, "{file: a, sub: {path: b}, text: c}")
	drivers.EachFile(c, func(path string) string { return "/" + path })
	if got, want := c.File+c.Sub.Path+c.Text, "/a/bc"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	keys := []string{"pool", "limit", "machine_type", "private_ip", "os", "hibernate"}
	tests := []struct{ name, word, want string }{
		{"a letter too many", "pooll", "pool"},
		{"a letter too few", "limt", "limit"},
		{"two letters swapped", "polo", "pool"},
		{"other capitals and no underscore", "privateIP", "private_ip"},
		{"two slips in a long word", "machin_tipe", "machine_type"},
		{"two slips in a short word", "plo", ""},
		{"words of two letters are not compared", "is", ""},
		{"another word", "colour", ""},
		{"no word", "", ""},
		{"only signs", "_-", ""},
		{"no word is that long", strings.Repeat("pool", 1000), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := drivers.Nearest(tt.word, keys); got != tt.want {
				t.Errorf("Nearest(%q) = %q, want %q", tt.word, got, tt.want)
			}
		})
	}
}

func TestBrokenTablesAreFaultsOfTheProgram(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		cfg  any
	}{
		{"a bound that is no number", &struct {
			A int `spec:"a" min:"one"`
		}{}},
		{"a default that does not fit", &struct {
			A int `spec:"a" default:"one"`
		}{}},
		{"a type that cannot be a key", &struct {
			A chan int `spec:"a"`
		}{}},
		{"two keys of one name", &struct {
			A int `spec:"a"`
			B int `spec:"b" alias:"A"`
		}{}},
		{"a map without names", &struct {
			A map[int]string `spec:"a"`
		}{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			drivers.SetDefaults(tt.cfg)
		})
	}
}
