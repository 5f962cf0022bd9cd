package vmfusion

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
	spec, problems := drivertest.ReadSpec[Spec](t, Registration, `{v_disk_path: /d, cpu: 2}`, &p)
	if len(problems) > 0 {
		t.Error(problems)
	}
	image, machineType, disk := spec.Resolved()
	if diff := cmp.Diff([]any{"/d", "2x1024", 0}, []any{image, machineType, disk}); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if want := (drivers.Platform{OS: "darwin", Arch: "amd64"}); p != want {
		t.Errorf("platform %+v, want %+v", p, want)
	}
}

func TestProblemsOfASpec(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, os, path, want string }{
		{`{}`, "windows", "platform.os", `write darwin`},
		{`{user_data: a, user_data_path: b}`, "", "user_data_path", `not both`},
	} {
		_, problems := drivertest.ReadSpec[Spec](t, Registration, tt.text, &drivers.Platform{OS: tt.os})
		if len(problems) != 1 || problems[0].Path != tt.path || !strings.Contains(problems[0].Message, tt.want) {
			t.Errorf("%s on %s: %v, want one at %s with %q", tt.text, tt.os, problems, tt.path, tt.want)
		}
	}
}
