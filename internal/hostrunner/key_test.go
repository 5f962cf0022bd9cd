package hostrunner

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestStageIDsDoNotLeadOutOfAFolder(t *testing.T) {
	t.Parallel()
	hostile := []string{
		"../../etc", "..", ".", "a/b", `a\b`, "", "C:", "a:b", "a b", "é", "\x00", "-rf", "a.", strings.Repeat("x", 65), "stage-", "\n", "CON/..",
		"stage-00000000000000000000000000000000",
	}
	seen := map[Key]string{}
	for _, id := range hostile {
		k := keyOf(id, false)
		if !strings.HasPrefix(string(k), hashedPrefix) || filepath.Base(string(k)) != string(k) || len(k) != len(hashedPrefix)+32 {
			t.Errorf("%q has the key %q", id, k)
		}
		if other, ok := seen[k]; ok {
			t.Errorf("%q and %q have one key", id, other)
		}
		seen[k] = id
	}
	for _, id := range []string{"a", "stage1", "hx-stage-1_a", "A1b2", "a.b", strings.Repeat("x", 64)} {
		if k := keyOf(id, false); string(k) != id {
			t.Errorf("%q has the key %q", id, k)
		}
	}
	if keyOf("aB", true) == "aB" || keyOf("ab", true) != "ab" {
		t.Error("names that differ in case are one where case is folded")
	}
}

func FuzzKey(f *testing.F) {
	f.Add("a", "../a")
	f.Add("stage-1", "Stage-1")
	f.Fuzz(func(t *testing.T, a, b string) {
		for _, fold := range []bool{false, true} {
			ka, kb := string(keyOf(a, fold)), string(keyOf(b, fold))
			if ka == "" || strings.ContainsAny(ka, `/\:`+"\x00") || ka[0] == '.' || len(ka) > keyMost {
				t.Errorf("%q has the key %q", a, ka)
			}
			if fold {
				ka, kb = strings.ToLower(ka), strings.ToLower(kb)
			}
			if a != b && ka == kb {
				t.Errorf("%q and %q have the key %q", a, b, ka)
			}
		}
	})
}
