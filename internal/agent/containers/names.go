package containers

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// longestName bounds names of objects in bytes. The daemon takes more, but
// folders and host names are made of them.
const longestName = 120

// objectName is what an object is called by the daemon: prefix and id, or, where
// the daemon would not take that, prefix and a name made from the id.
func objectName(prefix, id string) string {
	if name := prefix + id; id != "" && isObjectName(name) {
		return name
	}
	sum := sha256.Sum256([]byte(id))
	return prefix + "id-" + hex.EncodeToString(sum[:12])
}

// isObjectName is the daemon's rule: at least two of letters, digits, "_", "-"
// and ".", the first a letter or digit.
func isObjectName(name string) bool {
	if len(name) < 2 || len(name) > longestName {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if isAlphanumeric(c) || i > 0 && strings.IndexByte("_.-", c) >= 0 {
			continue
		}
		return false
	}
	return true
}

// aliases are the names a container is reached by in its stage's network: the
// step's id whatever the container is called, then the others. What no resolver
// would ask for is left out.
func aliases(names ...string) []string {
	var out []string
	seen := make(map[string]bool)
	for _, n := range names {
		if n == "" || seen[n] || !isHostName(n) {
			continue
		}
		seen[n] = true
		out = append(out, n)
	}
	return out
}

// isHostName says whether a resolver would ask for name.
func isHostName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; !isAlphanumeric(c) && strings.IndexByte("_.-", c) < 0 {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
