package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/pool"
)

func TestWhatToDoAboutAFailure(t *testing.T) {
	t.Parallel()
	caused := func(phase string, err error) error {
		return fmt.Errorf("setup: %w", &pool.SetupError{Causes: []pool.Cause{
			{Pool: "p", Phase: "claim", Kind: "limit", Message: "not this one"},
			{Pool: "p", Phase: phase, Kind: drivers.Kind(err), Message: err.Error(), Console: "console"},
		}, Err: err})
	}
	for _, c := range []struct {
		name, driver string
		err          error
		kind, want   string
	}{
		{"no default VPC", "amazon", caused("create", fmt.Errorf("%w: VPCIdNotSpecified: No default VPC for this user", drivers.ErrInvalid)), "invalid", "spec.network.subnet_id"},
		{"an image that was withdrawn", "amazon", caused("create", fmt.Errorf("%w: InvalidAMIID.NotFound", drivers.ErrNotFound)), "not_found", "images are withdrawn"},
		{"a session that ended", "amazon", caused("create", fmt.Errorf("%w: ExpiredToken: expired", drivers.ErrAuth)), "auth", "token has expired"},
		{"vCPUs", "amazon", caused("create", fmt.Errorf("%w: VcpuLimitExceeded", drivers.ErrQuota)), "quota", "Service Quotas"},
		{"no room", "google", caused("create", &drivers.CapacityError{Zone: "z"}), "capacity", "more zones"},
		{"rights on the service account", "google", caused("create", fmt.Errorf("%w: no permission iam.serviceAccounts.actAs", drivers.ErrAuth)), "auth", "no_service_account"},
		{"a closed port", "google", caused("boot", errors.New("agent not healthy (tcp 10.0.0.2:9079): i/o timeout")), "transient", "port 9079"},
		{"an agent that does not answer any more", "amazon", caused("health", errors.New("i/o timeout")), "transient", "port 9079"},
		{"an agent that refuses", "amazon", caused("setup", errors.New("no docker")), "transient", "needs Docker"},
		{"an image that is not there", "qemu", caused("create", fmt.Errorf("%w: image", drivers.ErrInvalid)), "invalid", "image build tiny"},
		{"too many calls", "google", caused("create", &drivers.RateLimitError{}), "rate_limited", "creates_per_minute"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var got check
			got.failed(c.driver, phaseOf(c.err), c.err)
			if got.OK || got.Kind != c.kind || !strings.Contains(got.Fix, c.want) || got.Console != "console" {
				t.Errorf("kind %q, fix %q; want %q, %q", got.Kind, got.Fix, c.kind, c.want)
			}
		})
	}
	var got check
	got.failed("azure", "ping", drivers.ErrAuth)
	if !strings.Contains(got.Fix, "spec.account") {
		t.Errorf("credentials of another cloud: %q", got.Fix)
	}
}

func TestWhatAPoolHasToDoWithoutIsANoteAndNoFailure(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	x := &examination{p: &program{stderr: &said}}
	if !x.say(check{Part: "disks", OK: true, Detail: "gitspaces cannot have new disks", Fix: "apt-get install e2fsprogs"}, time.Now()) {
		t.Error("it counts as a failure")
	}
	if text := said.String(); !strings.Contains(text, "note    disks") || !strings.Contains(text, "what to do: apt-get install e2fsprogs") {
		t.Errorf("it says %q", text)
	}
}

// No remedy is hidden by one before it.
func TestEveryRemedyCanBeReached(t *testing.T) {
	t.Parallel()
	for i, r := range remedies {
		for _, before := range remedies[:i] {
			if (before.driver == "" || before.driver == r.driver) && (before.phase == "" || before.phase == r.phase) &&
				(before.kind == "" || before.kind == r.kind) && strings.Contains(r.text, before.text) {
				t.Errorf("%q is never told: %q comes first", r.fix, before.fix)
			}
		}
	}
}
