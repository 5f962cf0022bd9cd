package pool

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// recipeOf identifies everything a pool makes machines from; a warm machine of
// another recipe is drift.
func recipeOf(p PoolConfig) string {
	platform, err := json.Marshal(p.Platform)
	if err != nil {
		platform = nil // a struct of strings always encodes
	}
	sum := sha256.Sum256([]byte(p.Driver + "\x00" + string(platform) + "\x00" + string(p.SpecJSON)))
	return hex.EncodeToString(sum[:8])
}

// coldStart writes the intent of a machine of a lease's own.
func (m *Manager) coldStart(ctx context.Context, l Lease, c Choice) (Instance, error) {
	rt := m.pools[c.Pool]
	in, err := m.intent(rt, l.Kind, l.Want, c.Shape)
	if err != nil {
		return Instance{}, err
	}
	in.Lease = l.Key()
	in.Instance.Cold = true
	in.Instance.StorageID = l.Want.Storage
	inst, err := m.store.Intend(ctx, in)
	if err != nil {
		rt.drafts.refused(in.Instance, err)
	}
	return inst, err
}

// refill writes the intent of one more warm machine.
func (m *Manager) refill(ctx context.Context, rt *runtime) (Instance, error) {
	in, err := m.intent(rt, Build, Want{}, rt.shapeFor(Want{}))
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
	if inst.Kind != Build || (!errors.Is(err, ErrLimit) && !errors.Is(err, ErrRetired) && !errors.Is(err, ErrConflict)) {
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

// intent makes the row of a machine that is about to be made.
func (m *Manager) intent(rt *runtime, kind Kind, w Want, shape string) (Intent, error) {
	now := m.stamp()
	d, ok := rt.drafts.take(kind, now)
	if !ok {
		d.id = NewID()
		d.name = MachineName(m.namePrefix, rt.cfg.Name, d.id)
	}
	inst := Instance{
		ID: d.id, Name: d.name, Identity: d.identity, Pool: rt.cfg.Name, Driver: rt.cfg.Driver, Scope: rt.scope,
		Kind: kind, Variant: "default", Tenant: cmp.Or(w.Tenant, "default"),
		Shape: shape, Recipe: rt.recipe,
		OS: rt.cfg.Platform.OS, Arch: rt.cfg.Platform.Arch,
		Image: cmp.Or(w.Image, rt.cfg.Image), MachineType: cmp.Or(w.MachineType, rt.cfg.MachineType),
		DiskGiB: cmp.Or(w.DiskGiB, rt.cfg.DiskGiB),
		Created: now,
		// If this process dies before it has called the cloud, the next one
		// makes the row due as it takes the pool over; this is for when it only
		// forgets.
		Due: rt.dueAt(now.Add(m.t.Create+m.t.BootWindows), now),
	}
	validity := gitspaceValidity
	if kind == Build {
		inst.Deadline = now.Add(m.t.FreeAge + m.t.BusyAge + time.Hour)
		validity = m.t.FreeAge + m.t.BusyAge + 24*time.Hour
	}
	if rt.opened.Zones {
		inst.Zone = w.Zone
	}
	if !ok {
		identity, err := NewIdentity(d.id, d.name, m.serverName, nil, now, validity)
		if err != nil {
			return Intent{}, err
		}
		inst.Identity = identity
	}
	return Intent{Instance: inst, Now: now}, nil
}

// gitspaceValidity is how long a gitspace's certificates are good for: long
// enough for years of sleeping, as the existing runner's are (1080 days).
const gitspaceValidity = 1080 * 24 * time.Hour

// specOf is what the driver is asked to make for a row: the same each time it
// is asked, so that asking twice makes one machine.
func (m *Manager) specOf(rt *runtime, inst Instance) (drivers.Spec, error) {
	spec := drivers.Spec{
		Name: inst.Name,
		Tags: drivers.Tags{
			Controller: m.controller.ID, Pool: inst.Pool, Instance: inst.ID,
			Kind: string(inst.Kind), Created: inst.Created, Deadline: inst.Deadline,
		},
		Platform: rt.cfg.Platform,
		Zone:     inst.Zone,
		Identity: inst.Identity,
	}
	if inst.Image != rt.cfg.Image {
		spec.Image = inst.Image
	}
	if inst.MachineType != rt.cfg.MachineType {
		spec.MachineType = inst.MachineType
	}
	if inst.DiskGiB != rt.cfg.DiskGiB {
		spec.DiskGiB = inst.DiskGiB
	}
	if m.boot == nil || rt.client.CanIdentify() {
		return spec, nil
	}
	boot, err := m.boot.Render(BootRequest{
		Driver: rt.cfg.Driver, Platform: rt.cfg.Platform, Identity: inst.Identity, Deadline: inst.Deadline,
	})
	spec.Boot = boot
	return spec, err
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
