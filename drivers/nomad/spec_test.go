package nomad

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
	spec, problems := drivertest.ReadSpec[Spec](t, Registration, `{server: {address: a}, vm: {resource: {large: {cpus: 8}}, user_data_Path: ""}}`, &p)
	if len(problems) > 0 {
		t.Error(problems)
	}
	image, machineType, disk := spec.Resolved()
	if diff := cmp.Diff([]any{"weaveworks/ignite-ubuntu:latest", "", 0}, []any{image, machineType, disk}); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if want := (drivers.Platform{OS: "linux", Arch: "amd64"}); p != want {
		t.Errorf("platform %+v, want %+v", p, want)
	}
}

func TestProblemsOfASpec(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, os, path, want string }{
		{`{server: {address: a}}`, "windows", "platform.os", `write linux or darwin`},
		{`{server: {address: a}, vm: {mem_gb: 0}}`, "", "vm.mem_gb", `give 1 to 4096`},
		{`{server: {address: a}, vm: {cpus: two}}`, "", "vm.cpus", `give 1 to 1024`},
		{`{server: {address: a}, vm: {disk_size: all}}`, "", "vm.disk_size", `100GB`},
		{`{server: {address: a}, vm: {resource: {large: {mem_gb: -1}}}}`, "", "vm.resource.large.mem_gb", `give 1 to 4096`},
		{`{server: {address: a}, vm: {user_data_path: nosuch}}`, "", "vm.user_data_path", `no such file`},
		{`{server: {address: a, ca_cert_path: nosuch}}`, "", "server.ca_cert_path", `no such file`},
	} {
		_, problems := drivertest.ReadSpec[Spec](t, Registration, tt.text, &drivers.Platform{OS: tt.os})
		if len(problems) != 1 || problems[0].Path != tt.path || !strings.Contains(problems[0].Message, tt.want) {
			t.Errorf("%s on %s: %v, want one at %s with %q", tt.text, tt.os, problems, tt.path, tt.want)
		}
	}
}
