package core

import (
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

func TestIdentitySurvives(t *testing.T) {
	t.Parallel()
	for _, id := range []drivers.Identity{
		{}, {Machine: "m"}, {Machine: "m", Hostname: "h", ServerName: "s", CAKey: []byte("1"), CACert: []byte("22"), Key: make([]byte, 300), Cert: []byte("4")},
	} {
		got, _, err := decodeIdentity(encodeIdentity(id, ""))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(id, got); diff != "" {
			t.Errorf("identity differs (-want +got):\n%s", diff)
		}
	}
}

func FuzzDecodeIdentity(f *testing.F) {
	f.Add(encodeIdentity(drivers.Identity{Machine: "m", Key: []byte("k")}, "script"))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		id, script, err := decodeIdentity(b)
		if err != nil {
			return
		}
		again, second, err := decodeIdentity(encodeIdentity(id, script))
		if err != nil || !cmp.Equal(id, again) || script != second {
			t.Errorf("identity changed on its way: %v", err)
		}
	})
}

func FuzzClean(f *testing.F) {
	f.Add("a\x00b\xff")
	f.Fuzz(func(t *testing.T, s string) {
		got := clean(s)
		if !utf8.ValidString(got) || clean(got) != got {
			t.Errorf("%q became %q", s, got)
		}
	})
}
