package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKernelIsThatOfTheDistributionElseWhatAptKnows(t *testing.T) {
	t.Parallel()
	record := func(name, version, depends string) string {
		return "Package: " + name + "\nVersion: " + version + "\nSHA256: 00\nDepends: " + depends + "\n"
	}
	debian := map[string]string{
		"linux-image-cloud-amd64": record("linux-image-cloud-amd64", "6.1.9-1", "linux-image-6.1.0-9-cloud-amd64 (= 6.1.9-1)"),
	}
	ubuntu := map[string]string{
		"linux-image-virtual": record("linux-image-virtual", "6.8.0.45.45", "linux-image-6.8.0-45-generic, linux-headers-generic"),
		"linux-image-kvm":     record("linux-image-kvm", "5.15.0.1050", "linux-image-5.15.0-1050-kvm"),
	}
	both := map[string]string{}
	for _, m := range []map[string]string{debian, ubuntu} {
		for k, v := range m {
			both[k] = v
		}
	}
	for name, tc := range map[string]struct {
		release string
		records map[string]string
		want    string
		err     []string
	}{
		"debian": {"ID=debian\n", both, "linux-image-6.1.0-9-cloud-amd64=6.1.9-1", nil},
		"ubuntu": {"NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n", both, "linux-image-6.8.0-45-generic", nil},
		"something made from ubuntu": {
			"ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", both, "linux-image-6.8.0-45-generic", nil,
		},
		"ubuntu with a kernel for KVM only": {
			"ID=ubuntu\n", map[string]string{"linux-image-kvm": ubuntu["linux-image-kvm"]}, "linux-image-5.15.0-1050-kvm", nil,
		},
		"a package behind a package": {"ID=ubuntu\n", map[string]string{
			"linux-image-virtual": record("linux-image-virtual", "1", "linux-image-generic (>= 1)"),
			"linux-image-generic": record("linux-image-generic", "1", "linux-firmware, linux-image-6.11.0-9-generic | linux-image-unsigned-6.11.0-9-generic"),
		}, "linux-image-6.11.0-9-generic", nil},
		"packages that lead in a circle": {"ID=ubuntu\n", map[string]string{
			"linux-image-virtual": record("linux-image-virtual", "1", "linux-image-virtual"),
		}, "", []string{"depends on others", "--kernel-url"}},
		"a package without a kernel": {"ID=ubuntu\n", map[string]string{
			"linux-image-virtual": record("linux-image-virtual", "1", "kmod"),
		}, "", []string{"depends on no linux-image"}},
		"a distribution nobody knows":      {"ID=other\n", debian, "linux-image-6.1.0-9-cloud-amd64=6.1.9-1", nil},
		"debian's mirrors beside ubuntu's": {"ID=ubuntu\n", debian, "linux-image-6.1.0-9-cloud-amd64=6.1.9-1", nil},
		"apt that knows none of them": {"ID=ubuntu\n", nil, "", []string{
			"apt knows none of the packages linux-image-virtual, linux-image-kvm, linux-image-cloud-amd64", "apt-get update", "--kernel-url", "--kernel-sha256",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFetcher(t, (&fakeApt{records: tc.records}).run)
			f.osRelease = filepath.Join(t.TempDir(), "os-release")
			if err := os.WriteFile(f.osRelease, []byte(tc.release), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := f.kernelPackage(t.Context())
			if got != tc.want || (err == nil) != (tc.err == nil) {
				t.Errorf("got %q, %v, want %q", got, err, tc.want)
			}
			for _, want := range tc.err {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want an error with %q", err, want)
				}
			}
		})
	}
}

func TestDependency(t *testing.T) {
	t.Parallel()
	for depends, want := range map[string]string{
		"": "", "kmod, linux-base (>= 4.5)": "", "kmod, linux-modules-6.8.0-45-generic": "linux-modules-6.8.0-45-generic",
		"linux-modules-1 (= 1.2-3), linux-modules-2": "linux-modules-1=1.2-3", "linux-modules-1 (>= 2)": "linux-modules-1",
		"linux-modules-1:amd64 (=2)": "linux-modules-1=2", "a | linux-modules-1": "", "linux-modules-1 | b (= 3)": "linux-modules-1",
	} {
		if got := dependency(depends, "linux-modules-"); got != want {
			t.Errorf("%q: got %q, want %q", depends, got, want)
		}
	}
}

func TestParseOSRelease(t *testing.T) {
	t.Parallel()
	got := parseOSRelease("# a comment = none\nID=ubuntu\nID_LIKE=\"debian x\"\nVERSION_ID='24.04'\n\nodd\n")
	if diff := cmp.Diff(map[string]string{"ID": "ubuntu", "ID_LIKE": "debian x", "VERSION_ID": "24.04"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzDependency gives apt's answers odd forms: what is found has the prefix
// and is one word that cannot be an option of apt-get.
func FuzzDependency(f *testing.F) {
	f.Add("linux-image-1 (= 2) | x, y", "ID=ubuntu\n")
	f.Add("linux-image- =(", "=\n=")
	f.Fuzz(func(t *testing.T, depends, release string) {
		if got := dependency(depends, "linux-image-"); got != "" && !strings.HasPrefix(got, "linux-image-") {
			t.Errorf("%q: %q", depends, got)
		}
		_ = kernelCandidates(parseOSRelease(release), "amd64")
	})
}
