package drivertest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// withDisks is a spec of a machine with so many persistent disks of its own.
func (s *suite) withDisks(n int) drivers.Spec {
	s.Helper()
	spec := s.spec()
	spec.Tags.Kind = "gitspace"
	spec.Tags.Deadline = spec.Tags.Created.AddDate(1, 0, 0)
	for i := range n {
		spec.Disks = append(spec.Disks, drivers.DiskSpec{Name: spec.Name[:min(len(spec.Name), 50)] + "-data-" + string(rune('a'+i)), SizeGiB: 10})
	}
	return spec
}

// disks reads the persistent disks of a complete listing by name.
func (s *suite) disks() map[string]drivers.Disk {
	s.Helper()
	l, err := s.client.List(s.Context(), drivers.Query{})
	if err != nil || !l.Complete {
		s.Fatalf("list: complete %v, %v", l.Complete, err)
	}
	m := make(map[string]drivers.Disk)
	for _, disk := range l.Disks {
		if _, twice := m[disk.Name]; twice {
			s.Errorf("disk %s is listed twice", disk.Name)
		}
		m[disk.Name] = disk
	}
	return m
}

// destroyKeeping ends a machine and checks that its disks are free.
func (s *suite) destroyKeeping(ref drivers.Ref, disks []drivers.DiskSpec) {
	s.Helper()
	if err := errors.Join(s.client.Destroy(s.Context(), []drivers.Ref{ref}, drivers.DestroyOptions{Disks: drivers.Keep})...); err != nil {
		s.Fatalf("destroy: %v", err)
	}
	s.gone(ref.Name)
	listed := s.disks()
	for _, disk := range disks {
		if got, ok := listed[disk.Name]; !ok || got.AttachedTo != "" {
			s.Errorf("disk %s after its machine: listed %v, attached to %q", disk.Name, ok, got.AttachedTo)
		}
	}
}

func (s *suite) destroyDisks(disks ...drivers.Ref) {
	s.Helper()
	if err := errors.Join(s.client.DestroyDisks(s.Context(), disks)...); err != nil {
		s.Fatalf("destroy disks: %v", err)
	}
	listed := s.disks()
	for _, disk := range disks {
		if _, ok := listed[disk.Name]; ok {
			s.Errorf("disk %s was confirmed gone and is listed", disk.Name)
		}
	}
}

// refsOf names disks without saying where they are.
func refsOf(disks []drivers.DiskSpec) []drivers.Ref {
	var refs []drivers.Ref
	for _, disk := range disks {
		refs = append(refs, drivers.Ref{Name: disk.Name})
	}
	return refs
}

func testDisksOnce(s *suite) {
	needAbility(s, s.client.CanKeepDisks(), "DiskKeeper")
	first := s.withDisks(2)
	ref := s.create(first)
	if again, err := s.open().Create(s.Context(), first); err != nil || again != ref {
		s.Errorf("second create answers %+v, %v, first %+v", again, err, ref)
	}
	before := s.disks()
	if len(before) != len(first.Disks) {
		s.Errorf("%d persistent disks are listed, want %d: %v", len(before), len(first.Disks), before)
	}
	for _, want := range first.Disks {
		disk, ok := before[want.Name]
		if !ok {
			s.Fatalf("disk %s was made and is not listed", want.Name)
		}
		if disk.AttachedTo != first.Name || disk.SizeGiB != want.SizeGiB || disk.Zone != ref.Zone {
			s.Errorf("disk is %+v, want %d GiB on %s in %q", disk, want.SizeGiB, first.Name, ref.Zone)
		}
		if d := cmp.Diff(first.Tags, disk.Tags, cmpopts.EquateEmpty()); d != "" {
			s.Errorf("tags of disk %s changed on their way (-given +listed):\n%s", disk.Name, d)
		}
	}
	s.destroyKeeping(ref, first.Disks)
	second := s.withDisks(0)
	second.Disks = first.Disks
	ref = s.create(second)
	for name, disk := range s.disks() {
		if disk.AttachedTo != second.Name || disk.Zone != before[name].Zone {
			s.Errorf("disk %s is on %q in %q, want on %s where it was, in %q", name, disk.AttachedTo, disk.Zone, second.Name, before[name].Zone)
		}
	}
	if n := len(s.disks()); n != len(first.Disks) {
		s.Errorf("%d persistent disks are listed after a second machine, want %d", n, len(first.Disks))
	}
	s.destroyKeeping(ref, second.Disks)
	s.destroyDisks(refsOf(first.Disks)...)
}

func testDisksOfFailedCreate(s *suite) {
	needAbility(s, s.client.CanKeepDisks(), "DiskKeeper")
	fail := need(s, s.h.FailCreate, s.h.FailCreate == nil, "FailCreate")
	first := s.withDisks(1)
	s.destroyKeeping(s.create(first), first.Disks)
	second := s.withDisks(0)
	second.Disks = first.Disks
	fail(s, errors.New("half-way"))
	if _, err := s.client.Create(s.Context(), second); err == nil {
		s.Fatal("the harness did not fail the create")
	}
	if _, ok := s.disks()[first.Disks[0].Name]; !ok {
		s.Fatal("a create that failed has taken the disk with it")
	}
	s.settleMachines()
	third := s.withDisks(0)
	third.Disks = first.Disks
	s.destroyKeeping(s.create(third), first.Disks)
	s.destroyDisks(refsOf(first.Disks)...)
}

func testDiskInUse(s *suite) {
	needAbility(s, s.client.CanKeepDisks(), "DiskKeeper")
	first := s.withDisks(1)
	ref := s.create(first)
	second := s.withDisks(0)
	second.Disks = first.Disks
	_, err := s.client.Create(s.Context(), second)
	if !errors.Is(err, drivers.ErrInvalid) {
		s.Errorf("create with another machine's disk: %v, want an invalid request", err)
	}
	if err != nil && !strings.Contains(err.Error(), first.Name) {
		s.Errorf("the error does not name the machine that has the disk: %v", err)
	}
	if disk := s.disks()[first.Disks[0].Name]; disk.AttachedTo != first.Name {
		s.Errorf("the disk is now on %q, want still on %s", disk.AttachedTo, first.Name)
	}
	if err := s.client.DestroyDisks(s.Context(), refsOf(first.Disks))[0]; err == nil {
		s.Error("a disk that a machine has was destroyed")
	}
	if _, ok := s.disks()[first.Disks[0].Name]; !ok {
		s.Error("a disk that a machine has is gone")
	}
	s.destroyKeeping(ref, first.Disks)
	s.settleMachines()
	s.destroyDisks(refsOf(first.Disks)...)
}

func testDisksOfDead(s *suite) {
	needAbility(s, s.client.CanKeepDisks(), "DiskKeeper")
	kill := need(s, s.h.Kill, s.h.Kill == nil, "Kill")
	first := s.withDisks(1)
	ref := s.create(first)
	s.await(ref, drivers.StatusRunning)
	kill(s, ref)
	s.await(ref, drivers.StatusDead)
	still := func(when string) {
		s.Helper()
		second := s.withDisks(0)
		second.Disks = first.Disks
		if _, err := s.client.Create(s.Context(), second); !errors.Is(err, drivers.ErrInvalid) {
			s.Errorf("%s another machine gets the disk: %v, want an invalid request", when, err)
		}
		if disk := s.disks()[first.Disks[0].Name]; disk.AttachedTo != first.Name {
			s.Errorf("%s the disk is on %q, want on %s", when, disk.AttachedTo, first.Name)
		}
	}
	still("after its machine died")
	if s.client.CanHibernate() {
		_, err := s.client.Resume(s.Context(), ref)
		still(fmt.Sprintf("after a resume (%v)", err))
	}
	s.destroyKeeping(ref, first.Disks)
	s.destroyDisks(refsOf(first.Disks)...)
}

func testDestroyDisks(s *suite) {
	needAbility(s, s.client.CanKeepDisks(), "DiskKeeper")
	spec := s.withDisks(2)
	s.destroyKeeping(s.create(spec), spec.Disks)
	listed := s.disks()
	known := drivers.Ref{Name: spec.Disks[0].Name, Zone: listed[spec.Disks[0].Name].Zone}
	unknown := drivers.Ref{Name: spec.Disks[1].Name}
	s.destroyDisks(known, drivers.Ref{Name: "no-such-disk"}, unknown)
	s.destroyDisks(known, unknown) // again
}

func testDestroyWithDisks(s *suite) {
	needAbility(s, s.client.CanKeepDisks(), "DiskKeeper")
	keeps, goes := s.withDisks(1), s.withDisks(2)
	kept, gone := s.create(keeps), s.create(goes)
	s.destroy(gone)
	listed := s.disks()
	for _, disk := range goes.Disks {
		if _, ok := listed[disk.Name]; ok {
			s.Errorf("disk %s outlived the machine it was to go with", disk.Name)
		}
	}
	if disk := listed[keeps.Disks[0].Name]; disk.AttachedTo != keeps.Name {
		s.Errorf("another machine's disk is on %q, want on %s", disk.AttachedTo, keeps.Name)
	}
	s.destroy(kept)
}

// settleMachines destroys the machines that are listed and keeps their disks.
func (s *suite) settleMachines() {
	s.Helper()
	for _, inst := range s.list() {
		if err := s.client.Destroy(s.Context(), []drivers.Ref{inst.Ref}, drivers.DestroyOptions{})[0]; err != nil {
			s.Fatalf("destroy: %v", err)
		}
	}
}
