package hostrunner

import (
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"strings"
)

// Key names a stage where its id may not go: in file names and in the names of
// containers, networks and volumes. Different ids have different keys.
type Key string

// keyMost is how long an id may be to be its own key, in bytes: a key is only
// a part of the names made from it.
const keyMost = 64

// hashedPrefix begins the key of an id that is no fit name itself.
const hashedPrefix = "stage-"

// foldsCase says whether the file systems of this host usually take "a" and
// "A" for one name.
const foldsCase = runtime.GOOS == "windows" || runtime.GOOS == "darwin"

// KeyOf is the stage's id itself where that is a plain name, else a hash of it.
func KeyOf(id string) Key { return keyOf(id, foldsCase) }

func keyOf(id string, fold bool) Key {
	if isPlain(id, fold) && !strings.HasPrefix(id, hashedPrefix) {
		return Key(id)
	}
	sum := sha256.Sum256([]byte(id))
	return Key(hashedPrefix + hex.EncodeToString(sum[:16]))
}

// isPlain says whether id is letters, digits, "_", "-" and dots inside, short,
// and, where case is folded, without capitals.
func isPlain(id string, fold bool) bool {
	if id == "" || len(id) > keyMost || id[0] == '.' || id[0] == '-' || id[len(id)-1] == '.' {
		return false
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_', c == '-', c == '.':
		case 'A' <= c && c <= 'Z' && !fold:
		default:
			return false
		}
	}
	return true
}
