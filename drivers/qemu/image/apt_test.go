package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// fakeApt answers like apt-cache and apt-get of a Debian with these packages.
type fakeApt struct {
	records map[string]string // by package
	content map[string]string // what is downloaded
	calls   []string
}

func (a *fakeApt) run(_ context.Context, dir, program string, args ...string) ([]byte, error) {
	a.calls = append(a.calls, program+" "+strings.Join(args, " "))
	name, _, _ := strings.Cut(args[len(args)-1], "=")
	if program == "apt-cache" {
		record, ok := a.records[name]
		if !ok {
			return []byte("E: No packages found"), errors.New("exit status 100")
		}
		return []byte(record), nil
	}
	return nil, os.WriteFile(filepath.Join(dir, name+"_1_amd64.deb"), []byte(a.content[name]), 0o600)
}

func newFetcher(t *testing.T, apt func(context.Context, string, string, ...string) ([]byte, error)) *fetcher {
	t.Helper()
	return &fetcher{cache: t.TempDir(), arch: "amd64", osRelease: "/nonexistent", apt: apt, progress: func(string, int64, int64) {}}
}

func TestAptFindsTheNewestCloudKernelOnce(t *testing.T) {
	t.Parallel()
	content := "the package"
	apt := &fakeApt{
		records: map[string]string{
			"linux-image-cloud-amd64": "Package: linux-image-cloud-amd64\nVersion: 6.1.9-1\nSHA256: aa\nDepends: initramfs-tools, linux-image-6.1.0-9-cloud-amd64 (= 6.1.9-1)\n",
			"linux-image-6.1.0-9-cloud-amd64": fmt.Sprintf("Package: linux-image-6.1.0-9-cloud-amd64\nVersion: 6.1.9-1\nSize: 11\nSHA256: %s\n\nPackage: older\n",
				hashBytes([]byte(content)).SHA256),
		},
		content: map[string]string{"linux-image-6.1.0-9-cloud-amd64": content},
	}
	f := newFetcher(t, apt.run)
	for range 2 {
		c, err := f.get(t.Context(), "kernel", Source{}, f.kernelPackage, false)
		if err != nil {
			t.Fatal(err)
		}
		if c.Name != "linux-image-6.1.0-9-cloud-amd64" || c.Version != "6.1.9-1" || c.File != "linux-image-6.1.0-9-cloud-amd64_6.1.9-1_amd64.deb" {
			t.Errorf("got %+v", c)
		}
	}
	want := []string{
		"apt-cache show --no-all-versions linux-image-cloud-amd64",
		"apt-cache show --no-all-versions linux-image-6.1.0-9-cloud-amd64=6.1.9-1",
		"apt-get -q download linux-image-6.1.0-9-cloud-amd64=6.1.9-1",
	}
	if strings.Join(apt.calls, "\n") != strings.Join(want, "\n") {
		t.Errorf("calls of apt:\n%s\nwant:\n%s", strings.Join(apt.calls, "\n"), strings.Join(want, "\n"))
	}
	// A cached file that was changed is fetched again.
	if err := os.WriteFile(filepath.Join(f.cache, "linux-image-6.1.0-9-cloud-amd64_6.1.9-1_amd64.deb"), []byte("rotten"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.get(t.Context(), "kernel", Source{}, f.kernelPackage, false); err != nil || len(apt.calls) != 6 {
		t.Errorf("after rot: %v, %d calls of apt, want 6", err, len(apt.calls))
	}
}

func TestAptErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		apt  func(context.Context, string, string, ...string) ([]byte, error)
		want []string
	}{
		"a host without apt": {
			func(context.Context, string, string, ...string) ([]byte, error) {
				return nil, &exec.Error{Name: "apt-cache", Err: exec.ErrNotFound}
			},
			[]string{"apt is not on this host", "SHA-256"},
		},
		"a fresh host that never asked its mirrors": {(&fakeApt{}).run, []string{"run apt-get update first", "No packages found"}},
		"a package that was tampered with": {
			(&fakeApt{
				records: map[string]string{"busybox-static": "Package: busybox-static\nVersion: 1\nSHA256: 00\n"},
				content: map[string]string{"busybox-static": "x"},
			}).run,
			[]string{"has SHA-256 " + hashBytes([]byte("x")).SHA256 + ", 00 expected"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFetcher(t, tc.apt)
			_, err := f.get(t.Context(), "busybox", Source{}, func(context.Context) (string, error) { return "busybox-static", nil }, false)
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want an error with %q", err, want)
				}
			}
		})
	}
}
