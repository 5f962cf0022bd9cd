package drivertest

import (
	"context"
	"errors"
	"sync"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

func testDestroyNothing(s *suite) {
	if errs := s.h.Open(s).Destroy(s.Context(), nil, drivers.DestroyOptions{}); len(errs) != 0 {
		s.Errorf("%d answers to no question", len(errs))
	}
}

func testDestroyUnknown(s *suite) {
	kept := s.create(s.spec())
	s.destroy(
		drivers.Ref{Name: s.h.Spec(s).Name},
		drivers.Ref{Name: s.h.Spec(s).Name, ID: "no-such-id"},
	)
	if _, ok := s.list()[kept.Name]; !ok {
		s.Error("another machine was destroyed")
	}
}

func testDestroyByName(s *suite) {
	kept, ref := s.create(s.spec()), s.create(s.spec())
	s.destroy(drivers.Ref{Name: ref.Name})
	if _, ok := s.list()[kept.Name]; !ok {
		s.Error("another machine was destroyed")
	}
}

func testDestroyTwice(s *suite) {
	ref := s.running()
	clients := [2]*drivers.Client{s.client, s.open()}
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			errs[i] = clients[i%2].Destroy(s.Context(), []drivers.Ref{ref}, drivers.DestroyOptions{})[0]
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		s.Errorf("four at once: %v", err)
	}
	s.destroy(ref)
	s.destroy(ref, ref) // and twice in one batch
}

func testDestroyRightAway(s *suite) {
	n := 5
	if s.h.Heavy {
		n = 1
	}
	for range n {
		s.destroy(s.create(s.spec()))
	}
}

func testDestroyBatch(s *suite) {
	fail := need(s, s.h.FailDestroy, s.h.FailDestroy == nil, "FailDestroy")
	const size = 3
	for broken := range size {
		var refs []drivers.Ref
		for range size {
			refs = append(refs, s.create(s.spec()))
		}
		repair := fail(s, refs[broken])
		errs := s.h.Open(s).Destroy(s.Context(), refs, drivers.DestroyOptions{})
		if len(errs) != size {
			s.Fatalf("%d answers for %d machines", len(errs), size)
		}
		listed := s.list()
		for i, err := range errs {
			_, exists := listed[refs[i].Name]
			if (err != nil) != (i == broken) || exists != (i == broken) {
				s.Errorf("number %d fails; number %d answers %v and is listed: %v", broken, i, err, exists)
			}
		}
		repair()
		s.destroy(refs...)
	}
}

func testDestroyCancelled(s *suite) {
	refs := []drivers.Ref{s.create(s.spec()), s.create(s.spec())}
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	errs := s.h.Open(s).Destroy(ctx, refs, drivers.DestroyOptions{})
	if len(errs) != len(refs) {
		s.Fatalf("%d answers for %d machines", len(errs), len(refs))
	}
	for i, err := range errs {
		if err == nil {
			s.gone(refs[i].Name)
		}
	}
}

func testDestroyDead(s *suite) {
	kill := need(s, s.h.Kill, s.h.Kill == nil, "Kill")
	ref := s.running()
	kill(s, ref)
	if inst := s.await(ref, drivers.StatusDead); inst.Tags.Controller != controller {
		s.Errorf("a dead machine is listed as %q's, want %q's", inst.Tags.Controller, controller)
	}
	s.destroy(ref)
}

func testCreateAfterDestroy(s *suite) {
	first, second := s.spec(), s.spec()
	s.destroy(s.create(first))
	s.create(second)
	if _, ok := s.list()[first.Name]; ok {
		s.Errorf("%s came back", first.Name)
	}
}
