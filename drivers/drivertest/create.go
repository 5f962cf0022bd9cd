package drivertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

func testScope(s *suite) {
	if s.client.Scope() == "" {
		s.Error("the scope is empty")
	}
	if a, b := s.client.Scope(), s.open().Scope(); a != b {
		s.Errorf("two objects of one configuration have the scopes %q and %q", a, b)
	}
	if err := s.client.Ping(s.Context()); err != nil {
		s.Errorf("ping: %v", err)
	}
}

func testTags(s *suite) {
	full := s.spec()
	sparse := s.spec()
	sparse.Tags.Deadline = time.Time{} // never
	sparse.Tags.Labels = nil
	sparse.Tags.Kind = "gitspace"
	for _, spec := range []drivers.Spec{full, sparse} {
		ref := s.create(spec)
		// At once, not when it has booted: a crash right now must not hide it.
		inst, ok := s.list()[spec.Name]
		if !ok {
			s.Fatalf("%s was accepted and is not listed", spec.Name)
		}
		if inst.Ref != ref {
			s.Errorf("listed as %+v, created as %+v", inst.Ref, ref)
		}
		if d := cmp.Diff(spec.Tags, inst.Tags, cmpopts.EquateEmpty()); d != "" {
			s.Errorf("tags of %s changed on their way (-given +listed):\n%s", spec.Name, d)
		}
	}
}

func testCreateTwice(s *suite) {
	spec := s.spec()
	first := s.create(spec)
	if again := s.create(spec); again != first {
		s.Errorf("second create answers %+v, first %+v", again, first)
	}
	if other, err := s.open().Create(s.Context(), spec); err != nil || other != first {
		s.Errorf("create by another object answers %+v, %v; want %+v", other, err, first)
	}
	if n := len(s.list()); n != 1 {
		s.Errorf("%d machines are listed, want 1", n)
	}
}

func testCreateConcurrently(s *suite) {
	spec := s.spec()
	const callers = 8
	clients := [2]*drivers.Client{s.client, s.open()}
	refs, errs := make([]drivers.Ref, callers), make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { refs[i], errs[i] = clients[i%2].Create(s.Context(), spec) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		s.Fatal(err)
	}
	for _, ref := range refs {
		if ref != refs[0] {
			s.Errorf("one caller got %+v, another %+v", refs[0], ref)
		}
	}
	if n := len(s.list()); n != 1 {
		s.Errorf("%d machines are listed, want 1", n)
	}
}

func testLostAnswer(s *suite) {
	need(s, s.h.LoseAnswer, s.h.LoseAnswer == nil, "LoseAnswer")(s)
	spec := s.spec()
	if _, err := s.client.Create(s.Context(), spec); err == nil {
		s.Fatal("the harness did not lose the answer")
	}
	inst, ok := s.list()[spec.Name]
	if !ok {
		s.Fatal("the machine of a lost answer is not listed")
	}
	if ref := s.create(spec); ref != inst.Ref {
		s.Errorf("create again answers %+v, listed is %+v", ref, inst.Ref)
	}
	if n := len(s.list()); n != 1 {
		s.Errorf("%d machines are listed, want 1", n)
	}
}

func testCreateCancelled(s *suite) {
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	if _, err := s.client.Create(ctx, s.spec()); err == nil {
		s.Error("create with a cancelled context succeeds")
	}
	s.accounted()
}

func testCreateCancelledOnItsWay(s *suite) {
	delays := []time.Duration{50 * time.Microsecond, 500 * time.Microsecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond}
	for _, d := range delays {
		spec := s.spec()
		ctx, cancel := context.WithTimeout(s.Context(), d)
		_, err := s.client.Create(ctx, spec)
		cancel()
		if _, listed := s.list()[spec.Name]; err == nil && !listed {
			s.Errorf("cancelled after %v: create succeeded and the machine is not listed", d)
		}
		s.accounted()
	}
}

func testCreateFails(s *suite) {
	cause := errors.New("half-way")
	need(s, s.h.FailCreate, s.h.FailCreate == nil, "FailCreate")(s, cause)
	spec := s.spec()
	_, err := s.client.Create(s.Context(), spec)
	if err == nil {
		s.Fatal("the harness did not fail the create")
	}
	if kind := drivers.Kind(err); kind != "transient" {
		s.Errorf("kind %q of %v, want transient", kind, err)
	}
	s.accounted()
	s.create(s.spec()) // and the next one is not harmed
}

func testCapacity(s *suite) {
	d := need(s, s.h.Full, s.h.Full == nil, "Full")(s)
	before := len(s.list())
	_, err := drivers.NewClient(d, drivers.ClientOptions{Pool: "pool", Type: "driver"}).Create(s.Context(), s.spec())
	if !errors.Is(err, drivers.ErrCapacity) {
		s.Errorf("create without room: %v, want a capacity error", err)
	}
	if after := len(s.list()); after != before {
		s.Errorf("%d machines are listed, %d before", after, before)
	}
}

func testInvalid(s *suite) {
	spec := need(s, s.h.Invalid, s.h.Invalid == nil, "Invalid")(s)
	spec.Tags.Controller = controller
	if _, err := s.h.Open(s).Create(s.Context(), spec); !errors.Is(err, drivers.ErrInvalid) {
		s.Errorf("create: %v, want an invalid request", err)
	}
	s.accounted()
}

func testEveryField(s *suite) {
	every := s.h.Every
	if every == nil {
		every = func(t testing.TB) drivers.Spec {
			spec := s.h.Spec(t)
			spec.Zones, spec.DiskType, spec.Hibernate = []string{"zone-b", "zone-a"}, "ssd", true
			return spec
		}
	}
	// What no driver may refuse.
	spec := every(s)
	spec.Tags = s.spec().Tags
	spec.Nested, spec.GPU = false, false
	s.destroy(s.create(spec))
	for _, tc := range []struct {
		name string
		ask  func(*drivers.Spec)
	}{
		{"nested virtualisation", func(spec *drivers.Spec) { spec.Nested = true }},
		{"a GPU", func(spec *drivers.Spec) { spec.GPU = true }},
	} {
		spec := every(s)
		spec.Tags = s.spec().Tags
		spec.Nested, spec.GPU = false, false
		tc.ask(&spec)
		switch ref, err := s.client.Create(s.Context(), spec); {
		case err == nil:
			s.destroy(ref)
		case !errors.Is(err, drivers.ErrInvalid):
			s.Errorf("create with %s: %v, want a machine or an invalid request", tc.name, err)
		}
		s.accounted()
	}
}
