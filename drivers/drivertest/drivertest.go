// Package drivertest is the contract of package drivers as tests: a driver is
// done when [Run] passes on it.
//
// The suite talks to the driver through [drivers.Client] and to the cloud only
// through the [Harness], which is what differs between drivers: how one is
// made, and how its cloud is looked at and broken behind its back. What a
// harness cannot do it leaves nil, and the tests that need it say so.
package drivertest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Harness is one empty cloud and the ways to reach it. Open, Spec and
// Existing are needed, the rest is optional. Functions fail the test by t.
type Harness struct {
	// Open makes another driver object over the same cloud, scope and pool, as
	// a restarted runner would.
	Open func(t testing.TB) drivers.Driver
	// Spec gives a spec the cloud accepts, with a name never given before and
	// an identity if the driver wants one. The suite sets the tags.
	Spec func(t testing.TB) drivers.Spec
	// Existing names everything that costs money in the cloud now (machines,
	// disks, addresses, processes), read past the driver. At the end of every
	// test it must be empty.
	Existing func(t testing.TB) []string

	// FailDestroy makes every destroy of one machine fail until the returned
	// function is called.
	FailDestroy func(t testing.TB, ref drivers.Ref) (repair func())
	// FailCreate makes the next create fail half-way with err, transiently.
	FailCreate func(t testing.TB, err error)
	// LoseAnswer lets the next create do its work and then fail.
	LoseAnswer func(t testing.TB)
	// HideFromList makes the next listing one that could not read everything.
	HideFromList func(t testing.TB)
	// Kill makes a machine die by itself.
	Kill func(t testing.TB, ref drivers.Ref)
	// Full makes a driver over the same cloud that has no room for one more.
	Full func(t testing.TB) drivers.Driver
	// Every makes a spec like Spec's with every field set that a variant of a
	// pool can set, of values the cloud accepts. Nil: Spec, with names that a
	// driver without zones or kinds of disks overlooks.
	Every func(t testing.TB) drivers.Spec
	// Invalid makes a spec the cloud can never accept.
	Invalid func(t testing.TB) drivers.Spec

	// Patience is how long a machine may take to reach a status. Zero: 30 s.
	Patience time.Duration
	// Heavy says that machines are dear: the suite makes few at a time.
	Heavy bool
}

// Run runs the suite. newHarness is called once per test, so that tests are
// independent and may run in parallel.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	for _, tc := range []struct {
		name string
		run  func(*suite)
	}{
		{"scope is the same for every object and ping succeeds", testScope},

		{"create is listed with its tags", testTags},
		{"create twice returns the same machine", testCreateTwice},
		{"create of one name at once by two drivers makes one machine", testCreateConcurrently},
		{"create after a lost answer returns the machine", testLostAnswer},
		{"create with a cancelled context leaves nothing unlisted", testCreateCancelled},
		{"create that is cancelled on its way leaves nothing unlisted", testCreateCancelledOnItsWay},
		{"create that fails leaves nothing unlisted", testCreateFails},
		{"create without room is a capacity error and leaves nothing", testCapacity},
		{"create of what can never succeed is invalid and leaves nothing", testInvalid},
		{"create with every field set is made, or refused as invalid where the driver has no such machines", testEveryField},

		{"list is empty, complete and dated in an empty cloud", testListEmpty},
		{"list narrows to one controller", testListController},
		{"list that cannot read everything is not complete", testListPartial},
		{"list with a cancelled context is not complete", testListCancelled},
		{"another driver object finds and destroys what the first has made", testAdoption},

		{"destroy of nothing answers nothing", testDestroyNothing},
		{"destroy of an unknown machine is no error", testDestroyUnknown},
		{"destroy by name alone is enough", testDestroyByName},
		{"destroy twice and twice at once is no error", testDestroyTwice},
		{"destroy right after create leaves nothing", testDestroyRightAway},
		{"destroy reports exactly the failing one, in every order", testDestroyBatch},
		{"destroy with a cancelled context confirms nothing that still exists", testDestroyCancelled},
		{"destroy of a dead machine confirms its end", testDestroyDead},
		{"a name is free again only for a new machine", testCreateAfterDestroy},

		{"suspend and resume can be repeated", testSuspendResume},
		{"resume of a running machine answers where it is", testResumeRunning},
		{"resume of an unknown machine is not found", testResumeUnknown},
		{"resume that fails destroys nothing", testResumeDead},
		{"a suspended machine can be destroyed", testDestroySuspended},
		{"pause and unpause can be repeated", testPause},
		{"identify can be repeated, also by another object", testIdentify},
		{"find reports one machine as the listing does", testFind},
		{"console is cut to its end and works on a dead machine", testConsole},
		{"console of an unknown machine is not found", testConsoleUnknown},
		{"destroy of unknown disks is no error", testUnknownDisks},
		{"persistent disks are made once, listed with their tags, and found again by the next machine", testDisksOnce},
		{"persistent disks are kept by a create that fails", testDisksOfFailedCreate},
		{"a persistent disk that a machine has is neither given to another nor destroyed", testDiskInUse},
		{"a machine that has died keeps its persistent disks, resumed or not", testDisksOfDead},
		{"persistent disks are destroyed by name and place, and again", testDestroyDisks},
		{"persistent disks go with their machine where that is asked, and no others", testDestroyWithDisks},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			if h.Patience == 0 {
				h.Patience = 30 * time.Second
			}
			s := &suite{T: t, h: h}
			s.client = s.open()
			tc.run(s)
			s.settle()
		})
	}
}

// suite is one test on one harness.
type suite struct {
	*testing.T
	h      Harness
	client *drivers.Client
}

// Controllers the suite plays.
const (
	controller      = "controller-a"
	otherController = "controller-b"
)

func (s *suite) open() *drivers.Client {
	s.Helper()
	return drivers.NewClient(s.h.Open(s), drivers.ClientOptions{Pool: "pool", Type: "driver"})
}

// spec is a fresh one with all tags set.
func (s *suite) spec() drivers.Spec {
	s.Helper()
	spec := s.h.Spec(s)
	created := time.Now().UTC().Truncate(time.Millisecond)
	spec.Tags = drivers.Tags{
		Controller: controller,
		Pool:       "pool",
		Instance:   "instance-" + spec.Name,
		Kind:       "build",
		Created:    created,
		Deadline:   created.Add(24 * time.Hour),
		Labels:     map[string]string{"team": "ci", "cost-centre": "4711"},
	}
	return spec
}

func (s *suite) create(spec drivers.Spec) drivers.Ref {
	s.Helper()
	ref, err := s.client.Create(s.Context(), spec)
	if err != nil {
		s.Fatalf("create %s: %v", spec.Name, err)
	}
	if ref.Name != spec.Name {
		s.Errorf("create %s answers the name %q", spec.Name, ref.Name)
	}
	return ref
}

// list reads a complete listing by name.
func (s *suite) list() map[string]drivers.Instance {
	s.Helper()
	l, err := s.client.List(s.Context(), drivers.Query{})
	if err != nil {
		s.Fatalf("list: %v", err)
	}
	if !l.Complete {
		s.Fatal("list of an untroubled cloud is not complete")
	}
	return s.byName(l)
}

func (s *suite) byName(l drivers.Listing) map[string]drivers.Instance {
	s.Helper()
	m := make(map[string]drivers.Instance)
	for _, inst := range l.Instances {
		if _, twice := m[inst.Name]; twice {
			s.Errorf("%s is listed twice", inst.Name)
		}
		m[inst.Name] = inst
	}
	return m
}

// running makes a machine and waits until it runs.
func (s *suite) running() drivers.Ref {
	s.Helper()
	spec := s.spec()
	ref := s.create(spec)
	s.await(ref, drivers.StatusRunning)
	return ref
}

// await waits until a machine is listed with a status.
func (s *suite) await(ref drivers.Ref, want drivers.Status) drivers.Instance {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), s.h.Patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		inst, ok := s.list()[ref.Name]
		if ok && inst.Status == want {
			return inst
		}
		select {
		case <-ctx.Done():
			s.Fatalf("%s is %q (listed: %v) after %v, want %q", ref.Name, inst.Status, ok, s.h.Patience, want)
		case <-tick.C:
		}
	}
}

func (s *suite) destroy(refs ...drivers.Ref) {
	s.Helper()
	errs := s.client.Destroy(s.Context(), refs, drivers.DestroyOptions{Disks: drivers.Delete})
	if err := errors.Join(errs...); err != nil {
		s.Fatalf("destroy: %v", err)
	}
	for _, ref := range refs {
		s.gone(ref.Name)
	}
}

// gone checks a confirmation against the listing.
func (s *suite) gone(name string) {
	s.Helper()
	if inst, ok := s.list()[name]; ok {
		s.Errorf("%s was confirmed gone and is listed as %s", name, inst.Status)
	}
}

// accounted checks that whatever exists can be found by a listing, as the
// only way a sweep has, and destroyed.
func (s *suite) accounted() {
	s.Helper()
	if existing := s.h.Existing(s); len(existing) > 0 && len(s.list()) == 0 {
		s.Errorf("these exist and nothing is listed: %v", existing)
	}
	s.settle()
}

// settle destroys all that is listed; then nothing may be left.
func (s *suite) settle() {
	s.Helper()
	var refs []drivers.Ref
	for _, inst := range s.list() {
		refs = append(refs, drivers.Ref{Name: inst.Name, ID: inst.ID, Zone: inst.Zone})
	}
	if len(refs) > 0 {
		s.destroy(refs...)
	}
	if left := s.h.Existing(s); len(left) > 0 {
		slices.Sort(left)
		s.Errorf("left behind: %v", left)
	}
}

// need skips what the harness cannot do, by name.
func need[F any](s *suite, f F, isNil bool, name string) F {
	s.Helper()
	if isNil {
		s.Skipf("the harness has no %s", name)
	}
	return f
}
