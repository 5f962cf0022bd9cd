//go:build !no_google

package google

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/drivers/drivertest"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
)

// moments make every transition take milliseconds: the suite's clock is the real
// one.
func moments() gce.Durations {
	r := gce.Range{Least: time.Millisecond, Most: 10 * time.Millisecond}
	return gce.Durations{
		Provisioning: r, Staging: r, Stopping: r, Deleting: r, Suspending: r, Resuming: r, Repairing: r, Preempting: r,
		Disk: r, Other: r, Accepting: gce.Exactly(time.Millisecond),
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	drivertest.Run(t, func(*testing.T) drivertest.Harness {
		var cloud *gce.Cloud
		cloud = gce.New(gce.Options{Durations: moments(), Boots: func(m gce.Machine) {
			_ = cloud.Console(m.Name, "Linux version 6.8.0\ncloud-init finished\n") // it may be gone again
		}})
		s := &stage{cloud: cloud}
		return drivertest.Harness{
			Open: s.open,
			Spec: func(testing.TB) drivers.Spec { return machine() },
			Every: func(testing.TB) drivers.Spec {
				return machine(func(s *drivers.Spec) {
					s.Image, s.MachineType, s.DiskGiB, s.DiskType = "projects/debian-cloud/global/images/family/debian-12", "n2-standard-2", 30, "pd-ssd"
					s.Zones, s.Hibernate = []string{zoneB, zoneA}, true
				})
			},
			Existing: func(testing.TB) (all []string) {
				for _, thing := range cloud.Living() {
					all = append(all, thing.Kind+" "+thing.Name)
				}
				return all
			},
			FailDestroy: func(_ testing.TB, ref drivers.Ref) func() {
				return cloud.Spoil(gce.Spoil{
					Method: "compute.instances.delete", Match: func(c fakecloud.Call) bool { return c.Name == ref.Name }, Err: gce.Internal500(),
				})
			},
			FailCreate: func(testing.TB, error) {
				cloud.Spoil(gce.Spoil{Method: "compute.instances.insert", Times: 1, Err: gce.Internal500()})
			},
			LoseAnswer:   func(testing.TB) { s.lose.Store(true) },
			HideFromList: func(testing.TB) { s.hide.Store(true) },
			Kill: func(tb testing.TB, ref drivers.Ref) {
				tb.Helper()
				if err := cloud.Shutdown(ref.Name); err != nil {
					tb.Error(err)
				}
			},
			Full: func(tb testing.TB) drivers.Driver {
				tb.Helper()
				cloud.StopOut("", "n1-standard-4", time.Time{})
				return open(tb, cloud, "{account: {project_id: test-project}, image: "+ubuntu+", machine_type: n1-standard-4, zone: ["+zoneA+", "+zoneB+"]}")
			},
			Invalid: func(testing.TB) drivers.Spec {
				return machine(func(s *drivers.Spec) { s.Image = "no-such-image" })
			},
		}
	})
}

// stage is one cloud and the faults that are due in its drivers.
type stage struct {
	cloud      *gce.Cloud
	lose, hide atomic.Bool
}

// troubled is a driver to which they happen.
type troubled struct {
	*Driver
	s *stage
}

func (s *stage) open(tb testing.TB) drivers.Driver {
	tb.Helper()
	return &troubled{open(tb, s.cloud, small), s}
}

func (d *troubled) Create(ctx context.Context, spec drivers.Spec) (drivers.Ref, error) {
	ref, err := d.Driver.Create(ctx, spec)
	if err == nil && d.s.lose.Swap(false) {
		return drivers.Ref{}, errors.New("the answer was lost")
	}
	return ref, err
}

func (d *troubled) List(ctx context.Context, q drivers.Query) (drivers.Listing, error) {
	if d.s.hide.Swap(false) {
		d.s.cloud.Unreachable(zoneA, time.Time{})
		defer d.s.cloud.Reachable(zoneA)
	}
	return d.Driver.List(ctx, q)
}
