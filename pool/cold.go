package pool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// coldStart writes the intent of a machine of a lease's own. ErrRetired if the
// pool no longer has the flavour chosen for it, *DiskError if a disk it asks for
// is not to be had. script is a gitspace's init script.
func (m *Manager) coldStart(ctx context.Context, l Lease, c Choice, script string) (Instance, error) {
	rt := m.pools[c.Pool]
	f := rt.flavour(c.Tenant, c.Variant)
	if f == nil {
		return Instance{}, fmt.Errorf("variant %s of tenant %s of pool %s: %w", c.Variant, c.Tenant, c.Pool, ErrRetired)
	}
	in, err := m.intent(rt, f, l.Kind, l.Want, c)
	if err != nil {
		return Instance{}, err
	}
	in.Lease = l.Key()
	in.Instance.Cold = true
	in.Instance.StorageID = l.Want.Storage
	in.Instance.InitScript = script
	in.Disks = wantedDisks(l.Want)
	inst, err := m.store.Intend(ctx, in)
	if err != nil {
		rt.drafts.refused(in.Instance, err)
	}
	return inst, err
}

// refill writes the intent of one more warm machine.
func (m *Manager) refill(ctx context.Context, rt *runtime, f *flavour) (Instance, error) {
	in, err := m.intent(rt, f, Build, Want{}, Choice{Shape: f.shape(Want{})})
	if err != nil {
		return Instance{}, err
	}
	inst, err := m.store.Intend(ctx, in)
	if err != nil {
		rt.drafts.refused(in.Instance, err)
	}
	return inst, err
}

// drafts are ids and identities that were made for intents the store refused:
// nothing knows of them, and the next intent may have them. An identity costs
// more than everything else about a machine that is never made.
type drafts struct {
	mu    sync.Mutex
	spare []draft
}

type draft struct {
	id, name string
	identity drivers.Identity
	made     time.Time
}

const (
	maxDrafts = 64
	// draftAge is how old a draft may get: its certificates' validity counts
	// from when they were made.
	draftAge = 10 * time.Minute
)

// refused keeps what an intent had made that certainly was not written: after
// any other error the row may exist. Only builds' are kept, since a gitspace's
// certificates are good for longer.
func (d *drafts) refused(inst Instance, err error) {
	given := errors.Is(err, ErrLimit) || errors.Is(err, ErrClosed) || errors.Is(err, ErrRetired) || errors.Is(err, ErrConflict)
	if inst.Kind != Build || !given {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.spare) < maxDrafts {
		d.spare = append(d.spare, draft{inst.ID, inst.Name, inst.Identity, inst.Created})
	}
}

func (d *drafts) take(kind Kind, now time.Time) (draft, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for kind == Build && len(d.spare) > 0 {
		last := d.spare[len(d.spare)-1]
		d.spare = d.spare[:len(d.spare)-1]
		if now.Sub(last.made).Abs() < draftAge {
			return last, true
		}
	}
	return draft{}, false
}

// intent makes the row of a machine that is about to be made: of a flavour,
// with what the request wants otherwise.
func (m *Manager) intent(rt *runtime, f *flavour, kind Kind, w Want, c Choice) (Intent, error) {
	now := m.stamp()
	d, ok := rt.drafts.take(kind, now)
	if !ok {
		d.id = NewID()
		d.name = MachineName(rt.cfg.namePrefix(m.namePrefix), rt.cfg.Name, d.id)
	}
	inst := Instance{
		ID: d.id, Name: d.name, Identity: d.identity, Pool: rt.cfg.Name, Driver: rt.cfg.Driver, Scope: f.tenant.scope,
		Kind: kind, Variant: f.ID, Tenant: f.tenant.id,
		Shape: c.Shape, Recipe: f.recipe,
		OS: rt.cfg.Platform.OS, Arch: rt.cfg.Platform.Arch,
		Image: cmp.Or(w.Image, f.Image), MachineType: cmp.Or(w.MachineType, f.MachineType),
		DiskGiB: cmp.Or(w.DiskGiB, f.DiskGiB), Zone: c.Zone,
		Created: now,
		// If this process dies before it has called the cloud, the next one
		// makes the row due as it takes the pool over; this is for when it only
		// forgets.
		Due: rt.dueAt(now.Add(m.t.Create+m.t.BootWindows), now),
	}
	if kind == Build {
		inst.Deadline = now.Add(m.freeAge(rt) + m.busyAge(rt) + time.Hour)
	}
	if !ok {
		identity, err := NewIdentity(d.id, d.name, m.serverName, nil, now, m.validity(kind, rt.cfg.Name))
		if err != nil {
			return Intent{}, err
		}
		inst.Identity = identity
	}
	inst.Proxy = proxyOf(f.tenant, inst.Name, inst.Zone, f.Zones)
	inst.ProxyCA = inst.Proxy != "" && m.proxyCA
	return Intent{Instance: inst, Now: now}, nil
}

// freeAge and busyAge are a pool's maximum ages of free machines and leases.
func (m *Manager) freeAge(rt *runtime) time.Duration { return cmp.Or(rt.cfg.FreeAge, m.t.FreeAge) }
func (m *Manager) busyAge(rt *runtime) time.Duration { return cmp.Or(rt.cfg.BusyAge, m.t.BusyAge) }

// busyAgeOf is the same by the pool's name, which may have left the file.
func (m *Manager) busyAgeOf(pool string) time.Duration {
	if rt := m.pools[pool]; rt != nil {
		return m.busyAge(rt)
	}
	return m.t.BusyAge
}

// gitspaceValidity is how long gitspaces' certificates are good for by default: long
// enough for years of sleeping, as the existing runner's are (1080 days).
const gitspaceValidity = 1080 * 24 * time.Hour

// facts are what people find and bill a machine by in its cloud: what the
// request it is made for says of itself. A machine that is made to be warm knows
// nothing of who will have it.
func (m *Manager) facts(lease *Lease) map[string]string {
	facts := map[string]string{}
	if lease != nil {
		maps.Copy(facts, lease.Want.Labels)
		for key, value := range map[string]string{
			"harness-account-id": lease.Want.Account, "harness-resource-class": lease.Want.ResourceClass,
		} {
			if value != "" {
				facts[key] = value
			}
		}
	}
	facts["harness-runner-name"] = m.namePrefix
	if m.environment != "" {
		facts["harness_env"] = m.environment
	}
	return facts
}

// specOf is what the driver is asked to make for a row: the same each time it
// is asked, so that asking twice makes one machine.
func (m *Manager) specOf(rt *runtime, inst Instance, lease *Lease, disks []drivers.DiskSpec) (drivers.Spec, error) {
	tn := rt.tenancyOf(inst)
	if tn == nil {
		return drivers.Spec{}, closed(inst).err()
	}
	spec := drivers.Spec{
		Name: inst.Name,
		Tags: drivers.Tags{
			Controller: m.controller.ID, Pool: inst.Pool, Instance: inst.ID,
			Kind: string(inst.Kind), Created: inst.Created, Deadline: inst.Deadline,
		},
		Platform: rt.cfg.Platform,
		Facts:    m.facts(lease),
		Zone:     inst.Zone,
		Identity: inst.Identity,
		Disks:    disks,
	}
	if inst.Image != tn.cfg.Image {
		spec.Image = inst.Image
	}
	if inst.MachineType != tn.cfg.MachineType {
		spec.MachineType = inst.MachineType
	}
	if inst.DiskGiB != tn.cfg.DiskGiB {
		spec.DiskGiB = inst.DiskGiB
	}
	spec.Nested, spec.GPU = shapeTraits(inst.Shape)
	if f := rt.flavour(inst.Tenant, inst.Variant); f != nil {
		spec.Zones, spec.DiskType, spec.Hibernate = f.Zones, f.DiskType, f.hibernates() && !inst.Cold
	}
	booted := m.booted(tn)
	if booted == nil {
		return spec, nil
	}
	options, err := booted.BootOptions()
	if err != nil {
		return spec, fmt.Errorf("boot script: %w", err)
	}
	spec.Boot, err = m.boot.Render(BootRequest{
		Pool: rt.cfg.Name, Driver: rt.cfg.Driver, Kind: inst.Kind, Platform: rt.cfg.Platform,
		Identity: inst.Identity, Deadline: inst.Deadline, Disks: disks, Options: options,
		InitScript: inst.InitScript, Proxy: inst.Proxy,
	})
	if err != nil {
		return spec, fmt.Errorf("boot script: %w", err)
	}
	return spec, nil
}

// booted is what a tenancy's boot scripts need, nil if its machines have none.
func (m *Manager) booted(tn *tenancy) drivers.Booted {
	booted, ok := tn.cfg.Spec.(drivers.Booted)
	if !ok || m.boot == nil || tn.client.CanIdentify() {
		return nil
	}
	return booted
}

// kindOf is the reason code of an error.
func kindOf(err error) string {
	var refusal *AgentError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refusal):
		return "agent_refused"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	default:
		return drivers.Kind(err)
	}
}
