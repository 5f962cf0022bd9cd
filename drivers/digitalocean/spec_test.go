package digitalocean

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
)

func TestSpecIsResolved(t *testing.T) {
	t.Parallel()
	p := drivers.Platform{}
	spec, problems := drivertest.ReadSpec[Spec](t, Registration, `{account: {pat: x}}`, &p)
	if len(problems) > 0 {
		t.Error(problems)
	}
	image, machineType, disk := spec.Resolved()
	if diff := cmp.Diff([]any{"docker-18-04", "s-2vcpu-4gb", 0}, []any{image, machineType, disk}); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if want := (drivers.Platform{OS: "linux", Arch: "amd64", OSName: "ubuntu"}); p != want {
		t.Errorf("platform %+v, want %+v", p, want)
	}
}

func TestProblemsOfASpec(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, os, path, want string }{
		{`{}`, "linux", "account.pat", `missing`},
		{`{account: {pat: x}}`, "darwin", "platform.os", `write linux`},
	} {
		_, problems := drivertest.ReadSpec[Spec](t, Registration, tt.text, &drivers.Platform{OS: tt.os})
		if len(problems) != 1 || problems[0].Path != tt.path || !strings.Contains(problems[0].Message, tt.want) {
			t.Errorf("%s on %s: %v, want one at %s with %q", tt.text, tt.os, problems, tt.path, tt.want)
		}
	}
}
