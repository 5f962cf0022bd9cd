package drivertest

import (
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// ReadSpec decodes and checks a spec as it stands in a pool file. S is the
// type's spec struct. The test fails if it cannot be decoded; what the type's
// check finds is returned.
func ReadSpec[S any](t testing.TB, reg drivers.Registration, text string, p *drivers.Platform) (*S, []drivers.Problem) {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(text), &n); err != nil {
		t.Fatal(err)
	}
	spec, ok := reg.NewConfig().(*S)
	if !ok {
		t.Fatalf("type %s has specs of type %T, want %T", reg.Name, reg.NewConfig(), spec)
	}
	_, found := drivers.Decode(&n, "", spec)
	for _, f := range found {
		if !f.Warning {
			t.Fatalf("%s: %s", f.Path, f.Message)
		}
	}
	return spec, reg.Check(spec, p)
}
