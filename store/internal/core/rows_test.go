package core

import (
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

func TestSecretsSurvive(t *testing.T) {
	t.Parallel()
	id := drivers.Identity{Machine: "m", Hostname: "h", ServerName: "s", CAKey: []byte("1"), CACert: []byte("22"), Key: make([]byte, 300), Cert: []byte("4")}
	next := id
	next.CACert, next.Key, next.Cert = []byte("5"), []byte("66"), []byte("7")
	for name, want := range map[string]secrets{
		"nothing":                              {},
		"a machine's name":                     {identity: drivers.Identity{Machine: "m"}},
		"an identity":                          {identity: id},
		"an identity and a script":             {identity: id, script: "echo"},
		"an identity and the one that follows": {identity: id, next: next},
		"an identity and a proxy":              {identity: id, proxy: "http://p:3128"},
		"all there is":                         {identity: id, next: next, script: "echo", proxy: "http://p:3128", proxyCA: true},
		"an identity, the one that follows and a script": {identity: id, next: next, script: "echo"},
	} {
		got, err := decodeSecrets(want.encode())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(secrets{})); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", name, diff)
		}
	}
}

func FuzzDecodeSecrets(f *testing.F) {
	f.Add(secrets{identity: drivers.Identity{Machine: "m", Key: []byte("k")}, script: "script"}.encode())
	f.Add(secrets{identity: drivers.Identity{Machine: "m"}, next: drivers.Identity{Machine: "m", Cert: []byte("c")}}.encode())
	f.Add(secrets{identity: drivers.Identity{Machine: "m"}, proxy: "http://p"}.encode())
	f.Add(secrets{proxy: "http://p", proxyCA: true}.encode())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeSecrets(b)
		if err != nil {
			return
		}
		again, err := decodeSecrets(s.encode())
		if err != nil || !cmp.Equal(s, again, cmp.AllowUnexported(secrets{})) {
			t.Errorf("secrets changed on their way: %v", err)
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
