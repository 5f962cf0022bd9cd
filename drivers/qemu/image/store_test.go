package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vm-runner/drone-runner-aws/drivers/qemu/image"
)

func TestStoreListsRemovesAndVerifies(t *testing.T) {
	t.Parallel()
	o := sources(t, kernelFiles(), busyboxFiles())
	if got, err := image.List(o.Dir + "/none"); err != nil || len(got) != 0 {
		t.Errorf("no folder: %v, %v", got, err)
	}
	if _, err := image.Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	got, err := image.List(o.Dir)
	if err != nil || len(got) != 1 || got[0].Name != "tiny" || got[0].Hash() == "" {
		t.Fatalf("list: %v, %v", got, err)
	}
	raw, err := os.ReadFile(got[0].Kernel())
	if err != nil {
		t.Fatal(err)
	}
	raw[0] ^= 1
	if err := os.WriteFile(got[0].Kernel(), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := image.Verify(o.Dir, "tiny"); err == nil || !strings.Contains(err.Error(), "vmlinuz was changed") {
		t.Errorf("verify of a changed kernel: %v", err)
	}
	if err := os.Truncate(got[0].Kernel(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := image.List(o.Dir); err == nil || !strings.Contains(err.Error(), "make the image again") {
		t.Errorf("list with a cut kernel: %v", err)
	}
	for range 2 {
		if err := image.Remove(o.Dir, "tiny"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := image.Inspect(o.Dir, "tiny"); !errors.Is(err, image.ErrNotExist) {
		t.Errorf("after remove: %v", err)
	}
}

func TestBuildTidiesWhatKilledBuildsLeft(t *testing.T) {
	t.Parallel()
	o := sources(t, kernelFiles(), busyboxFiles())
	past := time.Now().Add(-24 * time.Hour)
	for _, name := range []string{".new-old", ".gone-old", ".busybox-new"} {
		path := filepath.Join(o.Dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "old") {
			if err := os.Chtimes(path, past, past); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := image.Build(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{".busybox-new", ".cache", "tiny"}, names); diff != "" {
		t.Errorf("folders (-want +got):\n%s", diff)
	}
}

func TestInspectNamesTheCommandThatMakesAnImage(t *testing.T) {
	t.Parallel()
	_, err := image.Inspect(t.TempDir(), "tiny")
	if !errors.Is(err, image.ErrNotExist) || !strings.Contains(err.Error(), "drone-runner-aws image build tiny") {
		t.Errorf("got %v", err)
	}
	for _, name := range []string{"", "../tiny", ".cache", "a/b"} {
		if _, err := image.Inspect(t.TempDir(), name); !errors.Is(err, image.ErrNotExist) {
			t.Errorf("name %q: %v, want ErrNotExist", name, err)
		}
		if err := image.Remove(t.TempDir(), name); err != nil {
			t.Errorf("remove of %q: %v", name, err)
		}
	}
}
