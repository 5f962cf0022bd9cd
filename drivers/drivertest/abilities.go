package drivertest

import (
	"bytes"
	"context"
	"errors"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

func needAbility(s *suite, can bool, name string) {
	s.Helper()
	if !can {
		s.Skipf("the driver is no %s", name)
	}
}

func testSuspendResume(s *suite) {
	needAbility(s, s.client.CanHibernate(), "Hibernator")
	ref := s.running()
	before := s.list()[ref.Name]
	for round := range 2 {
		for range 2 {
			if err := s.client.Suspend(s.Context(), ref); err != nil {
				s.Fatalf("suspend in round %d: %v", round, err)
			}
			// It returns when the machine is suspended: no waiting here.
			inst := s.list()[ref.Name]
			if inst.Status != drivers.StatusSuspended {
				s.Fatalf("status after suspend is %q", inst.Status)
			}
			if inst.Tags.Instance != before.Tags.Instance || inst.Tags.Controller != before.Tags.Controller {
				s.Errorf("tags after suspend are %+v, before %+v", inst.Tags, before.Tags)
			}
		}
		for range 2 {
			inst, err := s.client.Resume(s.Context(), ref)
			if err != nil {
				s.Fatalf("resume in round %d: %v", round, err)
			}
			if inst.Name != ref.Name {
				s.Errorf("resume answers for %q, want %q", inst.Name, ref.Name)
			}
			listed := s.await(ref, drivers.StatusRunning)
			if inst.Address != listed.Address || inst.Port != listed.Port {
				s.Errorf("resume says %s port %d, list says %s port %d", inst.Address, inst.Port, listed.Address, listed.Port)
			}
		}
	}
}

func testResumeRunning(s *suite) {
	needAbility(s, s.client.CanHibernate(), "Hibernator")
	ref := s.running()
	want := s.list()[ref.Name]
	inst, err := s.client.Resume(s.Context(), ref)
	if err != nil {
		s.Fatalf("resume: %v", err)
	}
	if inst.Address != want.Address || inst.Port != want.Port || inst.Status != drivers.StatusRunning {
		s.Errorf("resume answers %s at %s port %d, want running at %s port %d", inst.Status, inst.Address, inst.Port, want.Address, want.Port)
	}
}

func testResumeUnknown(s *suite) {
	needAbility(s, s.client.CanHibernate(), "Hibernator")
	unknown := drivers.Ref{Name: s.h.Spec(s).Name}
	if _, err := s.client.Resume(s.Context(), unknown); !errors.Is(err, drivers.ErrNotFound) {
		s.Errorf("resume: %v, want not found", err)
	}
	if err := s.client.Suspend(s.Context(), unknown); !errors.Is(err, drivers.ErrNotFound) {
		s.Errorf("suspend: %v, want not found", err)
	}
}

func testResumeDead(s *suite) {
	needAbility(s, s.client.CanHibernate(), "Hibernator")
	kill := need(s, s.h.Kill, s.h.Kill == nil, "Kill")
	ref := s.running()
	kill(s, ref)
	s.await(ref, drivers.StatusDead)
	inst, err := s.client.Resume(s.Context(), ref)
	listed, ok := s.list()[ref.Name]
	if !ok {
		s.Fatalf("the machine is gone after a resume (%v)", err)
	}
	if err == nil && listed.Status == drivers.StatusDead {
		s.Errorf("resume answers %q for a machine that is still dead", inst.Status)
	}
}

func testDestroySuspended(s *suite) {
	needAbility(s, s.client.CanHibernate(), "Hibernator")
	ref := s.running()
	if err := s.client.Suspend(s.Context(), ref); err != nil {
		s.Fatalf("suspend: %v", err)
	}
	s.destroy(ref)
}

func testPause(s *suite) {
	needAbility(s, s.client.CanPause(), "Pauser")
	ref := s.running()
	for round := range 2 {
		for range 2 {
			if err := s.client.Pause(s.Context(), ref); err != nil {
				s.Fatalf("pause in round %d: %v", round, err)
			}
		}
		if got := s.list()[ref.Name].Status; got != drivers.StatusPaused {
			s.Errorf("status after pause is %q", got)
		}
		for range 2 {
			if err := s.client.Unpause(s.Context(), ref); err != nil {
				s.Fatalf("unpause in round %d: %v", round, err)
			}
		}
		if got := s.list()[ref.Name].Status; got != drivers.StatusRunning {
			s.Errorf("status after unpause is %q", got)
		}
	}
	if err := s.client.Pause(s.Context(), ref); err != nil {
		s.Fatalf("pause: %v", err)
	}
	s.destroy(ref) // a paused machine too
}

func testIdentify(s *suite) {
	needAbility(s, s.client.CanIdentify(), "Identifier")
	spec := s.spec()
	ref := s.create(spec)
	ctx, cancel := context.WithTimeout(s.Context(), s.h.Patience)
	defer cancel()
	for _, c := range []*drivers.Client{s.client, s.client, s.open()} {
		if err := c.Identify(ctx, ref, spec.Identity); err != nil {
			s.Fatalf("identify: %v", err)
		}
	}
	unknown := drivers.Ref{Name: s.h.Spec(s).Name}
	if err := s.client.Identify(ctx, unknown, spec.Identity); !errors.Is(err, drivers.ErrNotFound) {
		s.Errorf("identify an unknown machine: %v, want not found", err)
	}
}

func testFind(s *suite) {
	needAbility(s, s.client.CanFind(), "Finder")
	ref := s.running()
	found, err := s.client.Find(s.Context(), drivers.Ref{Name: ref.Name})
	if err != nil {
		s.Fatalf("find: %v", err)
	}
	listing, err := s.client.List(s.Context(), drivers.Query{})
	if err != nil {
		s.Fatalf("list: %v", err)
	}
	for _, listed := range listing.Instances {
		if listed.Name == ref.Name && (listed.Address != found.Address || listed.Port != found.Port ||
			listed.Status != found.Status || listed.ID != found.ID || listed.Tags.Instance != found.Tags.Instance) {
			s.Errorf("find says %+v, the listing %+v", found, listed)
		}
	}
	s.destroy(ref)
	if _, err := s.client.Find(s.Context(), ref); !errors.Is(err, drivers.ErrNotFound) {
		s.Errorf("find a destroyed machine: %v, want not found", err)
	}
}

func testConsole(s *suite) {
	needAbility(s, s.client.CanReadConsole(), "ConsoleReader")
	ref := s.running()
	const enough = 64 << 10
	var full, tail bytes.Buffer
	if err := s.client.Console(s.Context(), ref, &full, enough); err != nil {
		s.Fatalf("console: %v", err)
	}
	if s.h.Kill != nil {
		s.h.Kill(s, ref)
		s.await(ref, drivers.StatusDead)
		full.Reset()
		if err := s.client.Console(s.Context(), ref, &full, enough); err != nil {
			s.Fatalf("console of a dead machine: %v", err)
		}
		if full.Len() == 0 {
			s.Error("the console of a dead machine is empty")
		}
		// Only now does it stand still enough to be compared.
		if err := s.client.Console(s.Context(), ref, &tail, 5); err != nil {
			s.Fatalf("console: %v", err)
		}
		want := full.Bytes()[max(0, full.Len()-5):]
		if !bytes.Equal(tail.Bytes(), want) {
			s.Errorf("the last 5 bytes are %q, want %q", tail.Bytes(), want)
		}
	}
	if full.Len() > enough {
		s.Errorf("%d bytes of console, want at most %d", full.Len(), enough)
	}
}

func testConsoleUnknown(s *suite) {
	needAbility(s, s.client.CanReadConsole(), "ConsoleReader")
	var buf bytes.Buffer
	err := s.client.Console(s.Context(), drivers.Ref{Name: s.h.Spec(s).Name}, &buf, 100)
	if !errors.Is(err, drivers.ErrNotFound) || buf.Len() > 0 {
		s.Errorf("console: %v with %d bytes, want not found", err, buf.Len())
	}
}

func testUnknownDisks(s *suite) {
	needAbility(s, s.client.CanKeepDisks(), "DiskKeeper")
	if err := errors.Join(s.client.DestroyDisks(s.Context(), []drivers.Ref{{Name: "no-such-disk"}, {Name: "nor-this"}})...); err != nil {
		s.Errorf("destroy unknown disks: %v", err)
	}
}
