package pool

import "testing"

// namedSpec is a spec that says how names begin.
type namedSpec string

func (s namedSpec) NamePrefix() string { return string(s) }

func TestNamesBeginAsTheSpecOrTheRunnerSays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		spec any
		want string
	}{
		{"the spec says so", namedSpec("ci"), "ci"},
		{"the spec says nothing", namedSpec(""), "runner"},
		{"the type has no such key", struct{}{}, "runner"},
	} {
		if got := (PoolConfig{Spec: c.spec}).namePrefix("runner"); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
