package server

import (
	"encoding/json"
	"fmt"
	"strings"
)

// PoolMap renames pools by account: account, then requested name, then the
// name of the pool to use.
type PoolMap map[string]map[string]string

// Rename returns what a pool is called for an account, by default its name.
func (m PoolMap) Rename(account, pool string) string {
	if to, ok := m[account][pool]; ok {
		return to
	}
	return pool
}

// ParsePoolMap reads DLITE_POOL_MAP_BY_ACCOUNT_ID, `acct={"a":"b"};acct2={…}`.
// Empty text is an empty map.
func ParsePoolMap(text string) (PoolMap, error) {
	m := PoolMap{}
	for item := range strings.SplitSeq(text, ";") {
		if strings.TrimSpace(item) == "" {
			continue
		}
		account, object, found := strings.Cut(item, "=")
		if !found || strings.TrimSpace(account) == "" {
			return nil, fmt.Errorf("DLITE_POOL_MAP_BY_ACCOUNT_ID: %q is not of the form account={\"pool\":\"other pool\"}", item)
		}
		var names map[string]string
		if err := json.Unmarshal([]byte(object), &names); err != nil {
			return nil, fmt.Errorf("DLITE_POOL_MAP_BY_ACCOUNT_ID: account %q: %w", account, err)
		}
		m[strings.TrimSpace(account)] = names
	}
	return m, nil
}
