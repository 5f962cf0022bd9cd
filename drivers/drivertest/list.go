package drivertest

import (
	"context"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

func testListEmpty(s *suite) {
	before := time.Now()
	l, err := s.h.Open(s).List(s.Context(), drivers.Query{})
	if err != nil {
		s.Fatalf("list: %v", err)
	}
	if !l.Complete || len(l.Instances) > 0 || len(l.Disks) > 0 {
		s.Errorf("complete %v with %d machines and %d disks, want true, 0, 0", l.Complete, len(l.Instances), len(l.Disks))
	}
	// A clock of the wall may step, but not by a minute within a test.
	if l.At.Before(before.Add(-time.Minute)) || l.At.After(time.Now()) {
		s.Errorf("at %v, want when the listing began, %v", l.At, before)
	}
}

func testListController(s *suite) {
	ours, theirs := s.spec(), s.spec()
	theirs.Tags.Controller = otherController
	s.create(ours)
	s.create(theirs)
	for _, tc := range []struct {
		controller string
		want       []string
	}{
		{"", []string{ours.Name, theirs.Name}},
		{controller, []string{ours.Name}},
		{otherController, []string{theirs.Name}},
		{"nobody", nil},
	} {
		l, err := s.client.List(s.Context(), drivers.Query{Controller: tc.controller})
		if err != nil || !l.Complete {
			s.Fatalf("list of %q: complete %v, %v", tc.controller, l.Complete, err)
		}
		got := s.byName(l)
		for _, name := range tc.want {
			if _, ok := got[name]; !ok {
				s.Errorf("list of %q lacks %s", tc.controller, name)
			}
		}
		if len(got) != len(tc.want) {
			s.Errorf("list of %q has %d machines, want %d", tc.controller, len(got), len(tc.want))
		}
	}
}

func testListPartial(s *suite) {
	hide := need(s, s.h.HideFromList, s.h.HideFromList == nil, "HideFromList")
	s.create(s.spec())
	hide(s)
	if l, err := s.client.List(s.Context(), drivers.Query{}); l.Complete {
		s.Errorf("a listing that could not read everything is complete with %d machines, %v", len(l.Instances), err)
	}
	if n := len(s.list()); n != 1 {
		s.Errorf("the next listing has %d machines, want 1", n)
	}
}

func testListCancelled(s *suite) {
	s.create(s.spec())
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	if l, err := s.h.Open(s).List(ctx, drivers.Query{}); l.Complete && len(l.Instances) == 0 {
		s.Errorf("a cancelled listing claims that nothing exists, %v", err)
	}
}

func testAdoption(s *suite) {
	ref := s.create(s.spec())
	s.client = s.open() // the runner was restarted
	inst, ok := s.list()[ref.Name]
	if !ok {
		s.Fatal("the new object does not list the machine")
	}
	if inst.Ref != ref {
		s.Errorf("listed as %+v, created as %+v", inst.Ref, ref)
	}
	s.destroy(ref)
}
