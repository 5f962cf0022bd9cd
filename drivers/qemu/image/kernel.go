package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// kernelPackages are the packages that depend on the newest kernel made for
// virtual machines, the best first, by the distribution that has them.
var kernelPackages = []struct {
	distribution string
	packages     []string // %s is the architecture
}{
	{"debian", []string{"linux-image-cloud-%s"}},
	{"ubuntu", []string{"linux-image-virtual", "linux-image-kvm"}},
}

// kernelHops is how many packages that only depend on others may lie between
// one of kernelPackages and a kernel; Ubuntu has one of them in some releases.
const kernelHops = 3

// kernelName is a package that has a kernel, not only depends on one.
var kernelName = regexp.MustCompile(`^linux-image-(unsigned-)?[0-9]`)

// kernelCandidates are the packages to ask apt for: those of this host's
// distribution, then those of the ones it is derived from, then all others.
func kernelCandidates(release map[string]string, arch string) []string {
	ids := append([]string{release["ID"]}, strings.Fields(release["ID_LIKE"])...)
	rank := func(distribution string) int {
		if i := slices.Index(ids, distribution); i >= 0 {
			return i
		}
		return len(ids)
	}
	table := slices.Clone(kernelPackages)
	slices.SortStableFunc(table, func(a, b struct {
		distribution string
		packages     []string
	},
	) int {
		return rank(a.distribution) - rank(b.distribution)
	})
	var names []string
	for _, row := range table {
		for _, name := range row.packages {
			names = append(names, strings.ReplaceAll(name, "%s", arch))
		}
	}
	return names
}

// kernelPackage finds the package with the newest kernel among those that apt
// knows, as "name" or "name=version".
func (f *fetcher) kernelPackage(ctx context.Context) (string, error) {
	raw, err := os.ReadFile(f.osRelease)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	candidates := kernelCandidates(parseOSRelease(string(raw)), f.arch)
	var errs []error
	for _, name := range candidates {
		found, err := f.behind(ctx, name)
		if err == nil {
			return found, nil
		}
		if errors.Is(err, exec.ErrNotFound) || ctx.Err() != nil {
			return "", err
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("apt knows none of the packages %s: %w; run apt-get update first, or give the kernel's package with --kernel-url and --kernel-sha256",
		strings.Join(candidates, ", "), errors.Join(errs...))
}

// getKernel returns the package of the kernel and that of its modules, nil if
// they are in the same.
func (f *fetcher) getKernel(ctx context.Context, src Source, update bool) (kernel cached, modules *cached, err error) {
	kernel, err = f.get(ctx, "kernel", src, f.kernelPackage, update)
	if err != nil || kernel.Modules == "" {
		return kernel, nil, err
	}
	// What is in the cache may belong to another kernel.
	name, _, _ := strings.Cut(kernel.Modules, "=")
	if c, ok := f.lookup("modules", Source{}); !ok || c.Name != name || c.Version != kernel.Version {
		update = true
	}
	m, err := f.get(ctx, "modules", Source{}, func(context.Context) (string, error) { return kernel.Modules, nil }, update)
	return kernel, &m, err
}

// behind follows a package that only depends on a kernel to the kernel.
func (f *fetcher) behind(ctx context.Context, name string) (string, error) {
	for range kernelHops {
		p, err := f.show(ctx, name)
		if err != nil {
			return "", err
		}
		next := dependency(p["Depends"], "linux-image-")
		if next == "" {
			return "", fmt.Errorf("package %s depends on no linux-image", name)
		}
		if kernelName.MatchString(next) {
			return next, nil
		}
		name = next
	}
	return "", fmt.Errorf("package %s is no kernel, but depends on others", name)
}

// dependency is the first package in a Depends field whose name begins with
// prefix, as "name" or, where exactly one version will do, "name=version". Of
// alternatives the first counts, as it does for apt.
func dependency(depends, prefix string) string {
	for dep := range strings.SplitSeq(depends, ",") {
		dep, _, _ = strings.Cut(dep, "|")
		name, version, _ := strings.Cut(strings.TrimSpace(dep), " ")
		name, _, _ = strings.Cut(name, ":") // an architecture, such as ":any"
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if exact, ok := strings.CutPrefix(strings.Trim(version, "() "), "="); ok {
			name += "=" + strings.TrimSpace(exact)
		}
		return name
	}
	return ""
}

// parseOSRelease reads os-release(5): shell assignments, values quoted or not.
func parseOSRelease(data string) map[string]string {
	release := map[string]string{}
	for line := range strings.Lines(data) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			release[key] = strings.Trim(value, `"'`)
		}
	}
	return release
}
