package store_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vm-runner/drone-runner-aws/store"
)

func sealer(t *testing.T, b byte) *store.Sealer {
	t.Helper()
	s, err := store.NewSealer(bytes.Repeat([]byte{b}, store.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSeal(t *testing.T) {
	t.Parallel()
	s := sealer(t, 1)
	for _, plain := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte("secret"), 1000)} {
		sealed := s.Seal(plain, "here")
		if len(plain) > 1 && bytes.Contains(sealed, plain) {
			t.Error("the sealed value contains the plain one")
		}
		if bytes.Equal(sealed, s.Seal(plain, "here")) {
			t.Error("sealing twice gives the same bytes")
		}
		got, err := s.Open(sealed, "here")
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("opened %q, %v; want %q", got, err, plain)
		}
		if _, err := s.Open(sealed, "there"); !errors.Is(err, store.ErrSeal) {
			t.Errorf("opened at another place: %v", err)
		}
		if _, err := sealer(t, 2).Open(sealed, "here"); !errors.Is(err, store.ErrSeal) {
			t.Errorf("opened with another key: %v", err)
		}
		for k := range sealed {
			bad := bytes.Clone(sealed)
			bad[k] ^= 1
			if _, err := s.Open(bad, "here"); !errors.Is(err, store.ErrSeal) {
				t.Fatalf("opened although byte %d was changed: %v", k, err)
			}
			if _, err := s.Open(sealed[:k], "here"); !errors.Is(err, store.ErrSeal) {
				t.Fatalf("opened although cut at %d: %v", k, err)
			}
		}
	}
	if _, err := store.NewSealer(make([]byte, 31)); err == nil {
		t.Error("a key of 31 bytes was taken")
	}
}

func TestSealerPrintsAsItsID(t *testing.T) {
	t.Parallel()
	s := sealer(t, 1)
	key := hex.EncodeToString(bytes.Repeat([]byte{1}, store.KeySize))
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		got := fmt.Sprintf(format, s)
		if !strings.Contains(got, s.ID()) || strings.Contains(got, key) || strings.Contains(got, "[1 1") {
			t.Errorf("%s prints %s", format, got)
		}
	}
	if s.LogValue().String() != s.ID() || len(s.ID()) != 16 || s.ID() == sealer(t, 2).ID() {
		t.Errorf("id is %q", s.ID())
	}
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{0xfb, 0xff}, 16)
	for name, text := range map[string]string{
		"hexadecimal":             hex.EncodeToString(key),
		"hexadecimal, upper case": strings.ToUpper(hex.EncodeToString(key)),
		"base64":                  base64.StdEncoding.EncodeToString(key),
		"base64 without padding":  base64.RawStdEncoding.EncodeToString(key),
		"base64 for URLs":         base64.URLEncoding.EncodeToString(key),
		"with spaces around":      " \n" + base64.StdEncoding.EncodeToString(key) + "\r\n",
	} {
		if got, err := store.ParseKey(text); err != nil || !bytes.Equal(got, key) {
			t.Errorf("%s: %x, %v", name, got, err)
		}
	}
	for name, text := range map[string]string{
		"empty": "", "short": "c2hvcnQ=", "long": base64.StdEncoding.EncodeToString(make([]byte, 33)), "no encoding": strings.Repeat("!", 44),
	} {
		_, err := store.ParseKey(text)
		if err == nil || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("AAAA")
	f.Add(strings.Repeat("ab", 32))
	f.Fuzz(func(t *testing.T, text string) {
		if key, err := store.ParseKey(text); err == nil && len(key) != store.KeySize {
			t.Errorf("%q is a key of %d bytes", text, len(key))
		}
	})
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for k := 0; k < len(pairs); k += 2 {
			if pairs[k] == name {
				return pairs[k+1]
			}
		}
		return ""
	}
}

func TestLoadKey(t *testing.T) {
	t.Parallel()
	one := hex.EncodeToString(bytes.Repeat([]byte{1}, store.KeySize))
	dir := t.TempDir()
	file := filepath.Join(dir, "k")
	if err := os.WriteFile(file, []byte(one+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	id, other := sealer(t, 1).ID(), sealer(t, 2).ID()
	for _, tt := range []struct {
		name   string
		getenv func(string) string
		dir    string
		want   string
		id     string
		err    []string
	}{
		{"from the variable", env(store.KeyEnv, one), dir, "", id, nil},
		{"from the variable, the store's", env(store.KeyEnv, one), dir, id, id, nil},
		{"from the file, which a secret's mount may leave readable", env(store.KeyFileEnv, file), dir, id, id, nil},
		{"both are set", env(store.KeyEnv, one, store.KeyFileEnv, file), dir, "", "", []string{store.KeyEnv, store.KeyFileEnv}},
		{"not a key", env(store.KeyEnv, "hunter2-hunter2"), dir, "", "", []string{store.KeyEnv, "openssl rand"}},
		{"the file is missing", env(store.KeyFileEnv, file+"x"), dir, "", "", []string{store.KeyFileEnv, file + "x"}},
		{"another key than the store's", env(store.KeyEnv, one), dir, other, "", []string{id, other, store.KeyEnv}},
		{"none, but the store has sealed rows", env(), dir, other, "", []string{other, filepath.Join(dir, store.KeyFile)}},
		{"nowhere to make one", env(), filepath.Join(dir, "missing"), "", "", []string{filepath.Join(dir, "missing"), store.KeyEnv}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := store.LoadKey(store.KeyConfig{Getenv: tt.getenv, Dir: tt.dir, Want: tt.want})
			if tt.err == nil {
				if err != nil || s.ID() != tt.id {
					t.Fatalf("key %v, %v", s, err)
				}
				return
			}
			if err == nil {
				t.Fatalf("no error, key %v", s)
			}
			for _, part := range tt.err {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not name %q", err, part)
				}
			}
			for _, secret := range []string{one, "hunter2"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error %q tells the key", err)
				}
			}
		})
	}
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(dir, store.KeyFile)); err == nil {
			t.Error("a key was made although the store has sealed rows")
		}
	})
}

func TestLoadKeyMakesOneKeyOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ids := make([]string, 16)
	var wg sync.WaitGroup
	for k := range ids {
		wg.Go(func() {
			s, err := store.LoadKey(store.KeyConfig{Getenv: env(), Dir: dir})
			if err != nil {
				t.Error(err)
				return
			}
			ids[k] = s.ID()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id == "" || id != ids[0] {
			t.Fatalf("ids are %v, want one", ids)
		}
	}
	path := filepath.Join(dir, store.KeyFile)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%d files were left, %v", len(left), err)
	}
	if s, err := store.LoadKey(store.KeyConfig{Getenv: env(), Dir: dir, Want: ids[0]}); err != nil || s.ID() != ids[0] {
		t.Errorf("second start: %v, %v", s, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := store.LoadKey(store.KeyConfig{Getenv: env(), Dir: dir}); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
		t.Errorf("a key that others may read: %v", err)
	}
}
