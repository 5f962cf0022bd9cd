package pool

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// UnopenedScope is an account the store has machines in, or once had, that no
// driver can be opened for today. What is there is left as it is: the rows
// stay, counted and visible, until it can be opened again.
type UnopenedScope struct {
	Scope string
	// Pool is the one that was in it, Machines how many of its rows live.
	Pool     string
	Machines int
	// Problem says why.
	Problem string
}

// openRetired opens a pool that has left the file from its last spec: it
// reaps, resumes and destroys, and makes nothing.
func (m *Manager) openRetired(row PoolRow) {
	err := m.addPool(retiredConfig(row), true)
	if err == nil {
		return
	}
	m.unopened = append(m.unopened, UnopenedScope{Scope: row.Scope, Pool: row.Name, Machines: row.Counted, Problem: err.Error()})
	m.log.Error("retired pool cannot be opened, what is left of it is not touched; put it back into the pool file, with pool: 0, to see what is missing",
		"pool", row.Name, "scope", row.Scope, "machines", row.Counted, "err", err)
}

func retiredConfig(row PoolRow) PoolConfig {
	spec, tenants := specsOf(row.LastSpec)
	p := PoolConfig{
		Name: row.Name, Driver: row.Driver, Platform: row.Platform, Max: row.Max,
		Wait: DefaultWait, SpecJSON: spec,
	}
	for _, id := range slices.Sorted(maps.Keys(tenants)) {
		p.Tenants = append(p.Tenants, TenantConfig{ID: id, Max: -1, SpecJSON: tenants[id]})
	}
	return p
}

// formerMark is between a pool's name and its former scope's hash.
const formerMark = "@was-"

// openFormer finds pools, and tenants of pools, that have moved to another
// account or left since the store was written: their machines in the old one
// can only be reached with the old spec. It opens that as a retired pool of a
// name of its own, which is written like the others, so that the next starts
// find it too.
func (m *Manager) openFormer(before []PoolRow) {
	for _, row := range before {
		rt := m.pools[row.Name]
		if rt == nil {
			continue
		}
		spec, tenants := specsOf(row.LastSpec)
		if row.Scope != "" && m.scopes[row.Scope] == nil {
			m.openAccount(row, spec, row.Scope)
		}
		for _, id := range slices.Sorted(maps.Keys(tenants)) {
			if tn := rt.tenants[id]; tn == nil || !bytes.Equal(tn.cfg.SpecJSON, tenants[id]) {
				m.openAccount(row, tenants[id], "")
			}
		}
	}
}

// openAccount opens a former account of a pool, with the spec it had there,
// unless another pool is in it. scope is the account's, "" if it is not known.
func (m *Manager) openAccount(row PoolRow, spec json.RawMessage, scope string) {
	former := row
	former.LastSpec, former.Min, former.Max = spec, 0, 0
	opened, err := m.open(retiredConfig(former))
	if err == nil && scope == "" {
		scope = opened.Client.Scope()
		if m.scopes[scope] != nil {
			return
		}
	}
	if err == nil && opened.Client.Scope() != scope {
		// Not the spec has changed but what stands around it.
		err = fmt.Errorf("its last spec opens %s now: the credentials, the project or the data directory are others than they were", opened.Client.Scope())
	}
	if err != nil {
		m.unopened = append(m.unopened, UnopenedScope{Scope: scope, Pool: row.Name, Machines: row.Counted, Problem: err.Error()})
		m.log.Error("an account that a pool was in before cannot be opened, its machines there are not touched",
			"pool", row.Name, "scope", scope, "err", err)
		return
	}
	m.log.Info("a pool has left an account; its machines there are looked after until they are gone", "pool", row.Name, "scope", scope)
	hash := sha256.Sum256([]byte(scope))
	former.Name = row.Name + formerMark + hex.EncodeToString(hash[:4])
	m.register(retiredConfig(former), opened, nil, true)
}

// runtimeOf is the pool through which an instance is reached: its own, or if
// that is in another account by now, or cannot be opened, one in the account
// the instance was made in; nil if there is none. Asking the wrong account
// would be answered "no such machine", and lose it.
func (m *Manager) runtimeOf(inst Instance) *runtime {
	if rt := m.pools[inst.Pool]; rt != nil && rt.tenancyOf(inst) != nil {
		return rt
	}
	if sc := m.scopes[inst.Scope]; sc != nil {
		return sc.tenants[0].rt
	}
	return nil
}

// unreachable says why nothing can be done for an instance, "" if it can.
func (m *Manager) unreachable(inst Instance) string {
	if m.runtimeOf(inst) != nil {
		return ""
	}
	i := slices.IndexFunc(m.unopened, func(u UnopenedScope) bool { return u.Scope == inst.Scope })
	if i < 0 {
		return "no pool of the file or of the store opens its scope " + inst.Scope
	}
	return "its scope " + inst.Scope + " cannot be opened: " + m.unopened[i].Problem
}
