//go:build !no_google

package google

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers"
	"github.com/vm-runner/drone-runner-aws/internal/fakecloud/gce"
)

const threeZones = ofProject + "machine_type: e2-standard-2, zone: [" + zoneA + ", " + zoneB + ", " + zoneC + "]}"

func TestZonesAreTriedWhileThereIsNoRoom(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		out   []string
		hints []string
		want  []string // zones asked, the last has it
	}{
		{"the first has room", nil, nil, []string{zoneA}},
		{"the second has", []string{zoneA}, nil, []string{zoneA, zoneB}},
		{"a hint is followed", []string{zoneA, zoneB}, []string{zoneC}, []string{zoneA, zoneC}},
		{"a hint outside the pool's zones is not", []string{zoneA}, []string{"us-central1-f"}, []string{zoneA, zoneB}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
				for _, zone := range tt.out {
					c.StopOut(zone, "", time.Time{}, tt.hints...)
				}
				d := open(t, c, threeZones)
				mustCreate(t, d, machine())
				var got []string
				for _, thing := range c.Books.Ever() {
					if thing.Kind == "instance" {
						got = append(got, thing.Zone)
					}
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("zones -want +got:\n%s", diff)
				}
				// It is remembered, for a while.
				ref := mustCreate(t, d, machine())
				if want := tt.want[len(tt.want)-1]; ref.Zone != want && !slices.Contains([]string{zoneB, zoneC}, ref.Zone) || slices.Contains(tt.out, ref.Zone) {
					t.Errorf("the next is in %s, want %s", ref.Zone, want)
				}
				for _, zone := range tt.out {
					c.Restock(zone, "")
				}
				pass(rememberFor)
				if ref := mustCreate(t, d, machine()); ref.Zone != zoneA {
					t.Errorf("once there is room again it is in %s", ref.Zone)
				}
				empty(t, c, d)
			})
		})
	}
}

func TestNoRoomAnywhereIsSaidWithHints(t *testing.T) {
	t.Parallel()
	bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
		c.StopOut("", "", time.Time{}, "us-east1-b")
		d := open(t, c, threeZones)
		_, err := d.Create(t.Context(), machine())
		var full *drivers.CapacityError
		if !errors.As(err, &full) || !slices.Contains(full.Hints, "us-east1-b") {
			t.Errorf("error %v", err)
		}
		asked := len(everMade(c, "instance"))
		before := c.Books.Calls()["compute.instances.insert"]
		_, err = d.Create(t.Context(), machine())
		if n := c.Books.Calls()["compute.instances.insert"] - before; !errors.Is(err, drivers.ErrCapacity) || n != 1 || before != 3 {
			t.Errorf("%d zones were asked at first, %d when it was known that there is no room, %v (%d)", before, n, err, asked)
		}
		empty(t, c, d)
	})
}

// A quota is no lack of room: no other zone is asked.
func TestAQuotaIsNoReasonToAskAnotherZone(t *testing.T) {
	t.Parallel()
	bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
		c.SetQuota("us-central1", "CPUS", 1)
		d := open(t, c, threeZones)
		if _, err := d.Create(t.Context(), machine()); !errors.Is(err, drivers.ErrQuota) || errors.Is(err, drivers.ErrCapacity) {
			t.Errorf("error %v", err)
		}
		if n := c.Books.Calls()["compute.instances.insert"]; n != 1 {
			t.Errorf("%d zones were asked", n)
		}
		empty(t, c, d)
	})
}

func TestSpotMachinesGiveWayToOthers(t *testing.T) {
	t.Parallel()
	for name, quota := range map[string]bool{"no room": false, "no quota": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
				d := open(t, c, ofProject+"market_type: spot, zone: ["+zoneA+", "+zoneB+"]}")
				if quota {
					c.SetQuota("us-central1", "PREEMPTIBLE_CPUS", 0)
				} else {
					c.Spoil(gce.Spoil{Method: "compute.instances.insert", Times: 2, Err: gce.Stockout(zoneA, "n1-standard-1")})
				}
				i, err := d.get(t.Context(), mustCreate(t, d, machine()))
				if err != nil || i.GetScheduling().GetProvisioningModel() != "STANDARD" {
					t.Errorf("machine %v, %v", i.GetScheduling(), err)
				}
				want := map[bool]int{true: 2, false: 3}[quota]
				if n := c.Books.Calls()["compute.instances.insert"]; n != want {
					t.Errorf("%d machines were asked for, want %d", n, want)
				}
				empty(t, c, d)
			})
		})
	}
}

// A runner that was restarted finds what its predecessor has made in another
// zone than it would try first.
func TestAMachineIsFoundInWhateverZone(t *testing.T) {
	t.Parallel()
	bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
		c.StopOut(zoneA, "", time.Time{})
		spec := machine()
		first := mustCreate(t, open(t, c, threeZones), spec)
		c.Restock(zoneA, "")
		pass(time.Minute)
		d := open(t, c, threeZones)
		if again := mustCreate(t, d, spec); again != first || first.Zone != zoneB {
			t.Errorf("found %+v, made %+v", again, first)
		}
		stranger := machine(in(zoneB))
		stranger.Name, stranger.Tags.Controller = spec.Name, "somebody-else"
		if _, err := open(t, c, small).Create(t.Context(), stranger); !errors.Is(err, drivers.ErrInvalid) {
			t.Errorf("another's machine: %v", err)
		}
		empty(t, c, d)
	})
}

func TestDisksDecideTheZone(t *testing.T) {
	t.Parallel()
	bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
		d := open(t, c, threeZones)
		ref := mustCreate(t, d, machine(forGood, in(zoneC), withDisk("data")))
		i, err := d.get(t.Context(), ref)
		if err != nil || len(i.GetDisks()) != 2 || i.GetDisks()[1].GetDeviceName() != "disk-0" || i.GetDisks()[1].GetAutoDelete() {
			t.Errorf("disks %v, %v", i.GetDisks(), err)
		}
		if err := d.Destroy(t.Context(), []drivers.Ref{ref}, drivers.DestroyOptions{})[0]; err != nil {
			t.Fatal(err)
		}
		// There is none here, and the disk is there: nothing moves, nothing is lost.
		c.StopOut(zoneC, "", time.Time{})
		if _, err := d.Create(t.Context(), machine(forGood, in(zoneA), withDisk("data"))); !errors.Is(err, drivers.ErrCapacity) {
			t.Errorf("no room where the disk is: %v", err)
		}
		c.Restock(zoneC, "")
		// A zone that does not answer may have the disk: none is made beside it.
		c.Unreachable(zoneC, time.Time{})
		if _, err := d.Create(t.Context(), machine(forGood, in(zoneA), withDisk("data"))); !errors.Is(err, errUnreachable) {
			t.Errorf("a zone that does not answer: %v", err)
		}
		c.Reachable(zoneC)
		ref = mustCreate(t, d, machine(forGood, in(zoneA), withDisk("data")))
		if ref.Zone != zoneC || everMade(c, "disk")["data"] != 1 {
			t.Errorf("machine in %s, disk made %d times", ref.Zone, everMade(c, "disk")["data"])
		}
		// Two disks in two zones can be on no machine.
		mustCreate(t, d, machine(forGood, in(zoneA), withDisk("other")))
		l, err := d.List(t.Context(), drivers.Query{})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range l.Instances {
			if err := d.Destroy(t.Context(), []drivers.Ref{i.Ref}, drivers.DestroyOptions{})[0]; err != nil {
				t.Error(err)
			}
		}
		_, err = d.Create(t.Context(), machine(forGood, withDisk("data"), withDisk("other")))
		if !errors.Is(err, drivers.ErrInvalid) {
			t.Errorf("disks in two zones: %v", err)
		}
		empty(t, c, d)
	})
}

// A machine is brought back from every state that the cloud has, and is never
// deleted where it cannot be.
func TestResumeFromEveryState(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(t *testing.T, c *gce.Cloud, d *Driver, ref drivers.Ref){
		"RUNNING": func(*testing.T, *gce.Cloud, *Driver, drivers.Ref) {},
		"SUSPENDED": func(t *testing.T, _ *gce.Cloud, d *Driver, ref drivers.Ref) {
			if err := d.Suspend(t.Context(), ref); err != nil {
				t.Error(err)
			}
		},
		"SUSPENDING": func(t *testing.T, _ *gce.Cloud, d *Driver, ref drivers.Ref) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			if err := d.Suspend(ctx, ref); err == nil {
				t.Error("suspend has not waited")
			}
		},
		"TERMINATED": func(t *testing.T, c *gce.Cloud, _ *Driver, ref drivers.Ref) {
			if err := c.Shutdown(ref.Name); err != nil {
				t.Error(err)
			}
			pass(time.Minute)
		},
		"STOPPING": func(t *testing.T, c *gce.Cloud, _ *Driver, ref drivers.Ref) {
			if err := c.Shutdown(ref.Name); err != nil {
				t.Error(err)
			}
		},
		"REPAIRING": func(t *testing.T, c *gce.Cloud, _ *Driver, ref drivers.Ref) {
			if err := c.HostError(ref.Name); err != nil {
				t.Error(err)
			}
		},
		"stopped after 60 days of sleep": func(t *testing.T, _ *gce.Cloud, d *Driver, ref drivers.Ref) {
			if err := d.Suspend(t.Context(), ref); err != nil {
				t.Error(err)
			}
			pass(61 * 24 * time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
				d := open(t, c, small)
				ref := mustCreate(t, d, machine(forGood, withDisk("data")))
				before(t, c, d, ref)
				i, err := d.Resume(t.Context(), drivers.Ref{Name: ref.Name})
				if err != nil || i.Status != drivers.StatusRunning || i.Address == "" || i.Port != agentPort || i.Ref != ref {
					t.Errorf("resumed: %+v, %v", i, err)
				}
				if m, err := c.Machine(ref.Name); err != nil || m.External.String() != i.Address {
					t.Errorf("it is at %v, %v; said %s", m.External, err, i.Address)
				}
				empty(t, c, d)
			})
		})
	}
}

func TestAResumeWithoutRoomLeavesTheMachine(t *testing.T) {
	t.Parallel()
	bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
		d := open(t, c, small)
		ref := mustCreate(t, d, machine(forGood))
		if err := d.Suspend(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		c.StopOut("", "", time.Time{})
		if _, err := d.Resume(t.Context(), ref); !errors.Is(err, drivers.ErrCapacity) {
			t.Errorf("resume: %v", err)
		}
		if m, err := c.Machine(ref.Name); err != nil || m.Status != "SUSPENDED" {
			t.Errorf("afterwards it is %s, %v", m.Status, err)
		}
		c.Restock("", "")
		if _, err := d.Resume(t.Context(), ref); err != nil {
			t.Error(err)
		}
		empty(t, c, d)
	})
}

// A machine that can never sleep says so.
func TestASuspensionThatIsImpossibleIsInvalid(t *testing.T) {
	t.Parallel()
	bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
		d := open(t, c, ofProject+"machine_type: n2-highmem-32}")
		ref := mustCreate(t, d, machine(forGood))
		if err := d.Suspend(t.Context(), ref); !errors.Is(err, drivers.ErrInvalid) {
			t.Errorf("suspend: %v", err)
		}
		empty(t, c, d)
	})
}

// What cannot sleep is not made to: it is known before there is a machine.
func TestAPoolThatCannotHibernateMakesNoMachine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, machineType string
		words             []string
	}{
		{"too much memory", "n2-highmem-32", []string{"n2-highmem-32", "256 GB", "208", "machine_type", "hibernate: false"}},
		{"GPUs", "g2-standard-4", []string{"g2-standard-4", "GPUs", "machine_type"}},
		{"a machine that can", "e2-standard-4", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			bubble(t, large(), func(t *testing.T, c *gce.Cloud) {
				d := open(t, c, ofProject+"zone: ["+zoneA+"], machine_type: "+tt.machineType+"}")
				for range 2 {
					ref, err := d.Create(t.Context(), machine(func(s *drivers.Spec) { s.Hibernate = true }))
					if tt.words == nil {
						if err == nil {
							err = d.Destroy(t.Context(), []drivers.Ref{ref}, drivers.DestroyOptions{})[0]
						}
						if err != nil {
							t.Error(err)
						}
						continue
					}
					if !errors.Is(err, drivers.ErrInvalid) {
						t.Errorf("create: %v", err)
					}
					contains(t, err, tt.words...)
				}
				if n := c.Books.Calls()["compute.machineTypes.get"]; n != 1 {
					t.Errorf("the type was looked at %d times", n)
				}
				if n := c.Books.Calls()["compute.instances.insert"]; n > 0 && tt.words != nil {
					t.Errorf("%d machines were asked for", n)
				}
				empty(t, c, d)
			})
		})
	}
}
