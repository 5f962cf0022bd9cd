package drivers_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

func TestWhoMayCallAgents(t *testing.T) {
	t.Parallel()
	got, err := drivers.ParseIngress([]string{" 10.1.2.3/8", "", "192.0.2.7", "2001:db8::/32"})
	if want := "[10.0.0.0/8 192.0.2.7/32 2001:db8::/32]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
	if got, err := drivers.ParseIngress(nil); len(got) != 0 || err != nil {
		t.Errorf("of none: %v, %v", got, err)
	}
	for _, bad := range []string{"everybody", "0.0.0.0/0", "::/0", "10.0.0.0/99"} {
		if _, err := drivers.ParseIngress([]string{"10.0.0.0/8", bad}); !errors.Is(err, drivers.ErrInvalid) ||
			!strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), "RUNNER_AGENT_INGRESS") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
