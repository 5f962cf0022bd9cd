package pool

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// Why a gitspace's lease ends although its owner goes on with it: the next
// generation has the same disks.
const (
	reasonReset       = "reset"
	reasonMachineGone = "machine_gone"
)

// prelude is what comes before the setup of a gitspace arrives: a machine the
// store has lost is taken over, one that is to be replaced ended.
func (s *setup) prelude(ctx context.Context) error {
	m := s.m
	if s.r.Kind != Gitspace {
		return nil
	}
	l, err := m.store.Lease(ctx, s.r.ID)
	if errors.Is(err, ErrNotFound) && s.r.Known != nil {
		l, err = m.takeOverKnown(ctx, s.r.ID, *s.r.Known, s.r.Want, toWake)
		if errors.Is(err, ErrNotFound) && s.r.Want.Storage == "" {
			// The machine is gone; its disks are asked for by their names.
			s.r.Want.Storage = s.r.Known.StorageID
		}
	}
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("setup %s: %w", s.r.ID, err)
	}
	if goesOn(l) {
		s.remember(l.Want)
	}
	switch {
	case l.State.Final() && goesOn(l):
		// What a reset or a lost machine has left, perhaps by another process.
		return s.awaitEnd(ctx, l)
	case s.r.Reset && !l.State.Final():
		return s.reset(ctx, l)
	}
	return nil
}

// goesOn says whether a gitspace's next generation takes over what this one has.
func goesOn(l Lease) bool {
	return !l.State.Final() || l.Reason == reasonReset || l.Reason == reasonMachineGone
}

// remember fills in what a request that only starts a gitspace does not repeat.
func (s *setup) remember(w Want) {
	if s.r.Want.Storage == "" {
		s.r.Want.Storage, s.r.Want.StorageGiB, s.r.Want.StorageType = w.Storage, w.StorageGiB, w.StorageType
	}
	if len(s.r.Want.Ports) == 0 {
		s.r.Want.Ports = w.Ports
	}
}

// reset ends the machine of a gitspace, disks kept, and returns when the cloud
// has confirmed it: until then the disks are not free. Nothing is ended that
// could not be replaced, and not what an earlier try has made already.
func (s *setup) reset(ctx context.Context, l Lease) error {
	m := s.m
	if l.InstanceID == "" {
		return nil // still waiting for its first
	}
	inst, err := m.store.Instance(ctx, l.InstanceID)
	if err != nil {
		return fmt.Errorf("reset %s: %w", s.r.ID, err)
	}
	if k := s.r.Known; k != nil && k.ID != "" && !inst.is(k.ID) && !inst.is(k.Name) {
		return nil
	}
	if choices, causes, err := m.choicesOf(ctx, s.r); err != nil {
		return err
	} else if len(choices) == 0 {
		return &SetupError{Causes: causes, Err: ErrInvalid}
	}
	now := m.stamp()
	_, err = m.endLease(ctx, Ending{
		Lease: l.Key(), Instance: inst.ID, Kind: Gitspace, Reason: reasonReset, Detail: "its owner wants another machine",
		Now: now, Events: []Event{{
			At: now, Pool: inst.Pool, Instance: inst.ID, Lease: l.ID, Generation: l.Generation, Reason: reasonReset,
			Message: "machine " + inst.Name + " is replaced; its disks are kept",
		}},
	})
	if err != nil {
		return fmt.Errorf("reset %s: %w", s.r.ID, err)
	}
	l.InstanceID = inst.ID
	return s.awaitEnd(ctx, l)
}

// awaitEnd waits until the machine of an ended lease is gone, and says what
// keeps it if it stays.
func (s *setup) awaitEnd(ctx context.Context, l Lease) error {
	if l.InstanceID == "" {
		return nil
	}
	if inst, err := s.m.store.Instance(ctx, l.InstanceID); err == nil && inst.State == Destroying {
		s.m.work.dispatch(s.m, inst)
	}
	err := s.m.awaitInstance(ctx, l.InstanceID, s.m.t.DestroyWait, "destroy", func(i Instance) bool { return i.State == Gone })
	if err != nil {
		return fmt.Errorf("no new machine for %s while its old one has the disks: %w", l.ID, err)
	}
	return nil
}

// recreate begins the next generation of a gitspace whose machine has gone, on
// its disks.
func (s *setup) recreate(ctx context.Context) error {
	s.remember(s.lease.Want)
	if err := s.awaitEnd(ctx, s.lease); err != nil {
		return err
	}
	g, err := s.arrive(ctx)
	if err != nil {
		return err
	}
	s.lease, s.inst, s.woke, s.how = g.Lease, nil, false, ""
	return nil
}

const (
	// longSleep is how long a gitspace sleeps before its owner is warned. Clouds
	// end a suspended machine after 60 days; what it has in memory is lost then.
	longSleep = 50 * 24 * time.Hour
	// reasonLongSleep is the code of that warning.
	reasonLongSleep = "suspended_long"
)

// lookAtSuspended warns once of a machine that its cloud will end soon. Nothing
// else happens to it by age.
func (m *Manager) lookAtSuspended(ctx context.Context, inst Instance) error {
	now := m.stamp()
	if now.Before(inst.Due) {
		return nil
	}
	p := Postponement{Due: now.Add(farFuture), Attempts: inst.Attempts, Reason: inst.Reason, Detail: inst.Detail, Now: now}
	sc := m.scopes[inst.Scope]
	switch asleep := now.Sub(inst.Since); {
	case asleep < longSleep && !m.distrustsClock():
		p.Due = inst.Since.Add(longSleep)
	case asleep < longSleep:
		p.Due = now.Add(time.Hour)
	case sc != nil && !sc.local:
		p.Events = []Event{{
			At: now, Pool: inst.Pool, Instance: inst.ID, Lease: inst.LeaseID, Generation: inst.LeaseGeneration, Reason: reasonLongSleep,
			Message: fmt.Sprintf("suspended since %s: clouds end a suspended machine after 60 days, and what it has in memory is lost then; its disks stay. Start and stop it to keep it", inst.Since.Format(time.DateOnly)),
		}}
		m.log.Warn("machine is suspended for long and will be ended by its cloud", "instance", inst.Name, "pool", inst.Pool, "lease", inst.LeaseID, "since", inst.Since)
	}
	return m.store.Postpone(ctx, inst.ID, Suspended, p)
}

// vanished says whether the cloud certainly has a machine no more: one listing,
// complete, without it.
func (m *Manager) vanished(ctx context.Context, inst Instance) bool {
	sc := m.scopes[inst.Scope]
	if sc == nil {
		return false
	}
	l, err := m.list(ctx, sc)
	if err != nil || !l.Complete || l.At.Before(inst.Created) {
		return false
	}
	_, there := l.byName[inst.Name]
	return !there
}

// gone handles a resume whose machine the cloud does not have any more: with
// disks the gitspace goes on with a new machine, without there is nothing left.
func (m *Manager) gone(ctx context.Context, inst Instance, lease Lease) (bool, error) {
	if inst.StorageID == "" || !m.vanished(ctx, inst) {
		return false, nil
	}
	now := m.stamp()
	_, err := m.endLease(ctx, Ending{
		Lease: lease.Key(), Instance: inst.ID, Kind: Gitspace, States: []LeaseState{LeaseStarting},
		Reason: reasonMachineGone, Detail: "the cloud has its machine no more", Now: now, Events: []Event{{
			At: now, Pool: inst.Pool, Instance: inst.ID, Lease: lease.ID, Generation: lease.Generation, Reason: reasonMachineGone,
			Message: "machine " + inst.Name + " is in no listing; a new one is made with its disks",
		}},
	})
	return err == nil, err
}

// resumeAdvice is what the owner of a gitspace that did not wake can do.
func resumeAdvice(inst Instance, err error) string {
	switch {
	case errors.Is(err, drivers.ErrCapacity) && inst.StorageID != "":
		return "its zone has no capacity now: try again later, or reset it with another machine type in the same zone, where its disks are"
	case errors.Is(err, drivers.ErrCapacity):
		return "its zone has no capacity now: try again later"
	case errors.Is(err, drivers.ErrQuota):
		return "the account's quota is used up: free something or have it raised, then try again"
	case errors.Is(err, drivers.ErrAuth):
		return "the runner's credentials were refused: repair them, then try again"
	case errors.Is(err, drivers.ErrNotFound) && inst.StorageID == "":
		return "the machine is gone and there was no disk: destroy the gitspace and set it up anew"
	case errors.Is(err, drivers.ErrNotFound):
		return "the machine is gone, but the cloud's listing is incomplete: try again soon, it is then made anew on its disks"
	default:
		return "the machine is left as it is: try again, or reset it"
	}
}

const (
	// initStep is the id of the step that runs a gitspace's init script.
	initStep = "vm-init-script"
	// initWait is how long that may take.
	initWait = 10 * time.Minute
)

// initialise runs the init script on a machine that has no boot script: once,
// before the first setup of its gitspace answers. What it prints stays in the
// machine, since it may hold secrets.
func (s *setup) initialise(ctx context.Context, inst Instance) error {
	m := s.m
	rt := m.runtimeOf(inst)
	if s.r.InitScript == "" || !s.lease.Active.IsZero() || rt == nil {
		return nil
	}
	if tn := rt.tenancyOf(inst); tn == nil || m.booted(tn) != nil {
		return nil
	}
	now := m.stamp()
	if err := m.store.PostponeLease(ctx, s.lease.Key(), now.Add(initWait+m.startBudget()), now); err != nil {
		return err
	}
	entrypoint := []string{"sh", "-c"}
	if inst.OS == "windows" {
		entrypoint = []string{"powershell", "-NoProfile", "-Command"}
	}
	body, err := json.Marshal(map[string]any{
		"id": initStep, "name": initStep, "kind": "Run", "working_dir": initDir(inst.OS),
		"environment": map[string]string{"VM_INIT_SCRIPT": "1"},
		"timeout":     int(initWait / time.Second),
		"run":         map[string]any{"commands": []string{s.r.InitScript}, "entrypoint": entrypoint},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, initWait, fmt.Errorf("vm_init_script not done after %s", initWait))
	defer cancel()
	if err := m.agent.StartStep(ctx, inst.Target(), body); err != nil {
		return fmt.Errorf("vm_init_script: %w", err)
	}
	res, err := m.agent.PollStep(ctx, inst.Target(), initStep)
	if err != nil {
		return fmt.Errorf("vm_init_script: %w", err)
	}
	var end struct {
		ExitCode int    `json:"exit_code"`
		Error    string `json:"error"`
	}
	if err := json.Unmarshal(res.Body, &end); err != nil {
		return fmt.Errorf("vm_init_script: %w", err)
	}
	if end.ExitCode != 0 || end.Error != "" {
		return fmt.Errorf("vm_init_script failed: %s", cmp.Or(end.Error, fmt.Sprintf("exit code %d", end.ExitCode)))
	}
	return nil
}

// initDir is where an init script begins.
func initDir(os string) string {
	if os == "windows" {
		return `C:\`
	}
	return "/"
}
