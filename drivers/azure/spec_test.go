package azure

import (
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
)

func TestSpecIsResolved(t *testing.T) {
	t.Parallel()
	const account = "account: {subscription_id: s, client_id: c, client_secret: x, tenant_id: t}, "
	tests := []struct{ name, text, image, problem string }{
		{"an image of the marketplace", "image: {publisher: p, offer: o, sku: s}", "p:o:s:latest", ""},
		{"a version of one", "image: {publisher: p, offer: o, sku: s, version: 1.2}", "p:o:s:1.2", ""},
		{"an image of one's own", "image: {id: /i}", "/i", ""},
		{"both", "image: {id: /i, sku: s}", "/i", "id is used"},
		{"none", "size: Standard_F4s", ":::latest", "names no image"},
		{"half of one", "image: {publisher: p}", "p:::latest", "names no image"},
		{"half a network", "image: {id: /i}, network: {subnet_name: s}", "/i", "one of vnet_name and subnet_name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := drivers.Platform{}
			spec, problems := drivertest.ReadSpec[Spec](t, Registration, "{"+account+tt.text+"}", &p)
			if image, _, _ := spec.Resolved(); image != tt.image {
				t.Errorf("image %s, want %s", image, tt.image)
			}
			if (len(problems) == 0) != (tt.problem == "") || len(problems) > 0 && !strings.Contains(problems[0].Message, tt.problem) {
				t.Errorf("problems %v, want %q", problems, tt.problem)
			}
			if p != (drivers.Platform{OS: "windows", Arch: "amd64"}) {
				t.Errorf("platform %+v", p)
			}
		})
	}
	for _, os := range []string{"linux", "windows"} {
		if _, problems := drivertest.ReadSpec[Spec](t, Registration, "{"+account+"image: {id: /i}}", &drivers.Platform{OS: os, Arch: "arm64"}); len(problems) > 0 {
			t.Errorf("%s: %v", os, problems)
		}
	}
}
