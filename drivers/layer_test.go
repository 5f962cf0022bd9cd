package drivers_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// One mapping read over another: mappings and maps merge, the rest is replaced,
// zeros included.
func TestDecodeOverAnother(t *testing.T) {
	t.Parallel()
	c := newCrate()
	for _, text := range []string{
		"{text: a, flag: yes, wait: 5m, words: [a, b], labels: {a: b, c: d}, sub: {size: 5, path: p}, parts: [{size: 1}], maybe_num: 7, big: 1}",
		"{flag: no, wait: 0s, words: [c], labels: {c: e}, sub: {path: q}, parts: [], maybe_num: 0, big: , text: ''}",
	} {
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(text), &n); err != nil {
			t.Fatal(err)
		}
		if _, found := drivers.Decode(&n, "", c); len(found) > 0 {
			t.Fatalf("%s: %v", text, found)
		}
	}
	zero := 0
	want := newCrate()
	want.Flag, want.Wait, want.Words, want.MaybeNum, want.Big = false, 0, []string{"c"}, &zero, 1
	want.Labels = map[string]string{"a": "b", "c": "e"}
	want.Sub, want.Parts = part{Size: 5, Path: "q"}, []part{}
	if diff := cmp.Diff(want, c, cmp.AllowUnexported(crate{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Zeros are left out of what is stored, and there where two specs are compared.
func TestFullJSONHasZeros(t *testing.T) {
	t.Parallel()
	type spec struct {
		Name  string        `spec:"name"`
		Count int           `spec:"count" default:"3"`
		Wait  time.Duration `spec:"wait"`
		Words []string      `spec:"words"`
		Sub   struct {
			On bool `spec:"on" default:"false"`
		} `spec:"sub"`
		Old any `spec:"old" unused:"no use"`
	}
	for _, tt := range []struct {
		write func(any) ([]byte, error)
		want  string
	}{
		{func(v any) ([]byte, error) { return drivers.CanonicalJSON(v) }, `{"count":0}`},
		{func(v any) ([]byte, error) { return drivers.FullJSON(v) }, `{"count":0,"name":"","sub":{"on":false},"wait":"0s"}`},
	} {
		got, err := tt.write(spec{Old: 5})
		if err != nil || string(got) != tt.want {
			t.Errorf("got %s, %v; want %s", got, err, tt.want)
		}
	}
}
