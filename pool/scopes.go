package pool

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
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
	_, err := m.addPool(retiredConfig(row), true)
	if err == nil {
		return
	}
	m.unopened = append(m.unopened, UnopenedScope{Scope: row.Scope, Pool: row.Name, Machines: row.Counted, Problem: err.Error()})
	m.log.Error("retired pool cannot be opened, what is left of it is not touched; put it back into the pool file, with pool: 0, to see what is missing",
		"pool", row.Name, "scope", row.Scope, "machines", row.Counted, "err", err)
}

func retiredConfig(row PoolRow) PoolConfig {
	return PoolConfig{
		Name: row.Name, Driver: row.Driver, Platform: row.Platform, Max: row.Max,
		Wait: DefaultWait, SpecJSON: row.LastSpec,
	}
}

// formerMark is between a pool's name and its former scope's hash.
const formerMark = "@was-"

// openFormer finds pools that have moved to another account since the store
// was written: their machines in the old one can only be reached with the old
// spec. It opens that as a retired pool of a name of its own, which is written
// like the others, so that the next starts find it too.
func (m *Manager) openFormer(before []PoolRow) {
	for _, row := range before {
		rt := m.pools[row.Name]
		if rt == nil || row.Scope == "" || m.scopes[row.Scope] != nil {
			continue
		}
		hash := sha256.Sum256([]byte(row.Scope))
		former := row
		former.Name, former.Min, former.Max = row.Name+formerMark+hex.EncodeToString(hash[:4]), 0, 0
		opened, err := m.open(retiredConfig(former))
		if err == nil && opened.Client.Scope() != row.Scope {
			// Not the spec has changed but what stands around it.
			err = fmt.Errorf("its last spec opens %s now: the credentials, the project or the data directory are others than they were", opened.Client.Scope())
		}
		if err != nil {
			m.unopened = append(m.unopened, UnopenedScope{Scope: row.Scope, Pool: row.Name, Machines: row.Counted, Problem: err.Error()})
			m.log.Error("the account a pool was in before cannot be opened, its machines there are not touched",
				"pool", row.Name, "scope", row.Scope, "now", rt.scope, "err", err)
			continue
		}
		m.log.Info("the pool has moved to another account; its machines in the old one are looked after until they are gone",
			"pool", row.Name, "scope", row.Scope, "now", rt.scope)
		m.register(retiredConfig(former), opened, true)
	}
}

// runtimeOf is the pool through which an instance is reached: its own, or if
// that is in another account by now, or cannot be opened, one in the account
// the instance was made in; nil if there is none. Asking the wrong account
// would be answered "no such machine", and lose it.
func (m *Manager) runtimeOf(inst Instance) *runtime {
	if rt := m.pools[inst.Pool]; rt != nil && (inst.Scope == "" || rt.scope == inst.Scope) {
		return rt
	}
	if sc := m.scopes[inst.Scope]; sc != nil {
		return sc.pools[0]
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
