package pool

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vm-runner/drone-runner-aws/drivers"
)

// complete says whether a caller has told everything it takes to talk to a
// machine.
func (k KnownInstance) complete() bool {
	return k.ID != "" && k.Name != "" && k.Address != "" && k.Port != 0 && k.OS != "" && k.Arch != "" && k.Provider != "" &&
		k.Pool != "" && len(k.Identity.CAKey) > 0 && len(k.Identity.CACert) > 0 && len(k.Identity.Key) > 0 && len(k.Identity.Cert) > 0
}

// use is what a machine without a row is taken over for.
type use int

const (
	// toWake: a setup; whether it runs, a resume finds out.
	toWake use = iota
	// toTalk: a step or a suspend, for which a running one is active.
	toTalk
	// toEnd: a destroy, which needs no keys.
	toEnd
)

// takeOverKnown makes rows of a gitspace that the store has lost and a caller
// describes, once the cloud has confirmed what it says: the machine's tags and
// disks, never the caller's word alone. ErrNotFound if the cloud has no such
// machine, or none is named; ErrForeign if it is something else.
func (m *Manager) takeOverKnown(ctx context.Context, id string, k KnownInstance, w Want, to use) (Lease, error) {
	if k.Pool == "" || (k.Name == "" && k.ID == "") || (to != toEnd && !k.complete()) {
		return Lease{}, fmt.Errorf("%s: %w, and instance_info does not say enough to find its machine", id, ErrNotFound)
	}
	rt := m.pools[k.Pool]
	if rt == nil {
		return Lease{}, fmt.Errorf("%s: %w: its pool %q is neither configured nor remembered here", id, ErrForeign, k.Pool)
	}
	for _, tenant := range slices.Sorted(maps.Keys(rt.tenants)) {
		tn := rt.tenants[tenant]
		l, err := m.list(ctx, m.scopes[tn.scope])
		if err != nil {
			return Lease{}, fmt.Errorf("%s: %w", id, err)
		}
		at := slices.IndexFunc(l.Instances, func(i drivers.Instance) bool { return i.Name == k.Name || (i.ID != "" && i.ID == k.ID) })
		if at < 0 {
			if !l.Complete {
				return Lease{}, fmt.Errorf("%s: %w: the cloud could not be listed completely", id, ErrUnavailable)
			}
			continue
		}
		mach := l.Instances[at]
		if err := m.verify(ctx, mach, k, l, to); err != nil {
			return Lease{}, fmt.Errorf("%s: %w: %w", id, ErrForeign, err)
		}
		return m.readmit(ctx, rt, tn, id, mach, k, w, l, to)
	}
	return Lease{}, fmt.Errorf("%s: machine %s: %w", id, k.Name, ErrNotFound)
}

// verify compares what a caller says of a machine with what the cloud and the
// store do.
func (m *Manager) verify(ctx context.Context, mach drivers.Instance, k KnownInstance, l listing, to use) error {
	t := mach.Tags
	switch {
	case k.Name != "" && mach.Name != k.Name:
		return fmt.Errorf("machine %s is called %s", k.ID, mach.Name)
	case k.ID != "" && k.ID != cmp.Or(mach.ID, mach.Name) && k.ID != mach.Name:
		return fmt.Errorf("machine %s has the id %s, not %s", mach.Name, mach.ID, k.ID)
	case t.Controller == "" || t.Kind != string(Gitspace) || t.Pool != k.Pool:
		return fmt.Errorf("machine %s is tagged as a %q of pool %q, not as a gitspace of pool %s", mach.Name, t.Kind, t.Pool, k.Pool)
	case k.Zone != "" && mach.Zone != "" && k.Zone != mach.Zone:
		return fmt.Errorf("machine %s is in zone %s, not %s", mach.Name, mach.Zone, k.Zone)
	}
	for _, name := range StorageNames(k.StorageID) {
		if attachedDisk(l, mach.Name, name) == nil {
			return fmt.Errorf("machine %s has no disk %s", mach.Name, name)
		}
	}
	for _, d := range l.Disks {
		if d.AttachedTo == mach.Name && !slices.Contains(StorageNames(k.StorageID), d.Name) {
			return fmt.Errorf("machine %s has another disk, %s", mach.Name, d.Name)
		}
	}
	if to != toEnd {
		if err := k.checkIdentity(); err != nil {
			return err
		}
	}
	row, err := m.store.Instance(ctx, t.Instance)
	switch {
	case err == nil && row.State != Gone:
		return fmt.Errorf("machine %s belongs to %q", mach.Name, row.LeaseID)
	case err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrInvalid):
		return err
	}
	return nil
}

// attachedDisk is a machine's disk of a name, nil if it has none.
func attachedDisk(l listing, machine, name string) *drivers.Disk {
	i := slices.IndexFunc(l.Disks, func(d drivers.Disk) bool { return d.Name == name && d.AttachedTo == machine })
	if i < 0 {
		return nil
	}
	return &l.Disks[i]
}

// checkIdentity proves that the keys and certificates belong together.
func (k KnownInstance) checkIdentity() error {
	pair, err := tls.X509KeyPair(k.Identity.Cert, k.Identity.Key)
	if err != nil {
		return fmt.Errorf("tls_cert and tls_key: %w", err)
	}
	if _, err := tls.X509KeyPair(k.Identity.CACert, k.Identity.CAKey); err != nil {
		return fmt.Errorf("ca_cert and ca_key: %w", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return fmt.Errorf("tls_cert: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(k.Identity.CACert)
	// Whether it is still valid is for the agent to say.
	_, err = leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("tls_cert: %w", err)
	}
	return nil
}

// readmit writes the rows of a machine that was verified.
func (m *Manager) readmit(ctx context.Context, rt *runtime, tn *tenancy, id string, mach drivers.Instance, k KnownInstance, w Want, l listing, to use) (Lease, error) {
	now := m.stamp()
	w.Storage = cmp.Or(w.Storage, k.StorageID)
	choice := Choice{Pool: k.Pool, Tenant: tn.id, Shape: rt.flavours[0].shape(w)}
	if c, err := rt.choose(Gitspace, w); err == nil {
		choice = c
	}
	inst := Instance{
		ID: cmp.Or(mach.Tags.Instance, NewID()), Name: mach.Name, Pool: k.Pool, Driver: rt.cfg.Driver, Scope: tn.scope, Kind: Gitspace,
		Variant: cmp.Or(choice.Variant, DefaultFlavour), Tenant: tn.id, Shape: choice.Shape, Recipe: rt.flavours[0].recipe,
		OS: cmp.Or(k.OS, rt.cfg.Platform.OS), Arch: cmp.Or(k.Arch, rt.cfg.Platform.Arch), Image: w.Image, MachineType: w.MachineType, Zone: cmp.Or(mach.Zone, k.Zone), CloudID: mach.ID,
		Address: cmp.Or(mach.Address, k.Address), Port: cmp.Or(mach.Port, k.Port), StorageID: k.StorageID,
		Identity: k.Identity, Created: mach.Tags.Created,
	}
	inst.Identity.Machine, inst.Identity.Hostname = inst.ID, inst.Name
	inst.Proxy = proxyOfKnown(tn, k, inst.Name, inst.Zone)
	inst.ProxyCA = inst.Proxy != "" && m.proxyCA // as far as anybody knows
	r := Readmission{
		Instance: inst, Lease: id, Want: w, Choices: []Choice{choice}, Due: now.Add(farFuture), Now: now,
		Running: to != toWake && mach.Status == drivers.StatusRunning,
		Events: []Event{{
			At: now, Pool: inst.Pool, Instance: inst.ID, Lease: id, Reason: "taken_over",
			Message: "machine " + inst.Name + " had no row; it was taken over from what its caller and its tags say of it",
		}},
	}
	for _, name := range StorageNames(k.StorageID) {
		disk := attachedDisk(l, mach.Name, name)
		d := learned(tn.scope, *disk, l.At)
		d.LeaseID, d.Controller = id, disk.Tags.Controller
		r.Disks = append(r.Disks, d)
	}
	lease, _, err := m.store.Readmit(ctx, r)
	if errors.Is(err, ErrConflict) {
		if l, lerr := m.store.Lease(ctx, id); lerr == nil && !l.State.Final() {
			return l, nil // another request was faster
		}
	}
	if err != nil {
		return Lease{}, err
	}
	m.log.Warn("gitspace without a row taken over", "lease", id, "instance", inst.Name, "pool", inst.Pool, "controller", mach.Tags.Controller)
	return lease, nil
}
