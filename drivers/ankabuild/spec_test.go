package ankabuild

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
	spec, problems := drivertest.ReadSpec[Spec](t, Registration, `{vm_id: v, tag: t, registry_url: "https://anka:8090", disk_size: "80"}`, &p)
	if len(problems) > 0 {
		t.Error(problems)
	}
	image, machineType, disk := spec.Resolved()
	if diff := cmp.Diff([]any{"v:t", "", 80}, []any{image, machineType, disk}); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if want := (drivers.Platform{OS: "darwin", Arch: "amd64"}); p != want {
		t.Errorf("platform %+v, want %+v", p, want)
	}
}

func TestProblemsOfASpec(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, os, path, want string }{
		{`{vm_id: v, registry_url: "http://a"}`, "linux", "platform.os", `write darwin`},
		{`{vm_id: v, registry_url: "anka:8090"}`, "", "registry_url", `is no address`},
		{`{vm_id: v, registry_url: "ftp://anka"}`, "", "registry_url", `is no address`},
	} {
		_, problems := drivertest.ReadSpec[Spec](t, Registration, tt.text, &drivers.Platform{OS: tt.os})
		if len(problems) != 1 || problems[0].Path != tt.path || !strings.Contains(problems[0].Message, tt.want) {
			t.Errorf("%s on %s: %v, want one at %s with %q", tt.text, tt.os, problems, tt.path, tt.want)
		}
	}
}
