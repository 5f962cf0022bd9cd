package testreport

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxFiles bounds how many reports a step may leave.
const maxFiles = 10_000

// Find returns the files that globs name, sorted, each once. In a glob **
// stands for any number of folders, ~ at its beginning for home, and one that
// is not absolute is below dir. Symbolic links to folders are not followed. It
// gives up when ctx ends.
func Find(ctx context.Context, globs []string, dir, home string) ([]string, error) {
	var found []string
	for _, glob := range globs {
		if glob = strings.TrimSpace(glob); glob == "" {
			continue
		}
		full := absolute(glob, dir, home)
		if full == "" {
			return nil, fmt.Errorf("reports %s: not below any folder; the step has no working_dir", glob)
		}
		paths, err := match(ctx, full)
		if err != nil {
			return nil, fmt.Errorf("reports %s: %w", glob, err)
		}
		if found = append(found, paths...); len(found) > maxFiles {
			return nil, fmt.Errorf("reports %s: more than %d files", glob, maxFiles)
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// absolute is a glob with the folder it starts from, "" if there is none.
func absolute(glob, dir, home string) string {
	if rest, ok := strings.CutPrefix(glob, "~"); ok && (rest == "" || os.IsPathSeparator(rest[0])) {
		glob = cmp.Or(home, dir) + rest
	}
	if filepath.IsAbs(glob) {
		return filepath.Clean(glob)
	}
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, glob)
}

// match walks the folder before the first wildcard.
func match(ctx context.Context, glob string) ([]string, error) {
	parts := strings.Split(filepath.ToSlash(glob), "/")
	for _, p := range parts {
		if _, err := path.Match(p, ""); err != nil {
			return nil, err
		}
	}
	fixed := slices.IndexFunc(parts, func(p string) bool { return strings.ContainsAny(p, `*?[\`) })
	if fixed < 0 {
		if info, err := os.Stat(glob); err != nil || !info.Mode().IsRegular() {
			return nil, nil
		}
		return []string{glob}, nil
	}
	root := filepath.FromSlash(cmp.Or(strings.Join(parts[:fixed], "/"), "/"))
	var found []string
	err := filepath.WalkDir(root, func(name string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return nil // what cannot be read has no reports
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		names := strings.Split(filepath.ToSlash(rel), "/")
		if e.IsDir() {
			if rel != "." && !fits(parts[fixed:], names, true) {
				return fs.SkipDir
			}
			return nil
		}
		if e.Type().IsRegular() && fits(parts[fixed:], names, false) {
			if found = append(found, name); len(found) > maxFiles {
				return fs.SkipAll
			}
		}
		return nil
	})
	return found, err
}

// fits says whether a path matches a pattern; as a folder, whether something
// below it could.
func fits(pattern, names []string, folder bool) bool {
	for len(pattern) > 0 && pattern[0] != "**" {
		if len(names) == 0 {
			return folder
		}
		if ok, err := path.Match(pattern[0], names[0]); err != nil || !ok {
			return false
		}
		pattern, names = pattern[1:], names[1:]
	}
	if len(pattern) == 0 {
		return len(names) == 0 && !folder
	}
	if folder {
		return true
	}
	for i := range len(names) + 1 {
		if fits(pattern[1:], names[i:], false) {
			return true
		}
	}
	return false
}
